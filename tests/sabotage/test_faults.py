"""Faults that ports have, planted in either backend: the report must fail and point at the right module."""

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import jax
import pytest
import torch

from diptych.backends.jax import ops as jax_ops
from diptych.backends.torch import ops as torch_ops
from diptych.conversion import parity, to_jax
from diptych.core.semantics import masks, resize, windows
from tests.sabotage.subjects import torch_model

SIDES = ["jax", "torch"]


def pair(name: str, side: str) -> tuple[Any, Any]:
    """A torch reference, and a candidate of the side to plant a fault in."""
    reference = torch_model(name)
    if side == "torch":
        return reference, torch_model(name)
    with jax.enable_x64():
        return reference, to_jax(reference)


def first(report: Any) -> str:
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.name in report.verdict()
    return report.first_divergence.name


def plant(monkeypatch: pytest.MonkeyPatch, module: Any, method: str, faulty: Any) -> None:
    """Replaces a method of the module alone: `faulty` takes the original one first. It survives being copied."""
    owner = type(module)
    original = getattr(owner, method)

    def planted(self: Any, *inputs: Any, **keywords: Any) -> Any:
        call = functools.partial(faulty, original) if hasattr(self, "is_faulty") else original
        return call(self, *inputs, **keywords)

    module.is_faulty = True
    monkeypatch.setattr(owner, method, planted)


@pytest.mark.parametrize("side", SIDES)
def test_without_a_fault_they_agree(side: str) -> None:
    report = parity(*pair("CLIPModel", side))
    assert report.passed, str(report)
    assert report.matched == 1.0
    assert {point.kind for point in report.points} == {"module", "output", "gradient"}


@pytest.mark.parametrize("side", SIDES)
def test_the_other_gelu(side: str) -> None:
    reference, candidate = pair("BertForMaskedLM", side)
    table = {"jax": jax_ops, "torch": torch_ops}[side].ACTIVATIONS
    candidate.bert.encoder.layer[1].intermediate.activation = table["gelu_new"]
    assert first(parity(reference, candidate, gradients=False)) == "bert.encoder.layer.1.intermediate"


@pytest.mark.parametrize("side", SIDES)
def test_another_epsilon(side: str) -> None:
    reference, candidate = pair("BertForMaskedLM", side)
    norm = candidate.bert.encoder.layer[0].output.LayerNorm
    setattr(norm, {"jax": "epsilon", "torch": "eps"}[side], 1e-5)
    assert first(parity(reference, candidate, gradients=False)) == "bert.encoder.layer.0.output.LayerNorm"


@pytest.mark.parametrize("side", SIDES)
def test_a_dropped_mask(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("BertForMaskedLM", side)
    encoder, call = type(candidate.bert.encoder), "__call__" if side == "jax" else "forward"
    original = getattr(encoder, call)

    def dropping(self: Any, hidden_states: Any, inputs: Any, *others: Any, **keywords: Any) -> Any:
        inputs = dataclasses.replace(inputs, mask=None) if hasattr(self, "maskless") else inputs
        return original(self, hidden_states, inputs, *others, **keywords)

    candidate.bert.encoder.maskless = True  # copied with the candidate
    monkeypatch.setattr(encoder, call, dropping)
    assert first(parity(reference, candidate, gradients=False)) == "bert.encoder.layer.0.attention.self"


@pytest.mark.parametrize("side", SIDES)
def test_query_and_key_swapped(side: str) -> None:
    reference, candidate = pair("CLIPVisionModel", side)
    attention = candidate.vision_model.encoder.layers[1].self_attn
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
    where = first(parity(reference, candidate, gradients=False))
    assert where.startswith("vision_model.encoder.layers.1.self_attn.")
    assert where.endswith(("q_proj", "k_proj"))


@pytest.mark.parametrize("side", SIDES)
def test_a_wrong_number_of_heads(side: str) -> None:
    reference, candidate = pair("CLIPVisionModel", side)
    candidate.vision_model.encoder.layers[0].self_attn.heads = 2
    report = parity(reference, candidate, gradients=False)
    assert first(report) == "vision_model.encoder.layers.0.self_attn.out_proj"


def test_a_text_that_is_read_at_another_token(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("CLIPTextModelWithProjection", "jax")
    monkeypatch.setattr(jax_ops, "gather_rows", lambda values, index: values[:, 0])
    assert first(parity(reference, candidate, gradients=False)) == "text_projection"


def test_a_mask_that_sees_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("CLIPTextModelWithProjection", "jax")
    original = masks.causal_padding

    def only_padding(xp: Any, steps: Any, attention_mask: Any) -> Any:
        return (original if xp is torch_ops.xp else _padding)(xp, steps, attention_mask)

    def _padding(xp: Any, steps: Any, attention_mask: Any) -> Any:
        return xp.broadcast_to(masks.padding(xp, attention_mask), (2, 1, len(steps), len(steps)))

    monkeypatch.setattr(masks, "causal_padding", only_padding)
    assert first(parity(reference, candidate, gradients=False)) == "text_model.encoder.layers.0.self_attn.out_proj"


def test_windows_that_are_not_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("SwinModel", "jax")
    original = windows.partition

    def unshifted(ops: Any, states: Any, tiling: Any, shift: int) -> Any:
        return original(ops, states, tiling, shift if ops is torch_ops else 0)

    monkeypatch.setattr(windows, "partition", unshifted)
    assert first(parity(reference, candidate, gradients=False)).startswith("encoder.layers.0.blocks.1.attention.self.")


@pytest.mark.parametrize(
    ("name", "module"),
    [("SwinModel", "encoder.layers.0.downsample.norm"), ("ViTModel", "encoder.layer.0.layernorm_after")],
)
def test_another_epsilon_in_an_image_encoder(name: str, module: str) -> None:
    reference, candidate = pair(name, "torch")
    candidate.get_submodule(module).eps = 1e-4
    assert first(parity(reference, candidate, gradients=False)) == module


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("SwinModel", "encoder.layers.0.blocks.0.attention.self"),
        ("BeitModel", "encoder.layer.0.attention.attention.relative_position_bias"),
    ],
)
def test_a_transposed_table_of_relative_positions(name: str, module: str) -> None:
    """Distances in rows and in columns are exchanged; what BEiT has for its class token stands behind them."""
    reference, candidate = pair(name, "torch")
    table, config = candidate.get_submodule(module).relative_position_bias_table, reference.config
    sizes = config.patch_grid if name == "BeitModel" else (config.window_size, config.window_size)
    rows, columns = (2 * size - 1 for size in sizes)
    with torch.no_grad():
        distances = table[: rows * columns].reshape(rows, columns, -1)
        table[: rows * columns] = distances.transpose(0, 1).reshape(rows * columns, -1).clone()
    assert first(parity(reference, candidate, gradients=False)) == module


