"""What a conversion converts: the tensors of a checkpoint directory or of a live model, matched with their slots."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.conversion.slots import family_slots, names_backend
from diptych.conversion.transfer import inspect_live_model, match_twin
from diptych.core.checkpoint import loading
from diptych.core.checkpoint.dialects import matches
from diptych.core.checkpoint.matching import Match, Target, match, names_of, top_modules
from diptych.core.config import ModelConfig, config_path
from diptych.core.errors import CheckpointError, InputError
from diptych.core.generation.options import GenerationConfig
from diptych.core.json_text import parse_config, read_text
from diptych.core.registry import Family, architectures, classes_of, families, read_config, within


@dataclass(frozen=True)
class ConversionSource:
    """The tensors to convert, with their slots in any class of the family.

    Attributes:
        name: of the directory or the live model.
        format: of the directory's weights, or the library of the live model.
        architecture: the class whose names the tensors get.
        family: the description of its files, including those of its parts.
        config: of the directory or the live model.
        fields: what config.json gets, apart from class and dtype.
        match: what fills each slot.
        others: the paths that only other classes of the family have.
        missing: the parameters of the class that there are no tensors for, as allowed.
        metadata: of safetensors files.
        directory: where small files are copied from; None for a live model.
        weights: the files that hold the tensors; none of a live model.
        options: a live model's own options of `generate`.
    """

    name: str
    format: str
    architecture: str
    family: Family
    config: ModelConfig
    fields: dict[str, Any]
    match: Match
    others: frozenset[str]
    missing: tuple[str, ...]
    metadata: Mapping[str, str]
    directory: Path | None = None
    weights: tuple[Path, ...] = ()
    options: GenerationConfig | None = None


def from_directory(
    directory: Path,
    architecture: str | None,
    variant: str | None = None,
    *,
    allow_missing: Iterable[str],
    ignore: Iterable[str],
    ignore_config: Iterable[str],
) -> ConversionSource:
    """The tensors of a checkpoint directory; see `convert` for the arguments and errors."""
    ignore_config = names_of("ignore_config", ignore_config)
    if architecture is None:
        architecture = loading.architecture_of(directory, ignore_config)
    elif architecture not in architectures():
        config = read_config(directory, ignore=ignore_config)
        raise InputError(
            f"convert: architecture={architecture!r} is not known; known of model_type {config.model_type!r}: "
            f"{', '.join(classes_of(type(config)))}"
        )
    family = families()[architectures()[architecture]]
    ignore, allow_missing = names_of("ignore", ignore), names_of("allow_missing", allow_missing)
    wanted = family.classes[architecture]
    origin = loading.open_source(directory, wanted=wanted, ignore_config=ignore_config, variant=variant)
    loading.warn_of_unused(origin, (), (), ignore, ignore_config)
    family = within(family, origin.whole)
    found, others = _match_family(origin, architecture, family, ignore)
    path = config_path(directory)
    return ConversionSource(
        name=str(directory),
        format=origin.checkpoint.format,
        architecture=architecture,
        family=family,
        config=origin.whole,
        fields=parse_config(read_text(path), str(path)),
        match=found,
        others=others,
        missing=_missing_parameters(directory, architecture, found, others, allow_missing),
        metadata=origin.checkpoint.metadata,
        directory=directory,
        weights=origin.checkpoint.files,
    )


def from_live_model(model: Any) -> ConversionSource:
    """The tensors of a live model, of either backend or of transformers.

    Raises:
        InputError: its class is not known, or several processes hold its parameters.
        CheckpointError: it has parameters that its class does not have.
    """
    if _is_in_several_processes(model):
        raise InputError(
            "convert: several processes hold a part of the model each (FSDP2), and each would write all of it; call "
            "save_pretrained in all of them, and convert its directory in one"
        )
    live = inspect_live_model(model)
    _, found = match_twin(getattr(names_backend(), live.architecture), live, {})
    return ConversionSource(
        name=live.label,
        format=live.framework,
        architecture=live.architecture,
        family=within(families()[architectures()[live.architecture]], live.config),
        config=live.config,
        fields=json.loads(live.config.to_json()),
        match=found,
        others=frozenset(),
        missing=(),
        metadata={},
        options=live.own_options.options,
    )


def _is_in_several_processes(model: Any) -> bool:
    """Whether a torch model has parameters of which other processes hold parts."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return False
    sharded = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    return sharded and torch.distributed.get_world_size() > 1


def _match_family(
    origin: loading.Source, architecture: str, family: Family, ignore: tuple[str, ...]
) -> tuple[Match, frozenset[str]]:
    """Every tensor with its slot in some class of the family, and the paths that the asked class does not have."""
    own, others = family_slots(architecture, origin.config, origin.whole, family)
    target = Target(architecture, [*own, *others], family, copied=family.copied(origin.whole, [s.path for s in own]))
    found = match(origin.tensors, target, allow_fresh=("*",), ignore=ignore)
    return found, frozenset(slot.path for slot in others)


def _missing_parameters(
    directory: Path, architecture: str, found: Match, others: frozenset[str], allowed: tuple[str, ...]
) -> tuple[str, ...]:
    """The parameters of the class that the source lacks, all of which must be allowed to be missing."""
    missing = tuple(slot.path for slot in found.fresh if slot.path not in others)
    needed = [path for path in missing if not matches(path, allowed)]
    if needed:
        modules = ", ".join(map(repr, top_modules(needed)))
        counted = "1 tensor is" if len(needed) == 1 else f"{len(needed)} tensors are"
        raise CheckpointError(
            f"{directory} does not fit {architecture}: {counted} missing: {', '.join(needed)} "
            f"(allow_missing=({modules},) converts without them; architecture=… if it is of another class)"
        )
    return missing
