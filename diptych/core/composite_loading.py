"""Loading composites from two checkpoints, one for the encoder and one for the decoder."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

from diptych.core import check, composite_config
from diptych.core.checkpoint import loading
from diptych.core.checkpoint.directory import Checkpoint
from diptych.core.checkpoint.hub import HubOptions, access_options, split_options
from diptych.core.checkpoint.matching import Match
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import DecoderConfig, ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.pretrained import PreTrained, refuse_foreign
from diptych.core.registry import (
    InputKind,
    architectures,
    describe_class,
    families,
    part_architecture,
    part_architectures,
    within,
)

Role = Literal["encoder", "decoder"]


class PartsLoadingMixin(PreTrained):
    """A model whose encoder and decoder may come from separate checkpoints."""

    @classmethod
    def _load_parts(
        cls,
        paths: Mapping[Role, Any],
        *,
        dtype: Any,
        placement: Any,
        build: Mapping[str, Any],
        ignore_config: Iterable[str],
        changes: Mapping[str, Any],
    ) -> Self:
        """A model of two checkpoints or live models; see `from_encoder_decoder_pretrained`."""
        caller = f"{cls.__name__}.from_encoder_decoder_pretrained"
        switches = {
            name for name, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY
        }  # such as encoder_add_pooling_layer
        build = {**build, **{name: value for name, value in changes.items() if name in switches}}
        changes = {name: value for name, value in changes.items() if name not in switches}
        paths = {role: _find_part(caller, role, given, changes) for role, given in paths.items()}
        changes = {name: value for name, value in changes.items() if not _names_part(name)}
        hub, changes = _hub_options(caller, paths, changes)
        own = {role: _part_changes(role, changes) for role in paths}
        for given in (changes, *own.values()):
            refuse_foreign(caller, given)
        taken = {f"{role}_{name}" for role in own for name in own[role]}
        others = {name: value for name, value in changes.items() if name not in taken}
        sources: dict[Role, loading.Source] = {}
        config_class: Any = describe_class(cls)[2]
        for role, path in paths.items():
            source = (
                _live_source(path)
                if isinstance(path, PreTrained)
                else loading.open_source(path, ignore_config=ignore_config, **hub[role])
            )
            sources[role] = _as_part(source, role, config_class.encodes, own[role])
        config = config_class.from_encoder_decoder_configs(*(source.config for source in sources.values()), **others)
        return cls._fill_parts(sources, config, dtype, placement, build)

    @classmethod
    def _fill_parts(
        cls,
        sources: Mapping[Role, loading.Source],
        config: Any,
        dtype: Any,
        placement: Any,
        build: Mapping[str, Any],
    ) -> Self:
        """A model of this config, each part of which is filled from its own source."""
        largest = max(sources.values(), key=lambda source: source.nbytes)
        guess = largest.dtype_name if dtype is None else float_name(dtype)
        construct = cast(Callable[..., Self], cls)
        model = construct(config, seed=None, dtype=guess, **build)
        found = {role: model._match_part(role, source, getattr(config, role)) for role, source in sources.items()}
        dtype_name = _common_dtype({**sources}, found, dtype)
        if dtype_name != guess:
            model = construct(config, seed=None, dtype=dtype_name, **build)
        leaves = model._leaves()
        between = tuple(slot for slot in leaves if slot.path.split(".")[0] not in sources)
        match = Match(
            fillings=tuple(filling for part in found.values() for filling in part.fillings),
            fresh=tuple(slot for part in found.values() for slot in part.fresh) + between,
            left_out=tuple(f"{role}: {name}" for role, part in found.items() for name in part.left_out),
            ignored=tuple(f"{role}: {name}" for role, part in found.items() for name in part.ignored),
            constant=tuple(slot for part in found.values() for slot in part.constant),
        )
        model._fill(leaves, match, FLOATS[dtype_name], placement)
        directories = " and ".join(str(source.directory) for source in sources.values())
        model.load_report = loading.report_of(directories, match, config)
        return model

    def _match_part(self, role: Role, source: loading.Source, config: ModelConfig) -> Match:
        """Matches a checkpoint with a part's slots; the result refers to the composite's slots."""
        name = composite_config.parts(self.config)[role][0]
        family = within(families()[architectures()[name]], config)
        whole = {
            replace(slot, path=slot.path.removeprefix(f"{role}.")): slot
            for slot in self._leaves()
            if slot.path.startswith(f"{role}.")
        }
        found = loading.match_source(
            source,
            [*whole],
            class_name=name,
            family=family,
            # the file may hold tensors that the part does not have, such as another tower or cross-attention
            known=lambda: self._family_paths(family, config) + self._family_paths(family, source.whole),
            allow_fresh=family.grown,
        )
        return replace(
            found,
            fillings=tuple(replace(filling, slot=whole[filling.slot]) for filling in found.fillings),
            fresh=_whole_slots(whole, found.fresh),
            constant=_whole_slots(whole, found.constant),
        )


_LONG_NAME = "{}_pretrained_model_name_or_path"
"""The name of a part's argument in the Flax classes of transformers."""


