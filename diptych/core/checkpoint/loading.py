"""Loading and saving for both backends: find a checkpoint, read its config, match its tensors, write a new one."""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, cast

from diptych.core.checkpoint import companions
from diptych.core.checkpoint.atomic import new_files
from diptych.core.checkpoint.directory import is_weight_file, open_checkpoint, write_checkpoint
from diptych.core.checkpoint.files import open_atomic
from diptych.core.checkpoint.formats import Checkpoint
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.checkpoint.matching import (
    LoadReport,
    Match,
    NamedTensors,
    Target,
    match,
    names_of,
    unused_names,
)
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.tensors import TensorSource, from_array
from diptych.core.config import ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, ConfigError
from diptych.core.generation.options import GENERATION_FILE, GenerationConfig
from diptych.core.registry import Family, architectures, classes_of, families, read_config, within

logger = logging.getLogger("diptych")


@dataclass(frozen=True)
class Source:
    """A checkpoint directory whose config and tensor headers have been read.

    Attributes:
        directory: the checkpoint's.
        whole: the config in the directory.
        config: the config of the class to load, which may be a part of the whole one, with the caller's changes.
        checkpoint: the weights.
    """

    directory: Path
    whole: ModelConfig
    config: ModelConfig
    checkpoint: Checkpoint

    @property
    def tensors(self) -> NamedTensors:
        """All tensors of the checkpoint."""
        return NamedTensors(str(self.directory), self.checkpoint.tensors, self.checkpoint.layout)

    @property
    def nbytes(self) -> int:
        """The size of all tensors."""
        return sum(tensor.nbytes for tensor in self.checkpoint.tensors.values())

    @property
    def dtype_name(self) -> str:
        """A first guess of the model's dtype: that of the largest floating-point tensor."""
        floats = [tensor for tensor in self.checkpoint.tensors.values() if tensor.dtype.name in FLOATS]
        return max(floats, key=lambda tensor: tensor.nbytes).dtype.name if floats else "float32"


def open_source(
    name_or_path: str | os.PathLike[str],
    *,
    wanted: type[ModelConfig] | None = None,
    ignore_config: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
    **options: Unpack[HubOptions],
) -> Source:
    """Finds a checkpoint and reads its config, or the wanted part of it, and its tensors' headers.

    See `from_pretrained` for the errors.
    """
    directory = locate(name_or_path, **options)
    assume = None if wanted is None else wanted.model_type
    whole = read_config(directory, ignore=names_of("ignore_config", ignore_config), assume=assume)
    config = whole if wanted is None else whole.part(wanted)
    if wanted is not None and config is None:
        raise ConfigError(
            f"{directory / 'config.json'}: model_type={whole.model_type!r} has no part of "
            f"model_type {wanted.model_type!r}, which {wanted.__name__} reads"
        )
    config = whole if config is None else config.loaded_config
    config = config.replace(**changes) if changes else config
    return Source(directory, whole, config, open_checkpoint(directory, variant=options.get("variant")))


