"""Connectionist temporal classification (Graves et al. 2006): the loss of a text whose alignment in time is unknown.

Letters of the shapes: B batch, T frames, V vocabulary, L labels, S = 2 L + 1 states: the labels with blanks between
them and around them.
"""

import functools
from typing import Any

from diptych.core.semantics.precision import at_least_float32

_NEVER = -1e30
"""The log-probability of impossible events; finite, so that gradients are finite too."""


def loss(
    ops: Any,
    log_probabilities: Any,
    labels: Any,
    frame_counts: Any,
    label_counts: Any,
    *,
    blank: int,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """The negative log-probability of all alignments of labels and frames, as in `torch.nn.functional.ctc_loss`.

    A row with too few frames has the loss inf, without a gradient (in torch the gradient is NaN).

    Args:
        ops: the backend's functions.
        log_probabilities: (B, T, V), whose exponentials sum to 1 over V.
        labels: (B, L) ids; only the first `label_counts` of each row are used.
        frame_counts: (B,), the number of frames of each row.
        label_counts: (B,), the number of labels of each row.
        blank: the id of the blank.
        reduction: "sum" over the rows, or "mean" of each row's loss by its number of labels, at least 1.
        zero_infinity: whether rows with too few frames have a loss of 0.

    Returns:
        A scalar, in float32 or wider.
    """
    xp = ops.xp
    log_probabilities = at_least_float32(xp, log_probabilities)
    wide = log_probabilities.dtype
    batch, frames, words = log_probabilities.shape
    places = ops.steps(2 * labels.shape[1] + 1, labels)
    valid = xp.logical_and(labels >= 0, labels < words)
    padded = xp.where(valid, labels, xp.full_like(labels, blank))
    blanks = xp.full_like(padded[:, :, None], blank)
    states = xp.concat([blanks, padded[:, :, None]], axis=2)
    states = xp.concat([xp.reshape(states, (batch, -1)), xp.full_like(labels[:, :1], blank)], axis=1)
    # a label may follow the previous one without a blank, unless the two are equal
    before = xp.concat([xp.full_like(states[:, :2], blank), states[:, :-2]], axis=1)
    skips = xp.logical_and(states != blank, states != before)

    chosen = xp.broadcast_to(states[:, None, :], (batch, frames, states.shape[1]))
    emitted = xp.permute_dims(xp.take_along_axis(log_probabilities, chosen, axis=2), (1, 0, 2))
    zeros = xp.zeros_like(xp.astype(states, wide))
    start = xp.where((places == 0)[None, :], zeros, zeros + _NEVER)

    items = (emitted, ops.steps(frames, labels))
    alpha = ops.scan(functools.partial(_next_alpha, xp, skips, frame_counts), start, items)
    ends = xp.logical_and(
        places[None, :] <= 2 * label_counts[:, None], places[None, :] >= 2 * label_counts[:, None] - 1
    )
    alpha = xp.where(ends, alpha, xp.zeros_like(alpha) + _NEVER)
    peak = xp.max(alpha, axis=1, keepdims=True)
    total = (peak + xp.log(xp.sum(xp.exp(alpha - peak), axis=1, keepdims=True)))[:, 0]
    impossible = total < _NEVER / 2
    losses = xp.where(impossible, xp.zeros_like(total) + (0.0 if zero_infinity else float("inf")), -total)
    if reduction == "sum":
        return xp.sum(losses)
    counts = xp.where(label_counts > 0, label_counts, xp.full_like(label_counts, 1))
    return xp.mean(losses / xp.astype(counts, wide))


def _next_alpha(xp: Any, skips: Any, frame_counts: Any, alpha: Any, item: tuple[Any, Any]) -> Any:
    """(B, S): the log-probability of being in each state after one more frame; unchanged after a row's last one."""
    emission, frame = item
    never = xp.zeros_like(alpha) + _NEVER
    one = xp.concat([never[:, :1], alpha[:, :-1]], axis=1)
    two = xp.where(skips, xp.concat([never[:, :2], alpha[:, :-2]], axis=1), never)
    reached = xp.logaddexp(xp.logaddexp(alpha, one), two) + emission
    return xp.where((frame < frame_counts)[:, None], reached, alpha)


def pack_labels(xp: Any, labels: Any, counted: Any) -> tuple[Any, Any]:
    """(B, L) labels and a mask of those that count -> the labels with these first, in order, and (B,) their number."""
    order = xp.argsort(xp.astype(~counted, xp.int32), axis=1, stable=True)
    return xp.take_along_axis(labels, order, axis=1), xp.sum(xp.astype(counted, labels.dtype), axis=1)


def needed_frames(ops: Any, labels: Any, counts: Any) -> Any:
    """(B, L) packed labels and (B,) their number -> (B,): the least number of frames that can tell them.

    Equal neighbours need a blank between them.
    """
    xp = ops.xp
    pairs = xp.logical_and(
        labels[:, 1:] == labels[:, :-1], ops.steps(labels.shape[1], labels)[None, 1:] < counts[:, None]
    )
    return counts + xp.sum(xp.astype(pairs, counts.dtype), axis=1)
