"""Between the two backends: convert checkpoints, copy models in memory, prove that two models are equal.

    from diptych.conversion import convert, inspect_checkpoint, parity, to_jax, to_torch

Importing this loads neither framework.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.conversion.conversion_report import ConversionReport as ConversionReport
    from diptych.conversion.convert import convert as convert
    from diptych.conversion.diff import Diff as Diff
    from diptych.conversion.diff import diff as diff
    from diptych.conversion.images import image_inputs as image_inputs
    from diptych.conversion.inspect import Inspection as Inspection
    from diptych.conversion.inspect import inspect_checkpoint as inspect_checkpoint
    from diptych.conversion.parity import parity as parity
    from diptych.conversion.report import Report as Report
    from diptych.conversion.transfer import to_jax as to_jax
    from diptych.conversion.transfer import to_torch as to_torch
    from diptych.conversion.verify import Verification as Verification
    from diptych.conversion.verify import verify as verify

_HOMES = {
    "ConversionReport": "conversion_report",
    "Diff": "diff",
    "Inspection": "inspect",
    "Report": "report",
    "Verification": "verify",
    "convert": "convert",
    "diff": "diff",
    "image_inputs": "images",
    "inspect_checkpoint": "inspect",
    "parity": "parity",
    "to_jax": "transfer",
    "to_torch": "transfer",
    "verify": "verify",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)


class _Package(ModuleType):
    """A package in which `convert`, `diff`, `parity` and `verify` are functions, not the modules that hold them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):  # the import system binds each loaded module
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
