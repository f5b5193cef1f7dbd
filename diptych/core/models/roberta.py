"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): config, and the deviations of published files."""

from typing import ClassVar

from diptych.core.config import config_class
from diptych.core.errors import ConfigError
from diptych.core.models.bert import BertLikeConfig, example, initial
from diptych.core.registry import Family, WordEmbeddings


@config_class
class RobertaConfig(BertLikeConfig):
    """Defaults are transformers'; field names are those of FacebookAI/roberta-base's config.json.

    Padding has its own position, `pad_token_id`, and the other tokens are counted from the next one. So there are
    positions for `max_position_embeddings` - `pad_token_id` - 1 tokens: 512 of 514 in the published models.

    Raises:
        ConfigError: `pad_token_id` is outside the vocabulary or the positions, or leaves no position for tokens.
    """

    model_type: ClassVar[str] = "roberta"
    architecture: ClassVar[str] = "roberta"

    vocab_size: int = 50_265
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        caller, pad = type(self).__name__, self.pad_token_id
        if pad is None or not 0 <= pad < self.vocab_size:
            raise ConfigError(
                f"{caller}: pad_token_id={pad} must be 0 or more and below vocab_size={self.vocab_size}: "
                "the positions of tokens are counted from it"
            )
        if pad + 1 >= self.max_position_embeddings:
            raise ConfigError(
                f"{caller}: max_position_embeddings={self.max_position_embeddings} must exceed pad_token_id + 1 = "
                f"{pad + 1}, which is the first token's position"
            )

    @property
    def padding_position(self) -> int | None:
        """The position of padding, after which the other tokens are counted."""
        return self.pad_token_id


def family(name: str, config: type[RobertaConfig]) -> Family:
    """The description of a family whose classes and files are RoBERTa's."""
    return Family(
        classes={
            f"{name}{head}": config for head in ("Model", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification")
        },
        initial=initial,
        example=example,
        prefixes=("roberta.",),
        ignored={
            "*embeddings.position_ids": "the numbers 0, 1, 2 …, a buffer until transformers 4.31",
            "*embeddings.token_type_ids": "zeros, a buffer",
        },
        renamed={
            "lm_head.decoder.bias": "lm_head.bias",
            "lm_head.bias": "lm_head.decoder.bias",
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        },
        # an untied head has the decoder's bias; transformers 5 also saves the other one, with its initial values
        superseded=("lm_head.bias",),
        encoders={"text": (f"{name}Model",)},
        decoders=(f"{name}ForCausalLM",),
        grown=("pooler", "lm_head", "*crossattention*"),
        embeddings={
            f"{name}Model": WordEmbeddings(inputs=("embeddings.word_embeddings",)),
            f"{name}ForSequenceClassification": WordEmbeddings(inputs=("roberta.embeddings.word_embeddings",)),
            **dict.fromkeys(
                (f"{name}ForCausalLM", f"{name}ForMaskedLM"),
                WordEmbeddings(inputs=("roberta.embeddings.word_embeddings",), output="lm_head.decoder"),
            ),
        },
    )


FAMILY = family("Roberta", RobertaConfig)
