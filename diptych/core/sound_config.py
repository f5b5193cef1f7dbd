"""The config fields of speech encoders: convolutions over samples, then transformer layers over their frames."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from diptych.core import check
from diptych.core.config import Activation, ModelConfig, config_class
from diptych.core.errors import ConfigError


@config_class
class SoundEncoderConfig(ModelConfig):
    """The base of the configs of models that read audio samples; defaults are those of Wav2Vec2-base.

    Raises:
        ConfigError: the convolutions' channels, kernels and strides differ in number, or a size doesn't fit another.
    """

    accepted: ClassVar[Mapping[str, tuple[Any, ...]]] = dict.fromkeys(
        (
            "num_feat_extract_layers",  # the length of conv_dim
            "tdnn_dim",  # of speaker verification heads
            "tdnn_kernel",
            "tdnn_dilation",
            "xvector_output_dim",
            "num_negatives",  # of pretraining; Wav2Vec2 declares what its model reads
            "codevector_dim",
            "proj_codevector_dim",
            "num_codevectors_per_group",
            "num_codevector_groups",
            "contrastive_logits_temperature",
            "diversity_loss_weight",
            "feat_quantizer_dropout",
            "num_ctc_classes",
            "replace_prob",
            "feat_extract_dropout",  # names that no published code reads
            "hidden_dropout_prob",
            "freeze_feat_extract_train",
            "mask_channel_length",
            "mask_channel_min_space",
            "mask_channel_other",
            "mask_channel_prob",
            "mask_channel_selection",
            "mask_time_min_space",
            "mask_time_other",
            "mask_time_selection",
            "no_mask_channel_overlap",
            "no_mask_time_overlap",
        ),
        (),
    )
    live: ClassVar[frozenset[str]] = ModelConfig.live | {
        "apply_spec_augment",
        "ctc_loss_reduction",
        "ctc_zero_infinity",
    }

    vocab_size: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3_072
    hidden_act: Activation = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: Activation = "gelu"
    conv_bias: bool = False
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    apply_spec_augment: bool = True
    mask_time_length: int = 10
    mask_feature_length: int = 10
    mask_time_prob: float = 0.05
    mask_feature_prob: float = 0.0
    mask_time_min_masks: int = 2
    mask_feature_min_masks: int = 0
    ctc_loss_reduction: Literal["sum", "mean"] = "sum"
    ctc_zero_infinity: bool = False
    classifier_proj_size: int = 256
    use_weighted_layer_sum: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(
            self,
            *("vocab_size", "num_hidden_layers", "intermediate_size", "classifier_proj_size"),
            *("num_conv_pos_embeddings", "conv_dim", "conv_kernel", "conv_stride"),
            *("mask_time_length", "mask_feature_length"),
        )
        check.divides(self, "num_attention_heads", "hidden_size")
        check.divides(self, "num_conv_pos_embedding_groups", "hidden_size")
        check.probability(
            self,
            *("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout"),
            *("layerdrop", "mask_time_prob", "mask_feature_prob"),
        )
        check.not_negative(self, "layer_norm_eps", "initializer_range", "mask_time_min_masks", "mask_feature_min_masks")
        lengths = {name: len(getattr(self, name)) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ConfigError(f"{type(self).__name__}: {listed} entries, but each convolution needs one of each")

    @property
    def has_mask_embedding(self) -> bool:
        """Whether the model has an embedding for masked frames."""
        return self.mask_time_prob > 0.0 or self.mask_feature_prob > 0.0

    @property
    def normalizes_features(self) -> bool:
        """Whether there is a layer norm before the projection of the features."""
        return True

    @property
    def normalizes_positions(self) -> bool:
        """Whether the positional convolution reads batch-normalised states, instead of having a normalised weight."""
        return False

    @property
    def attention_adapter_width(self) -> int | None:
        """The inner width of the adapters at the end of the layers; None if there are none."""
        return None

    def spans(self, axis: Literal["time", "feature"]) -> dict[str, Any]:
        """How SpecAugment masks spans of frames or of features: the keywords of `layers.SpanMask`."""
        fields = {"rate": "prob", "span": "length", "least": "min_masks"}
        return {name: getattr(self, f"mask_{axis}_{field}") for name, field in fields.items()}

    @property
    def samples_per_state(self) -> int:
        """The samples from one state that the model returns to the next."""
        return math.prod(self.conv_stride)

    @property
    def least_samples(self) -> int:
        """The least number of samples from which the model computes a state."""
        return self._samples_of(1)

    def _samples_of(self, frames: int) -> int:
        """The least number of samples that make so many frames."""
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames

    def convolution_inputs(self, index: int) -> int:
        """The number of inputs of each output of a convolution over the samples."""
        return (self.conv_dim[index - 1] if index else 1) * self.conv_kernel[index]

    def feature_lengths(self, samples: Any, *, adapter: bool = True) -> Any:
        """The number of states that the model returns for a number of samples.

        Args:
            samples: a whole number, or an array of them.
            adapter: False for the states before the adapter, if there is one.
        """
        lengths = samples
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths


@config_class
class AdaptedSoundEncoderConfig(SoundEncoderConfig):
    """The fields of speech encoders that can have an adapter."""

    add_adapter: bool = False
    output_hidden_size: int | None = None
    num_adapter_layers: int = 3
    adapter_kernel_size: int = 3
    adapter_stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "adapter_kernel_size", "adapter_stride", "num_adapter_layers")
        if self.output_hidden_size is not None:
            check.positive(self, "output_hidden_size")

    @property
    def states_width(self) -> int:
        """The width of the states that the model returns: that of the adapter, if there is one."""
        return cast(int, self.output_hidden_size) if self.adapts_width else self.hidden_size

    @property
    def adapts_width(self) -> bool:
        """Whether the adapter changes the width of the states."""
        return self.add_adapter and self.output_hidden_size not in (None, self.hidden_size)

    @property
    def samples_per_state(self) -> int:
        """The samples from one state that the model returns to the next, after the adapter if there is one."""
        return super().samples_per_state * self.adapter_stride ** (self.num_adapter_layers if self.add_adapter else 0)

    @property
    def least_samples(self) -> int:
        """The least number of samples from which the model computes a state, after the adapter if there is one."""
        frames = 1
        for _ in range(self.num_adapter_layers if self.add_adapter else 0):
            frames = max((frames - 1) * self.adapter_stride + self.adapter_kernel_size - 2, 1)
        return self._samples_of(frames)

    def feature_lengths(self, samples: Any, *, adapter: bool = True) -> Any:
        """As in `SoundEncoderConfig`; the adapter's convolutions pad one state at each end."""
        lengths = super().feature_lengths(samples)
        for _ in range(self.num_adapter_layers if self.add_adapter and adapter else 0):
            lengths = (lengths + 2 - self.adapter_kernel_size) // self.adapter_stride + 1
        return lengths
