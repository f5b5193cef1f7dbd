"""Shards, msgpack and dtypes of files, in both backends."""

import json
import shutil

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.core.checkpoint.tensors import digest, from_array
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError
from tests.conversion.tiny import ARCHITECTURES, digests, rewrite, stored

# Formats


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "CLIPModel"])
def test_shards_of_transformers(architecture, backend, saved, tmp_path):
    theirs_again = getattr(transformers, architecture).from_pretrained(saved(architecture))
    theirs_again.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    model = getattr(backend, architecture).from_pretrained(tmp_path)
    assert digests(model) == stored(saved(architecture))


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "CLIPModel"])
def test_shards_of_ours(architecture, backend, saved, tmp_path):
    model = getattr(backend, architecture).from_pretrained(saved(architecture))
    model.save_pretrained(tmp_path, max_shard_size=10_000)
    shards = {path: load_file(path) for path in tmp_path.glob("model-*-of-*.safetensors")}
    assert len(shards) > 3
    for tensors in shards.values():
        assert len(tensors) == 1 or sum(array.nbytes for array in tensors.values()) <= 10_000
    assert digests(getattr(backend, architecture).from_pretrained(tmp_path)) == digests(model)
    _, info = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    # a later save in one file leaves no shard, and the other way round
    model.save_pretrained(tmp_path, max_shard_size=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "model.safetensors.index.json").exists()
    assert digests(getattr(backend, architecture).from_pretrained(tmp_path)) == digests(model)


def flax_tree(model):
    """A JAX model's parameters as Flax stores them: nested by name, in JAX's own layouts."""
    tree = {}
    for slot, leaf in model._leaves().items():
        *parents, last = slot.flax_path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        held = np.asarray(leaf.get_value())
        node[last] = held.T if slot.kind == "linear_in_out" else held  # so the Flax classes of transformers had GPT-2's
    return tree


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_flax_msgpack(architecture, saved, tmp_path):
    source = getattr(in_jax, architecture).from_pretrained(saved(architecture))
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(flax_tree(source)))
    shutil.copy(saved(architecture) / "config.json", tmp_path)
    model = getattr(in_torch, architecture).from_pretrained(tmp_path)
    assert digests(model) == digests(source)


def test_a_flax_msgpack_of_another_class_and_with_wrong_shapes(backend, saved, tmp_path):
    tree = flax_tree(in_jax.BertForPreTraining.from_pretrained(saved("BertForPreTraining")))
    shutil.copy(saved("BertForPreTraining") / "config.json", tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    model = backend.BertModel.from_pretrained(tmp_path)
    assert model.load_report.left_out and len(model.load_report.left_out) == 7
    tree["bert"]["encoder"]["layer"]["0"]["intermediate"]["dense"]["kernel"] = np.zeros((44, 20), np.float32)
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    with pytest.raises(
        CheckpointError,
        match=r"1 tensor has another shape: bert\.encoder\.layer\.0\.intermediate\.dense\.kernel has shape "
        r"\(44, 20\), BertModel needs \(20, 44\) \(ignore=",
    ):
        backend.BertModel.from_pretrained(tmp_path)


# Dtypes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_file_keeps_its_dtype(dtype, backend, saved, tmp_path):
    their_model = transformers.BertModel.from_pretrained(saved("BertModel"), dtype=getattr(torch, dtype))
    their_model.save_pretrained(tmp_path)
    model = backend.BertModel.from_pretrained(tmp_path)
    assert str(model.dtype).removeprefix("torch.") == dtype
    with (tmp_path / "model.safetensors").open("rb") as handle:
        assert ("BF16" if dtype == "bfloat16" else "F16") in handle.read(2_000).decode("latin1")
    rounded = {
        name: digest(from_array(array.astype(FLOATS[dtype])))
        for name, array in load_file(saved("BertModel") / "model.safetensors").items()
    }
    assert digests(model) == rounded
    assert digests(backend.BertModel.from_pretrained(saved("BertModel"), dtype=dtype)) == rounded
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == dtype
    assert digests(backend.BertModel.from_pretrained(tmp_path / "again")) == rounded
    widened = digests(backend.BertModel.from_pretrained(tmp_path, dtype="float32"))
    assert widened != rounded
    assert widened == digests(in_torch.BertModel.from_pretrained(tmp_path, dtype=torch.float32))


@pytest.mark.parametrize("given", ["float16", np.float16, np.dtype("float16"), torch.float16, jax.numpy.float16])
def test_a_dtype_in_any_spelling(given, backend, saved):
    model = backend.BertModel.from_pretrained(saved("BertModel"), dtype=given)
    assert str(model.dtype).removeprefix("torch.") == "float16"


def test_double_precision(saved):
    model = in_torch.BertModel.from_pretrained(saved("BertModel"), dtype="float64")
    with jax.enable_x64(True):
        twin = in_jax.BertModel.from_pretrained(saved("BertModel"), dtype="float64")
        assert digests(model) == digests(twin)
    assert str(model.dtype) == "torch.float64" and twin.dtype == "float64"


def test_a_file_of_several_dtypes(backend, copy_of):
    directory = copy_of("BertModel")

    def mix(tensors):
        halves = [name for name in tensors if name.endswith("query.weight")]
        brain = {"embeddings.word_embeddings.weight": ml_dtypes.bfloat16}
        return {
            name: array.astype(np.float16 if name in halves else brain.get(name, np.float32))
            for name, array in tensors.items()
        }

    rewrite(directory, mix)
    with pytest.raises(CheckpointError) as caught:
        backend.BertModel.from_pretrained(directory)
    message = str(caught.value)
    assert message.startswith(f"{directory} holds tensors of several dtypes: ")
    assert message.endswith("; say dtype=…")
    assert "3 of float16 (encoder.layer.0.attention.self.query.weight, " in message
    assert "1 of bfloat16 (embeddings.word_embeddings.weight" in message
    assert " of float32 (" in message
    model = backend.BertModel.from_pretrained(directory, dtype="float32")
    assert str(model.dtype).removeprefix("torch.") == "float32"
    # those that are not loaded do not count
    rewrite(directory, lambda tensors: {name: array.astype(np.float32) for name, array in tensors.items()})
    rewrite(directory, lambda tensors: tensors | {"classifier.bias": np.zeros(6, np.float16)})
    assert backend.BertModel.from_pretrained(directory).load_report.left_out == ("classifier.bias",)
