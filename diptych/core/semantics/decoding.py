"""Decoding, for both backends: how the logits of a step become the next tokens, and when a sequence is complete.

Letters of the shapes: B prompts, R rows (all copies or beams of every prompt), L columns of the buffer of ids, E
end-of-sequence ids, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from diptych.core.errors import InputError
from diptych.core.semantics import beams, logits, sampling
from diptych.core.semantics.beams import BeamState
from diptych.core.semantics.precision import at_least_float32

CustomProcessor = Callable[[Any, Any, Any, Any], Any]
"""A caller's logits processor: `f(xp, input_ids (R, L), scores (R, V), length) -> scores`.

Columns of `input_ids` from `length` on are undefined.
"""


class Plan(NamedTuple):
    """The static options of a compiled program; hashable.

    There are two kinds of lengths: numbers of tokens, which are traced, and numbers of columns of buffers, which are
    here. In JAX, buffers have a few standard widths, so that prompts of similar lengths share a program.
    """

    num_beams: int
    """1 means no beam search."""
    copies: int
    """Rows for each prompt: its beams, or the sequences sampled for it."""
    num_return_sequences: int
    do_sample: bool
    early_stopping: bool | str
    processors_before: tuple[logits.LogitsProcessor, ...]
    """The processors that run before the caller's own."""
    custom_processors: tuple[CustomProcessor, ...]
    processors_after: tuple[logits.LogitsProcessor, ...]
    output_logits: bool
    output_scores: bool
    output_attentions: bool
    output_hidden_states: bool
    input_switches: tuple[tuple[str, bool], ...]
    """Keywords that are not arrays, of the encoder or else of a decoder's first call."""
    prompt_width: int
    """Columns of the prompts, including padding to a standard width."""
    capacity: int
    """The cache's capacity: the prompts' columns and all new tokens."""
    cached: int
    """The number of prompt tokens that are already in the caller's cache."""
    shared: int
    """A lower bound of the prompts' length: columns of the cache that all beams of a prompt have in common."""
    padded: bool
    """Whether prompts may be padded at the end to a standard width."""
    watched: bool
    """Whether the caller's functions look at each new token before the step is settled."""


class TracedOptions(NamedTuple):
    """Options that may change between calls without recompilation: numbers and small arrays."""

    prompt_length: Any
    """Columns of `sequences` before the first new token: 0 if only embeddings of the prompts are given."""
    context_length: Any
    """The number of tokens before the first new one: the prompts' length, in ids or embeddings."""
    max_length: Any
    """The limit of the length of `sequences`."""
    pad_token_id: Any
    eos_token_ids: Any
    """(E,)"""
    seed: Any
    """(2,) int32, its `sampling.seed_words`."""
    length_penalty: Any
    before: tuple[logits.Values, ...]
    """The values of the plan's `processors_before`."""
    after: tuple[logits.Values, ...]
    """The values of the plan's `processors_after`."""


class RowState(NamedTuple):
    """The state of greedy decoding or sampling, in which rows are independent."""

    ids: Any
    """(R, L)"""
    finished: Any
    """(R,)"""
    last_tokens: Any
    """(R,), the newest token of each row."""
    length: Any
    """The number of tokens so far, a scalar."""
    running: Any
    """Whether decoding continues, a scalar."""


class BeamProposal(NamedTuple):
    """A step of a beam search that is not settled: the state before, and the candidates."""

    before: BeamState
    candidates: beams.Candidates


State = RowState | BeamState
Proposal = RowState | BeamProposal
"""A step that is not settled; rows lack only the decision of the caller's functions whether they end."""


class StepScores(NamedTuple):
    """The returned scores of a step, each (R, V); None if not requested."""

    logits: Any
    scores: Any


def start(ops: Any, plan: Plan, traced: TracedOptions, ids: Any, like: Any) -> State:
    """The state before the first new token.

    Args:
        ops: the backend's functions.
        plan, traced: the options.
        ids: (B, L), the prompts, followed by arbitrary ids.
        like: an array with the logits' dtype.
    """
    xp = ops.xp
    is_prompt = (ops.steps(ids.shape[1], ids) < traced.prompt_length)[None, :]
    ids = xp.where(is_prompt, ids, xp.zeros_like(ids) + traced.pad_token_id)
    if plan.num_beams > 1:
        return beams.start(ops, ids, traced.prompt_length, at_least_float32(xp, like), plan.num_beams)
    ids = xp.repeat(ids, plan.copies, axis=0)
    finished = xp.zeros_like(ids[:, 0], dtype=xp.bool)
    return RowState(ids, finished, ids[:, 0], traced.prompt_length, xp.all(~finished))


