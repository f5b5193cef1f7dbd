"""What a model does for each token of a generation, and what is returned of all of them in the end.

Letters of the shapes: B prompts, R rows (every prompt in all its copies or beams), T tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from diptych.core.generation import Prompt, Task
from diptych.core.outputs import GenerateOutput
from diptych.core.semantics import decoding
from diptych.core.semantics.beams import Beams
from diptych.core.semantics.decoding import Numbers, Plan, Rows, Seen

Call = Callable[..., Any]
"""Calls a model with keywords; a backend may have compiled it."""


class Step(NamedTuple):
    """Where a generation stands after a token, and what the token leaves for the record."""

    state: Rows | Beams
    cache: Any
    seen: Seen
    layers: Mapping[str, Any]
    """Attentions, cross-attentions and hidden states, as far as they are asked for."""


def started(model: Any, plan: Plan, numbers: Numbers, prompt: Prompt, call: Call) -> Step:
    """Has everything read that there is, and the first token written."""
    ops = model._ops()
    cache = model.init_cache(prompt.ids.shape[0], plan.capacity) if prompt.cache is None else prompt.cache
    ids = prompt.ids[:, plan.fed : plan.width]
    mask = None if prompt.mask is None else prompt.mask[:, plan.fed :]
    last = 1 if plan.exact else ops.xp.reshape(numbers.prompt_length - 1 - plan.fed, (1,))
    inputs = {"past_key_values": cache, "logits_to_keep": last}
    if model._reads:
        states = prompt.states
        if states is None:
            silent = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
            states = model.encode(**prompt.read, attention_mask=prompt.read_mask, **silent).last_hidden_state
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        inputs |= {"encoder_outputs": states, "attention_mask": prompt.read_mask}
    else:
        inputs |= {"input_ids": ids, "attention_mask": mask}
        if prompt.position_ids is not None:
            inputs["position_ids"] = prompt.position_ids[:, plan.fed :]
    outputs = call(model, **inputs, **_switches(plan))
    cache = dataclasses.replace(outputs.past_key_values, length=numbers.prompt_length)
    values, layers = outputs.logits[:, -1, :], _layers(plan, outputs)
    if plan.copies > 1:
        cache, values = cache.widened(plan.copies), ops.xp.repeat(values, plan.copies, axis=0)
        layers = {
            name: tuple(ops.xp.repeat(layer, plan.copies, axis=0) for layer in found) for name, found in layers.items()
        }
    state, seen = decoding.advanced(ops, plan, numbers, decoding.begun(ops, plan, numbers, prompt.ids, values), values)
    return Step(state, cache, seen, layers)


def continued(
    model: Any, plan: Plan, numbers: Numbers, prompt: Prompt, state: Rows | Beams, cache: Any, call: Call
) -> Step:
    """Has the newest tokens read, and the next ones written."""
    ops = model._ops()
    xp = ops.xp
    if isinstance(state, Beams):
        cache = cache.reordered(state.rows, plan.shared)
    # where RoBERTa decodes for an encoder, every token before counts for the position, as in transformers
    cache = dataclasses.replace(cache, counted=xp.zeros_like(cache.counted) + cache.length)
    inputs = {"past_key_values": cache}
    if model._reads:
        inputs |= {"decoder_input_ids": state.newest[:, None], "attention_mask": prompt.read_mask}
    else:
        inputs |= {"input_ids": state.newest[:, None]}
        if prompt.position_ids is not None:
            here = ops.steps(prompt.position_ids.shape[1], prompt.position_ids) == numbers.prompt_length - 1
            last = xp.max(xp.where(here[None, :], prompt.position_ids, 0), axis=1)
            place = xp.repeat(last, plan.copies, axis=0) + (cache.length - numbers.prompt_length + 1)
            inputs["position_ids"] = place[:, None]
    outputs = call(model, **inputs, **_switches(plan))
    state, seen = decoding.advanced(ops, plan, numbers, state, outputs.logits[:, -1, :])
    return Step(state, outputs.past_key_values, seen, _layers(plan, outputs))


def returned(model: Any, task: Task, state: Mapping[str, Any], seen: Seen, layers: Sequence[Mapping[str, Any]]) -> Any:
    """What `generate` returns.

    Args:
        model: that wrote.
        task: what was to be done.
        state: of `decoding.written`.
        seen: for each token (R, V), where it is asked for.
        layers: for each token what its step left.
    """
    ops, plan = model._ops(), task.plan
    begin, length = int(task.numbers.prompt_length), ops.host(state["length"])
    length = int(length if not hasattr(length, "aval") else task.numbers.max_length)
    fields = {"sequences": ops.leading(state["sequences"], length), "sequences_scores": state.get("sequences_scores")}
    if "beam_indices" in state:
        fields["beam_indices"] = ops.leading(state["beam_indices"], length - begin)
    for name in ("attentions", "cross_attentions", "hidden_states") if layers else ():
        found = [step[name] for step in layers if name in step]
        cut: list[Any] = []
        for index, step in enumerate(found):
            tokens = begin - plan.fed if index == 0 else 1
            ends = {"attentions": begin + index, "cross_attentions": task.read_length}.get(name)
            if name == "hidden_states":
                cut.append(tuple(layer[:, :tokens] for layer in step))
            else:
                cut.append(tuple(layer[:, :, :tokens, :ends] for layer in step))
        fields[name] = tuple(cut) or None
    return GenerateOutput(**fields, logits=seen.logits, scores=seen.scores)


def _switches(plan: Plan) -> dict[str, bool]:
    asked = {"output_attentions": plan.attentions, "output_hidden_states": plan.hidden_states}
    return {"use_cache": True, "return_dict": True, **asked}


def _layers(plan: Plan, outputs: Any) -> dict[str, Any]:
    found = {
        "attentions": getattr(outputs, "decoder_attentions", None) or getattr(outputs, "attentions", None),
        "cross_attentions": outputs.cross_attentions,
        "hidden_states": getattr(outputs, "decoder_hidden_states", None) or getattr(outputs, "hidden_states", None),
    }
    return {name: value for name, value in found.items() if value is not None}
