"""Logits processors, as in transformers 5, and the choice of them from the options of `generate`.

Every processor is a function of `ops` (the backend's functions); `ids` (B, L), of which only the first `length` columns
are filled; the `scores` (B, V) of the next token; that `length`; and the processor's own values by name. Processors
that keep the best entries also keep all ties with the last of them; transformers keeps only some of the ties.

Letters of the shapes: B batch, L columns of the buffer of ids, V vocabulary, E token ids or sequences of them, P tokens
of a sequence without its last, R prompts or encoder texts (B is a multiple of R), S source length.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from diptych.core.semantics import losses


class LogitsProcessor(NamedTuple):
    """A processor by name, with its static arguments."""

    name: str
    static: tuple[tuple[str, Any], ...] = ()


Values = dict[str, Any]
"""A processor's other arguments by name, which may be traced: Python values and arrays."""

ALLOWED_TOKENS = "allowed_tokens"
"""The name of the processor whose values the caller gives before each token."""
_ANY = -1
"""Pads the front of sequences that are shorter than the longest; matches every token."""


def sequence_bias(ops: Any, ids: Any, scores: Any, length: Any, *, prefixes: Any, last: Any, bias: Any) -> Any:
    """Adds `bias` (E,) to the `last` (E,) tokens of sequences whose `prefixes` (E, P) are the newest tokens."""
    xp, prefixes = ops.xp, ops.xp.asarray(prefixes, dtype=ids.dtype)
    places = ops.steps(prefixes.shape[1], ids) + (length - prefixes.shape[1])
    newest = xp.take(ids, xp.clip(places, 0, ids.shape[1] - 1), axis=1)[:, None, :]
    same = ((newest == prefixes[None]) & (places >= 0)[None, None, :]) | (prefixes == _ANY)[None]
    bias = _number(xp, bias, scores)[None, :]
    amounts = xp.where(xp.all(same, axis=2), bias, xp.zeros_like(bias))
    return ops.scatter_add(scores, xp.broadcast_to(xp.asarray(last, dtype=ids.dtype)[None, :], amounts.shape), amounts)


def repetition_penalty(ops: Any, ids: Any, scores: Any, length: Any, *, penalty: Any, first: Any) -> Any:
    """Divides the scores of tokens that occur at or after `first` (R,) by `penalty`; negative ones are multiplied."""
    xp, steps, penalty = ops.xp, ops.steps(ids.shape[1], ids)[None, :], _number(ops.xp, penalty, scores)
    first = _for_each_row(xp, xp.asarray(first), ids)[:, None]
    occurs = ops.membership_mask(ids, (steps < length) & (steps >= first), scores.shape[1])
    return xp.where(occurs, xp.where(scores < 0, scores * penalty, scores / penalty), scores)


def no_repeat_ngram(ops: Any, ids: Any, scores: Any, length: Any, *, size: int) -> Any:
    """Forbids the tokens that would repeat an n-gram of `size` tokens."""
    return _forbid_ngrams(ops, ids, scores, length, size, ids, length)


def encoder_no_repeat_ngram(ops: Any, ids: Any, scores: Any, length: Any, *, size: int, source: Any, count: Any) -> Any:
    """Forbids the tokens that would repeat an n-gram of `size` tokens of `source` (R, S), of which `count` are real."""
    return _forbid_ngrams(ops, ids, scores, length, size, _for_each_row(ops.xp, ops.xp.asarray(source), ids), count)


def min_length(ops: Any, ids: Any, scores: Any, length: Any, *, below: Any, tokens: Any) -> Any:
    """Forbids `tokens` (E,) while the sequence is shorter than `below`."""
    return _if(ops.xp, length < below, lambda: suppress_tokens(ops, ids, scores, length, tokens=tokens), scores)


def allowed_tokens(ops: Any, ids: Any, scores: Any, length: Any, *, allowed: Any) -> Any:
    """Forbids all but the `allowed` (B, V) tokens."""
    return _forbid(ops.xp, scores, ~allowed)


