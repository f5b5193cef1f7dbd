"""Tensors that are read on demand, and the names of the dtypes that a checkpoint may hold."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

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
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]
    origin: str
    mapped: bool = False

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_shape(shape: Sequence[int]) -> bool:
    """Whether an array can have this shape; the sizes are 0 or more, and may have any number of digits."""
    return len(shape) <= _MOST_AXES and math.prod(size or 1 for size in shape) <= _MOST_ELEMENTS


def from_array(array: np.ndarray, origin: str = "memory") -> TensorSource:
    """Wrap an array in memory."""
    array = np.asarray(array, order="C")
    return TensorSource(array.shape, array.dtype, lambda: array, origin)


def dtype_from_name(name: str, tensor: str, source: str, known: Mapping[str, np.dtype[Any]] = DTYPES) -> np.dtype[Any]:
    """Convert a file's name of a dtype.

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
    """Return the safetensors name of a tensor's dtype.

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
    """Read a tensor as its bytes in C order, without a copy.

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


def digest(source: TensorSource) -> str:
    """Return the SHA-256 of a tensor's bytes in hexadecimal; it is the same for bitwise equal tensors."""
    return hashlib.sha256(read_bytes(source, "")).hexdigest()
