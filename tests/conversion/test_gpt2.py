"""GPT-2's published files: at their real sizes and without values, in every spelling that the hub has."""

import functools
import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, parity
from diptych.core.checkpoint.matching import match
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.errors import CheckpointError
from diptych.core.models.gpt2 import FAMILY, GPT2Config
from tests.conversion import checkpoints
from tests.conversion.tiny import digests, edit_config

BACKENDS = {"jax": in_jax, "torch": in_torch}

# Sizes as published, and the number of parameters, tied ones counted once.
PUBLISHED = {
    "distilbert/distilgpt2": ({"n_layer": 6}, 81_912_576),
    "openai-community/gpt2": ({}, 124_439_808),
    "openai-community/gpt2-medium": ({"n_embd": 1024, "n_head": 16, "n_layer": 24}, 354_823_168),
    "openai-community/gpt2-large": ({"n_embd": 1280, "n_head": 20, "n_layer": 36}, 774_030_080),
    "openai-community/gpt2-xl": ({"n_embd": 1600, "n_head": 25, "n_layer": 48}, 1_557_611_200),
}
CROSSING = {"add_cross_attention": True, "is_decoder": True}


@functools.cache
def saved_by_transformers(name, architecture, *, crossing=False):
    """Name -> shape of what `save_pretrained` of transformers writes, which stores tied tensors once."""
    config = transformers.GPT2Config(**PUBLISHED[name][0] | (CROSSING if crossing else {}))
    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    tied = model.all_tied_weights_keys
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in tied}


@functools.cache
def slots_of(backend, name, architecture, *, crossing=False):
    config = GPT2Config(**PUBLISHED[name][0] | (CROSSING if crossing else {}))
    return tuple(getattr(BACKENDS[backend], architecture)(config, seed=None)._leaves())


def unread():
    raise AssertionError("a tensor was read")


def matched(backend, name, architecture, shapes, *, crossing=False):
    return match(
        slots_of(backend, name, architecture, crossing=crossing),
        {key: TensorSource(shape, np.dtype(np.float32), unread, name) for key, shape in shapes.items()},
        family=FAMILY,
        known=lambda: [{s.path for s in slots_of(backend, name, other, crossing=crossing)} for other in FAMILY.classes],
        where=name,
        class_name=architecture,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("architecture", FAMILY.classes)
@pytest.mark.parametrize("written", FAMILY.classes)
def test_every_published_tensor_has_its_place(name, architecture, written, backend):
    """The files of openai lack the prefix, the distilled model's has it; both have the masks of old as buffers."""
    shapes = saved_by_transformers(name, written)
    prefix = "transformer." if written == "GPT2LMHeadModel" else ""
    layers = range(PUBLISHED[name][0].get("n_layer", 12))
    buffers = {f"{prefix}h.{layer}.attn.bias": (1, 1, 1024, 1024) for layer in layers}
    buffers |= {f"{prefix}h.{layer}.attn.masked_bias": () for layer in layers}
    found = matched(backend, name, architecture, shapes | buffers)
    assert len(found.fillings) == len(shapes) == len(slots_of(backend, name, architecture))
    assert found.ignored == tuple(buffers)
    assert found.left_out == found.fresh == ()
    assert sum(int(np.prod(filling.slot.shape)) for filling in found.fillings) == PUBLISHED[name][1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_tensor_of_a_decoder_with_cross_attention_has_its_place(backend):
    name = "openai-community/gpt2"
    shapes = saved_by_transformers(name, "GPT2LMHeadModel", crossing=True)
    buffers = {f"transformer.h.{layer}.crossattention.bias": (1, 1, 1024, 1024) for layer in range(12)}
    buffers |= {f"transformer.h.{layer}.crossattention.masked_bias": () for layer in range(12)}
    found = matched(backend, name, "GPT2LMHeadModel", shapes | buffers, crossing=True)
    assert len(found.fillings) == len(shapes) and found.ignored == tuple(buffers)
    with pytest.raises(CheckpointError, match=r"96 tensors belong to no class of the family: transformer\.h\.0\.cross"):
        matched(backend, name, "GPT2LMHeadModel", shapes)


def test_both_backends_have_the_same_parameters():
    for architecture in FAMILY.classes:
        ours = [set(slots_of(backend, "openai-community/gpt2", architecture, crossing=True)) for backend in BACKENDS]
        assert ours[0] == ours[1]
        kinds = {slot.path.split(".")[-2]: slot.kind for slot in ours[0] if slot.path.endswith("weight")}
        assert kinds == dict.fromkeys(("c_attn", "c_fc", "c_proj", "q_attn"), "conv1d") | {
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_stores_the_output_layer_too(backend, published):
    model = BACKENDS[backend].GPT2LMHeadModel.from_pretrained(published)
    rewritten(published, lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    for architecture in FAMILY.classes:
        again = getattr(BACKENDS[backend], architecture).from_pretrained(published)
        assert again.load_report.ignored == ("lm_head.weight",)
        assert [*digests(again).values()] == [*digests(model).values()]


@pytest.mark.parametrize("backend", BACKENDS)
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
