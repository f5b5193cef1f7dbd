"""The parity check as a tool: what it takes, what it reports, what it leaves behind."""

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

import diptych.backends.jax
import diptych.backends.torch
from diptych.conversion import parity, to_jax
from diptych.conversion.published_names import published_names
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.models.bert import BertConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config
from tests.conversion import checkpoints
from tests.conversion.tiny import edit_config


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "BertForMaskedLM"
    checkpoints.write(path, "BertForMaskedLM")
    return path


@pytest.fixture(scope="module")
def report(directory: Path) -> Any:
    return parity(directory, dtype="float32")


def test_a_directory_is_compared_in_both_backends(report: Any, directory: Path) -> None:
    assert report.passed, str(report)
    assert (report.reference["backend"], report.candidate["backend"]) == ("torch", "jax")
    assert report.reference["from"] == report.candidate["from"] == str(directory)
    assert torch.__version__.startswith(report.reference["torch"])  # wheels may not say for which device they are
    assert report.candidate["jax"] == jax.__version__
    assert report.dtypes == ("float64", "float32")
    assert report.first_divergence is None
    assert report.matched == 1.0


def test_a_directory_may_need_keywords(tmp_path: Path) -> None:
    """Without a pooler, with a field that nobody knows, and the size of the inputs from a change."""
    checkpoints.write(tmp_path, "BertModel")
    model = diptych.backends.torch.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, mystery=1)
    keywords = {"ignore_config": ("mystery",), "add_pooling_layer": False, "output_hidden_states": True}
    report = parity(tmp_path, against="transformers", gradients=False, **keywords)
    assert report.passed, str(report)
    outputs = {point.name for point in report.points if point.kind == "output"}
    assert outputs == {"last_hidden_state", *(f"hidden_states[{layer}]" for layer in range(4))}
    with pytest.raises(InputError, match="parity: add_pooling_layer must go with a directory, but no directory is"):
        parity(model, add_pooling_layer=False)
    with pytest.raises(InputError, match=r"ignore_config='mystery' must be a tuple of names"):
        parity(tmp_path, ignore_config="mystery")
    with pytest.raises(ConfigError, match="BertConfig has no field gradient"):
        parity(tmp_path, gradient=False, ignore_config=("mystery",))


def test_points_come_in_the_order_of_the_calls(report: Any) -> None:
    names = [point.name for point in report.points if point.kind == "module" and point.dtype == "float64"]
    assert names[0] == "bert.embeddings.word_embeddings"
    assert names[-1] == "cls"
    assert names.index("bert.encoder.layer.0.attention.self.query") < names.index("bert.encoder.layer.0.attention.self")
    assert names.index("bert.encoder.layer.0") < names.index("bert.encoder.layer.1.attention.self.query")
    outputs = [point.name for point in report.points if point.kind == "output" and point.dtype == "float64"]
    assert outputs == ["loss", "logits"]


def test_float64_agrees_far_better_than_the_bound(report: Any) -> None:
    units = [point.units for point in report.points if point.dtype == "float64" and point.kind != "gradient"]
    assert max(units) < 1e3


def test_json_holds_everything(report: Any) -> None:
    data = json.loads(report.to_json())
    assert data["passed"] is True
    assert data["first_divergence"] is None
    assert data["class_name"] == "BertForMaskedLM"
    assert len(data["points"]) == len(report.points)
    assert len(data["input_hash"]) == 64
    assert set(data["inputs"]) == {"input_ids", "attention_mask", "token_type_ids", "labels"}


def test_text_and_table_say_the_verdict(report: Any) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report)
    for text in (str(report), console.export_text()):
        assert "EQUAL: " in text
        assert "softmax(q(k + b))" in text
        assert "sha256" in text


def test_against_transformers(directory: Path) -> None:
    for backend in ("torch", "jax"):
        report = parity(directory, against="transformers", backend=backend)
        assert report.passed, str(report)
        assert report.reference["backend"] == "transformers"
        assert report.reference["transformers"] == transformers.__version__
        assert report.candidate["backend"] == backend
        assert report.only_reference == ("cls.predictions.decoder",)  # ours ties by a product with the embeddings


