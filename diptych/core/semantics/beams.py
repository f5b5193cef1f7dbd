"""Beam search, as transformers 5 does it: which texts go on, which are finished, and whether better ones can come.

Letters of the shapes: B texts, K beams, C candidates, L tokens of the buffer, V vocabulary.
"""

from typing import Any, NamedTuple

from diptych.core.semantics import sampling

_NEVER = -1.0e9
"""The score of what cannot be chosen."""


class Beams(NamedTuple):
    """Where a search stands."""

    ids: Any
    """(B, K, L), the texts that go on, best first."""
    scores: Any
    """(B, K), the sum of each one's scores."""
    origins: Any
    """(B, K, L) int32, the row of the batch of beams that each new token was chosen in; -1 where there is none yet."""
    best: Any
    """(B, K, L), the finished texts, best first."""
    best_scores: Any
    """(B, K), each one's score for its length."""
    best_origins: Any
    """(B, K, L) int32"""
    finished: Any
    """(B, K), whether there is a finished text."""
    hopeful: Any
    """(B,), whether a text that goes on may still become better than a finished one."""
    rows: Any
    """(B K,), the row of the batch of beams that each text that goes on comes from."""
    newest: Any
    """(B K,), the last token of each."""
    length: Any
    """The number of tokens, a scalar."""
    going: Any
    """Whether to go on, a scalar."""


class Rules(NamedTuple):
    """What a search obeys; numbers, all but the first two of which may be traced."""

    early_stopping: bool | str
    samples: bool
    length_penalty: Any
    prompt_length: Any
    max_length: Any
    eos: Any
    """(E,), the ids that end a text."""
    seed: Any
    """(2,) int32, its `sampling.words`."""


def begun(ops: Any, ids: Any, length: Any, scores: Any, beams: int) -> Beams:
    """The start of a search.

    Args:
        ops: the backend's functions.
        ids: (B, L), the prompts, and padding behind them.
        length: tokens of the prompts.
        scores: something of the scores' dtype.
        beams: K.
    """
    xp = ops.xp
    ids = xp.repeat(ids[:, None, :], beams, axis=1)
    steps = ops.steps(beams, ids)
    none = xp.zeros_like(xp.astype(ids[:, :, 0], scores.dtype)) + _NEVER
    origins = xp.full_like(ids, -1, dtype=xp.int32)
    unfinished = xp.zeros_like(ids[:, :, 0], dtype=xp.bool)
    count = ops.steps(ids.shape[0] * beams, ids)
    # only the first beam counts: the others are the same text
    first = xp.where((steps == 0)[None, :], xp.zeros_like(none), none)
    hopeful = ~unfinished[:, 0]
    newest = xp.reshape(ids[:, :, 0], (-1,))
    return Beams(ids, first, origins, ids, none, origins, unfinished, hopeful, count, newest, length, xp.all(hopeful))


def advanced(ops: Any, rules: Rules, beams: Beams, log_probabilities: Any) -> Beams:
    """The search after one more token.

    Args:
        ops: the backend's functions.
        rules: what it obeys.
        beams: where it stands.
        log_probabilities: (B K, V), of the next token, after all rules that change them.
    """
    xp, (batch, count, size) = ops.xp, beams.ids.shape
    words = log_probabilities.shape[1]
    sums = xp.reshape(log_probabilities, (batch, count, words)) + beams.scores[:, :, None]
    sums = xp.reshape(sums, (batch, count * words))
    kept = min(max(2, 1 + rules.eos.shape[0]) * count, count * words)
    if rules.samples:
        weights = xp.exp(sums - xp.max(sums, axis=1, keepdims=True))
        picked = sampling.choices(ops, weights, rules.seed, beams.length - rules.prompt_length, kept)
        scores = xp.take_along_axis(sums, xp.where(picked < 0, xp.zeros_like(picked), picked), axis=1)
        scores = xp.where(picked < 0, xp.zeros_like(scores) + _NEVER, scores)
    else:
        scores, picked = ops.top_k(sums, kept)
    source, token = xp.where(picked < 0, xp.zeros_like(picked), picked // words), picked % words
    here = (ops.steps(size, beams.ids) == beams.length)[None, None, :]
    ids = xp.where(here, xp.astype(token, beams.ids.dtype)[:, :, None], _of(xp, beams.ids, source))
    row = source + ops.steps(batch, source)[:, None] * count
    new = (ops.steps(size, beams.ids) == beams.length - rules.prompt_length)[None, None, :]
    origins = xp.where(new, xp.astype(row, xp.int32)[:, :, None], _of(xp, beams.origins, source))
    length = beams.length + 1
    ended = xp.any(token[:, :, None] == rules.eos[None, None, :], axis=2) | (length >= rules.max_length)

    running, order = ops.top_k(xp.where(ended, scores + _NEVER, scores), count)

    # only the best `count` of the candidates may finish; the others are there in case all of these do
    finishing = ended & (ops.steps(kept, token) < count)[None, :]
    full = xp.all(beams.finished, axis=1) if rules.early_stopping is True else xp.zeros_like(beams.hopeful)
    barred = xp.astype(full, scores.dtype) + xp.astype(~beams.hopeful, scores.dtype)
    penalty = xp.asarray(rules.length_penalty, dtype=scores.dtype)
    final = scores / xp.asarray(length - rules.prompt_length, dtype=scores.dtype) ** penalty
    final = final + (barred[:, None] + xp.astype(~finishing, scores.dtype)) * _NEVER
    best_scores, best = ops.top_k(xp.concat([beams.best_scores, final], axis=1), count)
    finished = xp.take_along_axis(xp.concat([beams.finished, finishing], axis=1), best, axis=1)

    longest = length - rules.prompt_length
    if rules.early_stopping == "never":
        limit = xp.asarray(rules.max_length - rules.prompt_length)
        longest = xp.where(penalty > 0, limit, xp.asarray(longest, dtype=limit.dtype))
    possible = running[:, :1] / xp.asarray(longest, dtype=scores.dtype) ** penalty
    worst = xp.where(finished, xp.min(best_scores, axis=1, keepdims=True), xp.zeros_like(best_scores) + _NEVER)
    hopeful = beams.hopeful & xp.any(possible > worst, axis=1)
    going = xp.any(hopeful) & ~xp.all(ended)
    if rules.early_stopping is True:
        going = going & ~xp.all(finished)
    return Beams(
        ids=_of(xp, ids, order),
        scores=running,
        origins=_of(xp, origins, order),
        best=_of(xp, xp.concat([beams.best, ids], axis=1), best),
        best_scores=best_scores,
        best_origins=_of(xp, xp.concat([beams.best_origins, origins], axis=1), best),
        finished=finished,
        hopeful=hopeful,
        rows=xp.reshape(xp.take_along_axis(row, order, axis=1), (-1,)),
        newest=xp.reshape(xp.astype(xp.take_along_axis(token, order, axis=1), beams.ids.dtype), (-1,)),
        length=length,
        going=going,
    )


def _of(xp: Any, values: Any, which: Any) -> Any:
    """(B, K, L) values and (B, C) of their rows -> (B, C, L)."""
    return xp.take_along_axis(values, which[:, :, None], axis=1)
