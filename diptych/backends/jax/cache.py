"""Caches: the keys and values of the tokens that a decoder has processed.

A cache is an argument and a result of the decoder's call. Its arrays have their full length before the first token, so
that one compiled step serves every token.

Letters of the shapes: B batch, K rows of the encoder's keys, T new tokens, S capacity, U the encoder's tokens, N heads,
H head width.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from diptych.backends.jax import ops
from diptych.core.config import CacheShape
from diptych.core.semantics import masks


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """One layer's part of a cache.

    Attributes:
        key, value: (B, N, S, H), for the tokens so far.
        cross_key, cross_value: (K, N, U, H), for the encoder's tokens; None until cross-attention computes them.
        length: the number of tokens so far.
    """

    key: Array
    value: Array
    cross_key: Array | None
    cross_value: Array | None
    length: Any

    def append(
        self, key: Float[Array, "B N T H"], value: Float[Array, "B N T H"]
    ) -> tuple["LayerCache", Float[Array, "B N S H"], Float[Array, "B N S H"]]:
        """Adds the keys and values of new tokens.

        Returns:
            The layer's cache with them appended, and all keys and values to attend to.
        """
        key, value = self._write(self.key, key), self._write(self.value, value)
        layer = LayerCache(
            key=key, value=value, cross_key=self.cross_key, cross_value=self.cross_value, length=self.length
        )
        return layer, key, value

    def with_encoder(self, key: Float[Array, "K N U H"], value: Float[Array, "K N U H"]) -> "LayerCache":
        """A copy that stores the keys and values of the encoder's tokens."""
        return replace(self, cross_key=key, cross_value=value)

    def _write(self, stored: Array, new: Array) -> Array:
        # a full cache can't be refused under jit, where dynamic_update_slice would overwrite its last tokens
        new = jnp.where(self.length + new.shape[2] <= stored.shape[2], new, jnp.nan).astype(stored.dtype)
        zero = jnp.zeros_like(self.length)
        return jax.lax.dynamic_update_slice(stored, new, (zero, zero, self.length, zero))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Cache:
    """The keys and values of the tokens so far, layer by layer; a pytree.

    With `donate_argnums`, a compiled step writes new tokens in place.

    Attributes:
        keys, values: one (B, N, S, H) for each layer.
        cross_keys, cross_values: one (K, N, U, H) for each layer; None until the layer has computed them from the
            encoder's states, and in layers without cross-attention. Each row serves B / K rows of the batch.
        mask: (B, S), True where a token may be attended to.
        length: the number of tokens so far.
        counted: (B,), the number of non-padding tokens per row, in models whose positions skip padding; else zeros.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    cross_keys: tuple[Array | None, ...]
    cross_values: tuple[Array | None, ...]
    mask: Array
    length: Any
    counted: Array

    @classmethod
    def empty(cls, shape: CacheShape, batch: int, capacity: int, like: Any) -> "Cache":
        """A cache without tokens, of the dtype of an array."""
        size = (batch, shape.heads, capacity, shape.head_width)
        return cls(
            keys=tuple(jnp.zeros(size, like.dtype) for _ in range(shape.layers)),
            values=tuple(jnp.zeros(size, like.dtype) for _ in range(shape.layers)),
            cross_keys=(None,) * shape.layers,
            cross_values=(None,) * shape.layers,
            mask=jnp.zeros((batch, capacity), bool),
            length=jnp.zeros((), jnp.int32),
            counted=jnp.zeros((batch,), jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """The maximum number of tokens."""
        return self.mask.shape[1]

    @property
    def encoder_size(self) -> tuple[int, int] | None:
        """The batch size and length of the cached encoder keys; None if there are none."""
        key = next((key for key in self.cross_keys if key is not None), None)
        return None if key is None else (key.shape[0], key.shape[2])

    def layer(self, index: int) -> LayerCache:
        """The cache of one layer."""
        return LayerCache(
            key=self.keys[index],
            value=self.values[index],
            cross_key=self.cross_keys[index],
            cross_value=self.cross_values[index],
            length=self.length,
        )

    def with_layers(self, layers: tuple[LayerCache, ...]) -> "Cache":
        """A copy with the given layer caches in place of the old ones."""
        return replace(
            self,
            keys=tuple(layer.key for layer in layers),
            values=tuple(layer.value for layer in layers),
            cross_keys=tuple(layer.cross_key for layer in layers),
            cross_values=tuple(layer.cross_value for layer in layers),
        )

    def attend_to(self, attention_mask: Array | None, count: int) -> "Cache":
        """A copy with the mask of new tokens, (B, T), or of all tokens up to and including them, (B, at most S)."""
        if attention_mask is None:
            attention_mask = jnp.ones((self.mask.shape[0], count), bool)
        start = self.length if attention_mask.shape[1] == count else jnp.zeros_like(self.length)
        mask = jax.lax.dynamic_update_slice(self.mask, attention_mask != 0, (jnp.zeros_like(start), start))
        return replace(self, mask=mask)

    def visible_mask(self, count: int) -> Bool[Array, "B 1 T S"]:
        """A mask of the cached tokens that each new token may attend to, itself included."""
        slots = ops.steps(self.capacity, self.mask)
        return masks.causal_cache(ops.xp, ops.steps(count, self.mask) + self.length, slots, self.mask)

    def repeat_rows(self, count: int) -> "Cache":
        """A cache with every row repeated `count` times in place; encoder keys are shared among the repeats."""

        def repeat(stored: Array) -> Array:
            return jnp.repeat(stored, count, axis=0)

        keys, values = tuple(map(repeat, self.keys)), tuple(map(repeat, self.values))
        return replace(self, keys=keys, values=values, mask=repeat(self.mask), counted=repeat(self.counted))

    def reorder(self, rows: Int[Array, "B"], start: int) -> "Cache":
        """A cache whose row i continues row `rows[i]` of this one; tokens before `start` are the same in these rows."""

        def rearrange(stored: Array) -> Array:
            return stored.at[:, :, start:].set(stored[:, :, start:][rows])

        return replace(self, keys=tuple(map(rearrange, self.keys)), values=tuple(map(rearrange, self.values)))

    def advance(self, count: int) -> "Cache":
        """Adds new tokens to the length, after every layer has stored them."""
        return replace(self, length=self.length + count)
