"""Composites of a text encoder and a text decoder (Rothe et al. 2019, arXiv:1907.12461): config, and files."""

from collections.abc import Collection, Mapping
from dataclasses import field
from typing import ClassVar, Self

from diptych.core import registry
from diptych.core.composite_config import CompositeConfig, example, initial, parts
from diptych.core.config import ModelConfig, config_class
from diptych.core.models.bert import BertConfig
from diptych.core.registry import Family, WordEmbeddings


@config_class
class EncoderDecoderConfig(CompositeConfig):
    """A text encoder's config and a text decoder's; without them those of bert-base, as in transformers.

    Raises:
        ConfigError: a part cannot serve as such, or the two do not fit together.
    """

    model_type: ClassVar[str] = "encoder-decoder"

    encoder: ModelConfig = field(default=BertConfig())
    decoder: ModelConfig = field(default=BertConfig(is_decoder=True, add_cross_attention=True))
    tie_encoder_decoder: bool = False
    """Whether a file lacks what the encoder has in common with the decoder; a loaded model has copies of it, and this
    is False then."""

    @property
    def loaded_config(self) -> Self:
        """Without the tie: a loaded encoder has copies of its own."""
        return self.replace(tie_encoder_decoder=False) if self.tie_encoder_decoder else self


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
    initial=initial,
    example=example,
    parts=parts,
    copied=_copied,
    embeddings={"EncoderDecoderModel": WordEmbeddings(inputs=("encoder",), output="decoder")},
)
