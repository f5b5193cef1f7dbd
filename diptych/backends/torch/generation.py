"""Text generation in torch: a loop over the steps, which torch.compile may have compiled."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from diptych.backends.torch import ops
from diptych.core.generation import Generates, Task
from diptych.core.generation_steps import Step, continued, returned, started
from diptych.core.interfaces import Streamer
from diptych.core.outputs import GenerateOutput
from diptych.core.semantics.decoding import Seen, written


class Generating(Generates):
    """A model that writes texts."""

    _exact = True

    @staticmethod
    def _room(length: int) -> int:
        return length

    @torch.no_grad()
    def _run(self, task: Task, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        device = self._like().device
        task = task._replace(**pytree.tree_map(functools.partial(_placed, device=device), task._asdict()))
        plan, numbers, prompt = task.plan, task.numbers, task.prompt
        call = _compiled(self) if compile else _called
        if streamer is not None:
            begun = prompt.ids[:, : numbers.prompt_length].repeat_interleave(plan.copies, 0)
            streamer.put(begun.cpu().numpy().copy())
        step = started(self, plan, numbers, prompt, _called)
        steps = [step]
        while True:
            if streamer is not None:
                streamer.put(step.state.newest.cpu().numpy().copy())
            if not step.state.going:
                break
            step = continued(self, plan, numbers, prompt, step.state, step.cache, call)
            steps.append(step._replace(state=None, cache=None))
        if streamer is not None:
            streamer.end()
        seen = Seen(_each(steps, "logits") if plan.logits else None, _each(steps, "scores") if plan.scores else None)
        layers = [step.layers for step in steps] if plan.attentions or plan.hidden_states else []
        return returned(self, task, written(ops, plan, numbers, step.state), seen, layers)


def _each(steps: list[Step], name: str) -> tuple[Any, ...]:
    return tuple(getattr(step.seen, name) for step in steps)


def _placed(value: Any, device: torch.device) -> Any:
    """A number as Python has it, an array as a tensor."""
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value


def _called(model: Any, **inputs: Any) -> Any:
    return model(**inputs)


_COMPILED: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()


def _compiled(model: Any) -> Callable[..., Any]:
    """A call of the model that is compiled once; the cache's length is a number that may change."""
    if model not in _COMPILED:
        step = torch.compile(_called, dynamic=True)
        _COMPILED[model] = step
    return _COMPILED[model]