def force_tokens(ops: Any, ids: Any, scores: Any, length: Any, *, at: Any, tokens: Any) -> Any:
    """Forbids all but `tokens` (E,), whose scores become 0, when the sequence is `at` tokens long."""
    xp = ops.xp

    def change() -> Any:
        return xp.where(_token_mask(ops, tokens, scores), xp.zeros_like(scores), xp.full_like(scores, -xp.inf))

    return _if(xp, length == at, change, scores)


def exponential_decay_length_penalty(
    ops: Any, ids: Any, scores: Any, length: Any, *, start: Any, factor: Any, tokens: Any
) -> Any:
    """Raises the scores of `tokens` (E,) by `factor` ** (length - start) - 1 of their size beyond `start` tokens."""
    xp, tokens = ops.xp, ops.xp.asarray(tokens)

    def change() -> Any:
        growth = _number(xp, factor, scores) ** _number(xp, length - start, scores) - 1.0
        sizes = xp.abs(xp.take(scores, tokens, axis=1))
        amounts = xp.where(xp.isfinite(sizes), sizes, xp.zeros_like(sizes)) * growth
        return ops.scatter_add(scores, xp.broadcast_to(tokens[None, :], amounts.shape), amounts)

    return _if(xp, length > start, change, scores)


def suppress_tokens(ops: Any, ids: Any, scores: Any, length: Any, *, tokens: Any) -> Any:
    """Forbids `tokens` (E,)."""
    return _forbid(ops.xp, scores, _token_mask(ops, tokens, scores))


def begin_suppress_tokens(ops: Any, ids: Any, scores: Any, length: Any, *, at: Any, tokens: Any) -> Any:
    """Forbids `tokens` (E,) when the sequence is `at` tokens long."""
    return _if(ops.xp, length == at, lambda: suppress_tokens(ops, ids, scores, length, tokens=tokens), scores)


def temperature(ops: Any, ids: Any, scores: Any, length: Any, *, divisor: Any) -> Any:
    """Divides all scores."""
    return scores / _number(ops.xp, divisor, scores)


def top_k(ops: Any, ids: Any, scores: Any, length: Any, *, k: int) -> Any:
    """Keeps the `k` best scores."""
    return _forbid(ops.xp, scores, scores < _best(ops, scores, k)[:, -1:])


def top_p(ops: Any, ids: Any, scores: Any, length: Any, *, p: Any, keep: int, k: int | None) -> Any:
    """Keeps the best scores until their probabilities sum to `p`, and at least the `keep` best.

    Args:
        ops, ids, scores, length: as for every processor.
        p: the cumulative probability.
        keep: the minimum number to keep.
        k: that of a preceding `top_k`, so that only its entries need sorting; None if there was none.
    """
    xp = ops.xp
    best = xp.sort(scores, axis=1, descending=True, stable=False) if k is None else _best(ops, scores, k)
    total = xp.sum(xp.exp(scores - best[:, :1]), axis=1, keepdims=True)
    last = _last_within(xp, xp.exp(best - best[:, :1]) / total, p, keep)
    return _forbid(xp, scores, scores < xp.take_along_axis(best, last, axis=1))


def min_p(ops: Any, ids: Any, scores: Any, length: Any, *, p: Any, keep: int) -> Any:
    """Keeps tokens at least `p` times as probable as the best one, and at least the `keep` best."""
    xp, best = ops.xp, _best(ops, scores, keep)
    least = best[:, :1] + xp.log(_number(xp, p, scores))
    return _forbid(xp, scores, scores < xp.minimum(least, best[:, -1:]))


