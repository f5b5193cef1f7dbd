"""WavLM (Chen et al. 2021, arXiv:2110.13900), as published in microsoft/wavlm-base."""

from typing import Any, ClassVar, Unpack, cast

from flax import nnx
from jax import Array
from jaxtyping import Float

from diptych.backends.jax import layers, ops
from diptych.backends.jax.models.wav2vec2 import (
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)
from diptych.backends.jax.models.wav2vec2.encoder import (
    Wav2Vec2Attention,
    Wav2Vec2Encoder,
    Wav2Vec2EncoderLayer,
    Wav2Vec2EncoderLayerStableLayerNorm,
)
from diptych.backends.jax.pretrained import Build
from diptych.backends.jax.stacks import AttentionOutput, LayerInputs
from diptych.core.models.wavlm import WavLMConfig
from diptych.core.semantics.positions import distance_buckets


class WavLMAttention(Wav2Vec2Attention):
    """Attention with a bias for the distance of two frames, which each query's own gate scales.

    The first layer has the table of biases for all layers.
    """

    def __init__(self, config: WavLMConfig, *, first: bool, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, **init)
        heads = config.num_attention_heads
        self.buckets, self.farthest = config.num_buckets, config.max_bucket_distance
        self.sigmoid = ops.ACTIVATIONS["sigmoid"]
        self.gru_rel_pos_const = layers.parameter((1, heads, 1, 1), **init)
        self.gru_rel_pos_linear = layers.Linear(config.hidden_size // heads, 8, **init)
        self.rel_attn_embed = layers.Embedding(config.num_buckets, heads, **init) if first else None

    def position_bias(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "1 N T T"]:
        """The bias of each query and key, before the gate."""
        length = hidden_states.shape[1]
        table: Any = self.rel_attn_embed
        buckets = ops.indices(distance_buckets(length, self.buckets, self.farthest), hidden_states)
        frames = ops.steps(length, hidden_states)
        biases = table(buckets[frames[None, :] - frames[:, None] + length - 1])
        return ops.xp.permute_dims(biases, (2, 0, 1))[None]

    def gate(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B N T 1"]:
        """The factor of the bias for each query."""
        states = self.gru_rel_pos_linear(ops.split_heads(hidden_states, self.heads))
        states = ops.xp.sum(ops.xp.reshape(states, (*states.shape[:3], 2, 4)), axis=-1)
        gates, const = self.sigmoid(states), layers.value(self.gru_rel_pos_const, states)
        return gates[..., :1] * (gates[..., 1:] * const - 1.0) + 2.0

    def __call__(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        """The attention probabilities that are returned are the heads' mean, for every head, as published."""
        weights, shared = inputs.output_attentions, cast(Any, inputs.bias)
        bias = self.gate(hidden_states) * shared
        gated = LayerInputs(mask=inputs.mask, bias=bias, output_attentions=weights, rngs=inputs.rngs)
        attended = self.attend(hidden_states, gated)
        if attended.probabilities is None:
            return attended
        mean = ops.xp.mean(attended.probabilities, axis=1, keepdims=True)
        return attended._replace(probabilities=ops.xp.broadcast_to(mean, attended.probabilities.shape))


class WavLMEncoder(Wav2Vec2Encoder):
    """Wav2Vec2's layers with WavLM's attention."""

    def make_layer(self, config: Any, index: int, **init: Unpack[ops.Init]) -> nnx.Module:
        """The layer with this index; the first one is never dropped."""
        layer = Wav2Vec2EncoderLayerStableLayerNorm if config.do_stable_layer_norm else Wav2Vec2EncoderLayer
        attention = WavLMAttention(config, first=index == 0, **init)
        return layer(config, attention, config.layerdrop if index else 0.0, **init)

    def position_bias(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "1 N T T"] | None:
        """The first layer's, for all layers."""
        first: Any = self.layers[0]
        return first.attention.position_bias(hidden_states)


class WavLMModel(Wav2Vec2Model):
    """Wav2Vec2's encoder with gated relative positions."""

    encoder_class: ClassVar[type[Wav2Vec2Encoder]] = WavLMEncoder


class WavLMForCTC(Wav2Vec2ForCTC):
    """The encoder with a linear layer over each frame, which tells a token of the text or the blank, pad_token_id."""

    def __init__(self, config: WavLMConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.wavlm = WavLMModel(config, seed=None, **init)
        self._make_head(config, init)
        self._finish(build)

    def _base(self) -> Wav2Vec2Model:
        return self.wavlm


class WavLMForSequenceClassification(Wav2Vec2ForSequenceClassification):
    """The encoder with two linear layers, between which the mean over the frames is taken."""

    def __init__(self, config: WavLMConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.wavlm = WavLMModel(config, seed=None, **init)
        self._make_head(config, init)
        self._finish(build)

    def _base(self) -> Wav2Vec2Model:
        return self.wavlm
