"""The models and inputs to compare, of every family."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.drawing import Drawn
from tests.family import Case, Choices, families, family_of

CHOICES: list[tuple[str, Choices]] = [
    (name, choices) for family in families().values() for name in family.classes for choices in family.choices(name)
]
"""Every class with the choices that are made for it."""


@st.composite
def cases(draw: Callable[..., Any], name: str, **choices: Any) -> Case:
    """Models of the named class with inputs; `choices` are not left to chance."""
    return family_of(name).draw(Drawn(draw, choices), name)
