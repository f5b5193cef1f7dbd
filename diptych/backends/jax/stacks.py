"""Stacks of layers: the inputs and outputs of a layer, attention over a cache, and the loop over layers.

Letters of the shapes: B batch, K rows of the encoder's keys, T target length, S source length, U the encoder's tokens,
D width, N heads, H head width.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import Float

from diptych.backends.jax import ops
from diptych.backends.jax.cache import Cache, LayerCache
from diptych.core.caching import AttentionContext
from diptych.core.calls import ResolvedSwitches
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mask", "encoder_hidden_states", "encoder_mask", "bias", "rotation", "rngs"),
    meta_fields=("grid", "causal", "output_attentions"),
)
@dataclass(frozen=True, kw_only=True)
class LayerInputs:
    """The inputs of every layer of a stack besides its hidden states; a pytree with static switches.

    Attributes:
        mask: Bool (B, 1, T, S), True where a query may see a key.
        encoder_hidden_states: (B, U, D), for cross-attention; None if there is no encoder, or a cache has the keys.
        encoder_mask: Bool (K, 1, 1, U), over the encoder's tokens.
        bias: (B, N, T, S) or broadcastable, added to the scores of self-attention.
        grid: rows and columns of the patches of an image, for biases that depend on their distance.
        rotation: cosines and sines of rotary positions, (B or 1, T, H) each.
        causal: if there is no mask, whether a token sees only itself and earlier ones.
        output_attentions: whether attention probabilities are returned.
        rngs: in JAX a key for dropout; in torch None.
    """

    mask: Array | None = None
    encoder_hidden_states: Array | None = None
    encoder_mask: Array | None = None
    bias: Array | None = None
    grid: tuple[int, int] | None = None
    rotation: tuple[Array, Array] | None = None
    causal: bool = False
    output_attentions: bool = False
    rngs: Any = None


def layer_inputs(context: AttentionContext, resolved: ResolvedSwitches, **others: Any) -> LayerInputs:
    """The inputs of every layer, from the context of the new tokens, the call's switches, and other fields."""
    return LayerInputs(
        mask=context.mask,
        encoder_hidden_states=context.encoder_hidden_states,
        encoder_mask=context.encoder_mask,
        causal=context.causal,
        output_attentions=resolved["output_attentions"],
        rngs=resolved["rngs"],
        **others,
    )


class LayerOutput(NamedTuple):
    """The output of a layer: hidden states (B, T, D), attention probabilities and its cache."""

    hidden_states: Array
    attention: Array | None = None
    """(B, N, T, S), the probabilities of self-attention, if requested."""
    cross_attention: Array | None = None
    """(B, N, T, U), the probabilities over the encoder's tokens, if requested."""
    past: LayerCache | None = None


class AttentionOutput(NamedTuple):
    """The output of attention: states (B, T, D) before the output projection, probabilities and the layer's cache."""

    states: Array
    probabilities: Array | None
    past: LayerCache | None


Keys = Callable[[Array], tuple[Array, Array]]
"""Projects states (B, S, D) to keys and values (B, N, S, H)."""


def self_attention(
    query: Float[Array, "B N T H"],
    key: Float[Array, "B M T H"],
    value: Float[Array, "B M T H"],
    inputs: LayerInputs,
    past: LayerCache | None,
    *,
    bias: Float[Array, "#B #N #T S"] | None = None,
    **options: Any,
) -> AttentionOutput:
    """Attention of new tokens to one another and to those in the cache, if any.

    Args:
        query, key, value: as `ops.split_heads` returns them.
        inputs: of the layer.
        past: the layer's part of the cache, if any.
        bias: the layer's own, added to that of `inputs`.
        options: as for `ops.attention`.
    """
    if past is not None:
        past, key, value = past.append(key, value)
    if inputs.bias is not None:
        bias = inputs.bias if bias is None else bias + inputs.bias
    options |= {"bias": bias, "causal": inputs.causal, "rngs": inputs.rngs, "weights": inputs.output_attentions}
    return AttentionOutput(*ops.attention(query, key, value, inputs.mask, **options), past)


def cross_attention(
    query: Float[Array, "B N T H"], keys: Keys, inputs: LayerInputs, past: LayerCache | None, **options: Any
) -> AttentionOutput:
    """Attention to the encoder's tokens, whose keys a cache stores; options as for `ops.attention`."""
    if past is None:
        key, value = keys(inputs.encoder_hidden_states)  # pyright: ignore[reportArgumentType]
    else:
        key, value = past.cross_key, past.cross_value
        if key is None or value is None:
            key, value = keys(inputs.encoder_hidden_states)  # pyright: ignore[reportArgumentType]
            past = past.with_encoder(key, value)
    weights = inputs.output_attentions
    return AttentionOutput(
        *ops.attention(query, key, value, inputs.encoder_mask, rngs=inputs.rngs, weights=weights, **options), past
    )


def sees_encoder(inputs: LayerInputs, past: LayerCache | None) -> bool:
    """Whether there are encoder states to attend to, as an input or in the cache."""
    return inputs.encoder_hidden_states is not None or (past is not None and past.cross_key is not None)


def run_layers(
    layers: Iterable[Callable[..., LayerOutput]],
    hidden_states: Float[Array, "B T D"],
    inputs: LayerInputs,
    cache: Cache | None = None,
    *,
    output_hidden_states: bool,
    gradient_checkpointing: bool,
    final: Callable[[Array], Array] | None = None,
) -> BaseModelOutputWithPastAndCrossAttentions:
    """Runs the layers of a stack one after the other.

    Args:
        layers: each `layer(hidden_states, inputs, past) -> LayerOutput`.
        hidden_states: the embeddings.
        inputs: the other inputs of every layer.
        cache: the decoder's, if any.
        output_hidden_states: whether the embeddings and every layer's output are kept and returned.
        gradient_checkpointing: whether a layer's activations are recomputed in the backward pass instead of stored.
        final: the norm after the last layer, whose output takes the place of the last layer's.
    """
    states: list[Array] = []
    attentions: list[Array | None] = []
    crosses: list[Array | None] = []
    pasts: list[Any] = []
    for index, layer in enumerate(layers):
        if output_hidden_states:
            states.append(hidden_states)
        past = None if cache is None else cache.layer(index)
        call = with_checkpointing(layer, gradient_checkpointing)
        hidden_states, attention, cross, past = call(hidden_states, inputs, past)
        attentions.append(attention)
        crosses.append(cross)
        pasts.append(past)
    if final is not None:
        hidden_states = final(hidden_states)
    weights = inputs.output_attentions
    return BaseModelOutputWithPastAndCrossAttentions(
        last_hidden_state=hidden_states,
        past_key_values=None if cache is None else cache.with_layers(tuple(pasts)),
        hidden_states=(*states, hidden_states) if output_hidden_states else None,
        attentions=tuple(attentions) if weights else None,
        cross_attentions=_present(crosses) if weights else None,
    )


def _present(values: list[Array | None]) -> tuple[Array, ...] | None:
    """The values that are not None; None if all are."""
    return tuple(value for value in values if value is not None) or None


def with_checkpointing(layer: Callable[..., LayerOutput], gradient_checkpointing: bool) -> Callable[..., LayerOutput]:
    """The layer, with its activations recomputed in the backward pass if gradient checkpointing is on."""
    return jax.checkpoint(lambda *arguments: layer(*arguments)) if gradient_checkpointing else layer
