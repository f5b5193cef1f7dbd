"""The sizes that Zarr arrays declare, checked before a library reserves memory for them."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from diptych.core.checkpoint.files import parse_json_object
from diptych.core.checkpoint.tensors import NUMPY_DTYPES, dtype_from_name, is_shape
from diptych.core.errors import CheckpointError

METADATA = {2: ".zarray", 3: "zarr.json"}
"""The file that describes an array, by the version of the format."""

_MOST_EXPANSION = 100  # times the size of the files; zstd packs zeros at 1:30000, but weights hardly at all
_ALWAYS_ALLOWED = 1 << 24  # bytes, for models of zeros in tests
_NUMPY_CODE = re.compile(r"[<>|][biuf][1248]")
_CODECS = {2: (None, "zstd", "gzip", "zlib"), 3: ("bytes", "transpose", "zstd", "gzip", "crc32c", "sharding_indexed")}


@dataclass(frozen=True)
class DeclaredArray:
    """What the metadata of an array declares.

    Args:
        shape: Its shape.
        chunks: The shape of the chunks that are stored, and reserved even if the array ends inside of one.
        parts: The shape of the parts of a chunk that are compressed alone; the chunks themselves where there are none.
        itemsize: The size of an element in bytes.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    parts: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """The size of all chunks in bytes, uncompressed."""
        return math.prod(map(_round_up, self.shape, self.chunks)) * self.itemsize

    @property
    def count(self) -> int:
        """The number of parts."""
        return math.prod(_round_up(size, part) // part for size, part in zip(self.shape, self.parts, strict=True))


def parse_metadata(text: bytes, version: int, name: str, source: str) -> DeclaredArray:
    """Parses the description of an array, of which only what decides the need of memory is judged.

    Args:
        text: JSON.
        version: Of Zarr, 2 or 3.
        name: The array, for error messages.
        source: The checkpoint, for error messages.

    Raises:
        CheckpointError: It has no shape, chunks or dtype that could be right, or a codec that Orbax never uses.
    """
    where = f"{source}: the array {name}"
    metadata = parse_json_object(text, where)
    try:
        if version == 2:
            compressor = metadata["compressor"]
            codecs = [None if compressor is None else compressor["id"]]
            chunks, dtype = metadata["chunks"], metadata["dtype"]
            parts = chunks
        else:
            chunks, dtype = metadata["chunk_grid"]["configuration"]["chunk_shape"], metadata["data_type"]
            codecs, parts = _codecs_of_version_3(metadata["codecs"], chunks)
        shape = metadata["shape"]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise CheckpointError(
            f"{where} lacks a part of the metadata of an array in version {version} of Zarr. Save it again"
        ) from None
    unknown = [codec for codec in codecs if codec not in _CODECS[version]]
    if unknown or metadata.get("filters") is not None:
        known = ", ".join(str(codec) for codec in _CODECS[version])
        raise CheckpointError(
            f"{where} is stored with {unknown or metadata['filters']!r:.200}, but only {known} are read. Save it again"
        )
    sizes = [_sizes(shape, 0), _sizes(chunks, 1), _sizes(parts, 1)]
    if None in sizes or len({len(found or ()) for found in sizes}) > 1:
        raise CheckpointError(
            f"{where} has the shape {shape!r:.200}, in chunks of {chunks!r:.200} and {parts!r:.200}, which are none"
        )
    its_shape, its_chunks, its_parts = cast(list[tuple[int, ...]], sizes)
    return DeclaredArray(its_shape, its_chunks, its_parts, _dtype(dtype, name, source).itemsize)


def require_memory(arrays: Mapping[str, DeclaredArray], stored: int, source: str) -> None:
    """Refuses arrays that declare far more than their files could hold.

    Args:
        arrays: All arrays of a checkpoint by name.
        stored: The size of its files in bytes.
        source: The checkpoint, for error messages.

    Raises:
        CheckpointError: They would take more than 100 times as much memory, or have more chunks than bytes.
    """
    nbytes, count = (sum(getattr(array, size) for array in arrays.values()) for size in ("nbytes", "count"))
    if nbytes > _MOST_EXPANSION * stored + _ALWAYS_ALLOWED or count > stored:
        largest = max(arrays, key=lambda name: arrays[name].nbytes)
        raise CheckpointError(
            f"{source}: declares arrays of {nbytes} bytes in {count} chunks, but its files have {stored} bytes, which "
            f"cannot hold as much unless nearly all of it is zero; the largest is {largest}, {arrays[largest].shape}. "
            "If it is what you want, save it as safetensors"
        )


def _codecs_of_version_3(listed: Any, chunks: Any) -> tuple[list[Any], Any]:
    """The names of all codecs, and the shape of the parts in which a chunk is stored."""
    codecs, parts = [codec["name"] for codec in listed], chunks
    if codecs == ["sharding_indexed"]:
        inner = listed[0]["configuration"]
        parts = inner["chunk_shape"]
        codecs += [codec["name"] for codec in inner["codecs"]]
        if "sharding_indexed" in codecs[1:]:
            raise KeyError
    elif "sharding_indexed" in codecs:
        raise KeyError
    return codecs, parts


def _sizes(values: Any, least: int) -> tuple[int, ...] | None:
    """Lengths of axes as a tuple; None if they are none."""
    if not isinstance(values, list):
        return None
    sizes = tuple(cast(list[Any], values))
    return sizes if all(type(size) is int and size >= least for size in sizes) and is_shape(sizes) else None


def _dtype(code: Any, name: str, source: str) -> np.dtype[Any]:
    """The dtype of an array, in the spelling of either version."""
    if isinstance(code, str) and _NUMPY_CODE.fullmatch(code):
        with suppress(TypeError):  # of "<f1"
            return np.dtype(code)
    return dtype_from_name(code if isinstance(code, str) else repr(code)[:200], name, source, NUMPY_DTYPES)


def _round_up(size: int, chunk: int) -> int:
    return -(-size // chunk) * chunk
