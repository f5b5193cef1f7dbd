"""IDEFICS (Laurençon et al. 2023, arXiv:2306.16527): configs, records and the deviations of published files."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Kind, Slot
from diptych.core.config import Activation, CacheShape, ModelConfig, config_class
from diptych.core.errors import ConfigError
from diptych.core.image_config import ImageEncoderConfig, ImageSize
from diptych.core.models.clip import CLIPVisionConfig
from diptych.core.outputs import ModelOutput
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, WordEmbeddings

TrainedLayer = Literal["LayerNorm", "Linear", "Embedding"]
"""The types of layers that may stay trainable inside a frozen part. IDEFICS' own RMSNorm is none of them."""

_OLD_PART = "idefics"
"""The model_type of the parts in files of before transformers 4.50."""


@config_class
class IdeficsVisionConfig(ImageEncoderConfig):
    """Defaults are transformers'; field names are those of the vision_config of HuggingFaceM4/idefics-9b."""

    model_type: ClassVar[str] = "idefics_vision"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"vision_model_name": ()}  # where the weights came from

    embed_dim: int = 768
    intermediate_size: int = 5_120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    patch_size: ImageSize = 14
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "intermediate_size", "num_hidden_layers")
        check.divides(self, "num_attention_heads", "embed_dim")
        check.probability(self, "attention_dropout")
        check.not_negative(self, "layer_norm_eps", "initializer_range", "initializer_factor")

    @property
    def as_clip(self) -> CLIPVisionConfig:
        """The same encoder of images as a config of CLIP's."""
        return CLIPVisionConfig(
            hidden_size=self.embed_dim,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=self.num_channels,
            hidden_act=self.hidden_act,
            layer_norm_eps=self.layer_norm_eps,
            attention_dropout=self.attention_dropout,
        )

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        data = super()._normalize(data, source)
        if "hidden_size" in data:
            width = data.pop("hidden_size")
            if data.setdefault("embed_dim", width) != width:
                raise ConfigError(
                    f"{source}: embed_dim={data['embed_dim']!r}, but hidden_size={width!r}, which means the same"
                )
        return data


@config_class
class IdeficsPerceiverConfig(ModelConfig):
    """Defaults are transformers'; field names are those of the perceiver_config of HuggingFaceM4/idefics-9b."""

    model_type: ClassVar[str] = "idefics_perciever"  # published spelling
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"use_resampler": ()}  # the whole config's counts

    qk_layer_norms_perceiver: bool = False
    resampler_depth: int = 6
    resampler_n_latents: int = 64
    resampler_n_heads: int = 16
    resampler_head_dim: int = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "resampler_n_latents", "resampler_depth", "resampler_n_heads", "resampler_head_dim")


