"""Flax's serialization format: a tree of msgpack maps whose leaves are arrays in extension type 1.

Sources: the msgpack specification (github.com/msgpack/msgpack/blob/master/spec.md) and flax.serialization.
"""

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from diptych.core.checkpoint.files import map_file, mapped_tensor, open_atomic
from diptych.core.checkpoint.strips import aligned_empty
from diptych.core.checkpoint.tensors import (
    NUMPY_DTYPES,
    TensorSource,
    dtype_from_name,
    dtype_name,
    is_shape,
    read_in_parts,
)
from diptych.core.errors import CheckpointError

MAX_CHUNK_SIZE = 2**30  # bytes; flax.serialization splits larger arrays, since a msgpack object is limited to 2**32

_ARRAY, _SCALAR = 1, 3  # extension types of flax.serialization; 2 is a complex number
_CHUNKED = "__msgpack_chunked_array__"
_DEEPEST = 100  # levels of a tree; a deeper file is damaged or malicious
_LONGEST = 1000  # characters of a name, each key of which is in the names of all arrays below it

# Kind -> (first byte of the short form, how many values it holds); the value is added to the first byte.
_SHORT = {"integer": (0x00, 128), "map": (0x80, 16), "list": (0x90, 16), "string": (0xA0, 32)}
# Kind -> bytes of the value or length that follows -> first byte.
_LONG = {
    "bytes": {1: 0xC4, 2: 0xC5, 4: 0xC6},
    "extension": {1: 0xC7, 2: 0xC8, 4: 0xC9},
    "integer": {1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF},
    "string": {1: 0xD9, 2: 0xDA, 4: 0xDB},
    "list": {2: 0xDC, 4: 0xDD},
    "map": {2: 0xDE, 4: 0xDF},
}
_FIXED_EXTENSIONS = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}  # size -> first byte
_TRUE = 0xC3

# First byte -> kind, bytes that follow, value: the inverse of the tables above, and types that no tree of arrays holds.
_TOKENS = (
    {base + value: (kind, 0, value) for kind, (base, count) in _SHORT.items() for value in range(count)}
    | {first: (kind, width, 0) for kind, widths in _LONG.items() for width, first in widths.items()}
    | {first: ("extension", 0, size) for size, first in _FIXED_EXTENSIONS.items()}
    | {0xC0: ("nil", 0, 0), 0xC2: ("boolean", 0, 0), _TRUE: ("boolean", 0, 1)}
    | {0xCA: ("float", 4, 0), 0xCB: ("float", 8, 0)}
    | {first: ("negative integer", 1 << (first - 0xD0), 0) for first in range(0xD0, 0xD4)}
    | {first: ("negative integer", 0, first - 0x100) for first in range(0xE0, 0x100)}
)

_Tree: TypeAlias = "dict[str, _Tree | _Scalar | TensorSource]"
NameTree: TypeAlias = "dict[str, NameTree | str]"  # a tree that holds a tensor's name at each leaf


@dataclass(frozen=True)
class _Scalar:
    """A leaf that is not an array: an error, unless it describes a chunked array."""

    kind: str
    value: int


def read_msgpack(path: str | PathLike[str]) -> dict[str, TensorSource]:
    """Maps a file made by Flax's `to_bytes` and lists its arrays in the order of the file.

    Args:
        path: The file.

    Returns:
        The arrays by name, the keys of the tree joined with "."; reading one returns a view of the mapped file, except
        for those over 1 GiB, whose chunks are joined into new memory.

    Raises:
        CheckpointError: The file is damaged, or holds something else than a tree of arrays.
        OSError: It cannot be opened.
    """
    path = Path(path)
    mapped = map_file(path)
    reader = _Reader(mapped, path, 0, len(mapped))
    kind, count = reader.token()
    if kind != "map":
        raise CheckpointError(
            f"{path}: holds type {kind} at the top, not a map of names: it is not a tree of Flax weights"
        )
    tree = reader.tree(count, ())
    if reader.position < len(mapped):
        raise CheckpointError(
            f"{path}: the tree ends at byte {reader.position}, but the file has {len(mapped)}. "
            "Download or save it again"
        )
    tensors: dict[str, TensorSource] = {}
    _collect_arrays(tree, (), path, tensors)
    return tensors