def _names_part(name: str) -> bool:
    """Whether a keyword names a part's checkpoint or live model."""
    return any(name in (_LONG_NAME.format(role), f"{role}_model") for role in ("encoder", "decoder"))


def _find_part(caller: str, role: Role, given: Any, changes: Mapping[str, Any]) -> Any:
    """The checkpoint or live model of a part, under whichever name it was passed.

    Raises:
        InputError: none is given, or several are.
    """
    named = {role: given, **{name: changes.get(name) for name in (_LONG_NAME.format(role), f"{role}_model")}}
    check.exactly_one(caller, **named)
    found = next(value for value in named.values() if value is not None)
    if named[f"{role}_model"] is not None and not isinstance(found, PreTrained):
        raise InputError(f"{caller}: {role}_model is a {type(found).__name__}, but a model of diptych's is needed")
    return found


def _hub_options(
    caller: str, roles: Iterable[Role], changes: Mapping[str, Any]
) -> tuple[dict[Role, HubOptions], dict[str, Any]]:
    """The options of each part's checkpoint, which begin with its name unless both parts share them; and the rest.

    Raises:
        TypeError: an option of one checkpoint has no part's name.
    """
    shared, changes = split_options(changes)
    unclear = [name for name in shared if name not in access_options(shared)]
    if unclear:
        raise TypeError(f"{caller} has no keyword {unclear[0]}; say encoder_{unclear[0]} or decoder_{unclear[0]}")
    found: dict[Role, HubOptions] = {}
    for role in roles:
        own, changes = split_options(changes, f"{role}_")
        found[role] = {**shared, **own}
    return found, changes


def _live_source(model: PreTrained) -> loading.Source:
    """A live model as a source in memory."""
    directory = Path(f"the live {type(model).__name__}")
    tensors = model._sources()  # pyright: ignore[reportPrivateUsage]
    return loading.Source(
        directory, model.config, model.config, Checkpoint("memory", "published", directory, (), tensors, {})
    )


def _whole_slots(whole: Mapping[Slot, Slot], slots: Iterable[Slot]) -> tuple[Slot, ...]:
    return tuple(whole[slot] for slot in slots)


def _part_changes(role: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a part's config: the keywords prefixed with its name, except the composite's own."""
    prefix = f"{role}_"
    return {
        name.removeprefix(prefix): value
        for name, value in changes.items()
        if name.startswith(prefix) and name not in ("decoder_start_token_id", f"{role}_model", _LONG_NAME.format(role))
    }


def _as_part(source: loading.Source, role: Role, kind: InputKind, changes: Mapping[str, Any]) -> loading.Source:
    """The source with the config of the part that it becomes: its own, or that of a tower in it.

    Raises:
        ConfigError: it cannot serve as the part, or changes are invalid.
    """
    config = source.config
    if type(config) not in (known := part_architectures(role, kind)):
        inner = (source.whole.part(wanted) for wanted in known)
        config = next((part.loaded_config for part in inner if part is not None), config)
    try:
        part_architecture(role, config, kind)
    except ConfigError as error:
        found = source.directory / "config.json"
        raise ConfigError(f"{found if found.is_file() else source.directory}: {error}") from None
    try:
        return replace(source, config=_config_as_part(role, config).replace(**changes))
    except ConfigError as error:
        raise ConfigError(f"{', '.join(f'{role}_{name}' for name in changes)}: {error}") from None


def _config_as_part(role: Role, config: ModelConfig) -> ModelConfig:
    """The config of a part; an encoder from a decoder's config is no longer causal."""
    if role == "encoder" and isinstance(config, DecoderConfig) and not config.always_decodes:
        return config.replace(is_decoder=False, add_cross_attention=False)
    return config


def _common_dtype(sources: Mapping[str, loading.Source], found: Mapping[str, Match], asked: Any) -> str:
    """The name of the composite's dtype.

    Raises:
        CheckpointError: no dtype is requested, and the parts' files have different ones.
    """
    names = {role: loading.dtype_of(source, found[role], asked) for role, source in sources.items()}
    if len(set(names.values())) > 1:
        listed = ", ".join(f"{Path(sources[role].directory)} holds {name}" for role, name in names.items())
        raise CheckpointError(f"{listed}; say dtype=…")
    return next(iter(names.values()))