@config_class
class IdeficsConfig(ModelConfig):
    """Defaults are transformers', mostly those of HuggingFaceM4/idefics-9b; field names are those of its config.json.

    Raises:
        ConfigError: num_hidden_layers is no multiple of cross_layer_interval, or another value is invalid.
    """

    model_type: ClassVar[str] = "idefics"
    generates_text: ClassVar[bool] = True
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        "cross_layer_activation_function": ("swiglu",),
        "ffn_dim": (),
        "max_sequence_length": (),
        "rope_parameters": (None, {"rope_theta": 10000.0, "rope_type": "default"}),
        "rope_scaling": (None,),
        "rope_theta": (10000.0, 10000),
        "vision_model_name": (),
        "vision_model_params": (),
        "word_embed_proj_dim": (),
    }

    vocab_size: int = 32_000
    additional_vocab_size: int = 0
    hidden_size: int = 4_096
    intermediate_size: int = 11_008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    max_position_embeddings: int = 2_048
    hidden_act: Activation = "silu"
    rms_norm_eps: float = 1e-6
    dropout: float = 0.0
    initializer_range: float = 0.02
    alpha_initializer: Literal["zeros", "ones", "normal", "gaussian", "random"] = "zeros"
    alphas_initializer_range: float = 0.0
    alpha_type: Literal["float", "vector"] = "float"
    cross_layer_interval: int = 1
    qk_layer_norms: bool = False
    use_resampler: bool = False
    freeze_text_layers: bool = True
    freeze_text_module_exceptions: tuple[TrainedLayer, ...] = ()
    freeze_lm_head: bool = False
    freeze_vision_layers: bool = True
    freeze_vision_module_exceptions: tuple[TrainedLayer, ...] = ()
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    vision_config: IdeficsVisionConfig = IdeficsVisionConfig()
    perceiver_config: IdeficsPerceiverConfig = IdeficsPerceiverConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size", "intermediate_size", "max_position_embeddings", "cross_layer_interval")
        check.divides(self, "num_attention_heads", "hidden_size")
        check.divides(self, "cross_layer_interval", "num_hidden_layers")
        check.probability(self, "dropout")
        check.not_negative(self, "additional_vocab_size", "rms_norm_eps", "initializer_range")
        check.not_negative(self, "alphas_initializer_range")
        if self.head_width % 2:
            raise ConfigError(
                f"{type(self).__name__}: hidden_size={self.hidden_size} over num_attention_heads="
                f"{self.num_attention_heads} is {self.head_width}, but rotary positions need an even number"
            )

    @property
    def head_width(self) -> int:
        """The width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def total_vocab_size(self) -> int:
        """The number of token ids: those of the first table, then the additional ones."""
        return self.vocab_size + self.additional_vocab_size

    @property
    def cache_shape(self) -> CacheShape:
        """The shape of the model's cache."""
        return CacheShape(
            self.num_hidden_layers, self.num_attention_heads, self.head_width, self.max_position_embeddings
        )

    def with_vocabulary(self, size: int) -> Self:
        """A copy with `size` token ids; if there are additional ones, their number changes.

        Raises:
            ConfigError: no id would be left to the additional table.
        """
        if not self.additional_vocab_size:
            return super().with_vocabulary(size)
        if size <= self.vocab_size:
            raise ConfigError(
                f"{type(self).__name__}: {size} token ids leave none for the additional embeddings, whose ids start at "
                f"vocab_size={self.vocab_size}; {self.vocab_size + 1} or more are needed"
            )
        return self.replace(additional_vocab_size=size - self.vocab_size)

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        """Moves the flat fields of old files into the parts that they belong to, whose own fields take precedence."""
        data = super()._normalize(data, source)
        for name, part, prefix in (
            ("vision_config", IdeficsVisionConfig, "vision_"),
            ("perceiver_config", IdeficsPerceiverConfig, ""),
        ):
            own = {f.name for f in dataclasses.fields(part)} - {f.name for f in dataclasses.fields(ModelConfig)}
            flat = {field: data.pop(f"{prefix}{field}") for field in own if f"{prefix}{field}" in data}
            given = data.get(name)
            if isinstance(given, Mapping | None):
                fields = {**flat, **cast(Mapping[str, Any], given or {})}
                if fields.get("model_type") == _OLD_PART:
                    fields["model_type"] = part.model_type
                data[name] = fields
        return data


@dataclass(frozen=True, kw_only=True)
class IdeficsBaseModelOutputWithPast(ModelOutput):
    """The output of the decoder without a head. I is the number of images, L that of the states of each."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    past_key_values: Any = None
    """The cache with these tokens added, if one was given or requested."""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's probabilities of self-attention, each (B, N, T, S), with S the tokens in the cache, or T."""
    image_hidden_states: Any = None
    """(B, I, L, D), the states of the images; None if a cache has their keys."""
    cross_attentions: tuple[Any, ...] | None = None
    """The probabilities over the states of all images, (B, N, T, I * L) for each gated cross-attention layer."""


