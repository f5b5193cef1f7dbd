"""Keeping float16 states finite."""

from typing import Any

_LIMIT = 65_504.0 - 1_000.0


def clip_float16(xp: Any, values: Any, *, always: bool) -> Any:
    """Clips float16 states to ±64,504 if one of them is not finite, or always; other dtypes are unchanged."""
    if values.dtype != xp.float16:
        return values
    clipped = xp.clip(values, -_LIMIT, _LIMIT)
    return clipped if always else xp.where(xp.all(xp.isfinite(values)), values, clipped)