def write_msgpack(
    path: str | PathLike[str],
    tensors: Mapping[str, TensorSource],
    progress: Callable[[int], None] | None = None,
    max_chunk_size: int = MAX_CHUNK_SIZE,
) -> None:
    """Writes arrays as nested dicts, as Flax's `to_bytes` does, array by array.

    Args:
        path: The file; it appears after it is complete, and replaces an older one.
        tensors: The arrays by name; "." separates the keys of the tree, which are in order of first appearance.
        progress: Called after each array with its size in bytes.
        max_chunk_size: Larger arrays (in bytes) are split into chunks.

    Raises:
        CheckpointError: A name does not describe a place in a tree, or a dtype is not supported.
        OSError: The disk failed.
    """
    path = Path(path)
    layout = nested_names(tensors, path)
    for name, source in tensors.items():
        dtype_name(source, name)

    def write(handle: BinaryIO, tree: NameTree, read: Iterator[Iterator[memoryview]]) -> None:
        handle.write(_pack("map", len(tree)))
        for key, node in tree.items():
            handle.write(_string(key))
            if isinstance(node, dict):
                write(handle, node, read)
                continue
            _write_array(handle, tensors[node], next(read), max_chunk_size)
            if progress is not None:
                progress(tensors[node].nbytes)

    with open_atomic(path) as handle:
        write(handle, layout, read_in_parts((name, tensors[name]) for name in _leaves(layout)))


class _Reader:
    """Walks over the tokens of a part of a mapped file."""

    def __init__(self, mapped: mmap.mmap, path: Path, position: int, stop: int) -> None:
        self.mapped, self.path, self.position, self.stop = mapped, path, position, stop

    def skip(self, size: int) -> int:
        """Skips some bytes; returns the position where they start."""
        start = self.position
        if start + size > self.stop:
            raise CheckpointError(
                f"{self.path}: ends at byte {self.stop} inside a value that needs {start + size - self.stop} more: "
                "the file is truncated. Download or save it again"
            )
        self.position = start + size
        return start

    def token(self) -> tuple[str, int]:
        """Reads the next token: its kind, and its value, or the length of what follows."""
        start = self.skip(1)
        kind, width, value = _TOKENS.get(self.mapped[start], ("", 0, 0))
        if not kind:
            raise CheckpointError(
                f"{self.path}: byte {start} is 0x{self.mapped[start]:02x}, which msgpack does not use. "
                "Download or save the file again"
            )
        if width:
            start = self.skip(width)
            value = int.from_bytes(self.mapped[start : start + width], "big", signed=kind == "negative integer")
        return kind, value

    def text(self, size: int) -> str:
        """Reads the bytes of a string."""
        start = self.skip(size)
        try:
            return self.mapped[start : start + size].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.path}: the string at byte {start} is not UTF-8 ({error.reason}). "
                "Download or save the file again"
            ) from error

    def tree(self, count: int, keys: tuple[str, ...]) -> _Tree:
        """Reads the pairs of the map at `keys`."""
        place = ".".join(keys) or "the top"
        if len(keys) > _DEEPEST:
            raise CheckpointError(f"{self.path}: goes deeper than {_DEEPEST} levels: it is not a tree of Flax weights")
        tree: _Tree = {}
        for _ in range(count):
            kind, size = self.token()
            if kind != "string":
                raise CheckpointError(f"{self.path}: the map at {place} has a key of type {kind}, not a string")
            if size + sum(map(len, keys)) > _LONGEST:
                raise CheckpointError(
                    f"{self.path}: has a name of more than {_LONGEST} characters: it is not a tree of Flax weights"
                )
            key = self.text(size)
            if not key or "." in key or "/" in key:
                raise CheckpointError(
                    f"{self.path}: the map at {place} has the key {key!r}; a key must not be empty or hold '.' or '/', "
                    "which separate the keys of a name"
                )
            if key in tree:
                raise CheckpointError(f"{self.path}: the map at {place} has the key {key!r} twice. Save it again")
            tree[key] = self.node((*keys, key))
        return tree

    def node(self, keys: tuple[str, ...]) -> "_Tree | _Scalar | TensorSource":
        """Reads the node at `keys`."""
        kind, value = self.token()
        if kind == "map":
            return self.tree(value, keys)
        if kind == "extension":
            start = self.skip(1 + value)
            code = self.mapped[start]
            if code in (_ARRAY, _SCALAR):
                return _Reader(self.mapped, self.path, start + 1, self.position).array(".".join(keys))
            kind = f"msgpack extension of type {code}"
        elif kind in ("string", "bytes"):
            self.skip(value)
        elif kind == "list":
            raise _not_an_array(self.path, ".".join(keys), kind)
        return _Scalar(kind, value)

    def array(self, name: str) -> TensorSource:
        """Reads (shape, dtype name, bytes), which fill this reader's part of the file."""
        self.expect("list", name, length=3)
        shape = tuple(self.expect("integer", name) for _ in range(self.expect("list", name)))
        if not is_shape(shape):
            raise _not_a_shape(self.path, name, shape)
        label = self.text(self.expect("string", name))
        dtype = dtype_from_name(label, name, str(self.path), NUMPY_DTYPES)
        size = self.expect("bytes", name)
        start = self.skip(size)
        if size != math.prod(shape) * dtype.itemsize or self.position != self.stop:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} takes {self.stop - start} bytes, but {dtype.name} {shape} needs "
                f"{math.prod(shape) * dtype.itemsize}. Download or save the file again"
            )
        return mapped_tensor(self.mapped, start, dtype, shape, self.path)

    def expect(self, kind: str, name: str, length: int | None = None) -> int:
        """Reads a token of this kind; returns its value."""
        found, value = self.token()
        if found != kind or length not in (None, value):
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is not stored as (shape, dtype, bytes): "
                f"found type {found} ({value}) where type {kind} belongs. Download or save the file again"
            )
        return value


