"""The directory of a checkpoint: finding its weight files, and replacing them with new ones."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import cast

from diptych.core.checkpoint.atomic import new_files, require_space
from diptych.core.checkpoint.files import open_atomic, parse_json_object, require_inside
from diptych.core.checkpoint.msgpack import read_msgpack, write_msgpack
from diptych.core.checkpoint.safetensors import read_metadata, read_safetensors, write_safetensors
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.checkpoint.torch_zip import LegacyFormatError, read_torch_zip
from diptych.core.errors import CheckpointError, InputError


@dataclass(frozen=True)
class _Format:
    """The names of a format's files, and of the tensors in its index, on the Hugging Face hub."""

    stem: str
    suffix: str
    separator: str

    @property
    def single(self) -> str:
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        return f"{self.single}.index.json"

    def shard(self, number: int, count: int) -> str:
        return f"{self.stem}-{number:05d}-of-{count:05d}{self.suffix}"

    def owns(self, name: str) -> bool:
        shard = rf"{self.stem}-\d{{5}}-of-\d{{5}}{re.escape(self.suffix)}"
        return name in (self.single, self.index) or re.fullmatch(shard, name) is not None


# In order of precedence, which is that of transformers.
_FORMATS = {
    "safetensors": _Format("model", ".safetensors", "."),
    "torch": _Format("pytorch_model", ".bin", "."),
    "flax-msgpack": _Format("flax_model", ".msgpack", "/"),
}
WRITABLE = ("safetensors", "flax-msgpack")

