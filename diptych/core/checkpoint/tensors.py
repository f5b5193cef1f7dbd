"""Tensors that are read on demand, and the names of the dtypes that a checkpoint may hold."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import ml_dtypes
import numpy as np

from diptych.core.checkpoint.parallel import map_ahead
from diptych.core.errors import CheckpointError

# In the order of the reference implementation of safetensors: a file holds its tensors from the last rank to the first,
# so that wide elements come first and every tensor is aligned.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
DTYPE_NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
PART = 4 << 20
"""The bytes of a part of a tensor that is read by itself; they stay in a processor's cache."""
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {dtype.name: dtype for dtype in DTYPES.values()}


_MOST_AXES = 32  # of a numpy array in version 1
_MOST_ELEMENTS = 2**48  # of axes other than those of length 0; numpy has no larger arrays


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is read on demand.

    Args:
        shape: Its shape.
        dtype: Its element type.
        read: Returns the values as a C-contiguous array; for a file a read-only view of the mapped bytes, which may
            start at any address (a copy made by `strips.permute` is aligned).
        origin: The file that holds it, or another name of its origin in error messages.
        mapped: Whether the values are bytes of a mapped file that belong to no other tensor. An array of them may be
            made writable, since the map is private.
        read_rows: Returns the values from one index of the first axis to another, as `read` does, without reading the
            others. None if they can only be read as a whole.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]
    origin: str
    mapped: bool = False
    read_rows: Callable[[int, int], np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def parts(self) -> list["TensorSource"]:
        """The tensor in parts along its first axis, of `PART` bytes or one row; itself if it is read as a whole."""
        if self.read_rows is None or self.nbytes <= PART:
            return [self]
        count, *row = self.shape
        step = max(1, PART * count // self.nbytes)
        spans = [(start, min(start + step, count)) for start in range(0, count, step)]
        return [
            TensorSource((stop - start, *row), self.dtype, partial(self.read_rows, start, stop), self.origin)
            for start, stop in spans
        ]


def is_shape(shape: Sequence[int]) -> bool:
    """Whether an array can have this shape; the sizes are 0 or more, and may have any number of digits."""
    return len(shape) <= _MOST_AXES and math.prod(size or 1 for size in shape) <= _MOST_ELEMENTS


def from_array(array: np.ndarray, origin: str = "memory") -> TensorSource:
    """Wraps an array in memory."""
    array = np.asarray(array, order="C")
    return TensorSource(array.shape, array.dtype, lambda: array, origin)


def dtype_from_name(name: str, tensor: str, source: str, known: Mapping[str, np.dtype[Any]] = DTYPES) -> np.dtype[Any]:
    """Converts a file's name of a dtype.

    Args:
        name: The name in the file.
        tensor: The tensor it belongs to, for the message.
        source: The file, for the message.
        known: The names of the format: `DTYPES` for safetensors (`"BF16"`), `NUMPY_DTYPES` for Flax (`"bfloat16"`).

    Raises:
        CheckpointError: The dtype is unknown, or one that numpy and ml_dtypes cannot hold.
    """
    dtype = known.get(name)
    if dtype is None:
        raise CheckpointError(
            f"{source}: tensor {tensor!r} has dtype {name!r}; supported are {', '.join(known)}. "
            "Save it with one of these"
        )
    return dtype


def dtype_name(source: TensorSource, tensor: str) -> str:
    """Returns the safetensors name of a tensor's dtype.

    Raises:
        CheckpointError: The dtype has no such name.
    """
    name = DTYPE_NAMES.get(source.dtype)
    if name is None:
        raise CheckpointError(
            f"{source.origin}: tensor {tensor!r} has dtype {source.dtype.str!r} ({source.dtype.name}); "
            f"supported are {', '.join(DTYPES)}. Convert it to one of these"
        )
    return name


def read_bytes(source: TensorSource, tensor: str) -> memoryview:
    """Reads a tensor as its bytes in C order, without a copy.

    Raises:
        CheckpointError: The values do not have the shape or dtype that the source declares.
    """
    array = np.asarray(source.read(), order="C")
    if array.shape != source.shape or array.dtype != source.dtype:
        raise CheckpointError(
            f"{source.origin}: tensor {tensor!r} was announced as {source.dtype.name} {source.shape}, "
            f"but reading it gave {array.dtype.name} {array.shape}"
        )
    return array.reshape(-1).view(np.uint8).data


def read_in_parts(tensors: Iterable[tuple[str, TensorSource]]) -> Iterator[Iterator[memoryview]]:
    """Reads tensors as bytes, each part by part; threads read a few parts ahead.

    Args:
        tensors: The tensors, with their names for error messages.

    Yields:
        For each tensor the bytes of its parts, to be taken, and dropped, one after the other before the next tensor.
    """
    named = [(name, source.parts()) for name, source in tensors]
    read = map_ahead(
        lambda part: read_bytes(part[1], part[0]),
        ((name, part) for name, parts in named for part in parts),
        size=lambda part: part[1].nbytes,
    )
    for _, parts in named:
        yield islice(read, len(parts))


def bitwise_equal(one: TensorSource, other: TensorSource) -> bool:
    """Compares the bytes of two tensors of the same shape and dtype, part by part if both can be read so."""
    parts = (one.parts(), other.parts())
    pairs = zip(*parts, strict=True) if len(parts[0]) == len(parts[1]) else [(one, other)]
    return all(_equal_bytes(read_bytes(first, ""), read_bytes(second, "")) for first, second in pairs)


def _equal_bytes(one: memoryview, other: memoryview) -> bool:
    words = len(one) // 8 * 8  # compared eight bytes at a time, the result of a comparison takes an eighth of them
    starts = range(0, words, PART)
    pairs = [(one[start : min(start + PART, words)], other[start : min(start + PART, words)]) for start in starts]
    return one[words:] == other[words:] and all(
        np.array_equal(np.frombuffer(first, np.uint64), np.frombuffer(second, np.uint64)) for first, second in pairs
    )


def digest(source: TensorSource) -> str:
    """Returns the SHA-256 of a tensor's bytes in hexadecimal; it is the same for bitwise equal tensors."""
    found = hashlib.sha256()
    for part in source.parts():
        found.update(read_bytes(part, ""))
    return found.hexdigest()
