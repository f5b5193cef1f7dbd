"""Conversion of checkpoint directories to another format or dtype: streaming, atomic, and verified."""

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from diptych.conversion.manifest import TensorRecord, write_manifest
from diptych.conversion.slots import family_slots
from diptych.core.checkpoint import companions, loading
from diptych.core.checkpoint.dialects import matches
from diptych.core.checkpoint.directory import WRITABLE, new_directory, open_checkpoint, write_checkpoint
from diptych.core.checkpoint.files import open_atomic
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.matching import Filling, Match, Target, match, names_of, top_modules
from diptych.core.checkpoint.slots import Slot, inverse, tree_axes
from diptych.core.checkpoint.tensors import TensorSource, digest, from_array
from diptych.core.config import config_path
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.json_text import parse_config, read_text
from diptych.core.registry import Family, architectures, families, read_config, within

Progress = bool | Callable[[int], None] | None


@dataclass(frozen=True)
class ConvertedTensor:
    """A converted tensor.

    Attributes:
        name, shape: as published, whatever the format.
        dtype: in the new files.
        source_dtype: in the old files.
        digest: SHA-256 of the values in the new dtype and the published layout; equal for bitwise equal tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    digest: str


@dataclass(frozen=True)
class ConversionReport:
    """The result of a conversion.

    Attributes:
        source, destination: the directories.
        source_format, format: the old and the new format.
        architecture: the class whose names the tensors have.
        tensors: all converted tensors.
        other_classes: the tensors that only other classes of the family own, such as the heads of a pretraining file.
        left_out: tensors of published classes that diptych does not have, which are not converted.
        ignored: tensors of the source that are not parameters, are duplicates, or were to be ignored.
        missing: parameters of the class that the source does not have, as allowed.
        files: the weight files written.
        copied: the other files that were copied.
    """

    source: str
    destination: str
    source_format: str
    format: str
    architecture: str
    tensors: tuple[ConvertedTensor, ...]
    other_classes: tuple[str, ...]
    left_out: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    files: tuple[str, ...]
    copied: tuple[str, ...]

    @property
    def dtypes(self) -> dict[str, int]:
        """Each dtype in the new files, with the number of tensors that have it."""
        names = [tensor.dtype for tensor in self.tensors]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    @property
    def nbytes(self) -> int:
        """The size of the converted tensors in bytes."""
        return sum(int(np.prod(tensor.shape)) * FLOATS[tensor.dtype].itemsize for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return {**asdict(self), "dtypes": self.dtypes, "nbytes": self.nbytes}

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        dtypes = ", ".join(self.dtypes)
        lines = [
            f"{len(self.tensors)} tensors of {self.architecture} ({self.nbytes:,} bytes, {dtypes}) converted from "
            f"{self.source_format} to {self.format} in {self.destination}; all read back and found equal"
        ]
        for what, names in (
            ("only in other classes of the family", self.other_classes),
            ("of unsupported classes, left out", self.left_out),
            ("ignored", self.ignored),
            ("missing, as allowed", self.missing),
            ("copied along", self.copied),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {', '.join(names)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class FamilyMatch:
    """The tensors of a checkpoint with their slots in any class of the family.

    Attributes:
        match: what fills each slot.
        others: the paths that the requested class does not have.
    """

    match: Match
    others: frozenset[str]


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str = "safetensors",
    dtype: Any = None,
    max_shard_size: int | str | None = "5GB",
    overwrite: bool = False,
    architecture: str | None = None,
    allow_missing: Iterable[str] = (),
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    manifest: bool = False,
    progress: Progress = None,
    **options: Unpack[HubOptions],
) -> ConversionReport:
    """Converts a checkpoint to another format, tensor by tensor, and verifies it before it appears at the destination.

    Every tensor that any class of the family owns is kept, under its present published name; old spellings and prefixes
    become those of the class that config.json names. Tensors of published classes that diptych does not have are left
    out. Only one tensor is in memory at a time, and a run that fails or is killed leaves nothing at the destination.

    Args:
        source: a directory, or a name on the Hugging Face hub.
        destination: the directory to create, outside of the source.
        format: "safetensors", which transformers loads, or "flax-msgpack", for the Flax classes of transformers 4.
        dtype: of all tensors; by default each keeps its own.
        max_shard_size: the maximum size of a file, in bytes or as in "5GB"; None for one file.
        overwrite: whether a checkpoint at the destination is replaced.
        architecture: the class of the weights; by default the one in config.json.
        allow_missing: parameters of the class, or modules, that the source may lack.
        ignore: tensors of the source to skip; names, modules, or patterns with *.
        ignore_config: unknown fields of config.json to copy without checks.
        manifest: whether a manifest for `verify` is written beside the weights: the source and its revision, versions,
            the config, and each tensor's dtype, shape and SHA-256.
        progress: True for a bar on stderr, None for one if stderr is a terminal, False for none; or a function that is
            called with each tensor's size after it is written and again after it is verified.
        options: see `HubOptions`.

    Raises:
        CheckpointError: the source can't be read or doesn't fit its class, the destination may not be written, or the
            result differs when it is read back.
        ConfigError: config.json is missing or asks for an unsupported feature.
        InputError: an argument has an unknown value.
        OSError: the disk failed or is full; nothing new is left on it.
    """
    dtype = None if dtype is None else float_name(dtype)
    if format not in WRITABLE:
        raise InputError(f"convert: format={format!r} is not known; known: {', '.join(WRITABLE)}")
    directory = locate(source, **options)
    _check_apart(directory, Path(destination))
    ignore_config = names_of("ignore_config", ignore_config)
    if architecture is None:
        architecture = loading.architecture_of(directory, ignore_config)
    elif architecture not in architectures():
        raise InputError(f"convert: architecture={architecture!r} is not known; known: {', '.join(architectures())}")
    family = families()[architectures()[architecture]]
    ignore, allow_missing = names_of("ignore", ignore), names_of("allow_missing", allow_missing)
    origin = loading.open_source(
        directory,
        wanted=family.classes[architecture],
        ignore_config=ignore_config,
        variant=options.get("variant"),
    )
    loading.warn_of_unused(origin, (), (), ignore, ignore_config)
    family = within(family, origin.whole)
    found = _match_family(origin, architecture, family, ignore)
    missing = _missing_parameters(origin, architecture, found, allow_missing)
    tensors = {
        _output_name(filling.slot, format): _output_tensor(filling, format, dtype)
        for filling in sorted(found.match.fillings, key=lambda filling: _output_name(filling.slot, format).split("."))
    }
    written = sum(tensor.nbytes for tensor in tensors.values())
    if format == "safetensors":
        constants = family.constants({path: tensor.shape for path, tensor in tensors.items()})
        tensors |= {name: from_array(table) for name, table in constants.items()}
    if overwrite:
        _refuse_foreign_files(Path(destination))
    total = written + sum(tensor.nbytes for tensor in tensors.values())
    with new_directory(destination, overwrite) as partial, _progress_meter(progress, total) as advance:
        files = write_checkpoint(
            partial,
            tensors,
            format=format,
            max_shard_size=max_shard_size,
            metadata={**origin.checkpoint.metadata, "format": "pt"},
            progress=advance,
        )
        converted = _verify(partial, found.match, format, dtype, advance)
        dtypes = {tensor.dtype for tensor in converted}
        _write_config(directory, partial, origin.whole.model_type, architecture, dtypes)
        along = companions.find_companions(directory, companions.ALL)
        companions.copy_companions(along, partial)
        if manifest:
            write_manifest(
                partial / companions.MANIFEST,
                source=directory,
                formats=(origin.checkpoint.format, format),
                architecture=architecture,
                config=read_config(partial, ignore=ignore_config),
                tensors={one.name: TensorRecord(one.dtype, one.shape, one.digest) for one in converted},
            )
    return ConversionReport(
        source=str(directory),
        destination=str(destination),
        source_format=origin.checkpoint.format,
        format=format,
        architecture=architecture,
        tensors=converted,
        other_classes=tuple(f.slot.path for f in found.match.fillings if f.slot.path in found.others),
        left_out=found.match.left_out,
        ignored=found.match.ignored,
        missing=missing,
        files=tuple(file.name for file in files),
        copied=tuple(path.name for path in along),
    )


def _refuse_foreign_files(destination: Path) -> None:
    """Raises an error if replacing the destination would delete files that are not part of a checkpoint."""
    known = (*companions.ALL, *companions.NEVER)
    entries = destination.iterdir() if destination.is_dir() else ()
    foreign = [path.name for path in entries if path.is_dir() or not companions.is_companion(path.name, known)]
    if foreign:
        raise CheckpointError(
            f"{destination}: holds files that are not part of a checkpoint and would be lost: "
            f"{', '.join(sorted(foreign))}; move them away or give another directory"
        )


def _check_apart(source: Path, destination: Path) -> None:
    before, after = source.resolve(), destination.resolve()
    if before == after:
        raise CheckpointError(f"{destination}: is the source itself; give another directory")
    if after.is_relative_to(before):
        raise CheckpointError(f"{destination}: lies inside the source {source}; give a directory outside of it")
    if before.is_relative_to(after):
        raise CheckpointError(f"{destination}: holds the source {source}; give a directory beside it")


def _match_family(origin: loading.Source, architecture: str, family: Family, ignore: tuple[str, ...]) -> FamilyMatch:
    """Every tensor with its slot in some class of the family."""
    own, others = family_slots(architecture, origin.config, origin.whole, family)
    target = Target(architecture, [*own, *others], family, copied=family.copied(origin.whole, [s.path for s in own]))
    found = match(origin.tensors, target, allow_fresh=("*",), ignore=ignore)
    return FamilyMatch(found, frozenset(slot.path for slot in others))


def _missing_parameters(
    origin: loading.Source, architecture: str, found: FamilyMatch, allowed: tuple[str, ...]
) -> tuple[str, ...]:
    """The parameters of the class that the source lacks, all of which must be allowed to be missing."""
    missing = tuple(slot.path for slot in found.match.fresh if slot.path not in found.others)
    needed = [path for path in missing if not matches(path, allowed)]
    if needed:
        modules = ", ".join(map(repr, top_modules(needed)))
        counted = "1 tensor is" if len(needed) == 1 else f"{len(needed)} tensors are"
        raise CheckpointError(
            f"{origin.directory} does not fit {architecture}: {counted} missing: {', '.join(needed)} "
            f"(allow_missing=({modules},) converts without them; architecture=… if it is of another class)"
        )
    return missing


def _output_name(slot: Slot, format: str) -> str:
    return slot.flax_path if format == "flax-msgpack" else slot.path


def _output_tensor(filling: Filling, format: str, dtype: str | None) -> TensorSource:
    """The tensor in the output's layout and dtype; reading it converts both in one pass."""
    slot, source = filling.slot, filling.source
    rank = len(slot.shape)
    layout = tree_axes(slot.kind, rank) if format == "flax-msgpack" else tuple(range(rank))
    axes = tuple(filling.axes[axis] for axis in layout)
    target = source.dtype if dtype is None else FLOATS[dtype]
    shape = tuple(source.shape[axis] for axis in axes)
    return TensorSource(shape, target, functools.partial(_read, filling, axes, target), source.origin)


