"""Decoder inputs from labels: what a decoder reads while it is taught to write."""

from typing import Any

from diptych.core.semantics.losses import IGNORED


def shift_tokens_right(xp: Any, labels: Any, pad_token_id: int, decoder_start_token_id: int) -> Any:
    """(B, T) labels -> (B, T) ids: each a place later, the start first, -100 as padding."""
    start = xp.full_like(labels[:, :1], decoder_start_token_id)
    shifted = xp.concat([start, labels[:, :-1]], axis=1)
    return xp.where(shifted == IGNORED, xp.full_like(shifted, pad_token_id), shifted)


def wrap_tokens_right(xp: Any, labels: Any, pad_token_id: int) -> Any:
    """(B, T) labels -> (B, T) ids: each a place later, the last one that is no padding (MBart's language) first."""
    ids = xp.where(labels == IGNORED, xp.full_like(labels, pad_token_id), labels)
    places = xp.sum(xp.astype(ids != pad_token_id, ids.dtype), axis=1) - 1
    last = xp.take_along_axis(ids, xp.clip(places, 0)[:, None], axis=1)
    return xp.concat([last, ids[:, :-1]], axis=1)
