"""What the composites of both backends do alike: they are made of the checkpoints of an encoder and of a decoder."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

from diptych.core.checkpoint import loading
from diptych.core.checkpoint.matching import LoadReport, Match
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import DecoderConfig, ModelConfig, config_path
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, ConfigError
from diptych.core.pretrained import PreTrained, refuse_foreign
from diptych.core.registry import architectures, described, families, serving, within

Role = Literal["encoder", "decoder"]


class Composite(PreTrained):
    """A model of an encoder and a decoder, whose parts stand under these names."""

    @classmethod
    def _load_parts(
        cls,
        paths: Mapping[Role, str | os.PathLike[str]],
        *,
        dtype: Any,
        placement: Any,
        build: Mapping[str, Any],
        ignore_config: Iterable[str],
        changes: Mapping[str, Any],
    ) -> Self:
        """Builds a model without values and fills each part from a checkpoint of its own.

        See `from_encoder_decoder_pretrained`.
        """
        own = {role: _changes(role, changes) for role in paths}
        for given in (changes, *own.values()):
            refuse_foreign(f"{cls.__name__}.from_encoder_decoder_pretrained", given)
        taken = {f"{role}_{name}" for role in own for name in own[role]}
        others = {name: value for name, value in changes.items() if name not in taken}
        sources: dict[Role, loading.Source] = {}
        for role, path in paths.items():
            source = loading.open_source(path, ignore_config=ignore_config)
            try:
                serving(role, source.config)
            except ConfigError as error:
                raise ConfigError(f"{config_path(source.directory)}: {error}") from None
            sources[role] = replace(source, config=_serves(role, source.config).replace(**own[role]))
        config_class: Any = described(cls)[2]
        config = config_class.from_encoder_decoder_configs(*(source.config for source in sources.values()), **others)
        guess = (
            max(sources.values(), key=lambda source: source.nbytes).dtype_name if dtype is None else float_name(dtype)
        )
        made = cast(Callable[..., Self], cls)
        model = made(config, seed=None, dtype=guess, **build)
        found = {role: model._part_found(role, source, getattr(config, role)) for role, source in sources.items()}
        settled = _settled({**sources}, found, dtype)
        if settled != guess:
            model = made(config, seed=None, dtype=settled, **build)
        leaves = model._leaves()
        between = tuple(slot for slot in leaves if slot.path.split(".")[0] not in sources)
        match = Match(
            fillings=tuple(filling for part in found.values() for filling in part.fillings),
            fresh=tuple(slot for part in found.values() for slot in part.fresh) + between,
            left_out=tuple(f"{role}: {name}" for role, part in found.items() for name in part.left_out),
            ignored=tuple(f"{role}: {name}" for role, part in found.items() for name in part.ignored),
            constant=tuple(slot for part in found.values() for slot in part.constant),
        )
        model._fill(leaves, match, FLOATS[settled], placement)
        model.load_report = LoadReport(
            directory=" and ".join(str(source.directory) for source in sources.values()),
            loaded=len(match.fillings),
            left_out=match.left_out,
            ignored=match.ignored,
            fresh=tuple(sorted(slot.path for slot in match.fresh)),
        )
        loading.announce(model.load_report, config)
        return model

    def _part_found(self, role: Role, source: loading.Source, config: ModelConfig) -> Match:
        """What a checkpoint holds for a part, in slots of the whole."""
        name = serving(role, config)
        family = within(families()[architectures()[name]], config)
        whole = {
            replace(slot, path=slot.path.removeprefix(f"{role}.")): slot
            for slot in self._leaves()
            if slot.path.startswith(f"{role}.")
        }
        found = loading.matched(
            source,
            [*whole],
            class_name=name,
            family=family,
            known=lambda: self._family_paths(family, config),
            allow_fresh=family.grown,
        )
        return replace(
            found,
            fillings=tuple(replace(filling, slot=whole[filling.slot]) for filling in found.fillings),
            fresh=_in(whole, found.fresh),
            constant=_in(whole, found.constant),
        )


def _in(whole: Mapping[Slot, Slot], slots: Iterable[Slot]) -> tuple[Slot, ...]:
    return tuple(whole[slot] for slot in slots)


def _changes(role: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a part's config: what has its name before it, but for a field of the composite's own."""
    prefix = f"{role}_"
    return {
        name.removeprefix(prefix): value
        for name, value in changes.items()
        if name.startswith(prefix) and name != "decoder_start_token_id"
    }


def _serves(role: Role, config: ModelConfig) -> ModelConfig:
    """The config of a part: an encoder that was a decoder sees all its tokens again."""
    if role == "encoder" and isinstance(config, DecoderConfig) and not config.always_decodes:
        return config.replace(is_decoder=False, add_cross_attention=False)
    return config


def _settled(sources: Mapping[str, loading.Source], found: Mapping[str, Match], asked: Any) -> str:
    """The name of the dtype that the whole is to have.

    Raises:
        CheckpointError: none is asked for, and the parts' files have several.
    """
    names = {role: loading.dtype_of(source, found[role], asked) for role, source in sources.items()}
    if len(set(names.values())) > 1:
        listed = ", ".join(f"{Path(sources[role].directory)} holds {name}" for role, name in names.items())
        raise CheckpointError(f"{listed}; say dtype=…")
    return next(iter(names.values()))
