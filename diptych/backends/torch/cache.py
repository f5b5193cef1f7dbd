"""Caches: the keys and values of the tokens that a decoder has processed.

A cache is an argument and a result of the decoder's call. Its arrays have their full length before the first token, so
that one compiled step serves every token.

Letters of the shapes: B batch, K rows of the encoder's keys, T new tokens, S capacity, U the encoder's tokens, N heads,
H head width.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from diptych.backends.torch import ops
from diptych.core.config import CacheShape
from diptych.core.semantics import masks


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """One layer's part of a cache.

    Attributes:
        key, value: (B, N, S, H), for the tokens so far.
        cross_key, cross_value: (K, N, U, H), for the encoder's tokens; None until cross-attention computes them.
        length: the number of tokens so far.
    """

    key: Tensor
    value: Tensor
    cross_key: Tensor | None
    cross_value: Tensor | None
    length: int

    def append(
        self, key: Float[Tensor, "B N T H"], value: Float[Tensor, "B N T H"]
    ) -> tuple["LayerCache", Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
        """Adds the keys and values of new tokens.

        Returns:
            The layer's cache with them appended, and all keys and values to attend to.
        """
        end = self.length + key.shape[2]
        key, value = _write(self.key, self.length, key), _write(self.value, self.length, value)
        layer = LayerCache(
            key=key, value=value, cross_key=self.cross_key, cross_value=self.cross_value, length=self.length
        )
        return layer, key[:, :, :end], value[:, :, :end]

    def with_encoder(self, key: Float[Tensor, "K N U H"], value: Float[Tensor, "K N U H"]) -> "LayerCache":
        """A copy that stores the keys and values of the encoder's tokens."""
        return replace(self, cross_key=key, cross_value=value)


def _write(stored: Tensor, start: int, new: Tensor) -> Tensor:
    """Keys or values with those of new tokens from `start` on: in place, unless a gradient or a transform is needed."""
    end = start + new.shape[2]
    recorded = torch.is_grad_enabled() and (stored.requires_grad or new.requires_grad)
    if recorded or ops.is_transformed(new):
        return torch.cat((stored[:, :, :start], new, stored[:, :, end:]), 2)
    stored[:, :, start:end] = new
    return stored


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The keys and values of the tokens so far, layer by layer; a pytree.

    New tokens are written into the arrays in place, unless gradients or transforms of torch.func need the old ones, so
    only the newest cache may be used.

    Attributes:
        keys, values: one (B, N, S, H) for each layer.
        cross_keys, cross_values: one (K, N, U, H) for each layer; None until the layer has computed them from the
            encoder's states, and in layers without cross-attention. Each row serves B / K rows of the batch.
        mask: (B, S), True where a token may be attended to.
        length: the number of tokens so far.
        counted: (B,), the number of non-padding tokens per row, in models whose positions skip padding; else zeros.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    cross_keys: tuple[Tensor | None, ...]
    cross_values: tuple[Tensor | None, ...]
    mask: Tensor
    length: int
    counted: Tensor

    @classmethod
    def empty(cls, shape: CacheShape, batch: int, capacity: int, like: Tensor) -> "Cache":
        """A cache without tokens, of the dtype and on the device of a tensor."""
        size = (batch, shape.heads, capacity, shape.head_width)
        return cls(
            keys=tuple(like.new_zeros(size) for _ in range(shape.layers)),
            values=tuple(like.new_zeros(size) for _ in range(shape.layers)),
            cross_keys=(None,) * shape.layers,
            cross_values=(None,) * shape.layers,
            mask=like.new_zeros((batch, capacity), dtype=torch.bool),
            length=0,
            counted=like.new_zeros(batch, dtype=torch.int64),
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

    def attend_to(self, attention_mask: Tensor | None, count: int) -> "Cache":
        """A copy with the mask of new tokens, (B, T), or of all tokens up to and including them, (B, at most S)."""
        if attention_mask is None:
            mask = self.mask.clone()
            mask[:, self.length : self.length + count] = True
            return replace(self, mask=mask)
        start = self.length if attention_mask.shape[1] == count else 0
        later = self.mask[:, start + attention_mask.shape[1] :]
        return replace(self, mask=torch.cat((self.mask[:, :start], attention_mask != 0, later), 1))

    def visible_mask(self, count: int) -> Bool[Tensor, "B 1 T S"]:
        """A mask of the cached tokens that each new token may attend to, itself included."""
        slots = ops.steps(self.length + count, self.mask)
        return masks.causal_cache(ops.xp, slots[self.length :], slots, self.mask[:, : self.length + count])

    def repeat_rows(self, count: int) -> "Cache":
        """A cache with every row repeated `count` times in place; encoder keys are shared among the repeats."""

        def repeat(stored: Tensor) -> Tensor:
            return stored.repeat_interleave(count, 0)

        keys, values = tuple(map(repeat, self.keys)), tuple(map(repeat, self.values))
        return replace(self, keys=keys, values=values, mask=repeat(self.mask), counted=repeat(self.counted))

    def reorder(self, rows: Int[Tensor, "B"], start: int) -> "Cache":
        """A cache whose row i continues row `rows[i]` of this one; tokens before `start` are the same in these rows."""
        targets = (rows != ops.steps(len(rows), rows)).nonzero()[:, 0]
        sources = rows[targets]
        if len(targets):
            for stored in (*self.keys, *self.values):
                stored[targets, :, start : self.length] = stored[sources, :, start : self.length]
        return self

    def advance(self, count: int) -> "Cache":
        """Adds new tokens to the length, after every layer has stored them."""
        return replace(self, length=self.length + count)


_FIELDS = tuple(Cache.__dataclass_fields__)


def _flatten(cache: Cache) -> tuple[list[Any], None]:
    return [getattr(cache, name) for name in _FIELDS], None


def _flatten_with_keys(cache: Cache) -> tuple[list[Any], None]:
    return [(pytree.GetAttrKey(name), getattr(cache, name)) for name in _FIELDS], None


def _unflatten(values: Any, context: None) -> Cache:
    return Cache(**dict(zip(_FIELDS, values, strict=True)))


pytree.register_pytree_node(
    Cache,
    _flatten,
    _unflatten,
    serialized_type_name=f"{__name__}.Cache",
    flatten_with_keys_fn=_flatten_with_keys,  # pyright: ignore[reportArgumentType]
)
