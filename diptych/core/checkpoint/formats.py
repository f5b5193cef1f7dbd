"""The formats in which a directory can hold a checkpoint's tensors."""

import importlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from diptych.core.checkpoint.companions import ADAPTERS, ALL, is_companion
from diptych.core.checkpoint.files import open_atomic, parse_json_object, require_inside
from diptych.core.checkpoint.msgpack import read_msgpack, write_msgpack
from diptych.core.checkpoint.safetensors import read_metadata, read_safetensors, write_safetensors
from diptych.core.checkpoint.slots import Layout
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.checkpoint.torch_legacy import read_torch
from diptych.core.errors import CheckpointError, InputError

Tensors = Mapping[str, TensorSource]
Progress = Callable[[int], None]

_LONGEST_PATH = 1024  # bytes; the limit of the system, with the directory's own path, is higher


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a directory.

    Args:
        format: The name of their format.
        layout: The names and the layout of the tensors.
        directory: The directory.
        files: The files that hold tensors.
        tensors: All tensors by name, in the order of the files.
        metadata: The free-form metadata of safetensors files.
    """

    format: str
    layout: Layout
    directory: Path
    files: tuple[Path, ...]
    tensors: Tensors
    metadata: Mapping[str, str]


class Format(Protocol):
    """A form in which a directory can hold a checkpoint's tensors."""

    @property
    def name(self) -> str:
        """The name by which callers choose the format."""
        ...

    @property
    def layout(self) -> Layout:
        """The names and the layout of the tensors that are written."""
        ...

    @property
    def places(self) -> tuple[str, ...]:
        """What is looked for in a directory, for messages."""
        ...

    def owns(self, name: str) -> bool:
        """Whether an entry of a directory belongs to weights in this format."""
        ...

    def open(self, directory: Path, variant: str | None) -> Checkpoint | None:
        """Opens the weights in a directory; None without any in this format and variant. Only headers are read."""
        ...

    def write(
        self,
        directory: Path,
        tensors: Tensors,
        max_shard_size: int | None,
        metadata: Mapping[str, str] | None,
        progress: Progress | None,
    ) -> tuple[str, ...]:
        """Writes weights into an empty directory; returns the names of what holds tensors."""
        ...


