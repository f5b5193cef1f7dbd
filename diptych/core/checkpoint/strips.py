"""Fast copies of weights between memory layouts, aligned so that frameworks can use them without another copy."""

import math
from typing import Any

import ml_dtypes
import numpy as np

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CHECKED = 1 << 16  # entries that are checked, or cast in two steps, at a time
_CACHED = 1 << 22  # bytes that are written in another order at a time
_RUN = 16  # elements written in one run; 16 elements of 4 bytes fill a cache line


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any] | str | type, alignment: int = 64) -> np.ndarray:
    """Makes an uninitialised C-contiguous array whose memory starts at a multiple of `alignment` bytes."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype).reshape(shape)


def permute(array: np.ndarray, axes: tuple[int, ...], dtype: np.dtype[Any] | str | type | None = None) -> np.ndarray:
    """Copies an array with its axes permuted and its dtype converted in the same pass.

    Args:
        array: The source; it may start at any address.
        axes: Axis k of the copy is axis `axes[k]` of the source.
        dtype: The copy's dtype; None keeps the source's.

    Returns:
        A fresh C-contiguous array, aligned to 64 bytes, that shares no memory with the source.
    """
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    copy = aligned_empty(tuple(array.shape[axis] for axis in axes), dtype)
    target = copy
    if dtype == array.dtype and not dtype.hasobject and dtype.itemsize in (1, 2, 4, 8):
        # Copy bits: faster than elements if the dtype is not numpy's own, and exact for every NaN.
        bits = np.dtype(f"u{dtype.itemsize}")
        array, target = array.view(bits), copy.view(bits)
    if copy.size and axes == tuple(range(len(axes))):
        _cast(target, array)
    elif copy.size:
        # part by part, so that what is written in another order stays in the cache
        rows = max(1, _CACHED * target.shape[0] // copy.nbytes)
        for start in range(0, target.shape[0], rows):
            part = slice(start, start + rows)
            _fill(target[part], array[(*(slice(None),) * axes[0], part)], axes)
    return copy


def count_infinities(array: np.ndarray) -> int:
    """The number of infinite entries of an array of floats."""
    bits = np.dtype(f"u{array.dtype.itemsize}")
    magnitude, infinity = np.iinfo(bits).max >> 1, np.array(np.inf, array.dtype).view(bits)
    flat = np.asarray(array, order="C").reshape(-1).view(bits)
    strips = (flat[start : start + _CHECKED] for start in range(0, flat.size, _CHECKED))
    return sum(int(np.count_nonzero((strip & bits.type(magnitude)) == infinity)) for strip in strips)


def _fill(target: np.ndarray, source: np.ndarray, axes: tuple[int, ...]) -> None:
    """Copies `source`, with its axes permuted, into `target`."""
    strip = run = 1
    axis = 0
    for axis in reversed(axes):
        strip = -(-_RUN // run)
        if source.shape[axis] > strip:
            break
        run *= source.shape[axis]
    if source.shape[axis] <= strip:  # the whole array is smaller than a run
        _cast(target, source.transpose(axes))
        return
    # Strips of the source are written as runs of the target, whole cache lines if possible. Where the dtype changes, or
    # values are not aligned, a first pass copies each strip to a buffer that stays in the cache.
    shape = (*source.shape[:axis], strip, *source.shape[axis + 1 :])
    buffer = aligned_empty(shape, target.dtype)
    permuted_target = target.transpose(tuple(int(index) for index in np.argsort(axes)))
    for start in range(0, source.shape[axis], strip):
        part = (*(slice(None),) * axis, slice(start, start + strip))
        values = source[part]
        if values.dtype != target.dtype or not values.flags.aligned:
            staged = buffer[(*(slice(None),) * axis, slice(values.shape[axis]))]
            _cast(staged, values)
            values = staged
        permuted_target[part] = values


def _cast(target: np.ndarray, source: np.ndarray) -> None:
    """Assigns values, rounded to the nearest of the target's dtype, and to the even one of two that are equally near.

    bfloat16 takes float64 by way of float32, which must not make a value equally near that was not: it is rounded to
    odd first, that is, cut off, with its last bit set if anything was lost.
    """
    if target.dtype != _BFLOAT16 or source.dtype != np.float64:
        target[...] = source
        return
    target, source = np.atleast_1d(target, source)
    rows = max(1, _CHECKED * source.shape[0] // max(1, source.size))
    for start in range(0, source.shape[0], rows):
        exact = source[start : start + rows]
        single = exact.astype(np.float32)
        inexact, larger = single != exact, np.abs(single) > np.abs(exact)
        target[start : start + rows] = (single.view(np.uint32) - larger | inexact).view(np.float32)
