"""Text generation in JAX: a compiled program for all tokens, or one for each where somebody wants to see them come."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diptych.backends.jax import ops
from diptych.core.generation import Generates, Prompt, Task
from diptych.core.generation_steps import Step, continued, returned, started
from diptych.core.interfaces import Streamer
from diptych.core.outputs import GenerateOutput
from diptych.core.semantics.decoding import Numbers, Plan, Seen, written


class Generating(Generates):
    """A model that writes texts."""

    _exact = False

    @staticmethod
    def _room(length: int) -> int:
        """The next of 1, 8, 16, 24, 32, 48, 64, 96, 128, …: near lengths share a program."""
        if length == 1:
            return 1
        pace = max(8, 2 ** ((length - 1).bit_length() - 2))
        return -(-length // pace) * pace

    def _run(self, task: Task, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        plan, numbers, prompt = task.plan, task.numbers, task.prompt
        if streamer is None and not plan.attentions and not plan.hidden_states:
            state, kept, count = _whole(self, numbers, prompt, plan=plan)
            count = plan.capacity - plan.width if isinstance(count, Tracer) else int(count)
            seen = Seen(*(None if values is None else tuple(_at(values, at) for at in range(count)) for values in kept))
            return returned(self, task, state, seen, [])
        if streamer is not None:
            streamer.put(np.repeat(ops.host(prompt.ids)[:, : numbers.prompt_length], plan.copies, axis=0))
        step = _first(self, numbers, prompt, plan=plan)
        seen, layers = [step.seen], [step.layers]
        while True:
            if streamer is not None:
                streamer.put(np.asarray(step.state.newest))
            if not step.state.going:
                break
            step = _next(self, numbers, prompt, step.state, step.cache, plan=plan)
            seen.append(step.seen)
            layers.append(step.layers)
        if streamer is not None:
            streamer.end()
        kept = Seen(*(None if values[0] is None else values for values in zip(*seen, strict=True)))
        return returned(self, task, written(ops, plan, numbers, step.state), kept, layers)


def _called(model: Any, **inputs: Any) -> Any:
    return model(**inputs)


@jax.jit
def _at(values: Any, index: Any) -> Any:
    return values[index]


@functools.partial(jax.jit, static_argnames="plan")
def _first(model: Any, numbers: Numbers, prompt: Prompt, *, plan: Plan) -> Step:
    return started(model, plan, numbers, prompt, _called)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="cache")
def _next(model: Any, numbers: Numbers, prompt: Prompt, state: Any, cache: Any, *, plan: Plan) -> Step:
    return continued(model, plan, numbers, prompt, state, cache, _called)


@functools.partial(jax.jit, static_argnames="plan")
def _whole(model: Any, numbers: Numbers, prompt: Prompt, *, plan: Plan) -> tuple[dict[str, Any], Seen, Any]:
    """What is written, what each new token leaves for the record, (tokens, R, V), and how many there are."""
    step = started(model, plan, numbers, prompt, _called)
    room = plan.capacity - plan.width
    kept = jax.tree.map(lambda values: jnp.zeros((room, *values.shape), values.dtype).at[0].set(values), step.seen)

    def going(carry: Any) -> Any:
        return carry[0].going

    def following(carry: Any) -> Any:
        state, cache, kept = carry
        step = continued(model, plan, numbers, prompt, state, cache, _called)
        index = state.length - numbers.prompt_length
        kept = jax.tree.map(
            lambda held, values: jax.lax.dynamic_update_index_in_dim(held, values, index, 0), kept, step.seen
        )
        return step.state, step.cache, kept

    state, _, kept = jax.lax.while_loop(going, following, (step.state, step.cache, kept))
    return written(ops, plan, numbers, state), kept, state.length - numbers.prompt_length
