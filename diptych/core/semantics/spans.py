"""Random spans of masked places (SpecAugment, Park et al. 2019, arXiv:1904.08779), the same in both backends.

Letters of the shapes: B batch, T places.
"""

from typing import Any

from diptych.core.errors import InputError
from diptych.core.semantics.sampling import uniform

_PLACES, _ROUNDING = 0, 1
"""What the random numbers decide: which places spans begin at, and whether their number is rounded up."""


def draw(
    ops: Any, seed: Any, rows: int, size: int, lengths: Any, *, axis: str, rate: float, span: int, least: int
) -> Any:
    """Bool (B, T), True in spans that begin at random places, which are distinct; spans may overlap.

    A row has about `rate * length / span` of them: the fraction is rounded up or down at random, for all rows alike.

    Args:
        ops: the backend's functions.
        seed: (2,) int32, random bits.
        rows, size: B and T.
        lengths: (B,), the number of places of each row, within which the spans lie; None for T everywhere.
        axis: the name of the places, as in the config's fields.
        rate: the share of places that would be masked if no spans overlapped.
        span: the length of a span.
        least: the minimum number of spans in a row, as far as they fit in T side by side.

    Raises:
        InputError: T is less than the length of a span.
    """
    if size < span:
        raise InputError(
            f"SpecAugment: there are {size} places on the {axis} axis, but the config's mask_{axis}_length={span} of "
            f"them are masked at a time; train on longer inputs, or set apply_spec_augment=False"
        )
    xp = ops.xp
    places = xp.astype(ops.steps(size, seed), xp.int32)[None, :]
    row = xp.astype(ops.steps(rows, seed), xp.int32)[:, None]
    places, row = xp.broadcast_to(places, (rows, size)), xp.broadcast_to(row, (rows, size))
    length = xp.zeros_like(row[:, :1]) + size if lengths is None else xp.astype(lengths, xp.int32)[:, None]
    rounding = uniform(xp, seed, 0, row[:1, :1] * 0, _ROUNDING, xp.float32)
    wanted = xp.astype(xp.astype(length, xp.float32) * (rate / span) + rounding, xp.int32)
    wanted = xp.clip(wanted, min(least, size // span), size // span)
    # spans begin at the places with the smallest random numbers, of those from which they end within the row
    numbers = uniform(xp, seed, row, places, _PLACES, xp.float32)
    numbers = xp.where(places <= length - span, numbers, xp.full_like(numbers, 2.0))
    rank = xp.argsort(xp.argsort(numbers, axis=1, stable=True), axis=1, stable=True)
    begins = xp.astype(xp.logical_and(rank < wanted, numbers < 2.0), xp.int32)
    begun = xp.cumsum(begins, axis=1)
    ended = xp.concat([xp.zeros_like(begun[:, :span]), begun[:, : size - span]], axis=1)
    return begun > ended