def _not_a_shape(path: Path, name: str, shape: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(
        f"{path}: tensor {name!r} has the shape {str(shape)[:1000]}, which no array can have. Download or save the "
        "file again"
    )


def _not_an_array(path: Path, name: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name!r} is of type {kind}, not an array; a tree of Flax weights holds nothing but arrays. "
        "Save the parameters alone"
    )


def _collect_arrays(tree: _Tree, keys: tuple[str, ...], path: Path, tensors: dict[str, TensorSource]) -> None:
    """Collects the arrays of a tree under their joined keys."""
    for key, node in tree.items():
        name = ".".join((*keys, key))
        if isinstance(node, _Scalar):
            raise _not_an_array(path, name, node.kind)
        if isinstance(node, TensorSource):
            tensors[name] = node
        elif _CHUNKED in node:
            tensors[name] = _join_chunks(node, name, path)
        else:
            _collect_arrays(node, (*keys, key), path, tensors)


def _join_chunks(node: _Tree, name: str, path: Path) -> TensorSource:
    """Describes an array that is stored as flat chunks."""
    shape, chunks = _numbered_values(node.get("shape")), _numbered_values(node.get("chunks"))
    sizes = tuple(size.value for size in shape if isinstance(size, _Scalar) and size.kind == "integer")
    parts = tuple(chunk for chunk in chunks if isinstance(chunk, TensorSource) and len(chunk.shape) == 1)
    if not is_shape(sizes):
        raise _not_a_shape(path, name, sizes)
    if (
        len(sizes) != len(shape)
        or not parts
        or len(parts) != len(chunks)
        or len({part.dtype for part in parts}) > 1
        or sum(part.shape[0] for part in parts) != math.prod(sizes)
    ):
        raise CheckpointError(
            f"{path}: the chunks of tensor {name!r} do not make up its shape {sizes}. Download or save the file again"
        )
    dtype = parts[0].dtype

    def read_rows(first: int, stop: int) -> np.ndarray:
        row = math.prod(sizes[1:])
        joined = aligned_empty((stop - first, *sizes[1:]), dtype)
        flat, start = joined.reshape(-1), -first * row  # of a chunk, in the rows asked for
        for part in parts:
            end = start + part.shape[0]
            if start < flat.size and end > 0:
                flat[max(start, 0) : end] = part.read()[max(-start, 0) : flat.size - start]
            start = end
        return joined

    whole = sizes[0] if sizes else 1
    return TensorSource(sizes, dtype, lambda: read_rows(0, whole).reshape(sizes), str(path), read_rows=read_rows)