def typical_p(ops: Any, ids: Any, scores: Any, length: Any, *, p: Any, keep: int, k: int | None) -> Any:
    """Keeps tokens whose information is closest to the entropy, up to a sum of `p` (Meister et al., arXiv:2202.00666).

    Args:
        ops, ids, scores, length: as for every processor.
        p: the sum of the probabilities.
        keep: the minimum number to keep.
        k: as in `top_p`.
    """
    xp, information = ops.xp, -losses.log_softmax(ops.xp, scores)
    masses = xp.exp(-information)
    entropy = xp.sum(xp.where(masses > 0, information, xp.zeros_like(masses)) * masses, axis=1, keepdims=True)
    distances = near = xp.abs(information - entropy)
    if k is not None:
        _, indices = ops.top_k(scores, min(k, scores.shape[1]))
        near, masses = (xp.take_along_axis(values, indices, axis=1) for values in (distances, masses))
        # ties with the last entry that top_k cut off are counted with it
        masses = xp.concat([masses[:, :-1], 1.0 - xp.sum(masses[:, :-1], axis=1, keepdims=True)], axis=1)
    order = xp.argsort(near, axis=1)
    last = _last_within(xp, xp.take_along_axis(masses, order, axis=1), p, keep)
    farthest = xp.take_along_axis(near, xp.take_along_axis(order, last, axis=1), axis=1)
    return _forbid(xp, scores, distances > farthest)


def renormalize(ops: Any, ids: Any, scores: Any, length: Any) -> Any:
    """Log-probabilities (B, V) of scores."""
    return losses.log_softmax(ops.xp, scores)


PROCESSORS: dict[str, Callable[..., Any]] = {
    processor.__name__: processor
    for processor in (
        sequence_bias,
        repetition_penalty,
        no_repeat_ngram,
        encoder_no_repeat_ngram,
        min_length,
        allowed_tokens,
        force_tokens,
        exponential_decay_length_penalty,
        suppress_tokens,
        begin_suppress_tokens,
        temperature,
        top_k,
        top_p,
        min_p,
        typical_p,
        renormalize,
    )
}


def apply_processors(
    ops: Any,
    processors: tuple[LogitsProcessor, ...],
    values: tuple[Values, ...],
    ids: Any,
    scores: Any,
    length: Any,
) -> Any:
    """The scores (B, V) after all processors.

    Args:
        ops: the backend's functions: `xp`, `steps`, `top_k`, `membership_mask` and `scatter_add`.
        processors, values: the first and the second of each pair that `build_processors` returns. Values may be traced
            or numpy arrays; for torch scores on another device than the CPU, they must be tensors on that device.
        ids: (B, L), of which only the first `length` columns are used.
        scores: (B, V), float32 or float64, which is also the dtype of the result.
        length: a Python integer, or a traced one.
    """
    for processor, own in zip(processors, values, strict=True):
        scores = PROCESSORS[processor.name](ops, ids, scores, length, **dict(processor.static), **own)
    return scores


def build_processors(
    options: Any,
    *,
    prompt_length: int,
    eos: tuple[int, ...],
    source: Any = None,
    source_length: int | None = None,
    first: Any = None,
    constrained: bool = False,
) -> tuple[tuple[tuple[LogitsProcessor, Values], ...], tuple[tuple[LogitsProcessor, Values], ...]]:
    """The processors that the options select, in transformers' order: before the caller's own, and after them.

    Args:
        options: transformers' options as attributes; None and neutral values select nothing. `max_length` is the limit
            that follows from all options.
        prompt_length: the number of tokens that are not generated, including padding.
        eos: the end-of-sequence ids, possibly none.
        source: (R, S), the encoder's input ids, or the prompts if there is no encoder; None if there are none.
        source_length: the number of its columns that are not padding; all if None.
        first: (R,), the number of padding tokens at the front of each row; None if there is none.
        constrained: whether the caller says before each token which ones are allowed.
    """
    before = _constraining_processors(options, prompt_length, eos, source, source_length, first, constrained)
    return tuple(before), tuple(_sampling_processors(options, eos))