def test_patches_merged_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("SwinModel", "jax")
    original = windows.merge_patches

    def by_row(ops: Any, states: Any, grid: Any) -> Any:
        merged = original(ops, states, grid)
        if ops is torch_ops:
            return merged
        first, lower, right, last = ops.xp.split(merged, 4, axis=-1)
        return ops.xp.concat([first, right, lower, last], axis=-1)

    monkeypatch.setattr(windows, "merge_patches", by_row)
    assert first(parity(reference, candidate, gradients=False)) == "encoder.layers.0.downsample.norm"


def test_a_mask_token_that_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("ViTForMaskedImageModeling", "jax")
    embeddings = type(candidate.vit.embeddings)
    original = embeddings.__call__
    monkeypatch.setattr(
        embeddings, "__call__", lambda self, pixels, masked, *others: original(self, pixels, None, *others)
    )
    assert first(parity(reference, candidate, gradients=False)) == "vit.embeddings"


@pytest.mark.parametrize("name", ["ViTModel", "DeiTModel"])
def test_positions_that_are_off_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair(name, "jax")
    original = resize.position_table

    def shifted(ops: Any, table: Any, *others: Any, **keywords: Any) -> Any:
        moved = table if ops is torch_ops else ops.xp.roll(table, 1, axis=0)
        return original(ops, moved, *others, **keywords)

    monkeypatch.setattr(resize, "position_table", shifted)
    assert first(parity(reference, candidate, gradients=False)) == "embeddings"


def test_a_gradient_that_is_stopped_shows_only_in_the_gradients() -> None:
    reference, candidate = pair("BertForMaskedLM", "torch")
    candidate.bert.encoder.layer[1].attention.self.value.register_forward_hook(lambda m, i, o: o.detach())
    report = parity(reference, candidate)
    assert all(point.passed for point in report.points if point.kind != "gradient")
    assert not report.passed
    assert {"bert.encoder.layer.1.attention.self.value.weight"} <= {p.name for p in report.points if not p.passed}


def test_a_model_that_calls_other_modules_proves_nothing() -> None:
    reference, candidate = pair("CLIPVisionModel", "torch")
    for layer in candidate.vision_model.encoder.layers:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear = getattr(layer.self_attn, name)
            plain = torch.nn.Linear(1, 1, device="meta")
            plain.weight, plain.bias = linear.weight, linear.bias
            setattr(layer.self_attn, name, torch.nn.Sequential(plain))
    report = parity(reference, candidate, gradients=False)
    assert all(point.passed for point in report.points)
    assert report.matched < 0.9
    assert not report.passed
    assert (
        report.verdict()
        == f"NOT PROVED: only {report.matched:.0%} of the modules were called on both sides, 90% are needed"
    )
    assert "vision_model.encoder.layers.0.self_attn.q_proj.0" in report.only_candidate


