"""The positions of tokens, and the token whose state represents its sequence."""

from typing import Any

import numpy as np


def sequential(xp: Any, steps: Any) -> Any:
    """(T,) counted from 0 -> (1, T): the same positions for every row, padded or not."""
    return steps[None, :]


def skip_padding(xp: Any, tokens: Any, before: Any, padding_idx: int) -> tuple[Any, Any]:
    """RoBERTa's positions: padding has position `padding_idx`, and the other tokens are counted from the next one.

    With a cache, transformers counts earlier padding too, or with embeddings no earlier tokens at all.

    Args:
        xp: the array namespace.
        tokens: (B, T), or (1, T) for all rows, False for padding.
        before: (B,), the number of earlier tokens, without padding.
        padding_idx: the id of padding, which is also its position.

    Returns:
        (B, T) positions, and (B,) the number of tokens so far, without padding.
    """
    # array_api_compat's cumulative_sum of torch tensors uses a cache that torch.compile warns about
    counts = xp.cumsum(xp.astype(tokens, before.dtype), axis=1, dtype=before.dtype) + before[:, None]
    return xp.where(tokens, counts, xp.zeros_like(counts)) + padding_idx, counts[:, -1]


def end_of_text(xp: Any, input_ids: Any, eos_token_id: int | None) -> Any:
    """(B, T) ids -> (B,): the index of the token whose state CLIP takes as a text's features.

    Configs from before transformers 4.31 have a wrong eos_token_id of 2; they mean the largest id, the end of text in
    CLIP's own vocabulary. Otherwise it is the first eos_token_id, or 0 in a row without one.
    """
    if eos_token_id == 2:
        return xp.argmax(input_ids, axis=-1)
    return xp.argmax(xp.astype(input_ids == eos_token_id, xp.int32), axis=-1)


def last_end(xp: Any, input_ids: Any, eos_token_id: int) -> tuple[Any, Any]:
    """(B, T) ids -> (B,) index of the last end-of-sequence token, and (B,) the number of them in each row."""
    ends = xp.astype(input_ids == eos_token_id, xp.int32)
    return input_ids.shape[1] - 1 - xp.argmax(xp.flip(ends, axis=1), axis=1), xp.sum(ends, axis=1)


def rotary(length: int, width: int, base: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of rotary positions (Su et al. 2021, arXiv:2104.09864), (T, H) each, in float64.

    The angles are those of transformers in float32: exponents, powers and reciprocals are each rounded to float32. With
    frequencies in float64, results differ by 6e-5 at position 2047. Round the tables once, with `ops.constant`.

    Args:
        length: T, number of positions.
        width: H, the size of a head, even; entries i and i + H / 2 are rotated by the same angle.
        base: the base of the frequencies, `rope_theta`.
    """
    exponents = np.arange(0, width, 2).astype(np.float32) / np.float32(width)
    powers = (np.float64(base) ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / powers
    angles = np.arange(length).astype(np.float32)[:, None] * frequencies[None, :]
    angles = np.concatenate((angles, angles), axis=1).astype(np.float64)
    return np.cos(angles), np.sin(angles)
