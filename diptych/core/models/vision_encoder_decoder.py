"""Composites of an image encoder and a text decoder (Li et al. 2021, arXiv:2109.10282): config, and files."""

from dataclasses import field
from typing import ClassVar

from diptych.core.composite_config import CompositeConfig, example, initial, parts
from diptych.core.config import ModelConfig, config_class
from diptych.core.models.bert import BertConfig
from diptych.core.models.vit import ViTConfig
from diptych.core.registry import Family, InputKind, WordEmbeddings


@config_class
class VisionEncoderDecoderConfig(CompositeConfig):
    """The configs of an image encoder and a text decoder; by default those of ViT and BERT, as in transformers.

    Raises:
        ConfigError: a config cannot serve as its part, or the two do not fit together.
    """

    model_type: ClassVar[str] = "vision-encoder-decoder"
    encodes: ClassVar[InputKind] = "image"

    encoder: ModelConfig = field(default=ViTConfig())
    decoder: ModelConfig = field(default=BertConfig(is_decoder=True, add_cross_attention=True))
    tie_word_embeddings: bool = False
    """Without effect: the decoder's config says whether its output layer is tied."""


FAMILY = Family(
    classes={"VisionEncoderDecoderModel": VisionEncoderDecoderConfig},
    initial=initial,
    example=example,
    parts=parts,
    embeddings={"VisionEncoderDecoderModel": WordEmbeddings(inputs=("decoder",), output="decoder")},
)
