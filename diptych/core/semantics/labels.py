"""Decoder inputs from labels, for training, and labels of masked patches."""

from typing import Any

from diptych.core.errors import InputError
from diptych.core.semantics.losses import IGNORED


def required_ids(caller: str, **ids: int | None) -> list[int]:
    """The special ids needed to make a decoder's inputs from labels; they must be in the config.

    Raises:
        InputError: one is None.
    """
    missing = [name for name, value in ids.items() if value is None]
    if missing:
        raise InputError(
            f"{caller}: the decoder's inputs are made from labels with {' and '.join(ids)}, but the config has "
            f"{' and '.join(f'{name}=None' for name in missing)}; model.config = model.config.replace(…) sets them"
        )
    return [value for value in ids.values() if value is not None]


def shift_tokens_right(xp: Any, labels: Any, pad_token_id: int, decoder_start_token_id: int) -> Any:
    """(B, T) labels -> (B, T) ids: shifted right by one, after the start token; -100 becomes padding."""
    start = xp.full_like(labels[:, :1], decoder_start_token_id)
    shifted = xp.concat([start, labels[:, :-1]], axis=1)
    return xp.where(shifted == IGNORED, xp.full_like(shifted, pad_token_id), shifted)


def wrap_tokens_right(xp: Any, labels: Any, pad_token_id: int) -> Any:
    """(B, T) labels -> (B, T) ids: shifted right by one, after the last token but padding (MBart's language)."""
    ids = xp.where(labels == IGNORED, xp.full_like(labels, pad_token_id), labels)
    ones = xp.ones_like(ids)
    count = xp.sum(xp.where(ids == pad_token_id, xp.zeros_like(ids), ones), axis=1, keepdims=True)
    last = xp.take_along_axis(ids, xp.where(count == 0, count, count - 1), axis=1)
    return xp.concat([xp.astype(last, ids.dtype), ids[:, :-1]], axis=1)


def of_patches(xp: Any, labels: Any, masked: Any) -> Any:
    """(M,) labels of the masked patches alone, row by row -> (B, P) labels of all patches, -100 for the others.

    If the number of masked patches, which a compiler doesn't know, is not M, they all get a label that is no class.

    Args:
        xp: the array namespace.
        labels: (M,).
        masked: Bool (B, P), True for M patches.
    """
    flat = xp.reshape(masked, (-1,))
    counted = xp.cumsum(xp.astype(flat, labels.dtype), axis=0, dtype=labels.dtype)
    behind = xp.full_like(counted, labels.shape[0])
    place = xp.where(xp.logical_and(flat, counted[-1:] == labels.shape[0]), counted - 1, behind)
    found = xp.take(xp.concat([labels, xp.full_like(counted[:1], -1)], axis=0), place, axis=0)
    return xp.reshape(xp.where(flat, found, xp.full_like(found, IGNORED)), masked.shape)