def _read(filling: Filling, axes: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    values = filling.source.read()
    if dtype == values.dtype and axes == tuple(range(len(axes))):
        return values
    return filling.read(axes, dtype)


def _verify(
    directory: Path, found: Match, format: str, dtype: str | None, advance: Callable[[int], None]
) -> tuple[ConvertedTensor, ...]:
    """Reads the new files and compares each tensor with its source, in the published layout."""
    written = open_checkpoint(directory, format).tensors
    converted: list[ConvertedTensor] = []
    for filling in found.fillings:
        slot, rank = filling.slot, len(filling.slot.shape)
        wanted = _output_tensor(filling, "safetensors", dtype)
        back = written[_output_name(slot, format)]
        axes = inverse(tree_axes(slot.kind, rank)) if format == "flax-msgpack" else tuple(range(rank))
        filled = Filling(slot, back, slot.path, axes)
        expected, got = digest(wanted), digest(_output_tensor(filled, "safetensors", None))
        if (expected, wanted.dtype) != (got, back.dtype):
            raise CheckpointError(
                f"{back.origin}: {slot.path} differs from what was written when it is read back (SHA-256 {got}, not "
                f"{expected}); the disk or the memory may be faulty, and nothing was put in place"
            )
        converted.append(ConvertedTensor(slot.path, slot.shape, back.dtype.name, filling.source.dtype.name, got))
        advance(back.nbytes)
    return tuple(converted)


def _write_config(source: Path, target: Path, model_type: str, architecture: str, dtypes: set[str]) -> None:
    """Writes config.json: every field of the source's, with the model_type, architecture and dtype of the weights."""
    path = config_path(source)
    data = parse_config(read_text(path), str(path))
    data["model_type"] = model_type
    if architecture not in (data.get("architectures") or ()):
        data["architectures"] = [architecture]
    if len(dtypes) == 1:
        _set_dtype(data, next(iter(dtypes)))
    with open_atomic(target / "config.json") as handle:
        handle.write(json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n")


def _set_dtype(data: dict[str, Any], dtype: str, *, inner: bool = False) -> None:
    """Sets the dtype of a config and its parts, under the field that they use: in old files torch_dtype."""
    names = [name for name in ("dtype", "torch_dtype") if name in data]
    for name in names or ([] if inner else ["dtype"]):
        data[name] = dtype
    for value in data.values():
        if isinstance(value, dict):
            _set_dtype(value, dtype, inner=True)


@contextmanager
def _progress_meter(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    """Yields the function to call with each number of bytes processed."""
    if callable(progress):
        yield progress
        return
    from tqdm import tqdm

    hidden = None if progress is None else not progress  # None: tqdm hides the bar unless stderr is a terminal
    with tqdm(total=total, unit="B", unit_scale=True, desc="writing, verifying", disable=hidden, leave=False) as bar:
        yield lambda count: (bar.update(count), None)[1]
