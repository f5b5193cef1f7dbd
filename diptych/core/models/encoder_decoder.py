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
    """The configs of a text encoder and a text decoder; by default those of bert-base, as in transformers.

    Raises:
        ConfigError: a config cannot serve as its part, or the two do not fit together.
    """

    model_type: ClassVar[str] = "encoder-decoder"

    encoder: ModelConfig = field(default=BertConfig())
    decoder: ModelConfig = field(default=BertConfig(is_decoder=True, add_cross_attention=True))
    tie_encoder_decoder: bool = False
    """Whether a file stores the weights shared by both parts only once, in the decoder. A loaded model has copies, and
    its config has False."""

    @property
    def loaded_config(self) -> Self:
        """The config without the tie: a loaded encoder has its own copies."""
        return self.replace(tie_encoder_decoder=False) if self.tie_encoder_decoder else self


def _copied_parameters(config: EncoderDecoderConfig, paths: Collection[str]) -> Mapping[str, str]:
    """The parameters tied by tie_encoder_decoder: the encoder's are the decoder base model's of the same name."""
    if not config.tie_encoder_decoder:
        return {}
    known = set(paths)
    family = registry.families()[registry.architectures()[parts(config)["decoder"][0]]]
    inner = [path.removeprefix("encoder.") for path in paths if path.startswith("encoder.")]
    pairs = ((f"encoder.{path}", f"decoder.{prefix}{path}") for path in inner for prefix in family.prefixes)
    return {path: source for path, source in pairs if source in known}


FAMILY = Family(
    classes={"EncoderDecoderModel": EncoderDecoderConfig},
    initial=initial,
    example=example,
    parts=parts,
    copied=_copied_parameters,
    embeddings={"EncoderDecoderModel": WordEmbeddings(inputs=("encoder",), output="decoder")},
)
