"""Wav2Vec2 (Baevski et al. 2020, arXiv:2006.11477): config, record and published files; HuBERT's and WavLM's base."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import config_class
from diptych.core.errors import ConfigError
from diptych.core.outputs import ModelOutput
from diptych.core.random import (
    Constant,
    Distribution,
    Normal,
    NormOf,
    Uniform,
    kaiming_normal,
    uniform_for_bias,
)
from diptych.core.random import fan_in as inputs_of
from diptych.core.registry import Family
from diptych.core.semantics.losses import example_targets
from diptych.core.semantics.quantization import draw_negatives
from diptych.core.sound_config import AdaptedSoundEncoderConfig, SoundEncoderConfig


@config_class
class Wav2Vec2Config(AdaptedSoundEncoderConfig):
    """Defaults are facebook/wav2vec2-base; field names are those of its config.json.

    Raises:
        ConfigError: adapter_attn_dim is given without do_stable_layer_norm, or a size doesn't fit another.
    """

    model_type: ClassVar[str] = "wav2vec2"
    live: ClassVar[frozenset[str]] = AdaptedSoundEncoderConfig.live | {
        "contrastive_logits_temperature", "diversity_loss_weight",
    }  # fmt: skip

    adapter_attn_dim: int | None = None
    feat_quantizer_dropout: float = 0.0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    contrastive_logits_temperature: float = 0.1
    diversity_loss_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "num_codevectors_per_group", "proj_codevector_dim")
        check.divides(self, "num_codevector_groups", "codevector_dim")
        check.probability(self, "feat_quantizer_dropout")
        check.not_negative(self, "diversity_loss_weight")
        if self.contrastive_logits_temperature <= 0.0:
            raise ConfigError(
                f"{type(self).__name__}: contrastive_logits_temperature={self.contrastive_logits_temperature} must be "
                "greater than 0"
            )
        if self.adapter_attn_dim is not None:
            check.positive(self, "adapter_attn_dim")
            if not self.do_stable_layer_norm:
                raise ConfigError(
                    f"{type(self).__name__}: adapter_attn_dim={self.adapter_attn_dim} needs do_stable_layer_norm=True; "
                    "the other layers have no adapters"
                )

    @property
    def attention_adapter_width(self) -> int | None:
        """The inner width of the adapters at the end of the layers; None if there are none."""
        return self.adapter_attn_dim


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2BaseModelOutput(ModelOutput):
    """The output of Wav2Vec2's and WavLM's encoder."""

    last_hidden_state: Any = None
    """(B, S, D), after the adapter, if there is one."""
    extract_features: Any = None
    """(B, T, conv_dim[-1]), the output of the convolutions after layer norm."""
    hidden_states: tuple[Any, ...] | None = None
    """The inputs of the first layer and every layer's output, each (B, T, D); the adapter's are not among them."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, T)."""


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2ForPreTrainingOutput(ModelOutput):
    """The output of Wav2Vec2's pretraining. E is `proj_codevector_dim`."""

    loss: Any = None
    """The contrastive loss plus the weighted diversity loss, a scalar; only with negatives, as its parts."""
    projected_states: Any = None
    """(B, T, E), of the encoder."""
    projected_quantized_states: Any = None
    """(B, T, E), of the quantizer."""
    codevector_perplexity: Any = None
    """How many code vectors are in use, a scalar."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    contrastive_loss: Any = None
    """The summed cross-entropy of telling each masked frame from its negatives, a scalar."""
    diversity_loss: Any = None
    """The share of code vectors that are not in use, times the number of masked frames, a scalar."""


_CONVOLUTION = re.compile(r"feature_extractor\.conv_layers\.(\d+)\.conv\.bias$")


def initial(config: SoundEncoderConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter of Wav2Vec2 or WavLM."""
    path = slot.path
    if slot.kind == "norm" or path.endswith(("running_var", "gru_rel_pos_const")):
        return Constant(1.0)
    if path.startswith("quantizer.weight_proj"):
        return Constant(0.0) if slot.kind == "plain" else Normal(1.0)
    if path.startswith("project_"):
        inputs = config.hidden_size if path.startswith("project_hid") else cast(Wav2Vec2Config, config).codevector_dim
        return uniform_for_bias(inputs)
    if path.endswith(("masked_spec_embed", "codevectors")):
        return Uniform(0.0, 1.0)
    if path.endswith("layer_weights"):
        return Constant(1.0 / (config.num_hidden_layers + 1))
    if "pos_conv_embed.conv." in path and not path.endswith("bias"):
        return position_convolution(slot)
    if "feature_projection.projection" in path:
        return uniform_for_bias(config.conv_dim[-1])
    if slot.kind == "conv":
        return kaiming_normal(slot.shape)
    if (convolution := _CONVOLUTION.search(path)) is not None:
        return uniform_for_bias(config.convolution_inputs(int(convolution[1])))
    if isinstance(config, AdaptedSoundEncoderConfig) and re.search(r"adapter\.layers\.\d+\.conv\.bias$", path):
        return uniform_for_bias(config.states_width * config.adapter_kernel_size)
    return Constant(0.0) if slot.kind in ("plain", "buffer") else Normal(config.initializer_range)


def position_convolution(slot: Slot) -> Distribution:
    """The initial distribution of the weight of a convolution over positions, with weight norm or without."""
    if slot.path.endswith("weight_g"):
        return NormOf("weight_v", (0, 1))
    return uniform_for_bias(inputs_of(slot.shape)) if slot.path.endswith("weight_v") else kaiming_normal(slot.shape)


def example(config: SoundEncoderConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two recordings, the second one padded, with masked frames, and labels."""
    step = config.samples_per_state
    length, shorter = config.least_samples + 7 * step, config.least_samples + 4 * step
    mask = np.array([[1] * length, [1] * shorter + [0] * (length - shorter)])
    inputs: dict[str, Any] = {"input_values": random.standard_normal((2, length)) * mask, "attention_mask": mask}
    if architecture.endswith("ForCTC"):
        labels = random.integers(0, config.vocab_size, (2, 2))
        inputs["labels"] = np.where(np.array([[True, True], [True, False]]), labels, -100)
    if config.has_mask_embedding:
        frames = config.feature_lengths(length, adapter=False)
        masked = np.array([[(row * frames + frame) % 3 < 2 for frame in range(frames)] for row in (0, 1)])
        inputs["mask_time_indices"] = masked
        if architecture.endswith("ForPreTraining"):
            inputs["sampled_negative_indices"] = draw_negatives(masked, 3, random)
    if architecture.endswith("ForSequenceClassification"):
        inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
    return inputs


def unsupported_tensors(name: str) -> dict[str, str]:
    """The tensors that only classes have which diptych lacks -> the class; `name` is the family's in class names."""
    speakers = f"{name}ForXVector"
    return dict.fromkeys(("tdnn", "objective", "feature_extractor.weight", "feature_extractor.bias"), speakers)


FAMILY = Family(
    classes=dict.fromkeys(
        ("Wav2Vec2Model", "Wav2Vec2ForCTC", "Wav2Vec2ForSequenceClassification", "Wav2Vec2ForPreTraining"),
        Wav2Vec2Config,
    ),
    initial=initial,
    example=example,
    prefixes=("wav2vec2.",),
    encoders={"sound": ("Wav2Vec2Model",)},
    grown=("adapter",),
    unsupported=unsupported_tensors("Wav2Vec2"),
)
