"""Contrastive pretraining of speech encoders with a quantizer (Baevski et al. 2020, arXiv:2006.11477).

Letters of the shapes: B batch, T frames, D width, G groups of code vectors, V code vectors of a group, K negatives.
"""

from typing import Any

import numpy as np

from diptych.core.semantics.losses import log_softmax
from diptych.core.semantics.precision import at_least_float32

_LEAST_NORM = 1e-8
"""The smallest norm by which a similarity is divided, as in `torch.cosine_similarity`."""


def softmax(xp: Any, logits: Any) -> Any:
    """The probabilities along the last axis, in float32 or wider."""
    return xp.exp(log_softmax(xp, at_least_float32(xp, logits)))


def one_hot_of_largest(ops: Any, values: Any) -> Any:
    """1 for the largest entry along the last axis, 0 for the others; without a gradient."""
    xp = ops.xp
    index = xp.argmax(values, axis=-1)
    places = xp.reshape(ops.steps(values.shape[-1], values), (1,) * (len(values.shape) - 1) + (-1,))
    return xp.astype(index[..., None] == places, values.dtype)


def perplexity(xp: Any, probabilities: Any, masked: Any) -> Any:
    """How many code vectors are in use, summed over the groups: exp of the entropy of their mean probabilities.

    Args:
        xp: array namespace.
        probabilities: (B, T, G, V).
        masked: Bool (B, T), the frames that count; None for all.
    """
    if masked is None:
        mean = xp.mean(probabilities, axis=(0, 1))
    else:
        counted = xp.astype(masked, probabilities.dtype)
        mean = xp.sum(probabilities * counted[:, :, None, None], axis=(0, 1)) / xp.sum(counted)
    positive = mean > 0
    logarithms = xp.log(xp.where(positive, mean, xp.ones_like(mean)))
    return xp.sum(xp.exp(-xp.sum(mean * logarithms, axis=-1)))


def contrastive_loss(ops: Any, states: Any, codes: Any, negatives: Any, masked: Any, temperature: float) -> Any:
    """The summed cross-entropy of telling each masked frame's own code from those of other frames.

    A negative that equals the frame's own code doesn't count.

    Args:
        ops: the backend's functions.
        states: (B, T, D), of the encoder.
        codes: (B, T, D), of the quantizer.
        negatives: (B, T, K) indices into the B * T frames.
        masked: Bool (B, T), the frames that count.
        temperature: by which the cosine similarities are divided.
    """
    xp = ops.xp
    others = xp.reshape(codes, (-1, codes.shape[-1]))[negatives]
    same = xp.all(others == codes[:, :, None, :], axis=-1)
    candidates = xp.concat([codes[:, :, None, :], others], axis=2)
    logits = _cosine(xp, at_least_float32(xp, states)[:, :, None, :], at_least_float32(xp, candidates)) / temperature
    excluded = xp.concat([xp.zeros_like(same[:, :, :1]), same], axis=2)
    logits = xp.where(excluded, xp.full_like(logits, -float("inf")), logits)
    losses = -log_softmax(xp, logits)[:, :, 0]
    return xp.sum(xp.where(masked, losses, xp.zeros_like(losses)))


def _cosine(xp: Any, first: Any, second: Any) -> Any:
    norms = [xp.clip(xp.sqrt(xp.sum(values * values, axis=-1)), _LEAST_NORM, None) for values in (first, second)]
    return xp.sum(first * second, axis=-1) / (norms[0] * norms[1])


def draw_negatives(masked: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`sampled_negative_indices` (B, T, K): for each masked frame, other masked frames of its row, drawn uniformly.

    Args:
        masked: Bool (B, T), with two frames or more in each row.
        count: K.
        random: the source of randomness.
    """
    rows, frames = masked.shape
    found = np.tile(np.array([[[row * frames]] for row in range(rows)]), (1, frames, count))
    for row in range(rows):
        (places,) = np.nonzero(masked[row])
        drawn = random.integers(0, len(places) - 1, (len(places), count))
        drawn += drawn >= np.arange(len(places))[:, None]  # all but the frame itself
        found[row, places] += places[drawn]
    return found
