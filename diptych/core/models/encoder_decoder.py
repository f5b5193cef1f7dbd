"""Composites of a text encoder and a text decoder (Rothe et al. 2019, arXiv:1907.12461): config, and files."""

from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Any, ClassVar, Self, cast

import numpy as np

from diptych.core import registry
from diptych.core.config import CacheShape, DecoderConfig, ModelConfig, config_class
from diptych.core.errors import ConfigError
from diptych.core.models.bert import BertConfig
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, Parts, WordEmbeddings


@config_class
class EncoderDecoderConfig(ModelConfig):
    """Two configs in one; without them those of bert-base, as in transformers.

    Each is of any family that has a class for the part; `from_encoder_decoder_configs` makes the second a decoder that
    attends to the first.

    Raises:
        ConfigError: a part cannot serve as such, or the two do not fit together.
    """

    model_type: ClassVar[str] = "encoder-decoder"
    live: ClassVar[frozenset[str]] = ModelConfig.live | {"decoder_start_token_id", "pad_token_id"}
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"vocab_size": ()}  # a copy of the decoder's

    encoder: ModelConfig = field(default=BertConfig())
    decoder: ModelConfig = field(default=BertConfig(is_decoder=True, add_cross_attention=True))
    is_encoder_decoder: bool = True
    tie_encoder_decoder: bool = False
    """Whether a file lacks what the encoder has in common with the decoder; a loaded model has copies of it, and this
    is False then."""
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if not self.is_encoder_decoder:
            raise ConfigError(f"{where}: is_encoder_decoder=False, but it is one by its nature; leave the field out")
        for role in ("encoder", "decoder"):
            try:
                registry.serving(role, getattr(self, role))
            except ConfigError as error:
                raise ConfigError(f"{where}: {role}: {error}") from None
        decoder = cast(DecoderConfig, self.decoder)
        if not decoder.attends or decoder.cache_shape is None:
            said = f"is_decoder={decoder.is_decoder}, add_cross_attention={decoder.add_cross_attention}"
            raise ConfigError(
                f"{where}: decoder: {said}, but it must attend to the encoder; "
                f"{where}.from_encoder_decoder_configs(encoder, decoder) sees to that"
            )
        width = decoder.cross_attention_hidden_size
        if width is not None and width != self.encoder_width:
            raise ConfigError(
                f"{where}: decoder.cross_attention_hidden_size={width}, but encoder.hidden_size={self.encoder_width}"
            )
        if width is not None and width != self.decoder_width:
            raise ConfigError(
                f"{where}: decoder.cross_attention_hidden_size={width} leaves the projection out, but "
                f"{type(decoder).__name__} attends to states of its own width, {self.decoder_width}; leave it null"
            )

    @classmethod
    def from_encoder_decoder_configs(cls, encoder: ModelConfig, decoder: ModelConfig, **changes: Any) -> Self:
        """The config of an encoder and of a decoder, which is made to decode and to attend to the first.

        Args:
            encoder, decoder: configs of families that have a class for the part.
            changes: other fields, housekeeping included.

        Raises:
            ConfigError: a part cannot serve as such, or a change is unknown.
        """
        for role, part in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(part, ModelConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(
                    f"{cls.__name__}: the {role} is a {type(part).__name__}, but a config of diptych's is needed"
                )
        registry.serving("decoder", decoder)
        decoder = decoder.replace(is_decoder=True, add_cross_attention=True)
        return cls(encoder=encoder, decoder=decoder).replace(**changes)

    @property
    def encoder_width(self) -> int:
        """Of the encoder's states."""
        return cast(Any, self.encoder).hidden_size

    @property
    def decoder_width(self) -> int:
        """Of the states that the decoder attends to."""
        shape = cast(CacheShape, self.decoder.cache_shape)
        return shape.heads * shape.head_width

    @property
    def vocab_size(self) -> int:
        """Of the decoder."""
        return cast(Any, self.decoder).vocab_size

    @property
    def cache_shape(self) -> CacheShape | None:
        """What a cache of the decoder holds."""
        return self.decoder.cache_shape

    @property
    def loaded(self) -> Self:
        """Without the tie: a loaded encoder has copies of its own."""
        return self.replace(tie_encoder_decoder=False) if self.tie_encoder_decoder else self

    def with_part(self, name: str, part: ModelConfig) -> Self:
        """The config with another one of a part; a copy of the decoder's `vocab_size` that a file has follows."""
        changed = self.replace(**{name: part})
        return changed.replace(vocab_size=changed.vocab_size) if "vocab_size" in self.housekeeping else changed

    def part(self, wanted: type[ModelConfig]) -> ModelConfig | None:
        """The config itself, if it is of the wanted class: a part's tensors are no checkpoint of their own."""
        return self if isinstance(self, wanted) else None

    @classmethod
    def _parts(cls, data: Mapping[str, Any], where: str) -> dict[str, type[ModelConfig]]:
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
            raise ConfigError(f"{where}: {'; '.join(wrong)}")
        return found


def parts(config: EncoderDecoderConfig) -> Parts:
    """The two models that a composite is made of."""
    return {
        "encoder": (registry.serving("encoder", config.encoder), config.encoder),
        "decoder": (registry.serving("decoder", config.decoder), config.decoder),
    }


def _initial(config: EncoderDecoderConfig, path: str, kind: str) -> Distribution:
    below, _, inner = path.partition(".")
    if below in ("encoder", "decoder"):
        name, part = parts(config)[below]
        return registry.families()[registry.architectures()[name]].initial(part, inner, kind)
    return Constant(0.0) if kind == "plain" else Normal(getattr(config.decoder, "initializer_range", 0.02))


def _example(config: EncoderDecoderConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """The encoder's texts, and texts of other lengths for the decoder, with labels."""
    inputs: dict[str, Any] = {}
    for below, (name, part) in parts(config).items():
        given = registry.families()[registry.architectures()[name]].example(part, name, random)
        labels = given.pop("labels", None)
        given = {key: value for key, value in given.items() if not key.startswith("encoder_")}
        inputs |= given if below == "encoder" else {f"decoder_{key}": value for key, value in given.items()}
        if below == "decoder":
            inputs["labels"] = labels
    return inputs


def _copied(config: EncoderDecoderConfig, paths: Collection[str]) -> Mapping[str, str]:
    """What tie_encoder_decoder ties: the decoder's base model serves for the encoder, as far as the names agree."""
    if not config.tie_encoder_decoder:
        return {}
    known = set(paths)
    family = registry.families()[registry.architectures()[parts(config)["decoder"][0]]]
    found: dict[str, str] = {}
    for path in paths:
        if path.startswith("encoder."):
            for prefix in family.prefixes:
                other = f"decoder.{prefix}{path.removeprefix('encoder.')}"
                if other in known:
                    found[path] = other
    return found


FAMILY = Family(
    classes={"EncoderDecoderModel": EncoderDecoderConfig},
    initial=_initial,
    example=_example,
    parts=parts,
    copied=_copied,
    embeddings={"EncoderDecoderModel": WordEmbeddings(inputs=("encoder",), output="decoder")},
)
