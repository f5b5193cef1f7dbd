"""The setup of a decoder's call: the cache of earlier tokens, the attention mask over all tokens, and positions.

Both backends use it; their caches differ only in how arrays are updated.

Letters of the shapes: B batch, T new tokens, S all tokens.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from diptych.core import check
from diptych.core.boundary import Boundary, Size
from diptych.core.config import CacheShape
from diptych.core.errors import InputError
from diptych.core.semantics import masks, positions


class AttentionContext(NamedTuple):
    """What a batch of new tokens attends to.

    Attributes:
        cache: will store the tokens; None if there is no cache.
        mask: (B, 1, T, S), or None.
        causal: if there is no mask, whether a token sees only itself and earlier ones.
        start: the number of earlier tokens.
        encoder_hidden_states: (B, S, D) for cross-attention, or None.
        encoder_mask: (B, 1, 1, S), or None.
    """

    cache: Any
    mask: Any
    causal: bool
    start: Any
    encoder_hidden_states: Any = None
    encoder_mask: Any = None


def begin(
    boundary: Boundary,
    shape: CacheShape | None,
    past_key_values: Any,
    use_cache: bool | None,
    attention_mask: Any,
    size: Size,
    *,
    prefix: str = "",
) -> AttentionContext:
    """Checks a caller's cache and mask, and prepares them for the new tokens.

    Args:
        boundary: of the call.
        shape: of the decoder's caches; None for an encoder, whose tokens see all others.
        past_key_values: the caller's cache, or None.
        use_cache: True creates a cache with room for every position if none is given.
        attention_mask: the caller's, or None; (B, T) for the new tokens, or for all tokens up to them.
        size: rows B and new tokens T.
        prefix: precedes the mask's name, "decoder_" for a decoder beside an encoder.

    Raises:
        InputError: an encoder is given a cache; the cache is not one of ours, belongs to another model or batch, or is
            full; or the mask has the wrong shape.
    """
    (batch, count), name, xp, ops = size, f"{prefix}attention_mask", boundary.xp, boundary.ops
    check.switch(boundary.caller, "use_cache", use_cache)
    if shape is None and (past_key_values is not None or use_cache):
        raise InputError(
            f"{boundary.caller}: past_key_values and use_cache=True are for decoders, but the config is an encoder's"
        )
    if shape is None or (past_key_values is None and not use_cache):
        if attention_mask is None:
            return AttentionContext(None, None, shape is not None, 0)
        mask = boundary.mask(name, attention_mask, size)
        if shape is None:
            return AttentionContext(None, masks.padding(xp, mask), False, 0)
        return AttentionContext(None, masks.causal_padding(xp, ops.steps(count, boundary.like), mask), False, 0)
    if past_key_values is None:
        past_key_values = boundary.cache_class.empty(shape, batch, shape.positions, boundary.like)
    cache = check_cache(boundary, shape, past_key_values, batch)
    known = ops.concrete_length(cache.length)
    if known is not None:
        check.at_most(
            boundary.caller, "the number of tokens", known + count, cache.capacity, "past_key_values.capacity"
        )
    mask = None
    if attention_mask is not None:
        widths = (cache.capacity,) if known is None else (known + count, cache.capacity)
        mask = boundary.mask(name, attention_mask, size, widths=widths)
    cache = cache.attend_to(mask, count)
    return AttentionContext(cache, cache.visible_mask(count), False, cache.length)


def with_encoder(
    boundary: Boundary,
    context: AttentionContext,
    states: Any,
    attention_mask: Any,
    batch: int,
    *,
    width: int,
    crosses: bool,
) -> AttentionContext:
    """The context with the encoder's states and mask, checked; a cache that holds their keys needs no states.

    Args:
        boundary: of the call.
        context: what the new tokens attend to.
        states, attention_mask: the caller's `encoder_hidden_states` and `encoder_attention_mask`.
        batch: rows.
        width: of the states.
        crosses: whether the decoder has cross-attention.

    Raises:
        InputError: the decoder has none, or one has another dtype or shape.
    """
    cached = None if context.cache is None else context.cache.encoder_size
    states, mask = boundary.encoder_states(states, attention_mask, batch, width=width, crosses=crosses, cached=cached)
    return context._replace(encoder_hidden_states=states, encoder_mask=mask)


def check_cache(boundary: Boundary, shape: CacheShape, cache: Any, batch: int) -> Any:
    """Returns the caller's cache, checked to be one for this model and batch size.

    Raises:
        InputError: the cache does not fit.
    """
    if not isinstance(cache, boundary.cache_class):
        raise InputError(
            f"{boundary.caller}: past_key_values is a {type(cache).__name__}, but a cache of diptych's is needed, "
            "such as model.init_cache(batch_size, max_length) makes"
        )
    wanted = (shape.layers, batch, shape.heads, shape.head_width)
    found = (len(cache.keys), cache.keys[0].shape[0], cache.keys[0].shape[1], cache.keys[0].shape[3])
    check.shape(boundary.caller, "past_key_values (layers, batch, heads, head width)", found, wanted)
    if cache.keys[0].dtype != boundary.like.dtype:
        raise InputError(
            f"{boundary.caller}: past_key_values has dtype {cache.keys[0].dtype}, but the model has "
            f"{boundary.like.dtype}"
        )
    return cache


def has_encoder_keys(cache: Any) -> bool:
    """Whether a caller's cache holds the encoder's keys, so that its states are not needed."""
    return getattr(cache, "encoder_size", None) is not None


def finish(cache: Any, count: int, use_cache: bool | None) -> Any:
    """The cache to return, after every layer has stored its new tokens; None if there is none or use_cache is False."""
    return None if cache is None or use_cache is False else cache.advance(count)


def position_ids(
    boundary: Boundary, given: Any, start: Any, size: Size, *, limit: int, field: str = "max_position_embeddings"
) -> Any:
    """The positions (B, T) or (1, T) of new tokens: the caller's, checked, or those after the earlier tokens.

    Args:
        boundary: of the call.
        given: the caller's, or None.
        start: the number of earlier tokens.
        size: rows B and new tokens T.
        limit: the number of positions.
        field: what the config calls it.

    Raises:
        InputError: there are too few positions, or the caller's have the wrong shape or are out of range.
    """
    if given is not None:
        return boundary.row_ids("position_ids", given, size, size=limit, table=field)
    known = boundary.ops.concrete_length(start)
    if known is not None:
        check.at_most(boundary.caller, "the number of tokens", known + size[1], limit, field)
    return positions.sequential(boundary.xp, boundary.ops.steps(size[1], boundary.like) + start)


def attended_position_ids(boundary: Boundary, context: AttentionContext, given: Any, size: Size, *, limit: int) -> Any:
    """The positions of new tokens in a model that counts those that the attention mask doesn't hide.

    Args:
        boundary: of the call.
        context: what the tokens attend to.
        given: the caller's positions, or None.
        size: rows B and new tokens T.
        limit: the number of positions.

    Raises:
        InputError: there are too few positions, or the caller's have the wrong shape or are out of range.
    """
    counted = position_ids(boundary, given, context.start, size, limit=limit)
    if given is not None or context.mask is None:
        return counted
    # the last token sees all attended tokens up to itself
    return positions.count_attended(boundary.xp, context.mask[:, 0, -1], counted[0])


def padding_aware_position_ids(
    boundary: Boundary,
    context: AttentionContext,
    given: Any,
    input_ids: Any,
    size: Size,
    *,
    limit: int,
    padding: int | None,
) -> tuple[Any, Any]:
    """The cache, and the positions of new tokens in a model in which positions may skip padding.

    Args:
        boundary: of the call.
        context: what the tokens attend to.
        given: the caller's positions, or None.
        input_ids: the tokens (B, T); None if embeddings are given, which never count as padding.
        size: rows B and new tokens T.
        limit: the number of positions.
        padding: the id and the position of padding, after which the other tokens are counted; None if padding is
            counted like any token.

    Raises:
        InputError: there are too few positions, or the caller's have the wrong shape or are out of range.
    """
    ops, cache = boundary.ops, context.cache
    if padding is None:
        return cache, position_ids(boundary, given, context.start, size, limit=limit)
    before = boundary.xp.zeros_like(ops.steps(size[0], boundary.like)) if cache is None else cache.counted
    tokens = (ops.steps(size[1], boundary.like) >= 0)[None] if input_ids is None else input_ids != padding
    found, counted = positions.skip_padding(boundary.xp, tokens, before, padding)
    if cache is not None:
        cache = replace(cache, counted=counted)
    if given is not None:
        return cache, position_ids(boundary, given, context.start, size, limit=limit)
    known, room = ops.concrete_length(context.start), limit - padding - 1
    if known is not None and known + size[1] > room and (bounds := ops.min_max(found)) is not None:
        needed = bounds[1] - padding
        check.at_most(
            boundary.caller, "the number of tokens", needed, room, "max_position_embeddings - pad_token_id - 1"
        )
    return cache, found
