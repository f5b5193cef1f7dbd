"""One token after another: how scores become tokens, and when a text is complete. Both backends run these functions.

Letters of the shapes: B texts, R rows (every text in all its copies or beams), L tokens of the buffer, E ends, V
vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from diptych.core.errors import InputError
from diptych.core.semantics import beams, logits, sampling

Processor = Callable[[Any, Any, Any, Any], Any]
"""A caller's rule: `f(xp, input_ids (R, L), scores (R, V), length) -> scores`; tokens from `length` on mean nothing."""


class Plan(NamedTuple):
    """What a compiled program depends on."""

    beams: int
    """1 for none."""
    copies: int
    """Rows for each text."""
    returned: int
    """Texts for each prompt."""
    samples: bool
    early_stopping: bool | str
    before: tuple[Any, ...]
    processors: tuple[Processor, ...]
    after: tuple[Any, ...]
    logits: bool
    scores: bool
    attentions: bool
    hidden_states: bool
    width: int
    """Places of the prompts and of what stands behind them."""
    capacity: int
    """L, places of the prompts and of all new tokens."""
    fed: int
    """How many tokens of the prompts a given cache has."""
    shared: int
    """So many places at least hold the prompt, which all beams of a text have in common."""
    exact: bool
    """Whether nothing stands behind the prompts."""


class Numbers(NamedTuple):
    """What may change from call to call: numbers and small arrays."""

    prompt_length: Any
    max_length: Any
    pad: Any
    eos: Any
    """(E,)"""
    seed: Any
    """(2,) int32, its `sampling.words`."""
    length_penalty: Any
    before: tuple[dict[str, Any], ...]
    after: tuple[dict[str, Any], ...]


class Rows(NamedTuple):
    """Where texts stand that are written each for itself."""

    ids: Any
    """(R, L)"""
    finished: Any
    """(R,)"""
    newest: Any
    """(R,), the last token of each."""
    length: Any
    """The number of tokens, a scalar."""
    going: Any
    """Whether to go on, a scalar."""


class Seen(NamedTuple):
    """What a step leaves for the record, each (R, V), where it is asked for."""

    logits: Any
    scores: Any


def begun(ops: Any, plan: Plan, numbers: Numbers, ids: Any, like: Any) -> "Rows | beams.Beams":
    """The start.

    Args:
        ops: the backend's functions.
        plan, numbers: what is to be done.
        ids: (B, L), the prompts and anything behind them.
        like: logits.
    """
    xp = ops.xp
    ids = xp.where(
        (ops.steps(plan.capacity, ids) < numbers.prompt_length)[None, :], ids, xp.zeros_like(ids) + numbers.pad
    )
    if plan.beams > 1:
        return beams.begun(ops, ids, numbers.prompt_length, _wide(xp, like), plan.beams)
    ids = xp.repeat(ids, plan.copies, axis=0)
    unfinished = xp.zeros_like(ids[:, 0], dtype=xp.bool)
    return Rows(ids, unfinished, ids[:, 0], numbers.prompt_length, xp.all(~unfinished))


def advanced(
    ops: Any, plan: Plan, numbers: Numbers, state: "Rows | beams.Beams", values: Any
) -> tuple["Rows | beams.Beams", Seen]:
    """The texts with one token more.

    Args:
        ops: the backend's functions.
        plan, numbers: what is to be done.
        state: where the texts stand.
        values: (R, V), the logits of the next token.
    """
    xp, length = ops.xp, state.length
    values = scores = _wide(xp, values)
    ids = state.ids
    if isinstance(state, beams.Beams):
        scores = logits.renormalized(ops, None, scores, None)
        ids = xp.reshape(ids, (-1, ids.shape[2]))
    scores = logits.applied(ops, plan.before, numbers.before, ids, scores, length)
    for index, processor in enumerate(plan.processors):
        ruled = processor(xp, ids, scores, length)
        found, wanted = ((getattr(one, "shape", None), getattr(one, "dtype", None)) for one in (ruled, scores))
        if (type(ruled) is not type(scores) and not hasattr(ruled, "aval")) or found != wanted:
            raise InputError(
                f"logits_processors[{index}] gives {_said(ruled)}, but {_said(scores)} is needed, as it was given"
            )
        scores = ruled
    scores = logits.applied(ops, plan.after, numbers.after, ids, scores, length)
    seen = Seen(values if plan.logits else None, scores if plan.scores else None)
    if isinstance(state, beams.Beams):
        rules = beams.Rules(
            plan.early_stopping,
            plan.samples,
            numbers.length_penalty,
            numbers.prompt_length,
            numbers.max_length,
            numbers.eos,
            numbers.seed,
        )
        return beams.advanced(ops, rules, state, scores), seen
    return _next(ops, plan, numbers, state, scores), seen


def _next(ops: Any, plan: Plan, numbers: Numbers, state: Rows, scores: Any) -> Rows:
    xp, length = ops.xp, state.length
    if plan.samples:
        rows = xp.astype(ops.steps(scores.shape[0], scores), xp.int32)
        number = sampling.uniform(xp, numbers.seed, length - numbers.prompt_length, rows, 0, scores.dtype)
        weights = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
        token = sampling.chosen(ops, weights, number)
    else:
        token = xp.argmax(scores, axis=1)
    token = xp.astype(token, state.ids.dtype)
    token = xp.where(state.finished, xp.zeros_like(token) + numbers.pad, token)
    here = (ops.steps(plan.capacity, state.ids) == length)[None, :]
    finished = state.finished | xp.any(token[:, None] == numbers.eos[None, :], axis=1)
    going = ~xp.all(finished) & (length + 1 < numbers.max_length)
    return Rows(xp.where(here, token[:, None], state.ids), finished, token, length + 1, going)


def written(ops: Any, plan: Plan, numbers: Numbers, state: "Rows | beams.Beams") -> dict[str, Any]:
    """What is written in the end, padding included, as fields of the output, and the longest text's length.

    Args:
        ops: the backend's functions.
        plan, numbers: what was to be done.
        state: where the texts stand.
    """
    xp, returned = ops.xp, plan.returned
    if isinstance(state, Rows):
        return {"sequences": state.ids, "length": state.length}
    width = state.ids.shape[2]
    origins = xp.reshape(state.best_origins[:, :returned], (-1, width))
    count = xp.max(xp.sum(xp.astype(origins >= 0, xp.int32), axis=1))
    return {
        "sequences": xp.reshape(state.best[:, :returned], (-1, width)),
        "sequences_scores": xp.reshape(state.best_scores[:, :returned], (-1,)),
        "beam_indices": origins,
        "length": count + numbers.prompt_length,
    }


def _said(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"{value.dtype} of shape {tuple(shape)}"


def _wide(xp: Any, values: Any) -> Any:
    return values if values.dtype == xp.float64 else xp.astype(values, xp.float32)
