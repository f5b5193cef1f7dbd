"""The steps of decoding, for both backends: the first call of a model, every later one, and the output.

Letters of the shapes: B prompts, R rows (all copies or beams of every prompt), T tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from diptych.core.generation.request import GenerationRequest, Prompt
from diptych.core.outputs import GenerateOutput
from diptych.core.semantics import decoding
from diptych.core.semantics.beams import BeamState
from diptych.core.semantics.decoding import Plan, StepScores, TracedOptions

ModelCall = Callable[..., Any]
"""Calls a model with keywords; a backend may compile it."""


class Step(NamedTuple):
    """The result of a step: the state after its token, and the values to return."""

    state: Any
    """A `State`, or a `Proposal` if the plan is watched and the step isn't settled."""
    cache: Any
    context: Mapping[str, Any]
    """Additional keywords of later calls, such as the mask of the encoder's states."""
    scores: StepScores
    layers: Mapping[str, Any]
    """Attentions, cross-attentions and hidden states, if requested."""


def first_step(model: Any, plan: Plan, traced: TracedOptions, prompt: Prompt, call: ModelCall) -> Step:
    """Calls the model on the prompts and its other inputs, and chooses the first new token."""
    ops = model._ops()
    cache = model.init_cache(prompt.ids.shape[0], plan.capacity) if prompt.cache is None else prompt.cache
    if plan.padded:
        last: Any = ops.xp.reshape(traced.context_length - 1 - plan.cached, (1,))
    else:
        last = 1
    inputs, context = model._first_step_inputs(plan, traced, prompt)
    outputs = call(model, **inputs, past_key_values=cache, logits_to_keep=last, **_switches(plan))
    cache = dataclasses.replace(outputs.past_key_values, length=traced.context_length)
    values, layers = outputs.logits[:, -1, :], _returned_layers(outputs)
    if plan.copies > 1:
        cache, values = cache.repeat_rows(plan.copies), ops.xp.repeat(values, plan.copies, axis=0)
        layers = {
            name: tuple(ops.xp.repeat(layer, plan.copies, axis=0) for layer in found) for name, found in layers.items()
        }
    state = decoding.start(ops, plan, traced, prompt.ids, values)
    state, scores = decoding.advance(ops, plan, traced, state, values)
    return Step(state, cache, context, scores, layers)


def next_step(model: Any, plan: Plan, traced: TracedOptions, prompt: Prompt, before: Step, call: ModelCall) -> Step:
    """Calls the model on the newest tokens, and chooses the next ones."""
    ops = model._ops()
    state, cache = before.state, before.cache
    if isinstance(state, BeamState):
        cache = cache.reorder(state.source_rows, plan.shared)
    # the positions of a RoBERTa decoder in a composite count padding too, as in transformers
    cache = dataclasses.replace(cache, counted=ops.xp.zeros_like(cache.counted) + cache.length)
    inputs = model._next_step_inputs(plan, traced, prompt, before.context, state.last_tokens[:, None], cache)
    outputs = call(model, **inputs, past_key_values=cache, **_switches(plan))
    state, scores = decoding.advance(ops, plan, traced, state, outputs.logits[:, -1, :])
    return Step(state, outputs.past_key_values, before.context, scores, _returned_layers(outputs))


def output(
    model: Any,
    request: GenerationRequest,
    fields: Mapping[str, Any],
    scores: StepScores,
    layers: Sequence[Mapping[str, Any]],
) -> GenerateOutput:
    """The output of `generate`.

    Args:
        model: the model.
        request: the checked call.
        fields: those of `decoding.finish`.
        scores: for each token (R, V), if requested.
        layers: of each step, if requested.
    """
    ops, traced = model._ops(), request.traced
    start, length = int(traced.prompt_length), fields["length"]
    length = int(traced.max_length if ops.is_traced(length) else length)
    cut = {
        "sequences": ops.first_columns(fields["sequences"], length),
        "sequences_scores": fields.get("sequences_scores"),
    }
    if "beam_indices" in fields:
        cut["beam_indices"] = ops.first_columns(fields["beam_indices"], length - start)
    for name in ("attentions", "cross_attentions", "hidden_states") if layers else ():
        found = [step[name] for step in layers if name in step]
        cut[name] = tuple(_cut_layers(request, name, index, step) for index, step in enumerate(found)) or None
    return GenerateOutput(**cut, logits=scores.logits, scores=scores.scores)


def _cut_layers(request: GenerationRequest, name: str, index: int, layers: Sequence[Any]) -> tuple[Any, ...]:
    """The values of all layers at one step, without padding to standard widths."""
    context = int(request.traced.context_length)
    tokens = context - request.plan.cached if index == 0 else 1
    if name == "hidden_states":
        return tuple(layer[:, :tokens] for layer in layers)
    ends = context + index if name == "attentions" else request.encoder_length
    return tuple(layer[:, :, :tokens, :ends] for layer in layers)


def _switches(plan: Plan) -> dict[str, bool]:
    asked = {"output_attentions": plan.output_attentions, "output_hidden_states": plan.output_hidden_states}
    return {"use_cache": True, "return_dict": True, **asked}


def _returned_layers(outputs: Any) -> dict[str, Any]:
    """The decoder's layer values in a call's output, under the names of a decoder alone."""
    found = {
        "attentions": getattr(outputs, "decoder_attentions", None) or getattr(outputs, "attentions", None),
        "cross_attentions": getattr(outputs, "cross_attentions", None),
        "hidden_states": getattr(outputs, "decoder_hidden_states", None) or getattr(outputs, "hidden_states", None),
    }
    return {name: value for name, value in found.items() if value is not None}
