"""Which position a token has, and which token stands for its sequence."""

from typing import Any

import numpy as np


def sequential(xp: Any, steps: Any) -> Any:
    """(T,) counted from 0 -> (1, T): the same positions for every row, padded or not."""
    return steps[None, :]


def skip_padding(xp: Any, tokens: Any, before: Any, padding_idx: int) -> tuple[Any, Any]:
    """RoBERTa's positions: pads have position `padding_idx`, the other tokens are counted from the next on.

    transformers counts the pads of the past too, if there is a cache, and nothing of it where embeddings are given.

    Args:
        xp: the array namespace.
        tokens: (B, T), or (1, T) for all rows alike, False for pads.
        before: (B,), how many tokens that are no pads came before.
        padding_idx: the id of pads, which is their position too.

    Returns:
        (B, T) positions, and (B,) how many tokens that are no pads there are now.
    """
    # array_api_compat's cumulative_sum of torch tensors asks a cache that torch.compile warns of
    counts = xp.cumsum(xp.astype(tokens, before.dtype), axis=1, dtype=before.dtype) + before[:, None]
    return xp.where(tokens, counts, xp.zeros_like(counts)) + padding_idx, counts[:, -1]


def end_of_text(xp: Any, input_ids: Any, eos_token_id: int | None) -> Any:
    """(B, T) ids -> (B,): where CLIP reads a text's features.

    Configs written before transformers 4.31 say eos_token_id 2, which is wrong; they mean the largest id, which is the
    end of text in CLIP's own vocabulary. Others mean the first eos_token_id; a row without one gives 0.
    """
    if eos_token_id == 2:
        return xp.argmax(input_ids, axis=-1)
    return xp.argmax(xp.astype(input_ids == eos_token_id, xp.int32), axis=-1)


def last_end(xp: Any, input_ids: Any, eos_token_id: int) -> tuple[Any, Any]:
    """(B, T) ids -> (B,): where BART's classifier reads, the last end of text, and how many of them each row has."""
    ends = xp.astype(input_ids == eos_token_id, xp.int32)
    return input_ids.shape[1] - 1 - xp.argmax(xp.flip(ends, axis=1), axis=1), xp.sum(ends, axis=1)


def rotary(length: int, width: int, base: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of rotary positions (Su et al. 2021, arXiv:2104.09864), (T, H) each, in float64.

    The angles are those that transformers has in float32: the exponents and the powers are rounded to it one by one,
    and a float32 reciprocal is taken. Frequencies in float64 differ in 6e-5 at position 2047. Round the tables once,
    with `ops.constant`.

    Args:
        length: T, number of positions.
        width: H, the size of a head, even; entry i and entry i + H / 2 are turned by one angle.
        base: of the frequencies, `rope_theta`.
    """
    exponents = np.arange(0, width, 2).astype(np.float32) / np.float32(width)
    powers = (np.float64(base) ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / powers
    angles = np.arange(length).astype(np.float32)[:, None] * frequencies[None, :]
    angles = np.concatenate((angles, angles), axis=1).astype(np.float64)
    return np.cos(angles), np.sin(angles)
