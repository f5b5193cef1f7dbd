"""Configs of composites: an encoder of one kind of input, and a decoder of token ids that attends to it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

import numpy as np

from diptych.core import registry
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import CacheShape, DecoderConfig, ModelConfig, config_class
from diptych.core.errors import ConfigError
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import InputKind, Parts


@config_class
class CompositeConfig(ModelConfig):
    """The configs of an encoder and of a decoder that attends to it.

    Each may be of any family that has a class for the part; `from_encoder_decoder_configs` turns the second into a
    decoder with cross-attention.

    Raises:
        ConfigError: a config cannot serve as its part, or the two do not fit together.
    """

    encodes: ClassVar[InputKind] = "text"
    """The kind of the encoder's input."""
    live: ClassVar[frozenset[str]] = ModelConfig.live | {"decoder_start_token_id", "pad_token_id"}
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"vocab_size": ()}  # a copy of the decoder's

    encoder: ModelConfig
    decoder: ModelConfig
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        caller = type(self).__name__
        if not self.is_encoder_decoder:
            raise ConfigError(f"{caller}: is_encoder_decoder=False, but every composite is one; leave the field out")
        for role in ("encoder", "decoder"):
            try:
                registry.part_architecture(role, getattr(self, role), self.encodes)
            except ConfigError as error:
                raise ConfigError(f"{caller}: {role}: {error}") from None
        decoder = cast(DecoderConfig, self.decoder)
        if not decoder.has_cross_attention or decoder.cache_shape is None:
            fields = f"is_decoder={decoder.is_decoder}, add_cross_attention={decoder.add_cross_attention}"
            raise ConfigError(
                f"{caller}: decoder: {fields}, but it must attend to the encoder; "
                f"{caller}.from_encoder_decoder_configs(encoder, decoder) sets these fields"
            )
        width = decoder.cross_attention_hidden_size
        if width is not None and width != self.encoder_width:
            raise ConfigError(
                f"{caller}: decoder.cross_attention_hidden_size={width}, but the encoder's states have width "
                f"{self.encoder_width}"
            )
        if width is not None and width != self.decoder_width:
            raise ConfigError(
                f"{caller}: decoder.cross_attention_hidden_size={width} means no projection, but "
                f"{type(decoder).__name__} attends to states of its own width, {self.decoder_width}; leave it null"
            )

    @classmethod
    def from_encoder_decoder_configs(cls, encoder: ModelConfig, decoder: ModelConfig, **changes: Any) -> Self:
        """The config of a composite; the decoder's gets is_decoder=True and add_cross_attention=True.

        Args:
            encoder, decoder: configs of families that have a class for the part.
            changes: other fields, housekeeping included.

        Raises:
            ConfigError: a config cannot serve as its part, or a change is unknown.
        """
        for role, part in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(part, ModelConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(
                    f"{cls.__name__}: the {role} is a {type(part).__name__}, but a config of diptych's is needed"
                )
        registry.part_architecture("decoder", decoder, cls.encodes)
        decoder = decoder.replace(is_decoder=True, add_cross_attention=True)
        return cls(encoder=encoder, decoder=decoder).replace(**changes)

    @property
    def encoder_width(self) -> int:
        """The width of the encoder's states."""
        return self.encoder.states_width

    @property
    def decoder_width(self) -> int:
        """The width of the states that the decoder's cross-attention takes."""
        return cast(DecoderConfig, self.decoder).cross_attention_width

    @property
    def vocab_size(self) -> int:
        """The decoder's number of token ids."""
        return cast(Any, self.decoder).vocab_size

    @property
    def cache_shape(self) -> CacheShape | None:
        """The shape of the decoder's cache."""
        return self.decoder.cache_shape

    def with_part(self, name: str, part: ModelConfig) -> Self:
        """A copy with another config for a part; a file's copy of the decoder's `vocab_size` is updated."""
        changed = self.replace(**{name: part})
        return changed.replace(vocab_size=changed.vocab_size) if "vocab_size" in self.housekeeping else changed

    def part(self, wanted: type[ModelConfig]) -> ModelConfig | None:
        """The config itself, if it is of the wanted class; parts can't be loaded on their own."""
        return self if isinstance(self, wanted) else None

    @classmethod
    def _parts(cls, data: Mapping[str, Any], source: str) -> dict[str, type[ModelConfig]]:
        known = registry.config_classes()
        found: dict[str, type[ModelConfig]] = {}
        wrong: list[str] = []
        for name in ("encoder", "decoder"):
            part = data.get(name)
            if not isinstance(part, Mapping):
                wrong.append(f"{name} must be the JSON object of a config, not {part!r}")
                continue
            model_type = cast(Mapping[str, Any], part).get("model_type")
            if not isinstance(model_type, str) or model_type not in known:
                wrong.append(f"{name}: model_type={model_type!r} is not known; known: {', '.join(sorted(known))}")
            else:
                found[name] = known[model_type]
        if wrong:
            raise ConfigError(f"{source}: {'; '.join(wrong)}")
        return found


def parts(config: CompositeConfig) -> Parts:
    """The encoder and the decoder: architecture and config by path."""
    return {
        "encoder": (registry.part_architecture("encoder", config.encoder, config.encodes), config.encoder),
        "decoder": (registry.part_architecture("decoder", config.decoder, config.encodes), config.decoder),
    }


def initial(config: CompositeConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter, as its part defines it."""
    below, _, inner = slot.path.partition(".")
    if below in ("encoder", "decoder"):
        name, part = parts(config)[below]
        return registry.families()[registry.architectures()[name]].initial(part, replace(slot, path=inner))
    return Constant(0.0) if slot.kind == "plain" else Normal(getattr(config.decoder, "initializer_range", 0.02))


def example(config: CompositeConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """The encoder's inputs, and token ids of another length for the decoder, with labels."""
    inputs: dict[str, Any] = {}
    for below, (name, part) in parts(config).items():
        given = registry.families()[registry.architectures()[name]].example(part, name, random)
        labels = given.pop("labels", None)
        given = {key: value for key, value in given.items() if not key.startswith("encoder_")}
        inputs |= given if below == "encoder" else {f"decoder_{key}": value for key, value in given.items()}
        if below == "decoder":
            inputs["labels"] = labels
    return inputs
