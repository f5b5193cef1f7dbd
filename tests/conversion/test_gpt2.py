"""GPT-2's published files: layers that lie the other way round, and every spelling of the output layer."""

import json

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, parity
from diptych.core.errors import CheckpointError
from diptych.core.models.gpt2 import FAMILY
from tests.backends import BACKENDS, each_backend
from tests.conversion import checkpoints
from tests.conversion.tiny import config_of, digests, edit_config


@each_backend
def test_the_kinds_of_layers(backend):
    for architecture in FAMILY.classes:
        slots = getattr(BACKENDS[backend], architecture)(config_of(architecture), seed=None)._leaves()
        kinds = {slot.path.split(".")[-2]: slot.kind for slot in slots if slot.path.endswith("weight")}
        assert kinds == dict.fromkeys(("c_attn", "c_fc", "c_proj", "q_attn"), "linear_in_out") | {
            "wte": "embedding", "wpe": "embedding",
            "ln_1": "norm", "ln_2": "norm", "ln_cross_attn": "norm", "ln_f": "norm",
        }  # fmt: skip


@pytest.fixture
def published(tmp_path):
    checkpoints.write(tmp_path / "published", "GPT2LMHeadModel")
    return tmp_path / "published"


def rewritten(directory, change):
    """The checkpoint with its tensors changed."""
    tensors = change(load_file(directory / "model.safetensors"))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@each_backend
def test_a_file_that_stores_the_output_layer_too(backend, published):
    model = BACKENDS[backend].GPT2LMHeadModel.from_pretrained(published)
    rewritten(published, lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    for architecture in FAMILY.classes:
        again = getattr(BACKENDS[backend], architecture).from_pretrained(published)
        assert again.load_report.ignored == ("lm_head.weight",)
        assert [*digests(again).values()] == [*digests(model).values()]


@each_backend
def test_an_output_layer_of_its_own(backend, published, tmp_path):
    rewritten(published, lambda tensors: tensors | {"lm_head.weight": -tensors["transformer.wte.weight"]})
    with pytest.raises(CheckpointError, match=r"transformer\.wte\.weight and lm_head\.weight are one tensor"):
        BACKENDS[backend].GPT2LMHeadModel.from_pretrained(published)
    edit_config(published, tie_word_embeddings=False)
    model = BACKENDS[backend].GPT2LMHeadModel.from_pretrained(published)
    assert "lm_head.weight" in digests(model)
    assert BACKENDS[backend].GPT2Model.from_pretrained(published).load_report.left_out == ("lm_head.weight",)
    model.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == load_file(published / "model.safetensors").keys()
    _, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())


def test_a_jax_model_holds_what_is_published_as_it_is_and_a_flax_file_the_other_way_round(published, tmp_path):
    convert(published, tmp_path / "flax", format="flax-msgpack")
    tensors = load_file(published / "model.safetensors")
    for directory in (published, tmp_path / "flax"):
        model = in_jax.GPT2LMHeadModel.from_pretrained(directory)
        for layer in ("attn.c_attn", "attn.c_proj", "crossattention.q_attn", "mlp.c_fc"):
            part = model.transformer.h[1]
            for name in layer.split("."):
                part = getattr(part, name)
            assert np.array_equal(part.kernel[...], tensors[f"transformer.h.1.{layer}.weight"])


def test_parity_with_transformers_of_a_published_checkpoint(published):
    assert parity(published).passed
    report = parity(published, against="transformers")
    assert report.passed and not report.blind
    assert {"transformer.h.1.crossattention.q_attn", "transformer.h.0.mlp.c_proj"} <= {p.name for p in report.points}


def test_config_json_says_what_was_published(published, tmp_path):
    in_torch.GPT2LMHeadModel.from_pretrained(published).save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again/config.json").read_text())
    wanted = json.loads((published / "config.json").read_text())
    assert {name: written.get(name) for name in wanted if name not in ("torch_dtype", "transformers_version")} == {
        name: value for name, value in wanted.items() if name not in ("torch_dtype", "transformers_version")
    }
