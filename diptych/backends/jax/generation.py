"""Text generation in JAX: one compiled program for all tokens, or one per step if step results are needed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diptych.backends.jax import ops
from diptych.core.generation.base import GenerationBase
from diptych.core.generation.request import GenerationRequest, Prompt
from diptych.core.generation.steps import Step, first_step, next_step, output
from diptych.core.interfaces import Streamer
from diptych.core.outputs import GenerateOutput
from diptych.core.semantics.decoding import Plan, Proposal, State, StepScores, TracedOptions, finish, settle


class GenerationMixin(GenerationBase):
    """Adds `generate` to a model."""

    _pads_lengths = True

    @staticmethod
    def _padded_length(length: int) -> int:
        """The next of 1, 8, 16, 24, 32, 48, 64, 96, 128, …: prompts of similar lengths share a compiled program."""
        if length == 1:
            return 1
        pace = max(8, 2 ** ((length - 1).bit_length() - 2))
        return -(-length // pace) * pace

    def _run(self, request: GenerationRequest, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        plan, traced, prompt = request.plan, request.traced, request.prompt
        watch = request.watch
        if streamer is None and watch is None and not plan.output_attentions and not plan.output_hidden_states:
            fields, stacked, count = _all_steps(self, traced, prompt, plan=plan)
            count = plan.capacity - plan.prompt_width if isinstance(count, Tracer) else int(count)
            scores = StepScores(*(None if values is None else _unstack(values, count) for values in stacked))
            return output(self, request, fields, scores, [])
        if streamer is not None:
            streamer.put(np.repeat(ops.to_numpy(prompt.ids)[:, : traced.prompt_length], plan.copies, axis=0))
        if watch is not None:
            traced = watch.constrain_first(plan, traced, prompt.ids)
        step = _first_step(self, traced, prompt, plan=plan)
        each, layers = [step.scores], [step.layers]
        while True:
            if watch is not None:
                scores = tuple(one.scores for one in each) if plan.output_scores else None
                stopped = watch.stopped_sequences(step.state, scores)
                step = step._replace(state=_settle(traced, step.state, stopped, plan=plan))
            if streamer is not None:
                streamer.put(np.asarray(step.state.last_tokens))
            if not step.state.running:
                break
            if watch is not None:
                traced = watch.constrain_next(plan, traced, step.state)
            step = _next_step(self, traced, prompt, step.state, step.context, step.cache, plan=plan)
            each.append(step.scores)
            layers.append(step.layers)
        if streamer is not None:
            streamer.end()
        scores = StepScores(*(None if values[0] is None else values for values in zip(*each, strict=True)))
        return output(self, request, finish(ops, plan, traced, step.state), scores, layers)


def _call_model(model: Any, **inputs: Any) -> Any:
    return model(**inputs)


def _unstack(values: Any, count: int) -> tuple[Any, ...]:
    return tuple(_at(values, index) for index in range(count))


@jax.jit
def _at(values: Any, index: Any) -> Any:
    return values[index]


@functools.partial(jax.jit, static_argnames="plan")
def _first_step(model: Any, traced: TracedOptions, prompt: Prompt, *, plan: Plan) -> Step:
    return first_step(model, plan, traced, prompt, _call_model)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="cache")
def _next_step(
    model: Any, traced: TracedOptions, prompt: Prompt, state: Any, context: Any, cache: Any, *, plan: Plan
) -> Step:
    before = Step(state, cache, context, StepScores(None, None), {})
    return next_step(model, plan, traced, prompt, before, _call_model)


@functools.partial(jax.jit, static_argnames="plan")
def _settle(traced: TracedOptions, proposal: Proposal, stopped: Any, *, plan: Plan) -> State:
    return settle(ops, plan, traced, proposal, stopped)


@functools.partial(jax.jit, static_argnames="plan")
def _all_steps(
    model: Any, traced: TracedOptions, prompt: Prompt, *, plan: Plan
) -> tuple[dict[str, Any], StepScores, Any]:
    """The output's fields, the scores of the new tokens, (tokens, R, V), and the number of new tokens."""
    step = first_step(model, plan, traced, prompt, _call_model)
    context, room = step.context, plan.capacity - plan.prompt_width
    stacked = jax.tree.map(lambda values: jnp.zeros((room, *values.shape), values.dtype).at[0].set(values), step.scores)

    def condition(carry: Any) -> Any:
        return carry[0].running

    def body(carry: Any) -> Any:
        state, cache, stacked = carry
        before = Step(state, cache, context, StepScores(None, None), {})
        step = next_step(model, plan, traced, prompt, before, _call_model)
        index = state.length - traced.prompt_length
        stacked = jax.tree.map(
            lambda held, values: jax.lax.dynamic_update_index_in_dim(held, values, index, 0), stacked, step.scores
        )
        return step.state, step.cache, stacked

    state, _, stacked = jax.lax.while_loop(condition, body, (step.state, step.cache, stacked))
    return finish(ops, plan, traced, state), stacked, state.length - traced.prompt_length
