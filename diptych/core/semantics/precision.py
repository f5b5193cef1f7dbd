"""The precision of what is sensitive to rounding: losses, and the scores of tokens."""

from typing import Any


def at_least_float32(xp: Any, values: Any) -> Any:
    """Floats in float32, or as they are in float64, in which an explicit float32 would hide small differences."""
    return values if values.dtype == xp.float64 else xp.astype(values, xp.float32)