def test_a_live_model_of_transformers_meets_its_twin() -> None:
    config = transformers.CLIPTextConfig(
        vocab_size=30, hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3,
        max_position_embeddings=9, projection_dim=7, eos_token_id=29, bos_token_id=28,
    )  # fmt: skip
    model = transformers.CLIPTextModel(config)
    report = parity(model)
    assert report.passed, str(report)
    assert report.candidate["from"] == "its twin"
    assert "text_model.encoder.layers.0.mlp.fc1" in {point.name for point in report.points}


def test_a_parameter_of_one_side_that_nothing_reads_is_no_difference() -> None:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        model.cls.predictions.decoder.bias.normal_()
    report = parity(model)
    assert report.passed, str(report)
    assert report.blind["cls.predictions.bias"] == "no output of this class depends on it for these inputs"


def test_live_models_stay_as_they_are(directory: Path) -> None:
    model = diptych.backends.torch.BertForMaskedLM.from_pretrained(directory).train()
    twin = to_jax(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert parity(model, twin).passed
    assert parity(twin).passed
    assert parity(directory, model).passed
    assert model.training
    assert twin.training
    assert model.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inputs_of_the_caller(directory: Path) -> None:
    ids = np.array([[3, 4, 5]])
    report = parity(directory, inputs={"input_ids": ids}, gradients=False)
    assert report.passed
    assert report.inputs == {"input_ids": "[1, 3] int64"}
    assert {point.kind for point in report.points} == {"module", "output"}
    other = parity(directory, inputs={"input_ids": ids + 1}, gradients=False)
    assert other.input_hash != report.input_hash


def test_the_seed_sets_the_inputs(directory: Path) -> None:
    first, again, other = (parity(directory, seed=seed, gradients=False) for seed in (1, 1, 2))
    assert first.input_hash == again.input_hash != other.input_hash
    assert [point.max_absolute for point in first.points] == [point.max_absolute for point in again.points]


def test_other_weights_are_not_equal(directory: Path, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "other", "BertForMaskedLM", seed=1)
    report = parity(directory, tmp_path / "other", backend="torch")
    assert not report.passed
    assert report.reference["backend"] == report.candidate["backend"] == "torch"
    assert report.first_divergence.name == "bert.embeddings.word_embeddings"
    assert report.verdict().startswith(f"NOT EQUAL: {sum(not p.passed for p in report.points)} of {len(report.points)}")


def test_nothing_global_is_left_changed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = diptych.backends.jax.BertModel(BertConfig(hidden_size=12, num_hidden_layers=1), seed=None).encoder.layer[0]
    before = (jax.config.read("jax_enable_x64"), torch.get_float32_matmul_precision(), torch.is_grad_enabled())
    call = type(layer).__call__
    torch.set_float32_matmul_precision("high")
    try:
        parity(directory, gradients=False)
        with pytest.raises(InputError, match="input_ids holds 99999999"):
            parity(directory, inputs={"input_ids": np.array([[99_999_999]])})
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[1])
    assert before == (jax.config.read("jax_enable_x64"), torch.get_float32_matmul_precision(), torch.is_grad_enabled())
    assert type(layer).__call__ is call


def test_what_cannot_be_compared(directory: Path, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "clip", "CLIPTextModel")
    with pytest.raises(InputError, match="the reference is a BertForMaskedLM, the candidate a CLIPTextModel"):
        parity(directory, tmp_path / "clip")
    names = (
        "BertForMaskedLM takes input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, "
        "encoder_hidden_states, encoder_attention_mask, past_key_values, labels, use_cache"
    )
    with pytest.raises(InputError, match=f"{names}; the inputs have pixel_values, words"):
        parity(directory, inputs={"pixel_values": np.zeros(1), "words": np.zeros(1)})
    with pytest.raises(InputError, match=f"{names}; the inputs have none of them"):
        parity(directory, inputs={})
    with pytest.raises(
        InputError, match=r"^parity: input_ids: the array is empty, so there would be nothing to compare$"
    ):
        parity(directory, inputs={"input_ids": np.zeros((0, 5), int)})
    with pytest.raises(InputError, match="against='keras' is not known; known: transformers"):
        parity(directory, against="keras")
    with pytest.raises(InputError, match="backend='numpy' is not known; known: jax, torch"):
        parity(directory, backend="numpy")
    with pytest.raises(InputError, match="replaces the candidate"):
        parity(directory, directory, against="transformers")
    with pytest.raises(InputError, match="needs a checkpoint directory"):
        parity(diptych.backends.torch.BertForMaskedLM.from_pretrained(directory), against="transformers")
    with pytest.raises(InputError, match="dtype='int8' is not supported"):
        parity(directory, dtype="int8")
    with pytest.raises(CheckpointError, match="no_such"):
        parity(tmp_path / "no_such")
    with pytest.raises(InputError, match="is not a known model class"):
        parity(torch.nn.Linear(2, 2))


