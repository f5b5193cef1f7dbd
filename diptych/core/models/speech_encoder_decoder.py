"""Composites of a speech encoder and a text decoder (Li et al. 2021, arXiv:2010.12829): config, and files."""

from dataclasses import field
from typing import ClassVar

from diptych.core.composite_config import CompositeConfig, example, initial, parts
from diptych.core.config import ModelConfig, config_class
from diptych.core.models.bert import BertConfig
from diptych.core.models.wav2vec2 import Wav2Vec2Config
from diptych.core.registry import Family, InputKind, WordEmbeddings


@config_class
class SpeechEncoderDecoderConfig(CompositeConfig):
    """The configs of a speech encoder and a text decoder; by default those of Wav2Vec2 and BERT.

    Raises:
        ConfigError: a config cannot serve as its part, or the two do not fit together.
    """

    model_type: ClassVar[str] = "speech-encoder-decoder"
    encodes: ClassVar[InputKind] = "sound"

    encoder: ModelConfig = field(default=Wav2Vec2Config())
    decoder: ModelConfig = field(default=BertConfig(is_decoder=True, add_cross_attention=True))
    tie_word_embeddings: bool = False
    """Without effect: the decoder's config says whether its output layer is tied."""


FAMILY = Family(
    classes={"SpeechEncoderDecoderModel": SpeechEncoderDecoderConfig},
    initial=initial,
    example=example,
    parts=parts,
    embeddings={"SpeechEncoderDecoderModel": WordEmbeddings(inputs=("decoder",), output="decoder")},
)
