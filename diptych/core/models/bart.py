"""BART (Lewis et al. 2019, arXiv:1910.13461): config, and the deviations of published files."""

from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import Activation, CacheShape, DecoderConfig, config_class
from diptych.core.errors import ConfigError
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, WordEmbeddings
from diptych.core.semantics import labels
from diptych.core.semantics.losses import IGNORED, example_targets

OFFSET = 2
"""The number of unused rows at the start of a position table."""

NORM_EPS = 1e-5
"""The epsilon of every layer norm, which is not in the config."""


@config_class
class BartDecoderConfig(DecoderConfig):
    """The fields of a decoder built like BART's; defaults are those of facebook/bart-large.

    `is_decoder` has no effect: the models always decode.
    """

    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        # additional names in old files, which repeat the fields of `aliases`
        "hidden_size": (),
        "num_hidden_layers": (),
        "num_attention_heads": (),
    }
    aliases: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "decoder_attention_heads",
    }
    """Additional names in old files -> the fields that they repeat."""
    pre_norm: ClassVar[bool] = False
    """Whether layer norms come before attention and MLP, with another one after the last layer."""
    always_decodes: ClassVar[bool] = True

    vocab_size: int = 50_265
    max_position_embeddings: int = 1_024
    d_model: int = 1_024
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4_096
    decoder_layerdrop: float = 0.0
    activation_function: Activation = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size", "max_position_embeddings")
        self._check_stack("decoder")
        check.probability(self, "dropout", "attention_dropout", "activation_dropout")
        check.not_negative(self, "init_std")

    def _check_stack(self, stack: str) -> None:
        check.positive(self, f"{stack}_layers", f"{stack}_ffn_dim")
        check.divides(self, f"{stack}_attention_heads", "d_model")
        check.probability(self, f"{stack}_layerdrop")

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        data = super()._normalize(data, source)
        for alias, name in cls.aliases.items():
            value = data.get(name, getattr(cls, name))
            if alias in data and data[alias] != value:
                raise ConfigError(f"{source}: {alias}={data[alias]!r}, but {name}={value!r}, which means the same")
        return data

    def to_dict(self) -> dict[str, Any]:
        """Every field, housekeeping included, as plain JSON data."""
        data = super().to_dict()
        return data | {alias: data[name] for alias, name in self.aliases.items() if alias in data}

    @property
    def cache_shape(self) -> CacheShape:
        """The shape of the decoder's cache."""
        heads = self.decoder_attention_heads
        return CacheShape(self.decoder_layers, heads, self.d_model // heads, self.max_position_embeddings)

    @property
    def padding_idx(self) -> int | None:
        """The row of the word embeddings that gets no gradient and starts at zero; None if the pad id is invalid."""
        inside = self.pad_token_id is not None and 0 <= self.pad_token_id < self.vocab_size
        return self.pad_token_id if inside else None

    @property
    def hidden_size(self) -> int:
        """`d_model`, as other families call it."""
        return self.d_model

    @property
    def has_cross_attention(self) -> bool:
        """Whether the decoder has cross-attention; always True."""
        return True

    @property
    def embedding_scale(self) -> float:
        """The factor of the word embeddings."""
        return self.d_model**0.5 if self.scale_embedding else 1.0


@config_class
class BartLikeConfig(BartDecoderConfig):
    """The fields of BART and of the families built like it; defaults are those of facebook/bart-large.

    `is_encoder_decoder` and `is_decoder` have no effect: the model class determines its stacks.
    """

    accepted: ClassVar[dict[str, tuple[Any, ...]]] = BartDecoderConfig.accepted | {
        # fairseq's switches of other families; with these values they have no effect
        "add_bias_logits": (False,),
        "add_final_layer_norm": (False,),
        "classif_dropout": (),
        "do_blenderbot_90_layernorm": (False,),
        "extra_pos_embeddings": (2,),
        "force_bos_token_to_be_generated": (),
        "normalize_before": (False,),
        "normalize_embedding": (True,),
        "static_position_embeddings": (False,),
    }
    aliases: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }
    base: ClassVar[str] = "BartModel"
    """The class of the model without a head."""
    live: ClassVar[frozenset[str]] = DecoderConfig.live | {"pad_token_id"}

    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4_096
    encoder_layerdrop: float = 0.0
    classifier_dropout: float = 0.0
    is_encoder_decoder: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check.probability(self, "classifier_dropout")

    def check_encoder(self) -> None:
        """Checks the encoder's sizes, which a decoder alone leaves unused.

        Raises:
            ConfigError: one is invalid.
        """
        self._check_stack("encoder")

    def builds(self, architecture: str) -> bool:
        """Whether the class can be built: the sizes of an unused encoder may be invalid."""
        if architecture.endswith("ForCausalLM"):
            return True
        try:
            self.check_encoder()
        except ConfigError:
            return False
        return True

    def shift_right(self, xp: Any, ids: Any, caller: str) -> Any:
        """(B, T) ids or labels -> (B, T) decoder inputs for predicting them.

        Raises:
            InputError: the config lacks a required id.
        """
        named = {"pad_token_id": self.pad_token_id, "decoder_start_token_id": self.decoder_start_token_id}
        pad, start = labels.required_ids(caller, **named)
        return labels.shift_tokens_right(xp, ids, pad, start)


