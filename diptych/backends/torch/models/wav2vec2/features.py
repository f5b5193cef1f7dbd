"""Frames of audio: convolutions over the samples, the projection to the width of the layers, and the adapter.

Letters of the shapes: B batch, T frames, L samples or frames before a convolution, S frames after it, C channels, D
width.
"""

from typing import Any, Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.core.sound_config import AdaptedSoundEncoderConfig, SoundEncoderConfig

_NORM_EPS = 1e-5
"""Of the norms whose epsilon no config says."""


class Wav2Vec2ConvLayer(nn.Module):
    """A convolution and an activation, with a norm between them if the config has one there."""

    returns_channels_last = True

    def __init__(self, config: SoundEncoderConfig, index: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        before, after = config.conv_dim[index - 1] if index else 1, config.conv_dim[index]
        self.kernel, self.stride = config.conv_kernel[index], config.conv_stride[index]
        by_frame = config.feat_extract_norm == "layer"
        options: dict[str, Any] = {"stride": self.stride, "bias": config.conv_bias, "layer_norm_follows": by_frame}
        self.activation = ops.ACTIVATIONS[config.feat_extract_activation]
        self.conv = layers.Conv1d(before, after, self.kernel, **options, **init)
        if by_frame:
            self.layer_norm = layers.LayerNorm(after, _NORM_EPS, **init)
        else:
            self.layer_norm = layers.GroupNorm(after, after, _NORM_EPS, **init) if index == 0 else None

    def forward(
        self, states: Float[Tensor, "B L C"], lengths: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """The features; a group norm counts those of the given lengths of the rows alone, by default all."""
        states = self.conv(states)
        if self.layer_norm is None:
            return self.activation(states)
        if lengths is None:
            return self.activation(self.layer_norm(states))
        counted = first_frames((lengths - self.kernel) // self.stride + 1, states)[..., None]
        return self.activation(self.layer_norm(states, mask=ops.xp.broadcast_to(counted, states.shape)))


class Wav2Vec2FeatureEncoder(nn.Module):
    returns_channels_last = True

    def __init__(self, config: SoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        count, self.by_group = len(config.conv_dim), config.feat_extract_norm == "group"
        self.conv_layers = layers.ModuleList([Wav2Vec2ConvLayer(config, index, **init) for index in range(count)])

    def forward(
        self, input_values: Float[Tensor, "B L"], lengths: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B T C"]:
        """The features; a group norm counts the given lengths of the rows alone."""
        states = input_values[..., None]
        for index, layer in enumerate(self.conv_layers):
            states = layer(states, lengths if index == 0 and self.by_group else None)
        return states


class Wav2Vec2FeatureProjection(nn.Module):
    def __init__(self, config: SoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        features = config.conv_dim[-1]
        normalizes = config.normalizes_features
        self.layer_norm = layers.LayerNorm(features, config.layer_norm_eps, **init) if normalizes else None
        self.projection = layers.Linear(features, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.feat_proj_dropout)

    def forward(
        self, features: Float[Tensor, "B T C"], rngs: Any = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T C"]]:
        """The projected features, and the normalised ones."""
        features = features if self.layer_norm is None else self.layer_norm(features)
        return self.dropout(self.projection(features), rngs), features


class Wav2Vec2PositionalConvEmbedding(nn.Module):
    """A grouped convolution over the frames, whose output tells their positions."""

    def __init__(self, config: SoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        options: dict[str, Any] = {"padding": kernel // 2, "groups": config.num_conv_pos_embedding_groups, **init}
        self.activation = ops.ACTIVATIONS[config.feat_extract_activation]
        normalizes = config.normalizes_positions
        self.batch_norm = layers.BatchNorm(width, _NORM_EPS, **init) if normalizes else None
        convolution = layers.Conv1d if normalizes else layers.WeightNormConv1d
        self.conv = convolution(width, width, kernel, **options)

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """What is added to the states, in which padding must be zero; with a mask it is zero after a batch norm too."""
        states = hidden_states if self.batch_norm is None else without_padding(self.batch_norm(hidden_states), mask)
        # a kernel of even size makes one frame too many
        return self.activation(self.conv(states)[:, : hidden_states.shape[1]])


class Wav2Vec2AdapterLayer(nn.Module):
    returns_channels_last = True

    def __init__(self, config: AdaptedSoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        width, kernel = config.states_width, config.adapter_kernel_size
        self.gate = ops.ACTIVATIONS["sigmoid"]
        self.conv = layers.Conv1d(width, 2 * width, kernel, stride=config.adapter_stride, padding=1, **init)

    def forward(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B S D"]:
        states, width = self.conv(states), states.shape[-1]
        return states[..., :width] * self.gate(states[..., width:])


class Wav2Vec2Adapter(nn.Module):
    """Convolutions that shorten the sequence of states, and a layer that changes their width.

    Its layers are never dropped in train mode, unlike the published ones: the length of the states follows from the
    config, so that they have a mask.
    """

    def __init__(self, config: AdaptedSoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        width, count = config.states_width, config.num_adapter_layers
        self.kernel, self.stride = config.adapter_kernel_size, config.adapter_stride
        adapts = config.adapts_width
        self.proj = layers.Linear(config.hidden_size, width, **init) if adapts else None
        self.proj_layer_norm = layers.LayerNorm(width, _NORM_EPS, **init) if adapts else None
        self.layers = layers.ModuleList([Wav2Vec2AdapterLayer(config, **init) for _ in range(count)])

    def forward(
        self, states: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B S F"]:
        """The shorter sequence; with a mask, each convolution reads zeros as padding."""
        lengths = None if mask is None else ops.xp.sum(ops.xp.astype(mask, ops.xp.int32), axis=1)
        if self.proj is not None and self.proj_layer_norm is not None:
            states = self.proj_layer_norm(self.proj(states))
        for layer in self.layers:
            if lengths is not None:
                states = without_padding(states, first_frames(lengths, states))
                lengths = (lengths + 2 - self.kernel) // self.stride + 1
            states = layer(states)
        return states


def without_padding(states: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
    """The states with zeros in frames of padding."""
    return states if mask is None else ops.xp.where(mask[..., None], states, ops.xp.zeros_like(states))


def first_frames(lengths: Int[Tensor, "B"], states: Float[Tensor, "B T D"]) -> Bool[Tensor, "B T"]:
    """The mask of as many frames at the start of each row as its length says."""
    return ops.steps(states.shape[1], states)[None, :] < lengths[:, None]
