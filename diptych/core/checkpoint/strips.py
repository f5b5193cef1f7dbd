"""Fast copies of weights between memory layouts, aligned so that frameworks can use them without another copy."""

import math
from typing import Any

import numpy as np

_CHECKED = 1 << 16  # entries that are checked at a time
_RUN = 16  # elements written in one run; 16 elements of 4 bytes fill a cache line


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any] | str | type, alignment: int = 64) -> np.ndarray:
    """Make an uninitialised C-contiguous array whose memory starts at a multiple of `alignment` bytes."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype).reshape(shape)


def permute(array: np.ndarray, axes: tuple[int, ...], dtype: np.dtype[Any] | str | type | None = None) -> np.ndarray:
    """Copy an array with its axes permuted and its dtype converted in the same pass.

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
    if copy.size:
        _fill(target, array, axes)
    return copy


def count_infinities(array: np.ndarray) -> int:
    """The number of infinite entries of an array of floats."""
    bits = np.dtype(f"u{array.dtype.itemsize}")
    magnitude, infinity = np.iinfo(bits).max >> 1, np.array(np.inf, array.dtype).view(bits)
    flat = np.asarray(array, order="C").reshape(-1).view(bits)
    strips = (flat[start : start + _CHECKED] for start in range(0, flat.size, _CHECKED))
    return sum(int(np.count_nonzero((strip & bits.type(magnitude)) == infinity)) for strip in strips)


def _fill(target: np.ndarray, source: np.ndarray, axes: tuple[int, ...]) -> None:
    """Copy `source`, with its axes permuted, into `target`."""
    if axes == tuple(range(len(axes))):
        target[...] = source
        return
    strip = run = 1
    axis = 0
    for axis in reversed(axes):
        strip = -(-_RUN // run)
        if source.shape[axis] > strip:
            break
        run *= source.shape[axis]
    if source.shape[axis] <= strip:  # the whole array is smaller than a run
        target[...] = source.transpose(axes)
        return
    # Two passes through a strip that stays in the cache: the first reads the source in its own order, whatever its
    # alignment and dtype, the second writes runs of the target, whole cache lines if possible.
    shape = (*source.shape[:axis], strip, *source.shape[axis + 1 :])
    buffer = aligned_empty(shape, target.dtype)
    permuted_target = target.transpose(tuple(int(index) for index in np.argsort(axes)))
    for start in range(0, source.shape[axis], strip):
        part = (*(slice(None),) * axis, slice(start, start + strip))
        values = source[part]
        staged = buffer[(*(slice(None),) * axis, slice(values.shape[axis]))]
        staged[...] = values
        permuted_target[part] = staged
