"""Caches: the keys and values of the tokens that a decoder has seen.

A cache is an argument and a result of the decoder's call. Its arrays have their full length before the first token, so
that one compiled step serves every token.

Letters of the shapes: B batch, T new tokens, S capacity, U the encoder's tokens, N heads, H head width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.backends.torch import ops
from diptych.core import check
from diptych.core.config import CacheShape
from diptych.core.errors import InputError
from diptych.core.semantics import masks, positions


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The keys and values of the tokens seen so far, layer by layer.

    Tokens are written into the arrays where they lie, unless a gradient is to flow through them: go on from the newest
    cache only.

    Attributes:
        keys, values: one (B, N, S, H) for each layer.
        cross_keys, cross_values: one (B, N, U, H) for each layer; None until the encoder's states were seen. In a
            `widened` cache they have fewer rows, each for as many of the others.
        mask: (B, S), True where a token may be attended to.
        length: the number of tokens seen so far.
        counted: (B,), those of each row that are no pads, where a model's positions leave pads out; else zeros.
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
        """The number of tokens for which there is room."""
        return self.mask.shape[1]

    def attending(self, attention_mask: Tensor | None, count: int) -> "Cache":
        """Takes up the mask of new tokens, (B, T), or of all tokens up to them, (B, S at most)."""
        mask = self.mask.clone()
        if attention_mask is None:
            mask[:, self.length : self.length + count] = True
        else:
            start = self.length if attention_mask.shape[1] == count else 0
            mask[:, start : start + attention_mask.shape[1]] = attention_mask != 0
        return replace(self, mask=mask)

    def visible(self, count: int) -> Bool[Tensor, "B 1 T S"]:
        """Which of the tokens in the cache each of the new ones may see, itself included."""
        slots = ops.steps(self.length + count, self.mask)
        return masks.cached(ops.xp, slots[self.length :], slots, self.mask[:, : self.length + count])

    def extended(
        self, layer: int, key: Float[Tensor, "B N T H"], value: Float[Tensor, "B N T H"]
    ) -> tuple["Cache", Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
        """Takes up a layer's keys and values of new tokens.

        Returns:
            The cache that holds them too, and all keys and values of the layer that there are to see.
        """
        end = self.length + key.shape[2]
        key, value = self._written(self.keys[layer], key), self._written(self.values[layer], value)
        keys, values = _with(self.keys, layer, key), _with(self.values, layer, value)
        return replace(self, keys=keys, values=values), key[:, :, :end], value[:, :, :end]

    def _written(self, held: Tensor, new: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (held.requires_grad or new.requires_grad):
            held = held.clone()
        held[:, :, self.length : self.length + new.shape[2]] = new
        return held

    def crossed(self, layer: int, key: Float[Tensor, "B N U H"], value: Float[Tensor, "B N U H"]) -> "Cache":
        """Takes up a layer's keys and values of the encoder's tokens."""
        keys, values = _with(self.cross_keys, layer, key), _with(self.cross_values, layer, value)
        return replace(self, cross_keys=keys, cross_values=values)

    def widened(self, count: int) -> "Cache":
        """A cache with every row `count` times in a row; the encoder's tokens stay, and serve as many rows each."""

        def repeated(held: Tensor) -> Tensor:
            return held.repeat_interleave(count, 0)

        keys, values = tuple(map(repeated, self.keys)), tuple(map(repeated, self.values))
        return replace(self, keys=keys, values=values, mask=repeated(self.mask), counted=repeated(self.counted))

    def reordered(self, rows: Int[Tensor, "B"], start: int) -> "Cache":
        """The cache whose rows go on from these ones, which are alike in what stands before `start`."""
        targets = (rows != ops.steps(len(rows), rows)).nonzero()[:, 0]
        sources = rows[targets]
        if len(targets):
            for held in (*self.keys, *self.values):
                held[targets, :, start : self.length] = held[sources, :, start : self.length]
        return self

    def advanced(self, count: int) -> "Cache":
        """Counts new tokens, once every layer has taken them up."""
        return replace(self, length=self.length + count)


