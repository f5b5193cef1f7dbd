"""The models and inputs to compare, of every family that draws some."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import strategies as st

from tests.families.drawing import Case, Drawn

_FOLDER = Path(__file__).parents[1] / "families"
_MODULES = [
    importlib.import_module(f"tests.families.{found.name}")
    for found in pkgutil.iter_modules([str(_FOLDER)])
    if found.name != "drawing"
]

FAMILIES: dict[str, ModuleType] = {name: module for module in _MODULES for name in module.CLASSES}
"""Class -> the module that draws models of it."""
MADE: list[tuple[str, dict[str, Any]]] = [
    (name, made) for name, module in FAMILIES.items() for made in module.MADE[name]
]
"""Every class with the choices that are made for it."""


@st.composite
def cases(draw: Callable[..., Any], name: str, **made: Any) -> Case:
    """Models of the named class with inputs; `made` are choices that are not left to chance."""
    return FAMILIES[name].drawn_case(Drawn(draw, made), name)
