"""Conversion of checkpoints and live models to another format or dtype: streaming, atomic, and verified."""

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from diptych.conversion.conversion_report import ConversionReport, ConvertedTensor
from diptych.conversion.conversion_source import ConversionSource, from_directory, from_live_model
from diptych.conversion.manifest import TensorRecord, write_manifest
from diptych.core import interrupts
from diptych.core.checkpoint import companions
from diptych.core.checkpoint.atomic import check_destination, new_directory, recover, require_space
from diptych.core.checkpoint.directory import is_weight_file, open_checkpoint, size_in_bytes, write_checkpoint
from diptych.core.checkpoint.files import open_atomic
from diptych.core.checkpoint.formats import format_named
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.matching import Filling, names_of
from diptych.core.checkpoint.parallel import map_ahead
from diptych.core.checkpoint.slots import Layout, axes_in, inverse
from diptych.core.checkpoint.tensors import TensorSource, bitwise_equal, digest, from_array
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.registry import read_config

Progress = bool | Callable[[int], None] | None


def convert(
    source: Any,
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
    allow_overflow: bool = False,
    manifest: bool = False,
    progress: Progress = None,
    **options: Unpack[HubOptions],
) -> ConversionReport:
    """Converts a checkpoint or a live model, tensor by tensor, and verifies the result before it is at the destination.

    Every tensor that any class of the family owns is kept, under its present published name; old spellings and prefixes
    become those of the class that config.json names. Tensors of published classes that diptych does not have are left
    out. Only one tensor, or parts of a few, are in memory at a time, except for Orbax, and a run that fails or is
    killed leaves nothing at the destination.

    Args:
        source: a directory, or a name on the Hugging Face hub; or a live model of either backend or of transformers.
        destination: the directory to create, or an empty one to fill, outside of the source.
        format: "safetensors", which transformers loads, "flax-msgpack", for the Flax classes of transformers 4, or
            "orbax", whose writer needs the whole model in memory.
        dtype: of all tensors; by default each keeps its own.
        max_shard_size: the maximum size of a file, in bytes or as in "5GB"; None for one file.
        overwrite: whether a checkpoint at the destination is replaced; files that checkpoints do not have, and that the
            new one does not either, are refused.
        architecture: the class of the weights; by default the one in config.json.
        allow_missing: parameters of the class, or modules, that the source may lack.
        ignore: tensors of the source to skip; names, modules, or patterns with *.
        ignore_config: unknown fields of config.json to copy without checks.
        allow_overflow: whether values that are too large for `dtype` become infinite; by default they are refused.
        manifest: whether a manifest for `verify` is written beside the weights: the source and its revision, versions,
            the config, and each tensor's dtype, shape and SHA-256.
        progress: True for a bar on stderr, None for one if stderr is a terminal, False for none; or a function that is
            called with each tensor's size after it is written and again after it is verified.
        options: see `HubOptions`.

    Raises:
        CheckpointError: the source can't be read or doesn't fit its class, values are too large for the dtype, the
            destination may not be written, or the result differs when it is read back.
        ConfigError: config.json is missing or asks for an unsupported feature.
        InputError: an argument has an unknown value.
        OSError: the disk failed or is full; nothing new is left on it.
        TypeError: a keyword is unknown.
    """
    unknown = [name for name in options if name not in HubOptions.__annotations__]
    if unknown:
        known = (*(convert.__kwdefaults__ or ()), *HubOptions.__annotations__)
        raise TypeError(f"convert: unknown keyword {', '.join(unknown)}; known: {', '.join(known)}")
    dtype = None if dtype is None else float_name(dtype)
    layout = format_named(format, caller="convert: ").layout
    limit = None if max_shard_size is None else size_in_bytes(max_shard_size)
    ignore_config = names_of("ignore_config", ignore_config)
    names = {"allow_missing": allow_missing, "ignore": ignore, "ignore_config": ignore_config}
    origin = _open_source(source, destination, overwrite, architecture, names, options)
    overflows: list[tuple[str, int]] = []
    weights = _output_tensors(origin, layout, dtype, overflows)
    constants = _constants(origin, layout, weights)
    weight_bytes, constant_bytes = (sum(one.nbytes for one in some.values()) for some in (weights, constants))
    require_space(destination, weight_bytes + constant_bytes)
    along: list[Path] = []
    if origin.directory is not None:
        along = companions.find_companions(origin.directory, (*companions.ALL, *companions.ADAPTERS))
    if overwrite:
        recover(Path(destination).resolve())
        _refuse_foreign_files(Path(destination), {path.name for path in along})
    steps = 2 * weight_bytes + constant_bytes  # constants are written, but not verified
    with new_directory(destination, overwrite) as partial, _progress_meter(progress, steps) as advance:
        files = write_checkpoint(
            partial,
            {**weights, **constants},
            format=format,
            max_shard_size=limit,
            metadata={**origin.metadata, "format": "pt"},
            progress=advance,
        )
        overflowed = _count_overflows(overflows)
        if overflowed and not allow_overflow:
            raise _too_large(origin, overflowed, dtype)
        converted = _verify(partial, origin, format, dtype, advance, hashes=manifest)
        _write_config(origin, partial, {tensor.dtype for tensor in converted})
        companions.copy_companions(along, partial)
        if origin.options is not None:
            origin.options.save_pretrained(partial)
        if manifest:
            write_manifest(
                partial / companions.MANIFEST,
                source=origin.name if origin.directory is None else origin.directory,
                formats=(origin.format, format),
                architecture=origin.architecture,
                config=read_config(partial, ignore=ignore_config),
                tensors={one.name: TensorRecord(one.dtype, one.shape, one.digest) for one in converted if one.digest},
            )
        not_copied = _not_copied(origin, partial)
        interrupts.make_final()
    return ConversionReport(
        source=origin.name,
        destination=str(destination),
        source_format=origin.format,
        format=format,
        architecture=origin.architecture,
        tensors=converted,
        other_classes=tuple(f.slot.path for f in origin.match.fillings if f.slot.path in origin.others),
        left_out=origin.match.left_out,
        ignored=origin.match.ignored,
        missing=origin.missing,
        files=tuple(file.name for file in files),
        copied=tuple(path.name for path in along),
        overflowed=overflowed,
        not_copied=not_copied,
    )


