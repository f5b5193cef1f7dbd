"""Text generation in torch: a loop over steps, whose model calls can be compiled with torch.compile."""

import functools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from diptych.backends.torch import ops, products
from diptych.core.errors import InputError
from diptych.core.generation.base import GenerationBase
from diptych.core.generation.request import GenerationRequest
from diptych.core.generation.steps import Step, first_step, next_step, output
from diptych.core.interfaces import Streamer
from diptych.core.outputs import GenerateOutput
from diptych.core.semantics.decoding import StepScores, finish, settle


class GenerationMixin(GenerationBase):
    """Adds `generate` to a model."""

    _pads_lengths = False

    @staticmethod
    def _padded_length(length: int) -> int:
        return length

    @torch.no_grad()
    def _run(self, request: GenerationRequest, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        if ops.is_sharded(self._like()):
            raise InputError(
                f"{type(self).__name__}.generate: the parameters are sharded by FSDP2, which gathers them in forward() "
                'alone; call torch.distributed.fsdp.register_fsdp_forward_method(model, "generate") first'
            )
        with nullcontext() if compile else products.fast([self]):
            return self._generate(request, streamer, compile)

    def _generate(self, request: GenerationRequest, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        to_device = functools.partial(_to_device, device=self._like().device)
        request = request._replace(**pytree.tree_map(to_device, request._asdict()))
        plan, traced, prompt = request.plan, request.traced, request.prompt
        call = _compile_call(self) if compile else _call_model
        if streamer is not None:
            start = prompt.ids[:, : traced.prompt_length].repeat_interleave(plan.copies, 0)
            streamer.put(start.cpu().numpy().copy())
        watch = request.watch
        if watch is not None:
            traced = pytree.tree_map(to_device, watch.constrain_first(plan, traced, prompt.ids))
        step = first_step(self, plan, traced, prompt, _call_model)
        steps = [step]
        while True:
            if watch is not None:
                scores = _of_each_step(steps, "scores") if plan.output_scores else None
                stopped = to_device(watch.stopped_sequences(step.state, scores))
                step = step._replace(state=settle(ops, plan, traced, step.state, stopped))
            if streamer is not None:
                streamer.put(step.state.last_tokens.cpu().numpy().copy())
            if not step.state.running:
                break
            if watch is not None:
                traced = pytree.tree_map(to_device, watch.constrain_next(plan, traced, step.state))
            step = next_step(self, plan, traced, prompt, step, call)
            steps.append(step._replace(state=None, cache=None))
        if streamer is not None:
            streamer.end()
        scores = StepScores(
            logits=_of_each_step(steps, "logits") if plan.output_logits else None,
            scores=_of_each_step(steps, "scores") if plan.output_scores else None,
        )
        layers = [step.layers for step in steps] if plan.output_attentions or plan.output_hidden_states else []
        return output(self, request, finish(ops, plan, traced, step.state), scores, layers)


def _of_each_step(steps: list[Step], name: str) -> tuple[Any, ...]:
    return tuple(getattr(step.scores, name) for step in steps)


def _to_device(value: Any, device: torch.device) -> Any:
    """Converts numpy scalars to Python numbers and numpy arrays to tensors; returns anything else unchanged."""
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value


def _call_model(model: Any, **inputs: Any) -> Any:
    return model(**inputs)


_COMPILED: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()


def _compile_call(model: Any) -> Callable[..., Any]:
    """The compiled model call, one per model; it is dynamic because the cache's length changes at each step."""
    if model not in _COMPILED:
        _COMPILED[model] = torch.compile(_call_model, dynamic=True)
    return _COMPILED[model]