# Unsupported formats: pickles under other names, and HDF5.
_FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".h5")
_LONGEST_PATH = 1024  # bytes; the limit of the system, with the directory's own path, is higher
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{infix}B": base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for infix, base in (("", 1000), ("I", 1024))
}


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a directory.

    Args:
        format: `"safetensors"`, `"torch"` or `"flax-msgpack"`.
        directory: The directory.
        files: The files that hold tensors.
        tensors: All tensors by name, in the order of the files.
        metadata: The free-form metadata of safetensors files.
    """

    format: str
    directory: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorSource]
    metadata: Mapping[str, str]

    @property
    def flax(self) -> bool:
        """Whether the tensors have the names and layouts of a Flax tree; safetensors files may have them too."""
        return self.format == "flax-msgpack" or self.metadata.get("format") == "flax"


def open_checkpoint(directory: str | PathLike[str], format: str | None = None) -> Checkpoint:
    """Open the weights in a directory; only headers are read.

    Args:
        directory: The directory.
        format: `"safetensors"`, `"torch"` or `"flax-msgpack"`; None takes the first of them that exists, but for torch
            files in the format of before version 1.6 if there are others.

    Raises:
        CheckpointError: There are no weights, or they are damaged or contradict their index.
        InputError: The format is unknown.
        OSError: A file cannot be read.
    """
    directory = Path(directory)
    candidates = tuple(_FORMATS) if format is None else (_known_format(format, tuple(_FORMATS)),)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory")
    unreadable: CheckpointError | None = None
    for name in candidates:
        layout = _FORMATS[name]
        single, index = directory / layout.single, directory / layout.index
        try:
            if single.is_file():
                tensors, metadata = _read(name, single)
                return Checkpoint(name, directory, (single,), tensors, metadata)
            if index.is_file():
                return _open_shards(name, directory, index)
        except LegacyFormatError as error:
            unreadable = error
    raise unreadable or _nothing_found(directory, candidates)


def write_checkpoint(
    directory: str | PathLike[str],
    tensors: Mapping[str, TensorSource],
    *,
    format: str = "safetensors",
    max_shard_size: int | str | None = "5GB",
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Path, ...]:
    """Write weights into a directory: one file, or shards and their index.

    Nothing appears under its final name, and no older weight file is touched, before everything is written. Then older
    weight files of any format are removed, so that the directory holds one set of weights.

    Args:
        directory: The directory; created if it does not exist.
        tensors: The tensors by name; shards are filled in this order.
        format: `"safetensors"` or `"flax-msgpack"`.
        max_shard_size: The maximum size of a file (`200_000_000`, `"200MB"`, `"5GB"`, `"1GiB"`); None for one file. A
            larger tensor gets its own file.
        metadata: Free-form metadata of safetensors files, by default `{"format": "pt"}`; msgpack has none.
        progress: Called after each tensor with its size in bytes.

    Returns:
        The files written, without the index.

    Raises:
        CheckpointError: A tensor cannot be stored in this format.
        InputError: The format is unknown or the size is invalid.
        OSError: The disk failed.
    """
    directory = Path(directory)
    layout = _FORMATS[_known_format(format, WRITABLE)]
    shards = _shards(tensors, None if max_shard_size is None else _size_in_bytes(max_shard_size))
    names = [layout.shard(number + 1, len(shards)) for number in range(len(shards))]
    if len(shards) == 1:
        names = [layout.single]
    require_space(directory, sum(source.nbytes for source in tensors.values()))
    with new_files(directory, is_weight_file) as new:
        for name, shard in zip(names, shards, strict=True):
            if format == "safetensors":
                write_safetensors(new / name, shard, metadata, progress)
            else:
                write_msgpack(new / name, shard, progress)
        if len(shards) > 1:
            weight_map = {
                key.replace(".", layout.separator): name
                for name, shard in zip(names, shards, strict=True)
                for key in shard
            }
            total_size = sum(source.nbytes for source in tensors.values())
            index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
            with open_atomic(new / layout.index) as handle:
                handle.write(json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
    return tuple(directory / name for name in names)


def is_weight_file(name: str) -> bool:
    """Whether a file of this name holds weights or is their index, in any format."""
    return any(layout.owns(name) for layout in _FORMATS.values())


def _known_format(format: str, known: tuple[str, ...]) -> str:
    if format not in known:
        raise InputError(f"format: {format!r} is unknown; give one of {', '.join(known)}")
    return format


def _read(format: str, path: Path) -> tuple[dict[str, TensorSource], dict[str, str]]:
    """Read the header of a weight file: its tensors and its metadata."""
    if format == "safetensors":
        return read_safetensors(path), read_metadata(path)
    return (read_torch_zip(path) if format == "torch" else read_msgpack(path)), {}


def _open_shards(format: str, directory: Path, index: Path) -> Checkpoint:
    """Open all files that an index names, and compare their tensors with it."""
    require_inside(index.name, directory)
    separator = _FORMATS[format].separator
    weight_map = {key.replace(separator, "."): name for key, name in _weight_map(index).items()}
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
        found, described = _read(format, directory / name)
        metadata = described | metadata
        if described.get("format", metadata.get("format")) != metadata.get("format"):
            raise CheckpointError(
                f"{directory / name}: its metadata says format {described['format']!r}, that of the files before it "
                f"{metadata['format']!r}; the files belong to different checkpoints"
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
            raise CheckpointError(f"{index}: {problem}: {', '.join(keys)}. The files belong to different checkpoints")
    return Checkpoint(format, directory, tuple(directory / name for name in names), tensors, metadata)


def _weight_map(index: Path) -> dict[str, str]:
    """Parse an index: tensor name -> file name."""
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


def _nothing_found(directory: Path, formats: Iterable[str]) -> CheckpointError:
    wanted = ", ".join(name for format in formats for name in (_FORMATS[format].single, _FORMATS[format].index))
    there = sorted(os.listdir(directory))
    message = f"{directory}: holds no weights: looked for {wanted}; found {', '.join(there) or 'nothing'}"
    foreign = [name for name in there if name.endswith(_FOREIGN)]
    if foreign:
        message += (
            f". These are not read: {', '.join(foreign)}; load them with the library that made them and save them as "
            "safetensors (transformers' save_pretrained does)"
        )
    return CheckpointError(message)


def _size_in_bytes(size: int | str) -> int:
    """Convert `"5GB"` (powers of 1000) or `"5GiB"` (powers of 1024) into bytes."""
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", size) if isinstance(size, str) else None
    if parsed is not None and parsed[2].upper() in _UNITS:
        number = int(float(parsed[1]) * _UNITS[parsed[2].upper()])
    else:
        number = size if type(size) is int else 0
    if number <= 0:
        raise InputError(
            f"max_shard_size: {size!r} is no size; give bytes above 0, or a string like '200MB', '5GB' or '1GiB'"
        )
    return number


def _shards(tensors: Mapping[str, TensorSource], limit: int | None) -> list[dict[str, TensorSource]]:
    """Distribute tensors over files, in order, each up to the limit."""
    shards: list[dict[str, TensorSource]] = [{}]
    size = 0
    for name, source in tensors.items():
        if limit is not None and shards[-1] and size + source.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = source
        size += source.nbytes
    return shards