def _open_source(
    source: Any,
    destination: str | os.PathLike[str],
    overwrite: bool,
    architecture: str | None,
    names: Mapping[str, Any],
    options: HubOptions,
) -> ConversionSource:
    """The tensors to convert, with the destination checked first; see `convert` for the arguments and errors."""
    if not os.fspath(destination):
        raise InputError("convert: the name of the destination is empty; give the directory to create")
    if isinstance(source, str | os.PathLike):
        directory = locate(source, **options)
        _check_apart(directory, Path(destination))
        check_destination(destination, overwrite)  # before a backend is imported
        return from_directory(directory, architecture, options.get("variant"), **names)
    keywords = {"architecture": architecture, **names, **options}
    given = [name for name, value in keywords.items() if value not in (None, ())]
    if given:
        raise InputError(f"convert: {', '.join(given)} must go with a directory, but the source is a live model")
    return from_live_model(source)


def _output_tensors(
    origin: ConversionSource, layout: Layout, dtype: str | None, overflows: list[tuple[str, int]]
) -> dict[str, TensorSource]:
    """The tensors to write, by name in the layout and sorted by it, module by module."""
    named = {filling.slot.name_in(layout): filling for filling in origin.match.fillings}
    ordered = sorted(named, key=lambda name: name.split("."))
    return {name: _output_tensor(named[name], layout, dtype, overflows) for name in ordered}


def _constants(
    origin: ConversionSource, layout: Layout, weights: Mapping[str, TensorSource]
) -> dict[str, TensorSource]:
    """The tables that other libraries expect beside the weights, in the published layout; see `Family.constants`."""
    if layout != "published":
        return {}
    tables = origin.family.constants({path: tensor.shape for path, tensor in weights.items()})
    return {name: from_array(table) for name, table in tables.items()}


