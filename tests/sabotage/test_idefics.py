"""Faults that ports of IDEFICS have, planted in PyTorch, whose twin in JAX has the same text."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import pytest
import torch

from diptych.backends.torch import layers, ops
from diptych.backends.torch.models import idefics
from diptych.conversion import parity, to_jax
from tests.sabotage.subjects import torch_model

NAME = "IdeficsForVisionText2Text"


def plant(model: torch.nn.Module, owner: Any, name: str, fault: Callable[..., Any]) -> None:
    """Replaces an attribute of a Python module or a class, but only while the model runs.

    Args:
        model: the candidate.
        owner, name: of the attribute.
        fault: what takes its place; its first argument is what was there.
    """
    original = getattr(owner, name)
    model.register_forward_pre_hook(lambda *_: setattr(owner, name, lambda *a, **k: fault(original, *a, **k)))
    model.register_forward_hook(lambda *_: setattr(owner, name, original), always_call=True)


def without_image_gate(model: Any) -> None:
    """Tokens that see no image see all of them."""

    def open_mask(original: Any, query: Any, keys: Any, inputs: Any, *others: Any, **options: Any) -> Any:
        mask = inputs.encoder_mask
        inputs = dataclasses.replace(inputs, encoder_mask=mask | ~mask.any(-1, keepdim=True))
        return original(query, keys, inputs, *others, **options)

    plant(model, idefics, "cross_attention", open_mask)


def gates_without_tanh(model: Any) -> None:
    plant(model, idefics, "gate", lambda original, alpha, states: alpha.reshape(1, 1, -1))


def exchanged_norms(model: Any) -> None:
    attention = model.model.gated_cross_attn_layers[0].cross_attn
    attention.q_layer_norm, attention.k_layer_norm = attention.k_layer_norm, attention.q_layer_norm


def exchanged_norms_of_the_resampler(model: Any) -> None:
    attention = model.model.perceiver_resampler.blocks[0][0]
    attention.q_layer_norm, attention.k_layer_norm = attention.k_layer_norm, attention.q_layer_norm


def shifted_additional_words(model: Any) -> None:
    first, count = model.config.vocab_size, model.config.additional_vocab_size
    plant(
        model,
        layers.DecoupledEmbedding,
        "forward",
        lambda original, self, ids: original(self, torch.where(ids < first, ids, first + (ids - first + 1) % count)),
    )


def additional_logits_first(model: Any) -> None:
    count = model.config.additional_vocab_size
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.roll(count, -1))


def queries_one_position_on(model: Any) -> None:
    """Queries and keys are rotated in turn."""
    turn = itertools.cycle((1, 0))

    def rotate(original: Any, values: Any, *tables: Any) -> Any:
        shift = next(turn)
        return original(values, *(table.roll(shift, -2) for table in tables))

    plant(model, ops, "rotate", rotate)


def latents_that_do_not_see_one_another(model: Any) -> None:
    count, attention = len(model.model.perceiver_resampler.latents), model.model.perceiver_resampler.blocks[0][0]
    for projection in (attention.k_proj, attention.v_proj):
        projection.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :-count],))


RESAMPLER, CROSS = "model.perceiver_resampler.blocks.0.0", "model.gated_cross_attn_layers.0"
FAULTS = {
    without_image_gate: f"{CROSS}.cross_attn.o_proj",
    gates_without_tanh: f"{CROSS}.post_attention_layernorm",
    exchanged_norms: f"{CROSS}.cross_attn.q_layer_norm",
    exchanged_norms_of_the_resampler: f"{RESAMPLER}.q_layer_norm",
    shifted_additional_words: "model.embed_tokens.additional_embedding",
    additional_logits_first: "lm_head",
    queries_one_position_on: "model.layers.0.self_attn.o_proj",
    latents_that_do_not_see_one_another: f"{RESAMPLER}.k_proj",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_where_it_is(fault: Callable[[Any], None]) -> None:
    reference, candidate = torch_model(NAME), torch_model(NAME)
    fault(candidate)
    report = parity(reference, candidate, gradients=False)
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.name == FAULTS[fault], report.verdict()


def test_positions_that_are_all_one_further_change_nothing() -> None:
    """Rotary scores depend on the distance of two tokens alone: a blind spot, by design."""
    reference, candidate = torch_model(NAME), torch_model(NAME)
    original = idefics.positions.rotary_table

    def later(size: int, width: int) -> Any:
        return original(size + 1, width)[1:]

    plant(candidate, idefics.positions, "rotary_table", lambda original, *sizes: later(*sizes))
    report = parity(reference, candidate, gradients=False)
    assert report.passed, report.verdict()


def test_without_a_fault_the_backends_agree() -> None:
    """A subclass's call of its parent, as in the tables of additional words, is no other call of the module."""
    reference = torch_model(NAME)
    with jax.enable_x64():
        candidate = to_jax(reference)
    report = parity(reference, candidate, gradients=False)
    assert report.passed, report.verdict()
    assert report.matched == 1.0 and not report.only_candidate
