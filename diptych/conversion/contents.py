"""The tensors and the config of a checkpoint of any format, or of a live model, by published name."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from diptych.conversion.slots import family_slots
from diptych.conversion.transfer import inspect_live_model
from diptych.core.checkpoint import loading
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.matching import Matching, NamedTensors, Target
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.errors import InputError
from diptych.core.registry import architectures, families, within

_PROVENANCE = ("_commit_hash", "_name_or_path", "dtype", "name_or_path", "torch_dtype", "transformers_version")
"""Config fields that describe the file; its dtypes show in its tensors."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint or a live model holds.

    Attributes:
        label: its name in reports.
        architecture: the class whose names the tensors have.
        format: of the files, or the library of a live model.
        config: every field with its value, without those that describe the file.
        tensors: by published name and in the published layout, read on demand.
    """

    label: str
    architecture: str
    format: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSource]


@dataclass(frozen=True)
class Opened:
    """A checkpoint or a live model whose headers have been read; the names of its tensors are still its own.

    Attributes:
        tensors: with their names and layout in the file.
        format, architecture: see `Contents`.
        config: of the class, which may be a part of the whole one.
        whole: of the checkpoint.
    """

    tensors: NamedTensors
    format: str
    architecture: str
    config: ModelConfig
    whole: ModelConfig

    def contents(self, named_as: str | None = None) -> Contents:
        """The contents by published name, which a backend is imported for.

        Tensors that are no parameters, such as position_ids, are left out. Tensors that no class knows keep their
        names.

        Args:
            named_as: the class whose names the tensors get, if it is of the same family; by default the source's own.
        """
        described = families()[architectures()[self.architecture]]
        architecture = self.architecture
        if named_as is not None and isinstance(self.config, described.classes.get(named_as, ())):
            architecture = named_as
        family = within(described, self.whole)
        slots, others = family_slots(architecture, self.config, self.whole, family)
        copied = family.copied(self.whole, [slot.path for slot in slots])
        target = Target(architecture, [*slots, *others], family, copied=copied)
        published = Matching(self.tensors, target).published_tensors()
        return Contents(self.tensors.source, self.architecture, self.format, config_fields(self.whole), published)


def open_contents(source: Any, *, ignore_config: Iterable[str] = (), **options: Unpack[HubOptions]) -> Opened:
    """Finds a checkpoint or takes a live model; of a checkpoint only headers are read, and no backend is imported.

    Args:
        source: a directory, a name on the Hugging Face hub, or a live model of either backend or of transformers.
        ignore_config: unknown fields of config.json to skip.
        options: see `HubOptions`.

    Raises:
        CheckpointError, ConfigError: the checkpoint can't be read, or its class is not known.
        InputError: options of a checkpoint are given for a live model.
    """
    if not isinstance(source, str | os.PathLike):
        live = inspect_live_model(source)
        if options:
            raise InputError(f"{', '.join(options)} must go with a checkpoint, but {live.label} is a live model")
        config = live.config.replace(architectures=(live.architecture,))
        return Opened(NamedTensors(live.label, live.tensors), live.framework, live.architecture, config, config)
    directory, ignore_config = locate(source, **options), tuple(ignore_config)
    architecture = loading.architecture_of(directory, ignore_config)
    wanted = families()[architectures()[architecture]].classes[architecture]
    found = loading.open_source(directory, wanted=wanted, ignore_config=ignore_config, variant=options.get("variant"))
    named = NamedTensors(str(source), found.checkpoint.tensors, found.checkpoint.layout)
    return Opened(named, found.checkpoint.format, architecture, found.config, found.whole)


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config as JSON data, without those that describe its file; those of a part after its name."""
    return _flat(config.to_dict(), "")


def _flat(data: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and "model_type" in value:
            fields |= _flat(value, f"{prefix}{name}.")
        elif name not in _PROVENANCE:
            fields[f"{prefix}{name}"] = value
    return fields
