"""The directory of a checkpoint: finding its weight files, and replacing them with new ones."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path

from diptych.core.checkpoint.atomic import new_files, require_space
from diptych.core.checkpoint.formats import FORMATS, Checkpoint, Format, format_named, missing_variant
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.errors import CheckpointError, InputError

# Unsupported formats: pickles under other names, and HDF5.
_FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".h5")
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{infix}B": base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for infix, base in (("", 1000), ("I", 1024))
}


def open_checkpoint(
    directory: str | PathLike[str], format: str | None = None, variant: str | None = None
) -> Checkpoint:
    """Opens the weights in a directory; only headers are read.

    Args:
        directory: The directory.
        format: The name of one of `FORMATS`; None takes the first of them that exists.
        variant: Which of several sets of weights, such as `"fp16"`; None for the usual one.

    Raises:
        CheckpointError: There are no weights, or they are damaged or contradict their index.
        ImportError: The format needs a package that is not installed.
        InputError: The format is unknown.
        OSError: A file cannot be read.
    """
    directory = Path(directory)
    candidates = (
        tuple(FORMATS.values()) if format is None else (format_named(format, tuple(FORMATS), "open_checkpoint: "),)
    )
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory")
    for candidate in candidates:
        found = candidate.open(directory, variant)
        if found is not None:
            _refuse_line_breaks(directory, found.tensors)
            return found
    if variant is not None:
        raise missing_variant(directory, variant, os.listdir(directory))
    raise _nothing_found(directory, candidates)


def _refuse_line_breaks(directory: Path, names: Iterable[str]) -> None:
    """Raises a CheckpointError for a name that could pass for a line of a command's output."""
    for name in names:
        if len(f"{name}.".splitlines()) > 1:
            raise CheckpointError(f"{directory}: the name of the tensor {name!r} has a line break. Rename the tensor")


def write_checkpoint(
    directory: str | PathLike[str],
    tensors: Mapping[str, TensorSource],
    *,
    format: str = "safetensors",
    max_shard_size: int | str | None = "5GB",
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Path, ...]:
    """Writes weights into a directory: one file, shards and their index, or a directory.

    Nothing appears under its final name, and no older weight file is touched, before everything is written. Then older
    weight files of any format are removed, so that the directory holds one set of weights.

    Args:
        directory: The directory; created if it does not exist.
        tensors: The tensors by name; shards are filled in this order.
        format: The name of one of `WRITABLE`.
        max_shard_size: The maximum size of a file (`200_000_000`, `"200MB"`, `"5GB"`, `"1GiB"`); None for one file. A
            larger tensor gets its own file.
        metadata: Free-form metadata of safetensors files, by default `{"format": "pt"}`; other formats have none.
        progress: Called after each tensor with its size in bytes.

    Returns:
        What holds tensors: the files written, without the index, or the directory.

    Raises:
        CheckpointError: A tensor cannot be stored in this format.
        ImportError: The format needs a package that is not installed.
        InputError: The format is unknown or the size is invalid.
        OSError: The disk failed.
    """
    directory = Path(directory)
    written_format = format_named(format, caller="write_checkpoint: ")
    limit = None if max_shard_size is None else size_in_bytes(max_shard_size)
    require_space(directory, sum(source.nbytes for source in tensors.values()))
    with new_files(directory, is_weight_file) as new:
        names = written_format.write(new, tensors, limit, metadata, progress)
    return tuple(directory / name for name in names)


def is_weight_file(name: str) -> bool:
    """Whether an entry of this name holds weights or is their index, in any format."""
    return any(known.owns(name) for known in FORMATS.values())


def _nothing_found(directory: Path, formats: Iterable[Format]) -> CheckpointError:
    wanted = ", ".join(place for format in formats for place in format.places)
    there = sorted(os.listdir(directory))
    message = f"{directory}: holds no weights: looked for {wanted}; found {', '.join(there) or 'nothing'}"
    foreign = [name for name in there if name.endswith(_FOREIGN)]
    if foreign:
        message += (
            f". These are not read: {', '.join(foreign)}; load them with the library that made them and save them as "
            "safetensors (transformers' save_pretrained does)"
        )
    return CheckpointError(message)


def size_in_bytes(size: int | str) -> int:
    """Converts `"5GB"` (powers of 1000) or `"5GiB"` (powers of 1024) into bytes.

    Raises:
        InputError: it is no size above 0.
    """
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