@dataclass(frozen=True, kw_only=True)
class IdeficsCausalLMOutputWithPast(ModelOutput):
    """The output of the decoder with a language modeling head; the other fields are those of the decoder."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax; V counts the additional tokens too."""
    past_key_values: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    image_hidden_states: Any = None
    cross_attentions: tuple[Any, ...] | None = None


def _initial(config: IdeficsConfig, slot: Slot) -> Distribution:
    name = slot.path.rpartition(".")[2]
    if slot.kind == "norm":
        return Constant(1.0)
    if name in ("alpha_cross_attn", "alpha_dense"):
        constants = {"zeros": Constant(0.0), "ones": Constant(1.0)}
        return constants.get(config.alpha_initializer, Normal(config.alphas_initializer_range))
    if name in ("class_embedding", "latents"):
        return Normal(1.0)
    if name == "bias":
        return Constant(0.0)
    words = slot.path.endswith("embed_tokens.weight")
    return Normal(config.initializer_range, zero_row=config.pad_token_id if words else None)


def _frozen(config: IdeficsConfig, slots: Iterable[Slot]) -> Collection[str]:
    """The parameters that the freeze_ fields of the config exclude from training; the additional words never are."""
    kinds: dict[str, Kind] = {}
    for slot in slots:
        owner, _, name = slot.path.rpartition(".")
        if name == "weight":
            kinds[owner] = slot.kind
    found: set[str] = set()
    for slot in slots:
        path = slot.path.removeprefix("model.")
        kind = kinds.get(slot.path.rpartition(".")[0])
        if path.startswith(("layers.", "norm.")):
            frozen = config.freeze_text_layers
            frozen &= not (kind == "linear" and "Linear" in config.freeze_text_module_exceptions)
        elif path.startswith("vision_model."):
            types = {"linear": "Linear", "norm": "LayerNorm", "embedding": "Embedding"}
            frozen = config.freeze_vision_layers
            frozen &= types.get(kind or "") not in config.freeze_vision_module_exceptions
        else:
            frozen = (path == "embed_tokens.weight" and config.freeze_text_layers) or (
                path == "lm_head.weight" and config.freeze_lm_head
            )
        if frozen:
            found.add(slot.path)
    return found


def _example(config: IdeficsConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two texts, the second padded on the left, with two images each, and labels."""
    length = min(10, config.max_position_embeddings)
    shape = (2, length)
    mask = np.ones(shape, np.int64)
    mask[1, : length // 4] = 0
    seen = np.zeros((*shape, 2), np.int64)  # no image, then the first, then the last
    seen[:, length // 4 : length // 2, 0] = seen[:, length // 2 :, 1] = 1
    vision = config.vision_config
    inputs: dict[str, Any] = {
        "input_ids": random.integers(0, config.total_vocab_size, shape),
        "attention_mask": mask,
        "pixel_values": random.standard_normal((2, 2, vision.num_channels, *vision.image_shape)),
        "image_attention_mask": seen,
    }
    if architecture == "IdeficsForVisionText2Text":
        inputs["labels"] = np.where(mask == 1, random.integers(0, config.total_vocab_size, shape), -100)
    return inputs


FAMILY = Family(
    classes=dict.fromkeys(("IdeficsModel", "IdeficsForVisionText2Text"), IdeficsConfig),
    initial=_initial,
    example=_example,
    prefixes=("model.",),
    ignored={
        "*.rotary_emb.inv_freq": "the frequencies of rotary positions, a buffer",
        "*vision_model.embeddings.position_ids": "the numbers 0, 1, 2 …, a buffer",
    },
    renamed={
        "lm_head.weight": "model.embed_tokens.weight",
        "lm_head.additional_fc.weight": "model.embed_tokens.additional_embedding.weight",
    },
    frozen=_frozen,
    embeddings={
        "IdeficsModel": WordEmbeddings(inputs=("embed_tokens",)),
        "IdeficsForVisionText2Text": WordEmbeddings(inputs=("model.embed_tokens",), output="lm_head"),
    },
)