def _numbered_values(node: "_Tree | _Scalar | TensorSource | None") -> "list[_Tree | _Scalar | TensorSource | None]":
    """Returns the values of a map with the keys "0", "1", ..., with None for missing ones."""
    return [node.get(str(index)) for index in range(len(node))] if isinstance(node, dict) else [None]


def nested_names(names: Iterable[str], path: Path) -> NameTree:
    """Turns joined names into a tree."""
    layout: NameTree = {}
    for name in names:
        *parents, last = keys = name.split(".")
        if "/" in name or not all(keys):
            raise CheckpointError(
                f"{path}: tensor {name!r} names no place in a tree of Flax weights: "
                "a name is keys joined with '.', none empty and none with '/'. Rename it"
            )
        tree = layout
        for key in parents:
            child = tree.setdefault(key, {})
            if isinstance(child, str):
                raise CheckpointError(
                    f"{path}: {child!r} is a tensor and the parent of {name!r}; a tree cannot hold both"
                )
            tree = child
        if last in tree:
            raise CheckpointError(f"{path}: {name!r} is a tensor and the parent of others; a tree cannot hold both")
        tree[last] = name
    return layout


def _leaves(tree: NameTree) -> Iterator[str]:
    """The names in a tree, in its order."""
    for node in tree.values():
        if isinstance(node, str):
            yield node
        else:
            yield from _leaves(node)


def _pack(kind: str, value: int) -> bytes:
    """Encodes a value, or the length of what follows, in the fewest bytes."""
    base, count = _SHORT.get(kind, (0, 0))
    if value < count:
        return bytes([base + value])
    width = next(width for width in _LONG[kind] if value < 1 << 8 * width)
    return bytes([_LONG[kind][width]]) + value.to_bytes(width, "big")


def _string(text: str) -> bytes:
    encoded = text.encode()
    return _pack("string", len(encoded)) + encoded


def _write_array(handle: BinaryIO, source: TensorSource, parts: Iterator[memoryview], max_chunk_size: int) -> None:
    """Writes an array, as one object, or if it is large as a map of chunks like flax.serialization."""
    if source.nbytes <= max_chunk_size:
        handle.write(_object_head(source.shape, source.dtype, source.nbytes))
        handle.writelines(parts)
        return
    itemsize = source.dtype.itemsize
    step = max(1, max_chunk_size // itemsize) * itemsize
    handle.write(_pack("map", 3) + _string(_CHUNKED) + bytes([_TRUE]))
    handle.write(_string("shape") + _pack("map", len(source.shape)))
    for index, size in enumerate(source.shape):
        handle.write(_string(str(index)) + _pack("integer", size))
    handle.write(_string("chunks") + _pack("map", -(-source.nbytes // step)))
    position = 0
    for part in parts:
        start = 0
        while start < part.nbytes:
            if position % step == 0:
                size = min(step, source.nbytes - position)
                handle.write(_string(str(position // step)))
                handle.write(_object_head((size // itemsize,), source.dtype, size))
            stop = min(part.nbytes, start + step - position % step)
            handle.write(part[start:stop])
            position += stop - start
            start = stop


def _object_head(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> bytes:
    """What precedes the bytes of an array in an extension object of (shape, dtype name, bytes)."""
    head = _pack("list", 3) + _pack("list", len(shape)) + b"".join(_pack("integer", size) for size in shape)
    head += _string(dtype.name) + _pack("bytes", nbytes)
    size = len(head) + nbytes
    fixed = _FIXED_EXTENSIONS.get(size)
    return (_pack("extension", size) if fixed is None else bytes([fixed])) + bytes([_ARRAY]) + head