def match_source(
    source: Source,
    slots: Sequence[Slot],
    *,
    class_name: str,
    family: Family,
    known: Callable[[], Sequence[Collection[str]]],
    allow_fresh: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> Match:
    """Matches a source's tensors with a model's slots; see `matching.match` for the arguments and errors."""
    target = Target(class_name, slots, family, known, family.copied(source.whole, [slot.path for slot in slots]))
    return match(source.tensors, target, allow_fresh=allow_fresh, ignore=ignore)


def warn_of_unused(
    source: Source,
    slots: Sequence[Slot],
    allow_fresh: Iterable[str],
    ignore: Iterable[str],
    ignore_config: Iterable[str],
) -> None:
    """Logs one warning for each argument with names that match nothing, such as misspelt ones."""
    given = {"ignore_config": [name for name in ignore_config if not _has_field(source.whole.to_dict(), name)]}
    given |= unused_names(source.tensors, slots, allow_fresh, ignore)
    for argument, names in given.items():
        if names:
            logger.warning("%s: %s=%s matches nothing", source.directory, argument, tuple(names))


def _has_field(data: Any, name: str) -> bool:
    """Whether an object, or one inside it, has a field."""
    if isinstance(data, Mapping):
        values = cast(Mapping[str, Any], data)
        return name in values or any(_has_field(value, name) for value in values.values())
    return False


def dtype_of(source: Source, found: Match, asked: Any) -> str:
    """The name of a model's dtype: the requested one, or else the file's.

    Raises:
        CheckpointError: none is requested, and the tensors have different ones; the message counts them.
    """
    if asked is not None:
        return float_name(asked)
    names: dict[str, list[str]] = {}
    for filling in found.fillings:
        names.setdefault(filling.source.dtype.name, []).append(filling.name)
    if len(names) > 1:
        listed = "; ".join(f"{len(tensors)} of {name} ({', '.join(tensors[:3])} …)" for name, tensors in names.items())
        raise CheckpointError(f"{source.directory} holds tensors of several dtypes: {listed}; say dtype=…")
    name = next(iter(names), "float32")
    if name not in FLOATS:
        raise CheckpointError(f"{source.directory} holds tensors of {name}, in which no model computes; say dtype=…")
    return name


def report_of(directory: str, found: Match, config: ModelConfig, dropped: Sequence[str] = ()) -> LoadReport:
    """The report of a load, which is also logged; see `announce`. The dropped tensors are some of those left out."""
    report = LoadReport(
        directory=directory,
        loaded=len(found.fillings),
        left_out=tuple(name for name in found.left_out if name not in dropped),
        dropped=tuple(dropped),
        ignored=found.ignored,
        fresh=tuple(sorted(slot.path for slot in found.fresh)),
    )
    announce(report, config)
    return report


def announce(report: LoadReport, config: ModelConfig) -> None:
    """Logs a line if anything was left out, dropped or newly drawn, and one for token ids outside the vocabulary."""
    if report.left_out or report.dropped or report.fresh:
        logger.warning("%s", report)
    outside = config.token_ids_outside()
    if outside:
        listed = ", ".join(f"{name}={value}" for name, value in outside.items())
        logger.warning("%s: %s outside the vocabulary; a call that uses it raises an error", report.directory, listed)


def save(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    options: GenerationConfig | None,
    tensors: Mapping[str, TensorSource],
    *,
    class_name: str,
    dtype: str,
    max_shard_size: int | str | None,
    copy_from: str | os.PathLike[str] | None = None,
) -> None:
    """Writes config.json and safetensors; an older checkpoint is replaced only once all of the new one is complete.

    A model's own options go into generation_config.json. If it has none, an older file is removed, since it belonged to
    another model. The files of the tokenizer and processor of another checkpoint are copied, and adapters of languages.
    """
    target = Path(directory)
    along: list[Path] = []
    if copy_from is not None:
        patterns = (*companions.PROCESSING, *companions.ADAPTERS)
        along = companions.find_companions(origin := locate(copy_from, only=CONFIGS), patterns)
        if not along:
            raise CheckpointError(f"copy_from={origin}: holds no files of a tokenizer or processor")
    if not os.fspath(directory):
        raise CheckpointError("the name of the directory to save in is empty")
    for name in ("config.json", GENERATION_FILE):
        if (target / name).is_dir():
            raise CheckpointError(f"{target / name}: is a directory, but the config is to be saved there")
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target}: is a file, but a directory is needed to save a checkpoint")
    housekeeping = {name: value for name, value in config.housekeeping.items() if name != "torch_dtype"}
    config = config.replace(housekeeping=type(config.housekeeping)({**housekeeping, "dtype": dtype}))
    config = config.replace(architectures=(class_name,))
    family = within(families()[architectures()[class_name]], config)
    constants = family.constants({path: source.shape for path, source in tensors.items()})
    tensors = {**tensors, **{name: from_array(table) for name, table in constants.items()}}

    def replaces(name: str) -> bool:
        return is_weight_file(name) or name == GENERATION_FILE

    with new_files(target, replaces) as new:
        write_checkpoint(new, tensors, format="safetensors", max_shard_size=max_shard_size)
        with open_atomic(new / "config.json") as handle:
            handle.write(config.to_json().encode())
        if options is not None:
            options.save_pretrained(new)
        companions.copy_companions(along, new)


def architecture_of(
    name_or_path: str | os.PathLike[str], ignore_config: Iterable[str] = (), **options: Unpack[HubOptions]
) -> str:
    """The first known class among the `architectures` of config.json.

    Raises:
        ConfigError: it names none, or only unknown ones.
    """
    directory = locate(name_or_path, only=CONFIGS, **options)
    config = read_config(directory, ignore=names_of("ignore_config", ignore_config))
    known = architectures()
    for name in config.architectures or ():
        if name in known:
            return name
    raise ConfigError(
        f"{directory / 'config.json'}: architectures={list(config.architectures or ())} names no known class; those of "
        f"model_type {config.model_type!r}: {', '.join(classes_of(type(config)))}. Write the right one into the file, "
        "load it with its from_pretrained, or convert it with architecture=… (--architecture)"
    )