def _count_overflows(overflows: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Path of a tensor -> its number of values that became infinite, which are noted for each part of it."""
    counts: Counter[str] = Counter()
    for path, count in sorted(overflows):  # threads note them in any order
        counts[path] += count
    return dict(counts)


def _not_copied(origin: ConversionSource, target: Path) -> tuple[str, ...]:
    """What the source's directory has besides weights, and the target has not; names of directories end in a slash."""
    entries = () if origin.directory is None else sorted(origin.directory.iterdir())
    return tuple(
        f"{path.name}/" if path.is_dir() else path.name
        for path in entries
        if not (path.name.startswith(".") or is_weight_file(path.name) or (target / path.name).exists())
        and not any(file.is_relative_to(path) for file in origin.weights)
    )


def _too_large(origin: ConversionSource, overflowed: Mapping[str, int], dtype: str | None) -> CheckpointError:
    counts = ", ".join(f"{name} ({count} value{'s' * (count > 1)})" for name, count in overflowed.items())
    return CheckpointError(
        f"{origin.name}: values of {len(overflowed)} tensor{'s' * (len(overflowed) > 1)} are too large for {dtype}: "
        f"{counts}. Choose a wider dtype, or make them infinite with allow_overflow=True (--allow-overflow)"
    )


def _refuse_foreign_files(destination: Path, written: Collection[str]) -> None:
    """Raises an error if replacing the destination would delete files that are not part of a checkpoint.

    Args:
        destination: the directory that would be replaced.
        written: the names of further files that the new checkpoint has too.
    """
    entries = destination.iterdir() if destination.is_dir() else ()
    foreign = [
        path.name
        for path in entries
        if not is_weight_file(path.name)
        and (path.is_dir() or (path.name not in companions.KNOWN and path.name not in written))
    ]
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


def _output_tensor(
    filling: Filling, layout: Layout, dtype: str | None, overflows: list[tuple[str, int]] | None = None
) -> TensorSource:
    """The tensor in the output's layout and dtype; reading a part of it notes its path and how many values overflow."""
    slot, source = filling.slot, filling.source
    axes = tuple(filling.axes[axis] for axis in axes_in(layout, slot.kind, len(slot.shape)))
    target = source.dtype if dtype is None else FLOATS[dtype]
    if target == source.dtype and axes == tuple(range(len(axes))):
        return source
    return filling.convert(axes, target, lambda count: overflows is None or overflows.append((slot.path, count)))


def _verify(
    directory: Path,
    origin: ConversionSource,
    format: str,
    dtype: str | None,
    advance: Callable[[int], None],
    *,
    hashes: bool,
) -> tuple[ConvertedTensor, ...]:
    """Reads the new files and compares each tensor with its source, in the published layout, several at a time."""
    written = open_checkpoint(directory, format)
    compared: list[tuple[Filling, TensorSource, TensorSource]] = []
    for filling in origin.match.fillings:
        slot = filling.slot
        back = written.tensors[slot.name_in(written.layout)]
        axes = inverse(axes_in(written.layout, slot.kind, len(slot.shape)))
        published = _output_tensor(Filling(slot, back, slot.path, axes), "published", None)
        compared.append((filling, _output_tensor(filling, "published", dtype), published))

    def compare(pair: tuple[Filling, TensorSource, TensorSource]) -> ConvertedTensor:
        filling, wanted, back = pair
        slot = filling.slot
        alike = (wanted.shape, wanted.dtype) == (back.shape, back.dtype)
        if not alike or not bitwise_equal(wanted, back):
            raise CheckpointError(
                f"{back.origin}: {slot.path} differs from what was written when it is read back; the disk or the "
                "memory may be faulty, and nothing was put in place"
            )
        sha256 = digest(wanted) if hashes else None
        return ConvertedTensor(slot.path, slot.shape, back.dtype.name, filling.source.dtype.name, sha256)

    def held(pair: tuple[Filling, TensorSource, TensorSource]) -> int:
        copies = [source for source in pair[1:] if not source.mapped]
        return sum(max(part.nbytes for part in source.parts()) for source in copies)

    converted: list[ConvertedTensor] = []
    for tensor, (_, _, back) in zip(map_ahead(compare, compared, size=held), compared, strict=True):
        converted.append(tensor)
        advance(back.nbytes)
    return tuple(converted)


def _write_config(origin: ConversionSource, target: Path, dtypes: set[str]) -> None:
    """Writes config.json: every field of the source's, with the model_type, architecture and dtype of the weights."""
    data = {**origin.fields, "model_type": origin.config.model_type}
    if origin.architecture not in (data.get("architectures") or ()):
        data["architectures"] = [origin.architecture]
    if len(dtypes) == 1 and dtypes < {*FLOATS}:
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