@dataclass(frozen=True)
class FileFormat:
    """A format whose weights are one file, or several files with an index, as on the Hugging Face hub.

    Args:
        name: The name of the format.
        layout: The names and the layout of the tensors.
        stem: The name of the only file, without its suffix.
        suffix: The suffix of every file.
        separator: Between the parts of a tensor's name in the index.
        read: Maps a file; returns its tensors and its metadata.
        write_file: Writes a file from its tensors and its metadata; None if the format is only read.
        variant: Of the weights, after a dot, such as ".fp16"; empty for the usual ones.
    """

    name: str
    layout: Layout
    stem: str
    suffix: str
    separator: str
    read: Callable[[Path], tuple[dict[str, TensorSource], dict[str, str]]]
    write_file: Callable[[Path, Tensors, Mapping[str, str] | None, Progress | None], None] | None = None
    variant: str = ""

    def of_variant(self, variant: str | None) -> "FileFormat":
        """The format of a variant of the weights; None for the usual ones."""
        return replace(self, variant=f".{variant}" if variant else "")

    @property
    def single(self) -> str:
        """The name of the file if there is only one."""
        return f"{self.stem}{self.variant}{self.suffix}"

    @property
    def index(self) -> str:
        """The name of the index of several files."""
        return f"{self.stem}{self.suffix}.index{self.variant}.json"

    @property
    def places(self) -> tuple[str, ...]:
        """The only file, or the index under the name in transformers, or in diffusers, which differs in variants."""
        return tuple(dict.fromkeys((self.single, self.index, f"{self.single}.index.json")))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the names of all files; the variant stands before the numbers of a shard or, once, after them.

        Not "*.safetensors": many repositories hold more copies of the weights, under other names for other programs.
        """
        shards = (f"{self.variant}-?????-of-?????", f"-?????-of-?????{self.variant}")
        return (*self.places, *dict.fromkeys(f"{self.stem}{shard}{self.suffix}" for shard in shards))

    def owns(self, name: str) -> bool:
        """Whether a file belongs to weights in this format."""
        shard = rf"{self.stem}-\d{{5}}-of-\d{{5}}{re.escape(self.suffix)}"
        return name in self.places or re.fullmatch(shard, name) is not None

    def variant_in(self, name: str) -> str | None:
        """The variant that a file's name holds, if any."""
        shard = r"(?:-\d{5}-of-\d{5})?"
        found = re.fullmatch(rf"{self.stem}{shard}\.([\w.-]+?){shard}{re.escape(self.suffix)}", name)
        return None if found is None else found[1]

    def open(self, directory: Path, variant: str | None) -> Checkpoint | None:
        """Maps the only file, or all files that the index names."""
        if variant is not None:
            return self.of_variant(variant).open(directory, None)
        single, *indices = self.places
        if (directory / single).is_file():
            tensors, metadata = self.read(directory / single)
            return self._checkpoint(directory, [single], tensors, metadata)
        for index in indices:
            if (directory / index).is_file():
                return self._open_shards(directory, index)
        return None

    def write(
        self,
        directory: Path,
        tensors: Tensors,
        max_shard_size: int | None,
        metadata: Mapping[str, str] | None,
        progress: Progress | None,
    ) -> tuple[str, ...]:
        """Writes one file, or shards and their index."""
        assert self.write_file is not None  # the format is one of WRITABLE
        shards = _shards(tensors, max_shard_size)
        names = [f"{self.stem}-{number + 1:05d}-of-{len(shards):05d}{self.suffix}" for number in range(len(shards))]
        if len(shards) == 1:
            names = [self.single]
        for name, shard in zip(names, shards, strict=True):
            self.write_file(directory / name, shard, metadata, progress)
        if len(shards) > 1:
            weight_map = {
                key.replace(".", self.separator): name
                for name, shard in zip(names, shards, strict=True)
                for key in shard
            }
            total_size = sum(source.nbytes for source in tensors.values())
            index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
            with open_atomic(directory / self.index) as handle:
                handle.write(json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
        return tuple(names)

    def _checkpoint(
        self, directory: Path, names: list[str], tensors: Tensors, metadata: Mapping[str, str]
    ) -> Checkpoint:
        layout: Layout = "flax" if metadata.get("format") == "flax" else self.layout  # transformers wrote these too
        return Checkpoint(self.name, layout, directory, tuple(directory / name for name in names), tensors, metadata)

    def _open_shards(self, directory: Path, index_name: str) -> Checkpoint:
        """Opens all files that an index names, and compares their tensors with it."""
        require_inside(index_name, directory)
        index = directory / index_name
        weight_map = {key.replace(self.separator, "."): name for key, name in _weight_map(index).items()}
        names = sorted(set(weight_map.values()))
        for name in names:
            require_inside(name, directory)
        absent = [name for name in names if not (directory / name).is_file()]
        if absent:
            raise CheckpointError(f"{index}: names files that are not there: {', '.join(absent)}. Download them too")
        tensors: dict[str, TensorSource] = {}
        metadata: dict[str, str] = {}
        holders: dict[str, list[str]] = {}
        for name in names:
            found, described = self.read(directory / name)
            metadata = described | metadata
            if described.get("format", metadata.get("format")) != metadata.get("format"):
                raise CheckpointError(
                    f"{directory / name}: its metadata says format {described['format']!r}, that of the files before "
                    f"it {metadata['format']!r}; the files belong to different checkpoints"
                )
            tensors |= found
            for key in found:
                holders.setdefault(key, []).append(name)
        twice = [f"{key} ({', '.join(files)})" for key, files in holders.items() if len(files) > 1]
        lost = [f"{key} ({name})" for key, name in weight_map.items() if name not in holders.get(key, ())]
        unnamed = [f"{key} ({files[0]})" for key, files in holders.items() if key not in weight_map]
        for problem, keys in (
            ("these tensors are stored in several files", twice),
            ("these tensors are not in the file that it names for them", lost),
            ("these tensors are in the files, but it does not name them", unnamed),
        ):
            if keys:
                raise CheckpointError(
                    f"{index}: {problem}: {', '.join(keys)}. The files belong to different checkpoints"
                )
        return self._checkpoint(directory, names, tensors, metadata)


@dataclass(frozen=True)
class DirectoryFormat:
    """A format whose weights are a directory, which a module outside of core reads and writes.

    Args:
        name: The name of the format.
        layout: The names and the layout of the tensors.
        stem: The name of the directory that is written.
        marker: The file by which such a directory is recognized.
        unfinished: What the name of a directory has in it while it is being written.
        module: The module, which has `read(directory) -> tensors` and `write(directory, tensors, progress)`.
    """

    name: str
    layout: Layout
    stem: str
    marker: str
    unfinished: str
    module: str

    @property
    def places(self) -> tuple[str, ...]:
        """The directory that is written, or any other that has the marker."""
        return (f"{self.stem} or another directory with {self.marker}",)

    def owns(self, name: str) -> bool:
        """Whether an entry is a directory of weights that was written in this format."""
        return name == self.stem

    def open(self, directory: Path, variant: str | None) -> Checkpoint | None:
        """Opens the weights in the directory itself, or in the only directory inside of it that holds some."""
        if variant is not None:  # part of a file's name
            return None
        places = [place for place in sorted(directory.iterdir()) if self.unfinished not in place.name]
        found = [place for place in (directory, *places) if (place / self.marker).is_file()]
        if not found:
            return None
        if len(found) > 1:
            listed = ", ".join(str(place.relative_to(directory)) for place in found)
            raise CheckpointError(
                f"{directory}: holds {len(found)} checkpoints of {self.name} ({listed}), but one is needed. Move the "
                "others away"
            )
        (weights,) = found
        entries = [Path(parent, name) for parent, folders, files in os.walk(weights) for name in (*folders, *files)]
        for entry in (weights, *entries):
            require_inside(str(entry.relative_to(directory)), directory)
            if not entry.is_file() and not entry.is_dir():  # a pipe, from which a reader would wait for ever
                raise CheckpointError(f"{entry}: is neither a file nor a directory. Copy the checkpoint again")
        tensors = importlib.import_module(self.module).read(weights)
        beside = (*ALL, *ADAPTERS)  # the config and the tokenizer may stand in the same directory
        own = [path for path in sorted(entries) if weights != directory or not is_companion(path.name, beside)]
        files = tuple(path for path in own if path.is_file())
        return Checkpoint(self.name, self.layout, directory, files, tensors, {})

    def write(
        self,
        directory: Path,
        tensors: Tensors,
        max_shard_size: int | None,
        metadata: Mapping[str, str] | None,
        progress: Progress | None,
    ) -> tuple[str, ...]:
        """Writes a directory of weights; it has neither shards of a given size nor metadata."""
        importlib.import_module(self.module).write(directory / self.stem, tensors, progress)
        return (self.stem,)


def _read_safetensors(path: Path) -> tuple[dict[str, TensorSource], dict[str, str]]:
    return read_safetensors(path), read_metadata(path)


def _read_torch(path: Path) -> tuple[dict[str, TensorSource], dict[str, str]]:
    return read_torch(path), {}


def _read_msgpack(path: Path) -> tuple[dict[str, TensorSource], dict[str, str]]:
    return read_msgpack(path), {}


def _write_msgpack(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None, progress: Progress | None) -> None:
    write_msgpack(path, tensors, progress)  # which has no place for metadata


FILE_FORMATS = (
    FileFormat("safetensors", "published", "model", ".safetensors", ".", _read_safetensors, write_safetensors),
    FileFormat("torch", "published", "pytorch_model", ".bin", ".", _read_torch),
    FileFormat("flax-msgpack", "flax", "flax_model", ".msgpack", "/", _read_msgpack, _write_msgpack),
)
"""The formats of files on the hub, in order of precedence, which is that of transformers."""
ORBAX = DirectoryFormat(
    "orbax", "nnx", "model.orbax", "_METADATA", ".orbax-checkpoint-tmp", "diptych.backends.jax.orbax"
)
_ALL: tuple[Format, ...] = (*FILE_FORMATS, ORBAX)
FORMATS: Mapping[str, Format] = {format.name: format for format in _ALL}
"""Every format by name, in order of precedence."""
WRITABLE = ("safetensors", "flax-msgpack", "orbax")
"""The formats that can be written."""


def missing_variant(where: str | os.PathLike[str], variant: str, names: Iterable[str]) -> CheckpointError:
    """The error of a checkpoint without a variant; the variants that its files have are listed."""
    names, formats = tuple(names), FILE_FORMATS
    there = {found for format in formats for name in names if (found := format.variant_in(name)) is not None}
    usual = any(name in format.places for format in formats for name in names)
    listed = [*sorted(there), *(["none, without variant="] if usual else [])]
    return CheckpointError(f"{where}: has no weights of variant {variant!r}; there are: {', '.join(listed) or 'none'}")


def format_named(name: str, known: tuple[str, ...] = WRITABLE, caller: str = "") -> Format:
    """The format of a name.

    Raises:
        InputError: It is not one of those known; the message begins with the caller.
    """
    if name not in known:
        raise InputError(f"{caller}format={name!r} is not known; known: {', '.join(known)}")
    return FORMATS[name]


def _shards(tensors: Tensors, limit: int | None) -> list[dict[str, TensorSource]]:
    """Distributes tensors over files, in order, each up to the limit."""
    shards: list[dict[str, TensorSource]] = [{}]
    size = 0
    for name, source in tensors.items():
        if limit is not None and shards[-1] and size + source.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = source
        size += source.nbytes
    return shards


def _weight_map(index: Path) -> dict[str, str]:
    """Parses an index: tensor name -> file name."""
    weight_map: object = parse_json_object(index.read_bytes(), str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: needs a 'weight_map' that names the file of each tensor, found {weight_map!r}")
    for key, name in cast(dict[str, object], weight_map).items():
        if not isinstance(name, str) or not _is_path(name):
            raise CheckpointError(f"{index}: the file of tensor {key!r} must be a file name, not {name!r}")
    return cast(dict[str, str], weight_map)


def _is_path(name: str) -> bool:
    """Whether a file could have this name, in any directory."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair
        return False
    return "\0" not in name and len(encoded) <= _LONGEST_PATH and all(len(part) < 256 for part in encoded.split(b"/"))
