"""Losses: scalars, computed in float32 or wider."""

from typing import Any

import numpy as np

from diptych.core.semantics.precision import at_least_float32

IGNORED = -100
"""The label that a cross-entropy ignores."""


def log_softmax(xp: Any, logits: Any) -> Any:
    """The log-probabilities along the last axis."""
    # torch's own, if the namespace has it: it stores one array of the vocabulary's size for the gradient, not three
    if (own := getattr(xp, "log_softmax", None)) is not None:
        return own(logits, -1)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def cross_entropy(xp: Any, logits: Any, labels: Any) -> Any:
    """Mean of -log softmax(logits)[label] over the labels that are not -100; NaN if all are, or if one is not a class.

    Args:
        xp: array namespace.
        logits: (…, C).
        labels: (…), ids below C or -100, in an integer dtype with which the namespace can index.
    """
    counted = labels != IGNORED
    log_probabilities = log_softmax(xp, at_least_float32(xp, logits))
    inside = xp.logical_and(labels >= 0, labels < logits.shape[-1])
    chosen = xp.where(inside, labels, xp.zeros_like(labels))
    losses = -xp.take_along_axis(log_probabilities, chosen[..., None], axis=-1)[..., 0]
    losses = xp.where(inside, losses, xp.full_like(losses, xp.nan))
    losses = xp.where(counted, losses, xp.zeros_like(losses))
    return xp.sum(losses) / xp.sum(xp.astype(counted, losses.dtype))


def causal(xp: Any, logits: Any, labels: Any) -> Any:
    """The cross-entropy of a causal model: the logits at t predict the label at t + 1.

    Args:
        xp: array namespace.
        logits: (B, T, V).
        labels: (B, T), as in `cross_entropy`; the first of each row is not predicted.
    """
    # shift the labels, not the logits, which are far larger
    following = xp.concat([labels[:, 1:], xp.full_like(labels[:, :1], IGNORED)], axis=1)
    return cross_entropy(xp, logits, following)


def binary_cross_entropy(xp: Any, logits: Any, labels: Any) -> Any:
    """Mean over all entries of the cross-entropy of sigmoid(logits) with labels in [0, 1], both (B, C)."""
    logits = at_least_float32(xp, logits)
    labels = xp.astype(labels, logits.dtype)
    losses = xp.where(logits > 0, logits, xp.zeros_like(logits)) - logits * labels + xp.log1p(xp.exp(-xp.abs(logits)))
    return xp.mean(losses)


def mean_squared_error(xp: Any, predictions: Any, labels: Any) -> Any:
    """Mean over all entries of the squared difference of two arrays of one shape."""
    predictions = at_least_float32(xp, predictions)
    return xp.mean((predictions - xp.astype(labels, predictions.dtype)) ** 2)


def problem(classes: int, floating: bool, problem_type: str | None) -> str:
    """The problem type of a classifier; if the config has none: regression for one output, otherwise single-label for
    integer labels and multi-label for floats."""
    if problem_type is not None:
        return problem_type
    if classes == 1:
        return "regression"
    return "multi_label_classification" if floating else "single_label_classification"


def example_targets(classes: int, problem_type: str | None, random: np.random.Generator) -> np.ndarray:
    """Labels for two examples of a classifier."""
    asked = problem(classes, False, problem_type)
    if asked == "single_label_classification":
        return random.integers(0, classes, 2)
    return random.random((2, classes)) if asked == "regression" else random.integers(0, 2, (2, classes)).astype(float)


def classification(xp: Any, logits: Any, labels: Any, problem_type: str | None) -> Any:
    """The loss of a classifier.

    Args:
        xp: array namespace.
        logits: (B, C).
        labels: (B,) class ids; or (B, C) in [0, 1] for multi-label; or (B,) or (B, C) targets of a regression.
        problem_type: as in the config; see `problem`.
    """
    floating = xp.isdtype(labels.dtype, "real floating")
    asked = problem(logits.shape[-1], floating, problem_type)
    if asked == "regression":
        return mean_squared_error(xp, xp.reshape(logits, labels.shape), labels)
    if asked == "multi_label_classification":
        return binary_cross_entropy(xp, logits, labels)
    return cross_entropy(xp, logits, labels)


def masked_reconstruction(xp: Any, pixels: Any, reconstruction: Any, masked: Any, patch: tuple[int, int]) -> Any:
    """The mean absolute error of the pixels of masked patches (Xie et al. 2021, arXiv:2111.09886).

    Args:
        xp: array namespace.
        pixels: (B, C, Y, X).
        reconstruction: (B, C, y, x), the same images but for incomplete patches at their bottom and right.
        masked: Bool (B, rows, columns), True for the patches that count.
        patch: the height and width of a patch.
    """
    height, width = (min(sizes) for sizes in zip(pixels.shape[2:], reconstruction.shape[2:], strict=True))
    batch, rows, columns = masked.shape
    tiles = xp.broadcast_to(masked[:, :, None, :, None], (batch, rows, patch[0], columns, patch[1]))
    counted = xp.reshape(tiles, (batch, 1, rows * patch[0], columns * patch[1]))[:, :, :height, :width]
    errors = xp.abs(
        at_least_float32(xp, pixels[:, :, :height, :width])
        - at_least_float32(xp, reconstruction[:, :, :height, :width])
    )
    counted = xp.astype(counted, errors.dtype)
    # the published constant, for images without a masked patch
    return xp.sum(errors * counted) / (xp.sum(counted) + 1e-5) / pixels.shape[1]


def contrastive(xp: Any, logits_per_text: Any, steps: Any) -> Any:
    """CLIP's symmetric loss of (n, n) similarities, whose diagonal holds the matching pairs; `steps` is 0 … n - 1."""
    texts = cross_entropy(xp, logits_per_text, steps)
    return (texts + cross_entropy(xp, xp.matrix_transpose(logits_per_text), steps)) / 2
