"""TrOCR's decoder (Li et al. 2021, arXiv:2109.10282): config, and the deviations of published files."""

from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.config import config_class
from diptych.core.errors import ConfigError
from diptych.core.models import bart
from diptych.core.models.bart import BartDecoderConfig
from diptych.core.registry import Family, WordEmbeddings


@config_class
class TrOCRConfig(BartDecoderConfig):
    """Defaults are transformers'; field names are those of the decoder in microsoft/trocr-base-handwritten.

    Learned positions count every token. Sinusoidal ones give padding, recognized by its id, the position
    `pad_token_id`, and count the other tokens from the next one; they have no limit, so `max_position_embeddings` only
    says how many tokens `generate` may write.

    Raises:
        ConfigError: sinusoidal positions need a `pad_token_id` in the vocabulary and a `d_model` of 4 or more.
    """

    model_type: ClassVar[str] = "trocr"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = BartDecoderConfig.accepted | {"classifier_dropout": ()}

    max_position_embeddings: int = 512
    use_learned_position_embeddings: bool = True
    layernorm_embedding: bool = True
    decoder_start_token_id: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_attention_hidden_size is not None:
            check.positive(self, "cross_attention_hidden_size")
        if self.use_learned_position_embeddings:
            return
        if self.padding_idx is None:
            raise ConfigError(
                f"TrOCRConfig: pad_token_id={self.pad_token_id} must be 0 or more and below vocab_size="
                f"{self.vocab_size}: use_learned_position_embeddings=False counts the positions of tokens from it"
            )
        if self.d_model < 4:
            raise ConfigError(
                f"TrOCRConfig: d_model={self.d_model} must be 4 or more with use_learned_position_embeddings=False, "
                "which needs two frequencies"
            )

    @property
    def cross_attention_width(self) -> int:
        """The width of the states that cross-attention takes: the encoder's, if the config says it."""
        return self.d_model if self.cross_attention_hidden_size is None else self.cross_attention_hidden_size

    @property
    def padding_position(self) -> int | None:
        """The position of padding, after which the other tokens are counted; None if padding is counted too."""
        return None if self.use_learned_position_embeddings else self.pad_token_id


def example(config: TrOCRConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two texts of different lengths, an encoder's states and labels, as for BART's decoder; padding has its id."""
    inputs = bart.example(config, architecture, random)
    if config.padding_idx is not None:
        inputs["input_ids"][inputs["attention_mask"] == 0] = config.padding_idx
    return inputs


FAMILY = Family(
    classes={"TrOCRForCausalLM": TrOCRConfig},
    initial=bart.initial,
    example=example,
    prefixes=("model.",),
    ignored={
        "*decoder.version": "fairseq's format version",
        "*embed_positions._float_tensor": "marks the device of sinusoidal positions, a buffer of transformers 4",
    },
    renamed={"output_projection.weight": "model.decoder.embed_tokens.weight"},
    decoders=("TrOCRForCausalLM",),
    embeddings={"TrOCRForCausalLM": WordEmbeddings(inputs=("model.decoder.embed_tokens",), output="output_projection")},
)
