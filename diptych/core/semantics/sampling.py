"""Sampling with the same results in both backends: threefry2x32 (Salmon et al. 2011) in signed 32-bit arithmetic.

A number is keyed by seed, step, row and draw, so it does not depend on a backend's order of computation. torch has no
unsigned 32-bit arithmetic; two's complement gives the same bits.
"""

from typing import Any

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WIDTH = 256
"""Entries per block of a sum: on XLA's CPU backend, a cumulative sum over a vocabulary takes four times as long."""


def seed_words(seed: int) -> tuple[int, int]:
    """The low and high 32 bits of a seed as signed numbers."""
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    return low - (low >> 31 << 32), high - (high >> 31 << 32)


def _shift_right(values: Any, count: int) -> Any:
    """Logical shift to the right."""
    return (values >> count) & ((1 << (32 - count)) - 1)


def threefry2x32(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two words of 32 random bits for each counter; all are int32 arrays of one shape."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    left, right = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            left = left + right
            right = left ^ ((right << rotation) | _shift_right(right, 32 - rotation))
        left = left + keys[(group + 1) % 3]
        right = right + keys[(group + 2) % 3] + (group + 1)
    return left, right


def uniform(xp: Any, seed: Any, step: Any, rows: Any, draw: int, dtype: Any) -> Any:
    """A number in [0, 1) for each row: 53 random bits in float64, 24 in float32.

    Args:
        xp: array namespace.
        seed: (2,) int32, its `seed_words`.
        step: the index of the token among the new ones, a scalar.
        rows: (B,) int32, the indices of the rows.
        draw: the index of the number within its row and step.
        dtype: of the result.
    """
    key = threefry2x32(
        (xp.zeros_like(rows) + seed[0], xp.zeros_like(rows) + seed[1]),
        (xp.zeros_like(rows) + step, xp.full_like(rows, draw)),
    )
    high, low = threefry2x32(key, (rows, xp.zeros_like(rows)))
    if dtype == xp.float64:
        return (xp.astype(_shift_right(high, 5), dtype) * 2.0**26 + xp.astype(_shift_right(low, 6), dtype)) * 2.0**-53
    return xp.astype(_shift_right(high, 8), dtype) * 2.0**-24


def sample(ops: Any, weights: Any, numbers: Any) -> Any:
    """Samples one entry of each row: non-negative (B, V) weights and (B,) numbers in [0, 1) -> (B,).

    The entry is the first one at which the cumulative sum exceeds the number times the total.
    """
    xp, (rows, size) = ops.xp, weights.shape
    filler = xp.repeat(xp.zeros_like(weights[:, :1]), -size % _WIDTH, axis=1)
    blocks = xp.reshape(xp.concat([weights, filler], axis=1), (rows, -1, _WIDTH))
    sums = xp.sum(blocks, axis=2)
    running = xp.cumsum(sums, axis=1)
    target = (numbers * running[:, -1])[:, None]
    block = _first_beyond(ops, sums, running, target)
    before = xp.take_along_axis(running - sums, block[:, None], axis=1)
    inside = xp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0, :]
    return block * _WIDTH + _first_beyond(ops, inside, xp.cumsum(inside, axis=1) + before, target)


def _first_beyond(ops: Any, weights: Any, running: Any, target: Any) -> Any:
    """The first index whose running sum exceeds the target; if rounding leaves none, the last with positive weight."""
    xp, places = ops.xp, ops.steps(weights.shape[1], weights)
    last = xp.max(xp.where(weights > 0, places[None, :], xp.zeros_like(places)[None, :]), axis=1)
    return xp.minimum(xp.sum(xp.astype(running <= target, places.dtype), axis=1), last)


def sample_without_replacement(ops: Any, weights: Any, seed: Any, step: Any, count: int) -> Any:
    """(B, V) weights -> (B, count): distinct entries, drawn one after another; -1 if no weight is left.

    Args:
        ops: the backend's functions.
        weights: non-negative.
        seed, step: as `uniform` takes them.
        count: the number of draws.
    """
    xp, places = ops.xp, ops.steps(weights.shape[1], weights)
    rows = xp.astype(ops.steps(weights.shape[0], weights), xp.int32)
    found: list[Any] = []
    for draw in range(count):
        entry = sample(ops, weights, uniform(xp, seed, step, rows, draw, weights.dtype))
        found.append(xp.where(xp.max(weights, axis=1) > 0, entry, xp.full_like(entry, -1)))
        weights = xp.where(places[None, :] == entry[:, None], xp.zeros_like(weights), weights)
    return xp.stack(found, axis=1)