def _with(parts: tuple[Any, ...], index: int, part: Any) -> tuple[Any, ...]:
    return (*parts[:index], part, *parts[index + 1 :])


def extended(
    cache: Cache | None, layer: int, key: Float[Tensor, "B N T H"], value: Float[Tensor, "B N T H"]
) -> tuple[Cache | None, Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
    """The keys and values that a layer's new tokens see: their own, and those in the cache if there is one."""
    return (None, key, value) if cache is None else cache.extended(layer, key, value)


def crossed(
    cache: Cache | None, layer: int, states: Any, project: Callable[[Any], tuple[Tensor, Tensor]]
) -> tuple[Cache | None, Float[Tensor, "B N U H"], Float[Tensor, "B N U H"]]:
    """A layer's keys and values of the encoder's states: computed once if there is a cache, which then has them."""
    if cache is None:
        return None, *project(states)
    key, value = cache.cross_keys[layer], cache.cross_values[layer]
    if key is None or value is None:
        key, value = project(states)
        cache = cache.crossed(layer, key, value)
    return cache, key, value


def crosses(cache: Cache | None, encoder_hidden_states: Tensor | None) -> bool:
    """Whether there are tokens of an encoder's to attend to: given, or in the cache."""
    return encoder_hidden_states is not None or (isinstance(cache, Cache) and cache.cross_keys[0] is not None)


def crossed_size(cache: Any) -> tuple[int, int] | None:
    """How many rows of how many of an encoder's tokens a cache has; None without a cache, or if it has seen none."""
    key = cache.cross_keys[0] if isinstance(cache, Cache) else None
    return None if key is None else (key.shape[0], key.shape[2])


class Opened(NamedTuple):
    """How a decoder reads a batch.

    Attributes:
        cache: that takes up the tokens; None if nothing is kept.
        mask: (B, 1, T, S), or None.
        causal: without a mask, whether a token sees only what came before.
        start: the number of tokens that came before these.
    """

    cache: Cache | None
    mask: Tensor | None
    causal: bool
    start: int


def opened(
    where: str,
    shape: CacheShape | None,
    past_key_values: Any,
    use_cache: bool | None,
    attention_mask: Any,
    size: tuple[int, int],
    like: Tensor,
    *,
    prefix: str = "",
) -> Opened:
    """Checks what a caller says of the past, and opens it.

    Args:
        where: what errors name first.
        shape: of the decoder's caches; None for an encoder, whose tokens see all others.
        past_key_values: the caller's cache, or None.
        use_cache: True makes one that has room for every position there is, where none is given.
        attention_mask: the caller's, or None; for (B, T) new tokens, or all tokens up to them.
        size: rows B and new tokens T.
        like: a tensor with the model's dtype and device.
        prefix: what stands before the name of the mask, "decoder_" for that of the second text.

    Raises:
        InputError: an encoder is given a cache, or it is none of ours, of another model or batch, or full; or the mask
            has another shape.
    """
    (batch, count), named = size, f"{prefix}attention_mask"
    if shape is None:
        if past_key_values is not None or use_cache:
            raise InputError(f"{where}: past_key_values and use_cache=True are for decoders, but the config has none")
        if attention_mask is None:
            return Opened(None, None, False, 0)
        mask = ops.boundary_mask(where, named, attention_mask, size, like)
        return Opened(None, masks.padding(ops.xp, mask), False, 0)
    if past_key_values is None and not use_cache:
        if attention_mask is None:
            return Opened(None, None, True, 0)
        mask = ops.boundary_mask(where, named, attention_mask, size, like)
        return Opened(None, masks.causal_padding(ops.xp, ops.steps(count, like), mask), False, 0)
    cache = Cache.empty(shape, batch, shape.positions, like) if past_key_values is None else past_key_values
    cache = checked(where, shape, cache, batch, like)
    seen = known(cache.length)
    if seen is not None:
        check.at_most(where, "the number of tokens", seen + count, cache.capacity, "past_key_values.capacity")
    mask = None
    if attention_mask is not None:
        widths = (cache.capacity,) if seen is None else (seen + count, cache.capacity)
        mask = ops.boundary_mask(where, named, attention_mask, size, like, widths=widths)
    cache = cache.attending(mask, count)
    return Opened(cache, cache.visible(count), False, cache.length)


def checked(where: str, shape: CacheShape, cache: Any, batch: int, like: Tensor) -> Cache:
    """A caller's cache.

    Args:
        where: what errors name first.
        shape: of the model's caches.
        cache: the caller's.
        batch: rows that it must have.
        like: what has the model's dtype.

    Raises:
        InputError: it is none of ours, or of another model or batch.
    """
    if not isinstance(cache, Cache):
        raise InputError(
            f"{where}: past_key_values is a {type(cache).__name__}, but a cache of diptych's is needed, such as "
            "model.init_cache(batch_size, max_length) makes"
        )
    wanted = (shape.layers, batch, shape.heads, shape.head_width)
    found = (len(cache.keys), cache.keys[0].shape[0], cache.keys[0].shape[1], cache.keys[0].shape[3])
    check.shape(where, "past_key_values (layers, batch, heads, head width)", found, wanted)
    if cache.keys[0].dtype != like.dtype:
        raise InputError(f"{where}: past_key_values has dtype {cache.keys[0].dtype}, but the model has {like.dtype}")
    return cache


def closed(cache: Cache | None, count: int, use_cache: bool | None) -> Cache | None:
    """The cache after every layer took up its new tokens, unless the caller does not want it back."""
    return None if cache is None or use_cache is False else cache.advanced(count)


def position_ids(
    where: str,
    given: Any,
    start: int,
    size: tuple[int, int],
    like: Tensor,
    *,
    limit: int,
    field: str = "max_position_embeddings",
) -> Int[Tensor, "#B T"]:
    """The positions of new tokens: the caller's, checked, or those after the tokens that came before.

    Args:
        where: what errors name first.
        given: the caller's, (B, T) or (1, T), or None.
        start: the number of tokens that came before these.
        size: rows B and new tokens T.
        like: a tensor on the model's device.
        limit: the number of positions.
        field: what the config calls it.

    Raises:
        InputError: there are too few positions, or the caller's are not of this shape or lie outside.
    """
    if given is not None:
        return ops.boundary_rows(where, "position_ids", given, size, like, limit, field)
    seen = known(start)
    if seen is not None:
        check.at_most(where, "the number of tokens", seen + size[1], limit, field)
    return positions.sequential(ops.xp, ops.steps(size[1], like) + start)


def placed(
    where: str,
    opened: Opened,
    given: Any,
    input_ids: Int[Tensor, "B T"] | None,
    size: tuple[int, int],
    like: Tensor,
    *,
    limit: int,
    pads: int | None,
) -> tuple[Cache | None, Int[Tensor, "#B T"]]:
    """The cache, and the positions of new tokens as `position_ids` gives them, unless pads have one of their own.

    Args:
        where, given, size, like, limit: as `position_ids` takes them.
        opened: how the tokens are read.
        input_ids: the tokens; None where their embeddings are given, of which none counts as a pad.
        pads: the id and the position of every pad, after which the other tokens are counted; None if they have none.

    Raises:
        InputError: there are too few positions, or the caller's are not of this shape or lie outside.
    """
    if pads is None:
        return opened.cache, position_ids(where, given, opened.start, size, like, limit=limit)
    cache = opened.cache
    before = ops.xp.zeros_like(ops.steps(size[0], like)) if cache is None else cache.counted
    tokens = (ops.steps(size[1], like) >= 0)[None] if input_ids is None else input_ids != pads
    found, counted = positions.skipping_pads(ops.xp, tokens, before, pads)
    if cache is not None:
        cache = replace(cache, counted=counted)
    if given is not None:
        return cache, position_ids(where, given, opened.start, size, like, limit=limit)
    seen, room = known(opened.start), limit - pads - 1
    if seen is not None and seen + size[1] > room and (bounds := ops.bounds(found)) is not None:
        count = bounds[1] - pads
        check.at_most(where, "the number of tokens", count, room, "max_position_embeddings - pad_token_id - 1")
    return cache, found


def known(length: int) -> int | None:
    """A cache's length as a number, or None where it can't be seen."""
    return length
