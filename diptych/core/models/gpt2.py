"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): config and published files."""

import math
from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import Activation, CacheShape, DecoderConfig, config_class
from diptych.core.errors import ConfigError
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, WordEmbeddings

_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""The field names of other families, which transformers accepts too."""


@config_class
class GPT2Config(DecoderConfig):
    """Defaults are openai-community/gpt2; field names are those of its config.json.

    The model is a decoder even if `is_decoder` is False.
    """

    model_type: ClassVar[str] = "gpt2"
    always_decodes: ClassVar[bool] = True
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n_ctx": (),  # the size of a buffer that files no longer have
        "n_special": (0,),
        "predict_special_tokens": (),
        # only of GPT2DoubleHeadsModel
        "summary_activation": (),
        "summary_first_dropout": (),
        "summary_proj_to_labels": (),
        "summary_type": (),
        "summary_use_proj": (),
    }

    vocab_size: int = 50_257
    n_positions: int = 1_024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    bos_token_id: int | None = 50_256
    eos_token_id: int | tuple[int, ...] | None = 50_256

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size", "n_positions", "n_layer")
        if self.n_inner is not None:
            check.positive(self, "n_inner")
        check.divides(self, "n_head", "n_embd")
        check.probability(self, "resid_pdrop", "embd_pdrop", "attn_pdrop")
        check.not_negative(self, "layer_norm_epsilon", "initializer_range")

    @property
    def cache_shape(self) -> CacheShape:
        """The shape of the model's cache."""
        return CacheShape(self.n_layer, self.n_head, self.n_embd // self.n_head, self.n_positions)

    @property
    def hidden_size(self) -> int:
        """`n_embd`, as other families call it."""
        return self.n_embd

    @property
    def intermediate_size(self) -> int:
        """The inner width of an MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def attention_scale(self, index: int) -> float:
        """The factor of the attention scores in a layer, for self- and cross-attention."""
        scale = 1.0 / math.sqrt(self.n_embd // self.n_head) if self.scale_attn_weights else 1.0
        return scale / (index + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        data = super()._normalize(data, source)
        for alias, name in _ALIASES.items():
            if alias not in data:
                continue
            value = data.pop(alias)
            if data.setdefault(name, value) != value:
                raise ConfigError(f"{source}: {name}={data[name]!r}, but {alias}={value!r}, which means the same")
        return data


def _initial(config: GPT2Config, slot: Slot) -> Distribution:
    if slot.kind == "norm":
        return Constant(1.0)
    if slot.kind == "plain":
        return Constant(0.0)
    # every layer adds to its input twice; section 2.3 of the paper
    residual = slot.path.endswith(".c_proj.weight")
    return Normal(config.initializer_range / math.sqrt(2 * config.n_layer) if residual else config.initializer_range)


def _example(config: GPT2Config, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two texts, the second padded, with segments and labels."""
    length = min(12, config.n_positions)
    shape = (2, length)
    mask = np.ones(shape, np.int64)
    mask[1, length - length // 4 :] = 0
    inputs: dict[str, Any] = {
        "input_ids": random.integers(0, config.vocab_size, shape),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, config.vocab_size, shape),
    }
    if config.add_cross_attention:
        inputs["encoder_hidden_states"] = random.standard_normal((2, 5, config.n_embd))
        inputs["encoder_attention_mask"] = np.array([[1] * 5, [1] * 3 + [0] * 2])
    if architecture == "GPT2LMHeadModel":
        labels = random.integers(0, config.vocab_size, shape)
        inputs["labels"] = np.where(random.random(shape) < 0.5, labels, -100)
        inputs["labels"][:, 1] = labels[:, 1]
    return inputs


FAMILY = Family(
    classes=dict.fromkeys(("GPT2Model", "GPT2LMHeadModel"), GPT2Config),
    initial=_initial,
    example=_example,
    prefixes=("transformer.",),
    ignored={
        "*.attn.bias": "the causal mask, a buffer",
        "*.attn.masked_bias": "a large negative number, a buffer",
        "*.crossattention.bias": "the causal mask, a buffer",
        "*.crossattention.masked_bias": "a large negative number, a buffer",
    },
    renamed={"lm_head.weight": "transformer.wte.weight"},
    decoders=("GPT2LMHeadModel",),
    grown=("lm_head", "*crossattention*", "*ln_cross_attn*"),
    embeddings={
        "GPT2Model": WordEmbeddings(inputs=("wte",)),
        "GPT2LMHeadModel": WordEmbeddings(inputs=("transformer.wte",), output="lm_head"),
    },
)
