"""BertGeneration: models and inputs to compare."""

from typing import Any

import transformers

from tests.families import bert
from tests.families.drawing import Case, Drawn

MADE: dict[str, list[dict[str, Any]]] = {
    "BertGenerationEncoder": [
        *({"padding": padding, "is_decoder": False} for padding in ("right", "holes")),
        {"padding": "left", "is_decoder": True},
        {"crosses": True},
    ],
    "BertGenerationDecoder": [
        *({"tied": tied, "crosses": True} for tied in (True, False)),
        *({"padding": padding, "is_decoder": True} for padding in ("none", "left")),
    ],
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    return bert.case(drawn, name, transformers.BertGenerationConfig)