def _constraining_processors(
    options: Any,
    prompt_length: int,
    eos: tuple[int, ...],
    source: Any,
    source_length: int | None,
    first: Any,
    constrained: bool,
) -> Iterator[tuple[LogitsProcessor, Values]]:
    """The processors before the caller's own: those that forbid tokens, or change the scores of some."""
    if options.sequence_bias:
        yield _processor("sequence_bias", _sequences(dict(options.sequence_bias)))
    if options.repetition_penalty not in (None, 1.0):
        first = np.zeros(1, np.int32) if first is None else first
        yield _processor("repetition_penalty", {"penalty": float(options.repetition_penalty), "first": first})
    if options.no_repeat_ngram_size:
        yield _processor("no_repeat_ngram", {}, size=options.no_repeat_ngram_size)
    if options.encoder_no_repeat_ngram_size and source is not None:
        values = {"source": source, "count": source.shape[1] if source_length is None else source_length}
        yield _processor("encoder_no_repeat_ngram", values, size=options.encoder_no_repeat_ngram_size)
    words = [tuple(word) for word in options.bad_words_ids or ()]
    if words := {word: -np.inf for word in words if word not in [(end,) for end in eos]}:
        yield _processor("sequence_bias", _sequences(words))
    if options.min_length and eos:
        yield _processor("min_length", {"below": options.min_length, "tokens": _ids(eos)})
    if options.min_new_tokens and eos:
        yield _processor("min_length", {"below": prompt_length + options.min_new_tokens, "tokens": _ids(eos)})
    if constrained:
        yield _processor(ALLOWED_TOKENS, {"allowed": None})  # filled in before each token
    if options.forced_bos_token_id is not None:
        yield _processor("force_tokens", {"at": 1, "tokens": _ids(options.forced_bos_token_id)})
    if options.forced_eos_token_id is not None:
        last = options.max_length - 1
        yield _processor("force_tokens", {"at": last, "tokens": _ids(options.forced_eos_token_id)})
    if options.exponential_decay_length_penalty is not None and eos:
        start, factor = options.exponential_decay_length_penalty
        values = {"start": prompt_length + start, "factor": float(factor), "tokens": _ids(eos)}
        yield _processor("exponential_decay_length_penalty", values)
    if options.suppress_tokens:
        yield _processor("suppress_tokens", {"tokens": _ids(options.suppress_tokens)})
    if options.begin_suppress_tokens:
        at = prompt_length + (prompt_length <= 1 and options.forced_bos_token_id is not None)
        yield _processor("begin_suppress_tokens", {"at": at, "tokens": _ids(options.begin_suppress_tokens)})


def _sampling_processors(options: Any, eos: tuple[int, ...]) -> Iterator[tuple[LogitsProcessor, Values]]:
    """The processors after the caller's own: those that shape the distribution to sample from, and the last one."""
    if options.do_sample:
        keep = 1 + max(1, len(eos)) if (options.num_beams or 1) > 1 else 1
        k = max(options.top_k, keep) if options.top_k else None
        if options.temperature not in (None, 1.0):
            yield _processor("temperature", {"divisor": float(options.temperature)})
        if k is not None:
            yield _processor("top_k", {}, k=k)
        if options.top_p is not None and options.top_p < 1.0:
            yield _processor("top_p", {"p": float(options.top_p)}, keep=keep, k=k)
        if options.min_p:
            yield _processor("min_p", {"p": float(options.min_p)}, keep=keep)
        if options.typical_p is not None and options.typical_p < 1.0:
            yield _processor("typical_p", {"p": float(options.typical_p)}, keep=keep, k=k)
    if options.renormalize_logits:
        yield _processor("renormalize", {})


def _processor(name: str, values: Values, **static: Any) -> tuple[LogitsProcessor, Values]:
    """A processor with its values; `static` are the arguments that a compiled program depends on."""
    return LogitsProcessor(name, tuple(static.items())), values