def test_a_narrow_dtype_that_goes_wrong() -> None:
    reference, candidate = pair("CLIPVisionModel", "torch")
    norm = candidate.vision_model.post_layernorm
    norm.register_forward_hook(lambda m, i, o: o if o.dtype == torch.float64 else o * 1.5)
    report = parity(reference, candidate, dtype="bfloat16", gradients=False)
    assert all(point.passed for point in report.points if point.dtype == "float64")
    assert not report.passed
    assert first(report) == "pooler_output"
    assert parity(reference, reference, dtype="bfloat16").passed


@pytest.mark.parametrize("side", SIDES)
def test_the_other_gelu_between_convolutions(side: str) -> None:
    reference, candidate = pair("Wav2Vec2Model", side)
    table = {"jax": jax_ops, "torch": torch_ops}[side].ACTIVATIONS
    candidate.feature_extractor.conv_layers[1].activation = table["gelu_new"]
    assert first(parity(reference, candidate, gradients=False)) == "feature_extractor.conv_layers.1"


@pytest.mark.parametrize("side", SIDES)
def test_another_epsilon_of_group_norm(side: str) -> None:
    reference, candidate = pair("Wav2Vec2Model", side)
    norm = candidate.feature_extractor.conv_layers[0].layer_norm
    setattr(norm, {"jax": "epsilon", "torch": "eps"}[side], 1e-6)
    assert first(parity(reference, candidate, gradients=False)) == "feature_extractor.conv_layers.0.layer_norm"


@pytest.mark.parametrize("side", SIDES)
def test_the_other_frame_of_an_even_kernel_dropped(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("Wav2Vec2Model", side)

    def first_dropped(original: Any, self: Any, hidden_states: Any, mask: Any) -> Any:
        return self.activation(self.conv(hidden_states)[:, 1:])

    plant(monkeypatch, candidate.encoder.pos_conv_embed, "__call__" if side == "jax" else "forward", first_dropped)
    assert first(parity(reference, candidate, gradients=False)) == "encoder.pos_conv_embed"


@pytest.mark.parametrize("side", SIDES)
def test_a_bias_of_distances_in_the_first_layer_alone(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("WavLMModel", side)

    def unbiased(original: Any, self: Any, hidden_states: Any) -> Any:
        return original(self, hidden_states) * 0.0

    plant(monkeypatch, candidate.encoder.layers[1].attention, "gate", unbiased)
    assert first(parity(reference, candidate, gradients=False)).startswith("encoder.layers.1.attention")


@pytest.mark.parametrize("side", SIDES)
def test_weight_norm_for_each_channel(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is by default, and not for each position of the kernel."""
    reference, candidate = pair("Wav2Vec2Model", side)
    xp = {"jax": jax_ops, "torch": torch_ops}[side].xp

    def per_channel(original: Any, self: Any, states: Any) -> Any:
        values = self.weight_v[...]
        weight = values * self.weight_g[...] / xp.sqrt(xp.sum(values * values, axis=(1, 2), keepdims=True))
        norms = xp.sqrt(xp.sum(weight * weight, axis=(0, 1), keepdims=True))
        options = {name: getattr(self, name, None) for name in ("bias", "stride", "padding", "groups", "dtype")}
        return original(SimpleNamespace(weight_v=weight, weight_g=norms, **options), states)

    call = "__call__" if side == "jax" else "forward"
    plant(monkeypatch, candidate.encoder.pos_conv_embed.conv, call, per_channel)
    assert first(parity(reference, candidate, gradients=False)) == "encoder.pos_conv_embed.conv"


def test_a_frame_of_padding_that_the_decoder_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("SpeechEncoderDecoderModel", "torch")

    def one_more(original: Any, self: Any, *inputs: Any) -> Any:
        mask = original(self, *inputs)
        return torch_ops.xp.concat([mask[:, :1], mask[:, :-1]], axis=1)

    plant(monkeypatch, candidate.encoder, "states_mask", one_more)
    report = parity(reference, candidate, gradients=False)
    assert first(report) == "decoder.transformer.h.0.crossattention.c_proj"


def test_states_that_are_cut_instead_of_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = pair("SpeechEncoderDecoderModel", "torch")
    width = candidate.config.decoder.hidden_size

    def cut(original: Any, self: Any, encoded: Any, *inputs: Any) -> Any:
        return encoded.last_hidden_state[..., :width]

    plant(monkeypatch, candidate, "_states_for_decoder", cut)
    report = parity(reference, candidate, gradients=False)
    assert first(report) == "decoder.transformer.h.0.crossattention.c_attn"
    assert "enc_to_dec_proj" in report.only_reference
