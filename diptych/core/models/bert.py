"""BERT (Devlin et al. 2018, arXiv:1810.04805): configs, records and the deviations of published files."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import Activation, CacheShape, DecoderConfig, config_class
from diptych.core.outputs import ModelOutput
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, WordEmbeddings
from diptych.core.semantics.losses import example_targets


@config_class
class BertStackConfig(DecoderConfig):
    """The fields of a stack of BERT's layers with its embeddings; defaults are BERT's."""

    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"position_embedding_type": ("absolute",)}
    rates: ClassVar[tuple[str, ...]] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    """The fields that are probabilities."""

    vocab_size: int = 30_522
    max_position_embeddings: int = 512
    pad_token_id: int | None = 0
    hidden_size: int = 768
    intermediate_size: int = 3_072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    attention_probs_dropout_prob: float = 0.1
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size", "num_hidden_layers", "intermediate_size")
        check.positive(self, "max_position_embeddings")
        check.divides(self, "num_attention_heads", "hidden_size")
        check.probability(self, *self.rates)
        check.not_negative(self, "layer_norm_eps", "initializer_range")

    @property
    def cache_shape(self) -> CacheShape | None:
        """The shape of the decoder's cache; None if it is not a decoder."""
        if not self.is_decoder:
            return None
        heads = self.num_attention_heads
        positions = self.max_position_embeddings
        if self.padding_position is not None:  # the rows up to it belong to no token
            positions -= self.padding_position + 1
        return CacheShape(self.num_hidden_layers, heads, self.hidden_size // heads, positions)

    @property
    def padding_idx(self) -> int | None:
        """The row of the word embeddings that gets no gradient and starts at zero; None if the pad id is invalid."""
        inside = self.pad_token_id is not None and 0 <= self.pad_token_id < self.vocab_size
        return self.pad_token_id if inside else None

    @property
    def padding_position(self) -> int | None:
        """The position of padding, after which the other tokens are counted; None if padding is counted too."""
        return None

    @property
    def token_types(self) -> int:
        """The number of token types that have an embedding."""
        return 0


@config_class
class BertLikeConfig(BertStackConfig):
    """The fields of BERT and of the families built like it; defaults are BERT's."""

    rates: ClassVar[tuple[str, ...]] = (*BertStackConfig.rates, "classifier_dropout")

    type_vocab_size: int = 2
    classifier_dropout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "type_vocab_size")

    @property
    def token_types(self) -> int:
        """The number of token types that have an embedding."""
        return self.type_vocab_size

    @property
    def head_dropout_prob(self) -> float:
        """The dropout rate before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


@config_class
class BertConfig(BertLikeConfig):
    """Defaults are google-bert/bert-base-uncased; field names are those of its config.json."""

    model_type: ClassVar[str] = "bert"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        **BertLikeConfig.accepted,
        # from the TensorFlow original, in the multilingual and Chinese checkpoints; unused
        "directionality": ("bidi",),
        "pooler_type": ("first_token_transform",),
        "pooler_fc_size": (),
        "pooler_num_attention_heads": (),
        "pooler_num_fc_layers": (),
        "pooler_size_per_head": (),
    }


@dataclass(frozen=True, kw_only=True)
class BertForPreTrainingOutput(ModelOutput):
    """The output of the pretraining model."""

    loss: Any = None
    """The sum of the masked-language and next-sentence cross-entropies, a scalar; it needs both labels."""
    prediction_logits: Any = None
    """(B, T, V)"""
    seq_relationship_logits: Any = None
    """(B, 2): that the second text follows the first, or that it is random."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


def initial(config: BertStackConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter."""
    if slot.kind == "norm":
        return Constant(1.0)
    if slot.kind == "plain":
        return Constant(0.0)
    zeros = {"word_embeddings": config.padding_idx, "position_embeddings": config.padding_position}
    zero_row = zeros.get(slot.path.split(".")[-2]) if slot.kind == "embedding" else None
    return Normal(config.initializer_range, zero_row)


def example(config: BertStackConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two texts, the second padded, with segments and labels."""
    taken = 0 if config.padding_position is None else config.padding_position + 1
    length = min(12, config.max_position_embeddings - taken)
    shape = (2, length)
    mask = np.ones(shape, np.int64)
    mask[1, length - length // 4 :] = 0
    inputs: dict[str, Any] = {
        "input_ids": random.integers(0, config.vocab_size, shape),
        "attention_mask": mask,
    }
    if config.padding_position is not None:
        inputs["input_ids"][mask == 0] = config.padding_position
    if config.token_types:
        inputs["token_type_ids"] = random.integers(0, config.token_types, shape)
    if config.add_cross_attention:
        inputs["encoder_hidden_states"] = random.standard_normal((2, 5, config.hidden_size))
        inputs["encoder_attention_mask"] = np.array([[1] * 5, [1] * 3 + [0] * 2])
    if architecture.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM", "Decoder")):
        labels = random.integers(0, config.vocab_size, shape)
        inputs["labels"] = np.where(random.random(shape) < 0.5, labels, -100)
        inputs["labels"][:, :2] = labels[:, :2]
    if architecture == "BertForPreTraining":
        inputs["next_sentence_label"] = random.integers(0, 2, 2)
    if architecture.endswith("ForSequenceClassification"):
        inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
    return inputs


FAMILY = Family(
    classes=dict.fromkeys(
        ("BertModel", "BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM", "BertForSequenceClassification"),
        BertConfig,
    ),
    initial=initial,
    example=example,
    prefixes=("bert.",),
    ignored={
        "*embeddings.position_ids": "the numbers 0, 1, 2 …, a buffer until transformers 4.31",
        "*embeddings.token_type_ids": "zeros, a buffer",
    },
    renamed={
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    },
    # an untied head has the decoder's bias; transformers 5 also saves the other one, with its initial values
    superseded=("cls.predictions.bias",),
    encoders={"text": ("BertModel",)},
    decoders=("BertLMHeadModel",),
    grown=("pooler", "cls", "*crossattention*"),
    embeddings={
        "BertModel": WordEmbeddings(inputs=("embeddings.word_embeddings",)),
        "BertForSequenceClassification": WordEmbeddings(inputs=("bert.embeddings.word_embeddings",)),
        **dict.fromkeys(
            ("BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM"),
            WordEmbeddings(inputs=("bert.embeddings.word_embeddings",), output="cls.predictions.decoder"),
        ),
    },
)
