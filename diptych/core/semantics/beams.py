"""Beam search, as transformers 5 does it.

Letters of the shapes: B prompts, K beams, C candidates, E end-of-sequence ids, L columns of the buffer of ids,
V vocabulary.
"""

from typing import Any, NamedTuple

from diptych.core.semantics import sampling

_EXCLUDED = -1.0e9
"""The score of candidates that must not be chosen."""


class BeamState(NamedTuple):
    """The state of a search after some number of tokens."""

    ids: Any
    """(B, K, L), the running sequences, best first."""
    scores: Any
    """(B, K), their summed log-probabilities."""
    origins: Any
    """(B, K, L) int32, the row, among all prompts' beams, of each new token; -1 for no token yet."""
    finished_ids: Any
    """(B, K, L), the finished sequences, best first."""
    finished_scores: Any
    """(B, K), their scores, with the length penalty applied."""
    finished_origins: Any
    """(B, K, L) int32"""
    finished: Any
    """(B, K), whether the slot holds a finished sequence."""
    improvable: Any
    """(B,), whether a running sequence may still become better than a finished one."""
    source_rows: Any
    """(B K,), the row, among all prompts' beams, that each running sequence continues."""
    last_tokens: Any
    """(B K,), the newest token of each running sequence."""
    length: Any
    """The number of tokens so far, a scalar."""
    running: Any
    """Whether the search continues, a scalar."""


class BeamOptions(NamedTuple):
    """The options of a search; all but the first two may be traced."""

    early_stopping: bool | str
    do_sample: bool
    length_penalty: Any
    prompt_length: Any
    max_length: Any
    eos: Any
    """(E,), the end-of-sequence ids."""
    seed: Any
    """(2,) int32, its `sampling.seed_words`."""


class Candidates(NamedTuple):
    """The best continuations of a step, of which some end, and the best others go on."""

    ids: Any
    """(B, C, L), the sequences with their new token."""
    scores: Any
    """(B, C), their summed log-probabilities."""
    tokens: Any
    """(B, C), the new tokens."""
    rows: Any
    """(B, C), the row, among all prompts' beams, that each continues."""
    origins: Any
    """(B, C, L) int32"""


def start(ops: Any, ids: Any, length: Any, scores: Any, beams: int) -> BeamState:
    """The state before the first new token.

    Args:
        ops: the backend's functions.
        ids: (B, L), the prompts, followed by padding.
        length: the number of tokens of the prompts.
        scores: an array with the scores' dtype.
        beams: K.
    """
    xp = ops.xp
    ids = xp.repeat(ids[:, None, :], beams, axis=1)
    steps = ops.steps(beams, ids)
    none = xp.zeros_like(xp.astype(ids[:, :, 0], scores.dtype)) + _EXCLUDED
    origins = xp.full_like(ids, -1, dtype=xp.int32)
    unfinished = xp.zeros_like(ids[:, :, 0], dtype=xp.bool)
    count = ops.steps(ids.shape[0] * beams, ids)
    # only the first beam has a score of 0: all are the same sequence
    first = xp.where((steps == 0)[None, :], xp.zeros_like(none), none)
    improvable = ~unfinished[:, 0]
    last_tokens = xp.reshape(ids[:, :, 0], (-1,))
    return BeamState(
        ids, first, origins, ids, none, origins, unfinished, improvable, count, last_tokens, length, xp.all(improvable)
    )


def advance(ops: Any, options: BeamOptions, beams: BeamState, log_probabilities: Any) -> BeamState:
    """The state after one more token; for the arguments see `propose`."""
    return settle(ops, options, beams, propose(ops, options, beams, log_probabilities))