def out_of_vocabulary(options: Any, size: int) -> dict[str, tuple[int, ...]]:
    """The ids outside 0 to `size` - 1 in the processors' options, by option."""
    named = {
        "sequence_bias": [one for sequence, _ in options.sequence_bias or () for one in sequence],
        "bad_words_ids": [one for word in options.bad_words_ids or () for one in word],
        "forced_bos_token_id": _each(options.forced_bos_token_id),
        "forced_eos_token_id": _each(options.forced_eos_token_id),
        "suppress_tokens": options.suppress_tokens or (),
        "begin_suppress_tokens": options.begin_suppress_tokens or (),
    }
    found = {name: tuple(dict.fromkeys(one for one in ids if not 0 <= one < size)) for name, ids in named.items()}
    return {name: ids for name, ids in found.items() if ids}


def _each(ids: int | Iterable[int] | None) -> Iterable[int]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else ids


def _ids(ids: int | Iterable[int]) -> np.ndarray:
    """(E,), without duplicates."""
    return np.array(list(dict.fromkeys(_each(ids))), np.int64)


def _sequences(biases: dict[tuple[int, ...], float]) -> Values:
    """The values of `sequence_bias`."""
    longest = max(map(len, biases)) - 1
    prefixes = [(_ANY,) * (longest + 1 - len(sequence)) + tuple(sequence[:-1]) for sequence in biases]
    return {
        "prefixes": np.array(prefixes, np.int64).reshape(len(biases), longest),
        "last": np.array([sequence[-1] for sequence in biases], np.int64),
        "bias": np.array(list(biases.values()), np.float64),
    }


def _number(xp: Any, number: Any, scores: Any) -> Any:
    return xp.asarray(number, dtype=scores.dtype)


def _if(xp: Any, condition: Any, change: Callable[[], Any], scores: Any) -> Any:
    """What `change` returns if the condition holds, else the scores; a Python boolean computes only what it needs."""
    if isinstance(condition, bool):
        return change() if condition else scores
    return xp.where(condition, change(), scores)


def _forbid(xp: Any, scores: Any, which: Any) -> Any:
    return xp.where(which, _number(xp, -xp.inf, scores), scores)


def _token_mask(ops: Any, tokens: Any, scores: Any) -> Any:
    """(E,) ids -> (1, V) booleans."""
    tokens = ops.xp.asarray(tokens)[None, :]
    return ops.membership_mask(tokens, tokens >= 0, scores.shape[1])


def _for_each_row(xp: Any, values: Any, ids: Any) -> Any:
    """(R, …) -> (B, …): each row repeated for the B / R adjacent rows that belong to it."""
    return xp.repeat(values, ids.shape[0] // values.shape[0], axis=0)


def _forbid_ngrams(ops: Any, ids: Any, scores: Any, length: Any, size: int, text: Any, count: Any) -> Any:
    """Forbids tokens that complete an n-gram of `size` tokens found among the first `count` of a text (B, S)."""
    xp, windows = ops.xp, text.shape[1] - size + 1
    if windows < 1:
        return scores
    places = ops.steps(size - 1, ids) + (length - size + 1)
    newest = xp.take(ids, xp.clip(places, 0, ids.shape[1] - 1), axis=1)
    completed = ((ops.steps(windows, ids) + size <= count) & (length >= size - 1))[None, :]
    completed = xp.broadcast_to(completed, (ids.shape[0], windows))
    for place in range(size - 1):
        completed = completed & (text[:, place : place + windows] == newest[:, place : place + 1])
    return _forbid(xp, scores, ops.membership_mask(text[:, size - 1 :], completed, scores.shape[1]))


def _best(ops: Any, scores: Any, count: int) -> Any:
    """The (B, count) best scores, or all if there are fewer, in descending order."""
    return ops.top_k(scores, min(count, scores.shape[1]))[0]


def _last_within(xp: Any, masses: Any, total: Any, keep: int) -> Any:
    """(B, 1): the index at which the masses (B, N) first sum to `total`, at least `keep` - 1."""
    count = xp.sum(xp.cumsum(masses, axis=1) < _number(xp, total, masses), axis=1, keepdims=True)
    return xp.clip(count, keep - 1, masses.shape[1] - 1)
