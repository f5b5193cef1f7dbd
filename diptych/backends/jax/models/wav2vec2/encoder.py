"""The transformer layers over the frames: Wav2Vec2's, which HuBERT and WavLM share."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from diptych.backends.jax import layers, ops
from diptych.backends.jax.models.wav2vec2.features import Wav2Vec2PositionalConvEmbedding, without_padding
from diptych.backends.jax.stacks import AttentionOutput, LayerInputs, LayerOutput, run_layers, self_attention
from diptych.core.calls import ResolvedSwitches
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions
from diptych.core.semantics import masks
from diptych.core.sound_config import SoundEncoderConfig


class Wav2Vec2Attention(nnx.Module):
    def __init__(self, config: SoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.k_proj = layers.Linear(width, width, **init)
        self.v_proj = layers.Linear(width, width, **init)
        self.q_proj = layers.Linear(width, width, **init)
        self.out_proj = layers.Linear(width, width, **init)
        self.dropout = layers.Dropout(config.attention_dropout)

    def __call__(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        return self.attend(hidden_states, inputs)

    def attend(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        """Self-attention with its projections."""
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        query, key, value = (ops.split_heads(states, self.heads) for states in (query, key, value))
        attended = self_attention(query, key, value, inputs, None, dropout=self.dropout)
        return attended._replace(states=self.out_proj(attended.states))


class Wav2Vec2FeedForward(nnx.Module):
    def __init__(self, config: SoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.intermediate_dropout = layers.Dropout(config.activation_dropout)
        self.intermediate_dense = layers.Linear(config.hidden_size, config.intermediate_size, **init)
        self.output_dense = layers.Linear(config.intermediate_size, config.hidden_size, **init)
        self.output_dropout = layers.Dropout(config.hidden_dropout)

    def __call__(self, hidden_states: Float[Array, "B T D"], rngs: Any = None) -> Float[Array, "B T D"]:
        states = self.activation(self.intermediate_dense(hidden_states))
        return self.output_dropout(self.output_dense(self.intermediate_dropout(states, rngs)), rngs)


class Wav2Vec2AttnAdapterLayer(nnx.Module):
    """A small feed-forward network at the end of a layer, one for each language (MMS)."""

    def __init__(self, width: int, inner: int, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS["relu"]
        self.norm = layers.LayerNorm(width, 1e-5, **init)
        self.linear_1 = layers.Linear(width, inner, **init)
        self.linear_2 = layers.Linear(inner, width, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.linear_2(self.activation(self.linear_1(self.norm(hidden_states))))


class Wav2Vec2EncoderLayer(nnx.Module):
    """Layer norm follows attention and the feed-forward network."""

    def __init__(
        self, config: SoundEncoderConfig, attention: nnx.Module, layerdrop: float, **init: Unpack[ops.Init]
    ) -> None:
        self.attention = attention
        self.dropout = layers.Dropout(config.hidden_dropout)
        self.layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.feed_forward = Wav2Vec2FeedForward(config, **init)
        self.final_layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.layerdrop = layers.LayerDrop(layerdrop)

    def __call__(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: None = None) -> LayerOutput:
        states, attention, _ = self.attention(hidden_states, inputs)
        states = self.layer_norm(hidden_states + self.dropout(states, inputs.rngs))
        states = self.final_layer_norm(states + self.feed_forward(states, inputs.rngs))
        return LayerOutput(self.layerdrop(hidden_states, states, inputs.rngs), attention)


class Wav2Vec2EncoderLayerStableLayerNorm(nnx.Module):
    """Layer norm precedes attention and the feed-forward network."""

    def __init__(
        self, config: SoundEncoderConfig, attention: nnx.Module, layerdrop: float, **init: Unpack[ops.Init]
    ) -> None:
        self.attention = attention
        self.dropout = layers.Dropout(config.hidden_dropout)
        self.layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.feed_forward = Wav2Vec2FeedForward(config, **init)
        self.final_layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        inner = config.attention_adapter_width
        self.adapter_layer = Wav2Vec2AttnAdapterLayer(config.hidden_size, inner, **init) if inner else None
        self.layerdrop = layers.LayerDrop(layerdrop)

    def __call__(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: None = None) -> LayerOutput:
        states, attention, _ = self.attention(self.layer_norm(hidden_states), inputs)
        states = hidden_states + self.dropout(states, inputs.rngs)
        states = states + self.feed_forward(self.final_layer_norm(states), inputs.rngs)
        if self.adapter_layer is not None:
            states = states + self.adapter_layer(states)
        return LayerOutput(self.layerdrop(hidden_states, states, inputs.rngs), attention)


class Wav2Vec2Encoder(nnx.Module):
    """Positions and layers, with a layer norm before the layers, or after them if they are stable."""

    def __init__(self, config: SoundEncoderConfig, **init: Unpack[ops.Init]) -> None:
        self.stable = config.do_stable_layer_norm
        self.pos_conv_embed = Wav2Vec2PositionalConvEmbedding(config, **init)
        self.layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout)
        self.layers = layers.ModuleList(
            [self.make_layer(config, index, **init) for index in range(config.num_hidden_layers)]
        )
        self.gradient_checkpointing = False

    def make_layer(self, config: SoundEncoderConfig, index: int, **init: Unpack[ops.Init]) -> nnx.Module:
        """The layer with this index."""
        layer = Wav2Vec2EncoderLayerStableLayerNorm if config.do_stable_layer_norm else Wav2Vec2EncoderLayer
        return layer(config, Wav2Vec2Attention(config, **init), config.layerdrop, **init)

    def position_bias(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "1 N T T"] | None:
        """What the layers add to their attention scores; none but WavLM's do."""
        return None

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "B T"] | None,
        switches: ResolvedSwitches,
        ignore_padding: bool = False,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        states, rngs = without_padding(hidden_states, mask), switches["rngs"]
        inputs = LayerInputs(
            mask=None if mask is None else masks.padding(ops.xp, mask),
            bias=self.position_bias(states),
            output_attentions=switches["output_attentions"],
            rngs=rngs,
        )
        states = states + self.pos_conv_embed(states, mask if ignore_padding else None)
        outputs = run_layers(
            self.layers,
            self.dropout(states if self.stable else self.layer_norm(states), rngs),
            inputs,
            output_hidden_states=switches["output_hidden_states"],
            gradient_checkpointing=self.gradient_checkpointing,
        )
        if not self.stable:
            return outputs
        return outputs.replace(last_hidden_state=self.layer_norm(outputs.last_hidden_state))