def propose(ops: Any, options: BeamOptions, beams: BeamState, log_probabilities: Any) -> Candidates:
    """The candidates for the next token.

    Args:
        ops: the backend's functions.
        options: the options of the search.
        beams: the state before.
        log_probabilities: (B K, V), of the next token, after all logits processors.
    """
    xp, (batch, count, size) = ops.xp, beams.ids.shape
    vocabulary = log_probabilities.shape[1]
    sums = xp.reshape(log_probabilities, (batch, count, vocabulary)) + beams.scores[:, :, None]
    sums = xp.reshape(sums, (batch, count * vocabulary))
    candidates = min(max(2, 1 + options.eos.shape[0]) * count, count * vocabulary)
    if options.do_sample:
        weights = xp.exp(sums - xp.max(sums, axis=1, keepdims=True))
        chosen = sampling.sample_without_replacement(
            ops, weights, options.seed, beams.length - options.prompt_length, candidates
        )
        scores = xp.take_along_axis(sums, xp.where(chosen < 0, xp.zeros_like(chosen), chosen), axis=1)
        scores = xp.where(chosen < 0, xp.zeros_like(scores) + _EXCLUDED, scores)
    else:
        scores, chosen = ops.top_k(sums, candidates)
    source, token = xp.where(chosen < 0, xp.zeros_like(chosen), chosen // vocabulary), chosen % vocabulary
    here = (ops.steps(size, beams.ids) == beams.length)[None, None, :]
    ids = xp.where(here, xp.astype(token, beams.ids.dtype)[:, :, None], _take_rows(xp, beams.ids, source))
    row = source + ops.steps(batch, source)[:, None] * count
    new = (ops.steps(size, beams.ids) == beams.length - options.prompt_length)[None, None, :]
    origins = xp.where(new, xp.astype(row, xp.int32)[:, :, None], _take_rows(xp, beams.origins, source))
    return Candidates(ids, scores, token, row, origins)


def settle(ops: Any, options: BeamOptions, beams: BeamState, found: Candidates, stopped: Any = None) -> BeamState:
    """The state after one more token.

    Args:
        ops: the backend's functions.
        options: the options of the search.
        beams: the state before.
        found: the candidates.
        stopped: (B, C), whether something besides the options ends a candidate; None if nothing does.
    """
    xp, count, candidates = ops.xp, beams.ids.shape[1], found.ids.shape[1]
    ids, scores, token, row, origins = found
    length = beams.length + 1
    ended = xp.any(token[:, :, None] == options.eos[None, None, :], axis=2) | (length >= options.max_length)
    ended = ended if stopped is None else ended | stopped

    running_scores, order = ops.top_k(xp.where(ended, scores + _EXCLUDED, scores), count)

    # only the best `count` candidates may finish; the others replace those that do
    finishing = ended & (ops.steps(candidates, token) < count)[None, :]
    full = xp.all(beams.finished, axis=1) if options.early_stopping is True else xp.zeros_like(beams.improvable)
    barred = xp.astype(full, scores.dtype) + xp.astype(~beams.improvable, scores.dtype)
    penalty = xp.asarray(options.length_penalty, dtype=scores.dtype)
    final = scores / xp.asarray(length - options.prompt_length, dtype=scores.dtype) ** penalty
    final = final + (barred[:, None] + xp.astype(~finishing, scores.dtype)) * _EXCLUDED
    best_scores, best = ops.top_k(xp.concat([beams.finished_scores, final], axis=1), count)
    finished = xp.take_along_axis(xp.concat([beams.finished, finishing], axis=1), best, axis=1)

    longest = length - options.prompt_length
    if options.early_stopping == "never":
        limit = xp.asarray(options.max_length - options.prompt_length)
        longest = xp.where(penalty > 0, limit, xp.asarray(longest, dtype=limit.dtype))
    possible = running_scores[:, :1] / xp.asarray(longest, dtype=scores.dtype) ** penalty
    worst = xp.where(finished, xp.min(best_scores, axis=1, keepdims=True), xp.zeros_like(best_scores) + _EXCLUDED)
    improvable = beams.improvable & xp.any(possible > worst, axis=1)
    running = xp.any(improvable) & ~xp.all(ended)
    if options.early_stopping is True:
        running = running & ~xp.all(finished)
    return BeamState(
        ids=_take_rows(xp, ids, order),
        scores=running_scores,
        origins=_take_rows(xp, origins, order),
        finished_ids=_take_rows(xp, xp.concat([beams.finished_ids, ids], axis=1), best),
        finished_scores=best_scores,
        finished_origins=_take_rows(xp, xp.concat([beams.finished_origins, origins], axis=1), best),
        finished=finished,
        improvable=improvable,
        source_rows=xp.reshape(xp.take_along_axis(row, order, axis=1), (-1,)),
        last_tokens=xp.reshape(xp.astype(xp.take_along_axis(token, order, axis=1), beams.ids.dtype), (-1,)),
        length=length,
        running=running,
    )


def _take_rows(xp: Any, values: Any, which: Any) -> Any:
    """(B, K, L) values and (B, C) indices of their rows -> (B, C, L)."""
    return xp.take_along_axis(values, which[:, :, None], axis=1)