def test_composites_of_other_parts_are_of_other_kinds() -> None:
    sizes = {"vocab_size": 20, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1}
    bert, gpt = BertConfig(**sizes, num_attention_heads=3), GPT2Config(vocab_size=20, n_embd=12, n_layer=1, n_head=3)
    models = [
        diptych.backends.torch.EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(bert, decoder))
        for decoder in (bert, gpt)
    ]
    message = (
        "reference is a EncoderDecoderModel of bert and bert, the candidate a EncoderDecoderModel of bert and gpt2"
    )
    with pytest.raises(InputError, match=message):
        parity(*models)


def test_a_composite_of_transformers_without_fused_attention(tmp_path: Path) -> None:
    """DonutSwin refuses the attention that its decoder has; its decoder's table of words scales its rows."""
    config = transformers.DonutSwinConfig(
        image_size=16, patch_size=4, embed_dim=6, depths=[1], num_heads=[2], window_size=2
    )
    mbart = transformers.MBartConfig(
        vocab_size=30, d_model=12, encoder_attention_heads=3, decoder_layers=1, decoder_attention_heads=3,
        decoder_ffn_dim=20, max_position_embeddings=16, is_decoder=True, add_cross_attention=True,
        scale_embedding=True,
    )  # fmt: skip
    encoder, decoder = transformers.DonutSwinModel(config), transformers.MBartForCausalLM(mbart)
    transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).save_pretrained(tmp_path)
    options: dict[str, Any] = {"against": "transformers", "backend": "torch", "gradients": False}
    report = parity(tmp_path, **options)
    assert report.passed, str(report)
    assert report.only_candidate == ("decoder.model.decoder.embed_tokens",)
    inputs = {"pixel_values": np.zeros((1, 2, 16, 16)), "decoder_input_ids": [[1, 2]]}
    with pytest.raises(
        InputError, match=r"transformers cannot run it on these inputs \(RuntimeError: .*to have 3 channels"
    ):
        parity(tmp_path, inputs=inputs, **options)


def test_a_tied_head_that_comes_before_its_embeddings(tmp_path: Path) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1}
    config = transformers.XLMRobertaConfig(**sizes, num_attention_heads=3, max_position_embeddings=16)
    transformers.XLMRobertaForMaskedLM(config).save_pretrained(tmp_path)
    report = parity(tmp_path, against="transformers", backend="torch")
    assert report.passed, str(report)


def test_weight_norm_has_its_published_names() -> None:
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_conv_pos_embedding_groups": 2, "intermediate_size": 20}
    with torch.device("meta"):
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**sizes, num_hidden_layers=1))
    names = published_names(model)
    conv = "encoder.pos_conv_embed.conv"
    assert names[f"{conv}.parametrizations.weight.original0"] == f"{conv}.weight_g"
    assert names[conv] == conv
    assert f"{conv}.parametrizations.weight" not in names


def test_names_in_memory_that_are_not_those_of_files() -> None:
    """5.23 calls ViT's layers otherwise in memory, and groups them otherwise."""
    config = transformers.ViTConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3, image_size=8, patch_size=4,
        num_channels=2,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    report = parity(model)
    assert report.passed, str(report)
    assert report.matched == 1.0
    compared = {point.name for point in report.points if point.kind == "module"}
    assert {"vit.encoder.layer.0.attention.attention.query", "vit.encoder.layer.0.attention"} <= compared
    assert {"vit.encoder.layer.0", "vit.embeddings.patch_embeddings", "vit.encoder.layer.0.output.dense"} <= compared
    assert not {"vit.encoder.layer.0.output", "vit.layers.0.mlp"} & compared
    assert report.only_reference == report.only_candidate == ()
    twin = to_jax(model)
    with torch.no_grad():
        model.vit.layers[0].mlp.fc2.bias[3] += 1.0
    report = parity(model, twin)
    assert report.first_divergence is not None
    assert report.first_divergence.name == "vit.encoder.layer.0.output.dense"