@config_class
class BartConfig(BartLikeConfig):
    """Defaults are facebook/bart-large; field names are those of its config.json."""

    model_type: ClassVar[str] = "bart"

    num_labels: int = 3
    decoder_start_token_id: int | None = 2


def initial(config: BartDecoderConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter."""
    if slot.kind == "norm":
        return Constant(1.0)
    if slot.kind == "embedding" and not slot.path.endswith("embed_positions.weight"):
        return Normal(config.init_std, config.padding_idx)
    return Constant(0.0) if slot.kind in ("plain", "buffer") else Normal(config.init_std)


def example(config: BartDecoderConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two texts of different lengths for each stack, or for a decoder alone encoder states, with labels."""
    length = min(9, config.max_position_embeddings)
    mask = np.ones((2, length), np.int64)
    mask[1, length - length // 3 :] = 0
    ids = random.integers(0, config.vocab_size, (2, length))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if architecture.endswith("ForSequenceClassification"):
        end = config.eos_token_id if isinstance(config.eos_token_id, int) else 0
        ids[ids == end] = 0 if end else config.vocab_size - 1
        ids[:, length // 2] = end
        return inputs | {"labels": example_targets(config.num_labels, config.problem_type, random)}
    if architecture.endswith("ForCausalLM"):
        inputs["encoder_hidden_states"] = random.standard_normal((2, 5, config.cross_attention_width))
        inputs["encoder_attention_mask"] = np.array([[1] * 5, [1] * 3 + [0] * 2])
        return inputs | {"labels": _labels(config, length, random)}
    written = max(1, length - 2)
    decoder_mask = np.ones((2, written), np.int64)
    decoder_mask[0, written - written // 3 :] = 0
    inputs["decoder_attention_mask"] = decoder_mask
    if architecture.endswith("ForConditionalGeneration"):
        inputs["labels"] = _labels(config, written, random)
    inputs["decoder_input_ids"] = random.integers(0, config.vocab_size, (2, written))
    return inputs


def _labels(config: BartDecoderConfig, length: int, random: np.random.Generator) -> np.ndarray:
    ids = random.integers(0, config.vocab_size, (2, length))
    ignored = random.random((2, length)) < 0.3
    ignored[:, 0] = False
    return np.where(ignored, IGNORED, ids)


def family(name: str, config: type[BartLikeConfig]) -> Family:
    """The description of a family whose classes and files are like BART's."""
    heads = ("Model", "ForConditionalGeneration", "ForSequenceClassification", "ForCausalLM")
    tables = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    modules = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")  # one for both, or one each
    inside = tuple(f"model.{path}" for path in modules)
    return Family(
        classes={f"{name}{head}": config for head in heads},
        initial=initial,
        example=example,
        prefixes=("model.",),
        ignored={"*encoder.version": "fairseq's format version", "*decoder.version": "fairseq's format version"},
        renamed={
            **{f"{prefix}{table}": f"{prefix}shared.weight" for table in tables for prefix in ("model.", "")},
            "lm_head.weight": "model.shared.weight",
            "model.shared.weight": "model.decoder.embed_tokens.weight",  # if there is only a decoder
            "shared.weight": "model.decoder.embed_tokens.weight",
        },
        # if the stacks have their own tables, the shared one, which transformers saves too, is unused
        superseded=("model.shared.weight", "shared.weight"),
        optional=("final_logits_bias",),
        decoders=(f"{name}ForCausalLM",),
        embeddings={
            f"{name}Model": WordEmbeddings(inputs=modules),
            f"{name}ForConditionalGeneration": WordEmbeddings(inputs=inside, output="lm_head"),
            f"{name}ForSequenceClassification": WordEmbeddings(inputs=inside),
            f"{name}ForCausalLM": WordEmbeddings(inputs=("model.decoder.embed_tokens",), output="lm_head"),
        },
    )


FAMILY = family("Bart", BartConfig)
