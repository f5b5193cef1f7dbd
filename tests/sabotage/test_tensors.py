"""Every tensor of a candidate is corrupted in turn: the check must fail there, or name the tensor as a blind spot."""

import numpy as np
import pytest
import torch

from diptych.conversion.capture import run_torch
from diptych.conversion.parity import compare_runs, parity
from diptych.core.random import generator
from diptych.core.registry import architectures, families
from tests.parity.tiny import CONFIGS
from tests.sabotage.subjects import corrupted, torch_model

# Parameters that no module of their own holds, or that are read without a call: the module whose output shows them.
SEEN_AT = {
    "vision_model.embeddings.class_embedding": "vision_model.embeddings",
    "vision_model.embeddings.position_embedding.weight": "vision_model.embeddings",
    "model.vision_model.embeddings.position_embedding.weight": "model.vision_model.embeddings",
    "perceiver_resampler.latents": "perceiver_resampler.blocks.0.0.latents_layer_norm",
    "model.perceiver_resampler.latents": "model.perceiver_resampler.blocks.0.0.latents_layer_norm",
    "logit_scale": "loss",
}


def seen_at(path: str, model: torch.nn.Module) -> str:
    """The module whose output shows first that a parameter is another one."""
    owner, _, leaf = path.rpartition(".")
    if leaf == "masked_spec_embed":  # the frames that a speech encoder's positional convolution reads
        positions = f"{owner}.encoder.pos_conv_embed".removeprefix(".")
        normalized = model.get_submodule(positions).batch_norm is not None
        return f"{positions}.batch_norm" if normalized else f"{positions}.conv"
    if leaf == "gru_rel_pos_const":  # scales a bias of the attention's scores
        return f"{owner}.out_proj"
    if leaf == "lambda_1":  # BEiT's layers scale the output of attention, and add it before they normalize
        return f"{owner}.layernorm_after"
    if leaf == "alpha_cross_attn":  # likewise
        return f"{owner}.post_attention_layernorm"
    return SEEN_AT.get(path, owner)


def blind_paths(model: torch.nn.Module) -> set[str]:
    """The key biases: softmax(q(k + b)) = softmax(qk + qb) = softmax(qk), for qb is one number for all keys."""
    return {name for name, _ in model.named_parameters() if name.endswith(("key.bias", "k_proj.bias"))}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_corrupted_tensor_is_found_where_it_is(name: str) -> None:
    model = torch_model(name)
    example = families()[architectures()[name]].example(CONFIGS[name], name, generator(0, "inputs"))
    reference = run_torch(model, example, seed=0, gradients=True)
    assert all(point.passed for point in compare_runs(reference, reference, dtype="float64"))
    unseen = set()
    for path, parameter in model.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(torch.as_tensor(corrupted(before.numpy()).copy()))
        assert not torch.equal(parameter, before), path
        candidate = run_torch(model, example, seed=0, gradients=True)
        with torch.no_grad():
            parameter.copy_(before)
        failed = [point for point in compare_runs(reference, candidate, dtype="float64") if not point.passed]
        if not failed:
            unseen.add(path)
            continue
        owner = seen_at(path, model)
        assert failed[0].name == owner, f"{path} shows first at {failed[0]}"
    assert unseen <= blind_paths(model)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "CLIPModel"])
def test_blind_spots_are_listed_with_the_proof(name: str) -> None:
    model = torch_model(name)
    report = parity(model, model)
    listed = {path for path, reason in report.blind.items() if "softmax" in reason}
    assert listed == blind_paths(model)
    rows = {path for path, reason in report.blind.items() if "look up" in reason}
    assert rows and all("embedding" in path for path in rows)


def test_a_key_bias_really_changes_nothing() -> None:
    model = torch_model("BertForMaskedLM")
    other = torch_model("BertForMaskedLM")
    with torch.no_grad():
        other.bert.encoder.layer[0].attention.self.key.bias += 3.0
    ids = torch.arange(10).reshape(2, 5)
    difference = (model(ids).logits - other(ids).logits).abs().max().item()
    assert difference < 1e-13
    report = parity(model, other)
    # the key projection itself shows it, so the check is not blind to where the fault is
    assert report.first_divergence is not None
    assert report.first_divergence.name == "bert.encoder.layer.0.attention.self.key"
    assert all(point.passed for point in report.points if point.kind == "output")


def test_not_a_number_anywhere_fails() -> None:
    model, other = torch_model("CLIPTextModelWithProjection"), torch_model("CLIPTextModelWithProjection")
    with torch.no_grad():
        other.text_model.encoder.layers[1].mlp.fc1.bias[0] = np.nan
    for pair, side in (((model, other), "candidate"), ((other, model), "reference"), ((other, other), "both")):
        report = parity(*pair, gradients=False)
        assert not report.passed
        assert report.first_divergence is not None
        assert report.first_divergence.name == "text_model.encoder.layers.1.mlp.fc1"
        wanted = "not finite in the reference and the candidate" if side == "both" else f"not finite in the {side}"
        assert report.first_divergence.note == wanted
