"""The memory of tensors that `torch.save` has written, and the views of it that the tensors are."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.checkpoint.tensors import is_shape
from diptych.core.errors import CheckpointError


@dataclass(frozen=True)
class Storage:
    """The memory of one or more tensors.

    Attributes:
        key: its name in the file.
        count: the number of its elements.
        dtype: of the elements; None if they are bytes, and each tensor has a dtype of its own.
    """

    key: str
    count: int
    dtype: np.dtype[Any] | None


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage; `offset` and `strides` count elements of the tensor's dtype."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def check_inside(path: Path, name: str, tensor: StoredTensor, place: str, span: range | None) -> int:
    """Checks that a tensor lies inside of its storage.

    Args:
        path: the file, for messages.
        name: the tensor's name.
        tensor: the tensor.
        place: what the file calls the storage.
        span: the bytes of the file that hold the storage; None if there are none.

    Returns:
        The position of the storage in the file.

    Raises:
        CheckpointError: the tensor reaches beyond its storage, or repeats entries of it.
    """
    storage, itemsize = tensor.storage, tensor.dtype.itemsize
    declared = storage.count * (1 if storage.dtype is None else itemsize)
    entries, last = math.prod(tensor.shape), tensor.offset
    last += sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if span is None or len(span) != declared:
        found = "is not in the file" if span is None else f"has {len(span)} bytes"
        problem = f"needs {declared} bytes of storage {place}, which {found}"
    elif entries and (last + 1) * itemsize > declared:
        problem = f"ends at byte {(last + 1) * itemsize} of its storage, which has {declared}"
    elif entries * itemsize > declared:
        problem = (
            f"repeats the entries of its storage ({entries} of {declared // itemsize}), as after expand(); save its "
            "clone()"
        )
    elif not is_shape(tensor.shape):
        problem = f"has the shape {tensor.shape}, which no array can have"
    else:
        return span.start
    raise CheckpointError(f"{path}: tensor {name!r} {problem}. Download or save the file again")


def read_view(mapped: mmap.mmap, start: int, order: str, tensor: StoredTensor) -> np.ndarray:
    """A tensor's values, read as integers of its width, since bfloat16 has no byte order.

    Args:
        mapped: the file.
        start: the position of the storage.
        order: the byte order, "<" or ">".
        tensor: the tensor, which lies inside of its storage.
    """
    itemsize = tensor.dtype.itemsize
    bits = np.ndarray(
        tensor.shape,
        f"{order}u{itemsize}",
        mapped,
        start + tensor.offset * itemsize,
        tuple(stride * itemsize for stride in tensor.strides),
    )
    values = np.asarray(bits, f"u{itemsize}", order="C").view(tensor.dtype)
    values.flags.writeable = False
    return values
