"""BERT (Devlin et al. 2018, arXiv:1810.04805): configs, records and the deviations of published files."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.config import Activation, CacheShape, DecoderConfig, config_class
from diptych.core.outputs import ModelOutput
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family
from diptych.core.semantics.losses import example_targets


@config_class
class BertLikeConfig(DecoderConfig):
    """The fields of BERT and of the families built like it; defaults are BERT's."""

    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        "position_embedding_type": ("absolute",),
        # left by the TensorFlow original in the multilingual and Chinese checkpoints; no code reads them
        "directionality": ("bidi",),
        "pooler_type": ("first_token_transform",),
        "pooler_fc_size": (),
        "pooler_num_attention_heads": (),
        "pooler_num_fc_layers": (),
        "pooler_size_per_head": (),
    }

    vocab_size: int = 30_522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_size: int = 768
    intermediate_size: int = 3_072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    attention_probs_dropout_prob: float = 0.1
    hidden_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size", "num_hidden_layers", "intermediate_size")
        check.positive(self, "max_position_embeddings", "type_vocab_size")
        check.divides(self, "num_attention_heads", "hidden_size")
        check.probability(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        check.not_negative(self, "layer_norm_eps", "initializer_range")

    @property
    def cache_shape(self) -> CacheShape | None:
        """What a cache of the decoder holds; None if it is no decoder."""
        if not self.is_decoder:
            return None
        heads = self.num_attention_heads
        return CacheShape(self.num_hidden_layers, heads, self.hidden_size // heads, self.max_position_embeddings)

    @property
    def padding_idx(self) -> int | None:
        """Row of the word embeddings that gets no gradient and starts at zero; None if the pad id is no row."""
        inside = self.pad_token_id is not None and 0 <= self.pad_token_id < self.vocab_size
        return self.pad_token_id if inside else None

    @property
    def head_dropout_prob(self) -> float:
        """Dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


@config_class
class BertConfig(BertLikeConfig):
    """Defaults are google-bert/bert-base-uncased; field names are those of its config.json."""

    model_type: ClassVar[str] = "bert"


@dataclass(frozen=True, kw_only=True)
class BertForPreTrainingOutput(ModelOutput):
    """What the pretraining model returns."""

    loss: Any = None
    """Sum of the masked-language and the next-sentence cross-entropy, a scalar; both labels are needed."""
    prediction_logits: Any = None
    """(B, T, V)"""
    seq_relationship_logits: Any = None
    """(B, 2): the second text follows the first, or is random."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


def _initial(config: BertConfig, path: str, kind: str) -> Distribution:
    if kind == "norm":
        return Constant(1.0)
    if kind == "embedding" and path.endswith("word_embeddings.weight"):
        return Normal(config.initializer_range, config.padding_idx)
    return Constant(0.0) if kind == "plain" else Normal(config.initializer_range)


def _example(config: BertConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two texts, the second padded, with segments and labels."""
    length = min(12, config.max_position_embeddings)
    shape = (2, length)
    mask = np.ones(shape, np.int64)
    mask[1, length - length // 4 :] = 0
    inputs: dict[str, Any] = {
        "input_ids": random.integers(0, config.vocab_size, shape),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, config.type_vocab_size, shape),
    }
    if config.add_cross_attention:
        inputs["encoder_hidden_states"] = random.standard_normal((2, 5, config.hidden_size))
        inputs["encoder_attention_mask"] = np.array([[1] * 5, [1] * 3 + [0] * 2])
    if architecture in ("BertForMaskedLM", "BertForPreTraining", "BertLMHeadModel"):
        labels = random.integers(0, config.vocab_size, shape)
        inputs["labels"] = np.where(random.random(shape) < 0.5, labels, -100)
        inputs["labels"][:, 0] = labels[:, 0]
    if architecture == "BertForPreTraining":
        inputs["next_sentence_label"] = random.integers(0, 2, 2)
    if architecture == "BertForSequenceClassification":
        inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
    return inputs


FAMILY = Family(
    classes=dict.fromkeys(
        ("BertModel", "BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM", "BertForSequenceClassification"),
        BertConfig,
    ),
    initial=_initial,
    example=_example,
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
    # an untied head has the decoder's bias; transformers 5 still saves the other beside it, as it was initialised
    superseded=("cls.predictions.bias",),
)
