"""The positions of tokens, and the token whose state represents its sequence."""

import math
from typing import Any

import numpy as np

from diptych.core.semantics.tables import cached_table

SINUSOIDAL_LIMIT = 2**24
"""The number of positions that float32 counts exactly."""


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


def count_attended(xp: Any, attended: Any, slots: Any) -> Any:
    """The positions of IDEFICS: tokens that are attended to are counted from 0, and padding has position 1.

    Args:
        xp: the array namespace.
        attended: Bool (B, S), False for padding.
        slots: (T,), the places of the tokens whose positions are needed.

    Returns:
        (B, T).
    """
    counts = xp.cumsum(xp.astype(attended, slots.dtype), axis=1, dtype=slots.dtype) - 1
    return xp.take(xp.where(attended, counts, xp.ones_like(counts)), slots, axis=1)


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


@cached_table
def rotary_table(length: int, width: int) -> np.ndarray:
    """The cosines and sines of `rotary` side by side, (T, 2 H)."""
    return np.concatenate(rotary(length, width), axis=1)


def sinusoid_frequencies(width: int) -> np.ndarray:
    """The frequencies (D // 2,) of sinusoidal positions of width D, 4 or more, in float32.

    The exponents are those of float32, in which transformers takes the exponentials too: their last bit then depends on
    the machine.
    """
    half = width // 2
    exponents = np.arange(half).astype(np.float32) * np.float32(-math.log(10_000) / (half - 1))
    return np.exp(exponents.astype(np.float64)).astype(np.float32)


def sinusoidal(xp: Any, position_ids: Any, frequencies: Any, like: Any, padding_idx: int) -> Any:
    """Sinusoidal positions as in fairseq: all sines (Vaswani et al. 2017, arXiv:1706.03762) come before all cosines.

    The angles are those of float32, as published; their sines and cosines are computed in float32 or wider.

    Args:
        xp: the array namespace.
        position_ids: (B, T) integers.
        frequencies: (D // 2,), from `sinusoid_frequencies`.
        like: an array (…, D) with the dtype of the result.
        padding_idx: the position of padding, which becomes zeros.

    Returns:
        (B, T, D); the last entry is zero if D is odd.
    """
    angles = xp.astype(position_ids, xp.float32)[:, :, None] * frequencies[None, None, :]
    angles = xp.astype(angles, xp.result_type(like.dtype, xp.float32))
    parts = (xp.sin(angles), xp.cos(angles), xp.zeros_like(angles[..., : like.shape[-1] % 2]))
    found = xp.where((position_ids != padding_idx)[:, :, None], xp.concat(parts, axis=-1), 0.0)
    return xp.astype(found, like.dtype)


CLASS_TOKEN_DISTANCES = 3
"""The distances with a class token: from it to a patch, from a patch to it, and from it to itself."""


def distance_count(rows: int, columns: int) -> int:
    """The number of distances between the patches of a grid, in rows and columns."""
    return (2 * rows - 1) * (2 * columns - 1)


@cached_table
def patch_distances(rows: int, columns: int) -> np.ndarray:
    """(P, P): the number of the distance from each patch of a grid to each patch, P = rows * columns.

    A distance is the query's place minus the key's. They are numbered row by row, from (1 - rows, 1 - columns).
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    down = row[:, None] - row[None, :] + rows - 1
    right = column[:, None] - column[None, :] + columns - 1
    return down * (2 * columns - 1) + right


@cached_table
def patch_distances_with_class_token(rows: int, columns: int) -> np.ndarray:
    """(P + 1, P + 1): as `patch_distances`, with a class token before the patches, whose distances come last."""
    count = distance_count(rows, columns)
    numbers = np.pad(patch_distances(rows, columns), ((1, 0), (1, 0)))
    numbers[0, :], numbers[:, 0], numbers[0, 0] = count, count + 1, count + 2
    return numbers


@cached_table
def distance_buckets(length: int, buckets: int, farthest: int) -> np.ndarray:
    """(2 T - 1,): the bucket of each distance from a query to a key of T frames, from 1 - T to T - 1 (T5, WavLM).

    Half of the buckets are for keys after the query. Of each half, half are for one distance each, and the others for
    distances that grow exponentially, up to `farthest`.
    """
    half = buckets // 2
    exact = half // 2
    distances = np.arange(1 - length, length)
    away = np.abs(distances)
    # the published arithmetic, in float32, since rounding decides about whole numbers
    ratio = np.maximum(away, 1).astype(np.float32) / np.float32(exact)
    share = np.log(ratio.astype(np.float64)).astype(np.float32) / np.float32(math.log(farthest / exact))
    grown = exact + (share * np.float32(half - exact)).astype(np.int64)
    return np.where(away < exact, away, np.minimum(grown, half - 1)) + np.where(distances > 0, half, 0)
