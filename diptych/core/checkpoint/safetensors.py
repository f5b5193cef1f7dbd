"""The safetensors format: a JSON header with shapes, dtypes and offsets, then the bytes of all tensors."""

import json
import math
import mmap
from collections.abc import Callable, Mapping
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from diptych.core.checkpoint.files import map_file, mapped_tensor, open_atomic, parse_json_object
from diptych.core.checkpoint.tensors import DTYPES, TensorSource, dtype_from_name, dtype_name, is_shape, read_in_parts
from diptych.core.errors import CheckpointError

_LENGTH_BYTES = 8  # the header's length comes first, little-endian
_ALIGNMENT = 8
_RANKS = {name: rank for rank, name in enumerate(DTYPES)}


def read_safetensors(path: str | PathLike[str]) -> dict[str, TensorSource]:
    """Maps a safetensors file and lists its tensors in the order of the file.

    Args:
        path: The file.

    Returns:
        The tensors by name; reading one returns a view of the mapped file.

    Raises:
        CheckpointError: The file is damaged, or holds a dtype that is not supported.
        OSError: It cannot be opened.
    """
    path = Path(path)
    mapped = map_file(path)
    header, data_start = _header(mapped, path)
    data_size = len(mapped) - data_start
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, TensorSource] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, stop) = _entry(entry, name, path)
        dtype = dtype_from_name(dtype, name, str(path))
        if stop > data_size:
            raise CheckpointError(
                f"{path}: tensor {name!r} ends at byte {stop} of the data, which has {data_size}: "
                "the file is truncated. Download or save it again"
            )
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(
                f"{path}: tensor {name!r} takes {stop - start} bytes, but {dtype.name} {shape} "
                f"needs {math.prod(shape) * dtype.itemsize}. Download or save the file again"
            )
        spans.append((start, stop, name))
        tensors[name] = mapped_tensor(mapped, data_start + start, dtype, shape, path)
    spans.sort()
    for (_, stop, name), (start, _, following) in pairwise(spans):
        if start < stop:
            raise CheckpointError(
                f"{path}: tensors {name!r} and {following!r} overlap at byte {start} of the data. "
                "Download or save the file again"
            )
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: the safetensors library refuses it ({error}). Download or save the file again"
        ) from error
    return {name: tensors[name] for _, _, name in spans}


def read_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """Reads the free-form metadata of a safetensors file, `{}` if it has none.

    Raises:
        CheckpointError: The header is damaged.
        OSError: The file cannot be opened.
    """
    path = Path(path)
    header, _ = _header(map_file(path), path)
    return _metadata(header, path)


def write_safetensors(
    path: str | PathLike[str],
    tensors: Mapping[str, TensorSource],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a safetensors file tensor by tensor; equal tensors and metadata give equal bytes.

    Args:
        path: The file; it appears after it is complete, and replaces an older one.
        tensors: The tensors by name.
        metadata: Free-form metadata; by default `{"format": "pt"}`, without which transformers refuses the file.
        progress: Called after each tensor with its size in bytes.

    Raises:
        CheckpointError: A tensor has a dtype that the format does not support, or is named `__metadata__`.
        OSError: The disk failed.
    """
    path = Path(path)
    if "__metadata__" in tensors:
        raise CheckpointError(f"{path}: '__metadata__' is reserved in safetensors; give that tensor another name")
    names = {name: dtype_name(source, name) for name, source in tensors.items()}
    order = sorted(tensors, key=lambda name: (-_RANKS[names[name]], name))
    header: dict[str, Any] = {
        "__metadata__": dict(sorted(({"format": "pt"} if metadata is None else metadata).items()))
    }
    position = 0
    for name in order:
        source = tensors[name]
        offsets = [position, position + source.nbytes]
        header[name] = {"dtype": names[name], "shape": list(source.shape), "data_offsets": offsets}
        position += source.nbytes
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with open_atomic(path) as handle:
        handle.write(len(encoded).to_bytes(_LENGTH_BYTES, "little"))
        handle.write(encoded)
        for name, parts in zip(order, read_in_parts((name, tensors[name]) for name in order), strict=True):
            handle.writelines(parts)
            if progress is not None:
                progress(tensors[name].nbytes)


def _header(mapped: mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    """Parses the header; returns it and the position where the data starts."""
    if len(mapped) < _LENGTH_BYTES:
        raise CheckpointError(
            f"{path}: has {len(mapped)} bytes, too few for a safetensors file. Download or save it again"
        )
    length = int.from_bytes(mapped[:_LENGTH_BYTES], "little")
    stop = _LENGTH_BYTES + length
    if stop > len(mapped):
        raise CheckpointError(
            f"{path}: announces a header of {length} bytes, but the file has {len(mapped)}: it is truncated or "
            "not a safetensors file. Download or save it again"
        )
    return parse_json_object(mapped[_LENGTH_BYTES:stop], f"{path}: the header"), stop


def _metadata(header: dict[str, Any], path: Path) -> dict[str, str]:
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in cast(dict[str, object], metadata).values()
    ):
        raise CheckpointError(f"{path}: the header's __metadata__ must hold strings by name, not {metadata!r}")
    return cast(dict[str, str], metadata)


def _entry(entry: object, name: str, path: Path) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Checks one tensor's entry in the header; returns dtype name, shape and offsets."""
    if isinstance(entry, dict):
        fields = cast(dict[str, object], entry)
        dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
        if isinstance(dtype, str) and shape is not None and offsets is not None and len(offsets) == 2:
            start, stop = offsets
            if start <= stop and is_shape(shape):
                return dtype, shape, (start, stop)
    raise CheckpointError(
        f"{path}: tensor {name!r} has the header entry {entry!r:.1000}; needed are a dtype, a shape of at most 32 "
        "integers >= 0 that an array can have, and data_offsets [start, stop]. Download or save the file again"
    )


def _sizes(value: object) -> tuple[int, ...] | None:
    """Returns a JSON list of integers >= 0 as a tuple, None for anything else."""
    if not isinstance(value, list):
        return None
    sizes = tuple(size for size in cast(list[object], value) if type(size) is int and size >= 0)
    return sizes if len(sizes) == len(cast(list[object], value)) else None