def advance(
    ops: Any, plan: Plan, traced: TracedOptions, state: State, values: Any
) -> tuple[State | Proposal, StepScores]:
    """The state after one more token, or a proposal if the plan is watched; and the scores from which it was chosen.

    Args:
        ops: the backend's functions.
        plan, traced: the options.
        state: the state before.
        values: (R, V), the logits of the next token.
    """
    xp, length, ids = ops.xp, state.length, state.ids
    values = scores = at_least_float32(xp, values)
    if isinstance(state, BeamState):
        scores = logits.renormalize(ops, None, scores, None)
        ids = xp.reshape(ids, (-1, ids.shape[2]))
    scores = logits.apply_processors(ops, plan.processors_before, traced.before, ids, scores, length)
    scores = _apply_custom_processors(ops, plan, ids, scores, length)
    scores = logits.apply_processors(ops, plan.processors_after, traced.after, ids, scores, length)
    step_scores = StepScores(values if plan.output_logits else None, scores if plan.output_scores else None)
    if not isinstance(state, BeamState):
        return _advance_rows(ops, plan, traced, state, scores), step_scores
    proposal = BeamProposal(state, beams.propose(ops, _beam_options(plan, traced), state, scores))
    return proposal if plan.watched else settle(ops, plan, traced, proposal, None), step_scores


def proposed_ids(proposal: Proposal) -> tuple[Any, Any]:
    """The sequences with their new token, (R, L) or the candidates of a beam search (B, C, L), and their length."""
    if isinstance(proposal, RowState):
        return proposal.ids, proposal.length
    return proposal.candidates.ids, proposal.before.length + 1


def settle(ops: Any, plan: Plan, traced: TracedOptions, proposal: Proposal, stopped: Any) -> State:
    """The state after a proposed step.

    Args:
        ops: the backend's functions.
        plan, traced: the options.
        proposal: the step.
        stopped: booleans, whether each of the `proposed_ids` ends with its new token; None if only the options decide.
    """
    if isinstance(proposal, BeamProposal):
        before, candidates = proposal
        if stopped is not None:
            stopped = ops.xp.reshape(stopped, candidates.scores.shape)
        return beams.settle(ops, _beam_options(plan, traced), before, candidates, stopped)
    finished = proposal.finished if stopped is None else proposal.finished | stopped
    running = ~ops.xp.all(finished) & (proposal.length < traced.max_length)
    return proposal._replace(finished=finished, running=running)


def _beam_options(plan: Plan, traced: TracedOptions) -> beams.BeamOptions:
    return beams.BeamOptions(
        early_stopping=plan.early_stopping,
        do_sample=plan.do_sample,
        length_penalty=traced.length_penalty,
        prompt_length=traced.prompt_length,
        max_length=traced.max_length,
        eos=traced.eos_token_ids,
        seed=traced.seed,
    )


def finish(ops: Any, plan: Plan, traced: TracedOptions, state: State) -> dict[str, Any]:
    """The fields of the output, including trailing padding, and `length`, that of the longest sequence.

    Args:
        ops: the backend's functions.
        plan, traced: the options.
        state: the state after the last token.
    """
    xp, count = ops.xp, plan.num_return_sequences
    if isinstance(state, RowState):
        return {"sequences": state.ids, "length": state.length}
    width = state.ids.shape[2]
    origins = xp.reshape(state.finished_origins[:, :count], (-1, width))
    longest = xp.max(xp.sum(xp.astype(origins >= 0, xp.int32), axis=1))
    return {
        "sequences": xp.reshape(state.finished_ids[:, :count], (-1, width)),
        "sequences_scores": xp.reshape(state.finished_scores[:, :count], (-1,)),
        "beam_indices": origins,
        "length": longest + traced.prompt_length,
    }


def _advance_rows(ops: Any, plan: Plan, traced: TracedOptions, state: RowState, scores: Any) -> RowState:
    xp, length = ops.xp, state.length
    if plan.do_sample:
        rows = xp.astype(ops.steps(scores.shape[0], scores), xp.int32)
        number = sampling.uniform(xp, traced.seed, length - traced.prompt_length, rows, 0, scores.dtype)
        weights = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
        token = sampling.sample(ops, weights, number)
    else:
        token = xp.argmax(scores, axis=1)
    token = xp.astype(token, state.ids.dtype)
    if traced.eos_token_ids.shape[0]:  # as in transformers, rows go on otherwise until all are stopped
        token = xp.where(state.finished, xp.zeros_like(token) + traced.pad_token_id, token)
    here = (ops.steps(state.ids.shape[1], state.ids) == length)[None, :]
    finished = state.finished | xp.any(token[:, None] == traced.eos_token_ids[None, :], axis=1)
    running = ~xp.all(finished) & (length + 1 < traced.max_length)
    return RowState(xp.where(here, token[:, None], state.ids), finished, token, length + 1, running)


def _apply_custom_processors(ops: Any, plan: Plan, ids: Any, scores: Any, length: Any) -> Any:
    """The scores after the caller's own processors.

    Raises:
        InputError: one does not return scores of the same shape and dtype.
    """
    for index, processor in enumerate(plan.custom_processors):
        result = processor(ops.xp, ids, scores, length)
        found, wanted = ((getattr(one, "shape", None), getattr(one, "dtype", None)) for one in (result, scores))
        if not ops.is_array(result) or found != wanted:
            raise InputError(
                f"logits_processors[{index}] returns {_describe(result)}, but {_describe(scores)} is needed, as it "
                "was given"
            )
        scores = result
    return scores


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"{value.dtype} of shape {tuple(shape)}"
