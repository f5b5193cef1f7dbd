"""Orbax checkpoints in and out."""

import json
import os
import sys

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, inspect_checkpoint
from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.checkpoint.tensors import digest, from_array
from diptych.core.errors import CheckpointError
from tests.conversion.tiny import config_of, digests


def save_tree(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


@pytest.fixture(scope="module")
def gpt2():
    """The model with the one layer whose layout differs between the trees of Flax."""
    return in_jax.GPT2LMHeadModel(config_of("GPT2LMHeadModel"), seed=3)


SAVED = {
    "the state": nnx.state,
    "nested dicts": lambda model: nnx.to_pure_dict(nnx.state(model)),
    "the model itself": lambda model: model,
}


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("place", ["", "state"])
def test_what_orbax_saved_of_a_model(tmp_path, gpt2, kind, place):
    save_tree(tmp_path / "run" / place, SAVED[kind](gpt2))
    (tmp_path / "run" / "config.json").write_text(gpt2.config.replace(architectures=("GPT2LMHeadModel",)).to_json())
    for backend in (in_jax, in_torch):
        assert digests(backend.load(tmp_path / "run")) == digests(gpt2)
    report = convert(tmp_path / "run", tmp_path / "out")
    assert report.source_format == "orbax"
    assert digests(in_torch.load(tmp_path / "out")) == digests(gpt2)
    inspection = inspect_checkpoint(tmp_path / "run")
    assert (inspection.format, inspection.parameters) == ("orbax", gpt2.num_parameters())


def test_orbax_restores_what_is_written(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path / "source")
    report = convert(tmp_path / "source", tmp_path / "out", format="orbax")
    assert report.files == ("model.orbax",)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.orbax"]
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "out" / "model.orbax")
    wanted = nnx.to_pure_dict(nnx.state(gpt2))
    named = jax.tree_util.tree_leaves_with_path(wanted)
    assert {".".join(str(getattr(key, "key", key)) for key in path) for path, _ in named} == {
        ".".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(restored)
    }
    for path, leaf in named:
        found = restored
        for key in path:
            found = found[str(key.key)]
        np.testing.assert_array_equal(found, leaf)


def test_every_dtype_and_each_array_alone(tmp_path):
    arrays = {
        "a.0.f64": np.array([[1.5, -0.0], [np.nan, 2.0**-1074]]),
        "a.0.bf16": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(1, 2, 3),
        "a.1.f16": np.zeros((2, 3), np.float16),  # which TensorStore must not take for absent
        "a.1.e4m3": np.array([1, np.nan], ml_dtypes.float8_e4m3fn),
        "b.e5m2": np.array([np.inf, -4], ml_dtypes.float8_e5m2),
        "b.i64": np.array(2**62 + 1),
        "b.bool": np.array([True, False]),
    }
    sources = {name: from_array(array) for name, array in arrays.items()}
    progress = []
    (weights,) = write_checkpoint(tmp_path, sources, format="orbax", progress=progress.append)
    assert sum(progress) == sum(array.nbytes for array in arrays.values())
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.layout, checkpoint.metadata) == ("orbax", "nnx", {})
    assert {name: (tensor.dtype, tensor.shape, digest(tensor)) for name, tensor in checkpoint.tensors.items()} == {
        name: (array.dtype, array.shape, digest(from_array(array))) for name, array in arrays.items()
    }
    assert all(path.is_relative_to(weights) for path in checkpoint.files)
    # a later checkpoint takes the place of this one, in any format
    write_checkpoint(tmp_path, {"b": from_array(np.ones(3))}, format="orbax")
    assert [*open_checkpoint(tmp_path).tensors] == ["b"]
    write_checkpoint(tmp_path, sources)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_older_stores(tmp_path):
    """Without OCDBT, each array is a folder; TensorStore has two versions of its format."""
    arrays = {"a": {"b": np.arange(6.0).reshape(2, 3)}}
    for name, zarr3 in (("two", False), ("three", True)):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=zarr3)) as checkpointer:
            checkpointer.save(tmp_path / name, arrays)
        np.testing.assert_array_equal(open_checkpoint(tmp_path / name).tensors["a.b"].read(), arrays["a"]["b"])


# Refusals


@pytest.fixture
def weights(tmp_path):
    arrays = {"a": {"b": np.arange(6.0).reshape(2, 3)}, "c": np.random.default_rng(0).normal(size=5000)}
    return save_tree(tmp_path / "saved", arrays)


def test_a_path_that_tensorstore_cannot_take(weights):
    odd = weights.parent.rename(weights.parent.with_name(os.fsdecode(b"old\xff")))
    for act in (open_checkpoint, lambda place: write_checkpoint(place, {"a": from_array(np.ones(3))}, format="orbax")):
        with pytest.raises(CheckpointError, match=r"not in UTF-8, as Orbax needs it\. Rename the directory"):
            act(odd)


def test_metadata_that_is_damaged_or_leads_elsewhere(weights):
    good = json.loads((weights / "_METADATA").read_text())
    entry = {"key_metadata": [{"key": "a", "key_type": 2}], "value_metadata": {"value_type": "np.ndarray"}}
    for tree, message in (
        (None, r"_METADATA: needs a 'tree_metadata' that describes each leaf, found None\. Save the weights alone"),
        ({"x": 3}, "needs 'key_metadata' and 'value_metadata' for each leaf, found 3"),
        ({"x": {**entry, "key_metadata": []}}, r"has the path \(\); its keys must be texts that are not empty"),
        ({"x": {**entry, "key_metadata": [{"key": "../up"}]}}, r"has the path \('../up',\); its keys must be texts"),
        ({"x": {**entry, "key_metadata": [{"key": ""}, {"key": ""}]}}, r"has the path \('', ''\); its keys must be"),
        (
            {"x": {**entry, "value_metadata": {"value_type": "string"}}},
            "says that a is a string, but a tree of weights",
        ),
        ({"x": entry, "y": entry}, "describes a leaf twice"),
        ({"x": entry}, "the array a is described, but is not there. Copy it again"),
    ):
        (weights / "_METADATA").write_text(json.dumps({**good, "tree_metadata": tree}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(weights)


def test_damaged_data(weights):
    for path in (weights / "ocdbt.process_0" / "d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"saved: the array .* cannot be read, so the checkpoint is damaged"):
        open_checkpoint(weights).tensors["c"].read()


def test_links_that_lead_elsewhere(weights, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for place in (weights / "ocdbt.process_0" / "d" / "link", weights / "link"):
        os.symlink(tmp_path / "elsewhere", place)
        with pytest.raises(CheckpointError, match=r"the file '.*link' .* is .*elsewhere, outside of the directory"):
            open_checkpoint(weights)
        place.unlink()
    (tmp_path / "run").mkdir()
    os.symlink(weights, tmp_path / "run" / "link")
    with pytest.raises(CheckpointError, match=r"the file 'link' .* is .*saved, outside of the directory"):
        open_checkpoint(tmp_path / "run")


def test_several_checkpoints(weights, tmp_path):
    save_tree(tmp_path / "second", {"a": np.ones(1)})
    (tmp_path / "second").rename(tmp_path / "second.orbax-checkpoint-tmp-7")  # as after a run that was killed
    assert {*open_checkpoint(tmp_path).tensors} == {"a.b", "c"}
    (tmp_path / "second.orbax-checkpoint-tmp-7").rename(tmp_path / "second")
    with pytest.raises(CheckpointError, match=r": holds 2 checkpoints of orbax \(saved, second\), but one is needed"):
        open_checkpoint(tmp_path)


def test_what_orbax_cannot_hold(tmp_path):
    with pytest.raises(CheckpointError, match=r"stores no empty arrays, but a has the shape \(0, 3\)"):
        write_checkpoint(tmp_path, {"a": from_array(np.ones((0, 3)))}, format="orbax")
    with pytest.raises(CheckpointError, match=r"'a' is a tensor and the parent of 'a.b'"):
        write_checkpoint(tmp_path, {"a": from_array(np.ones(1)), "a.b": from_array(np.ones(1))}, format="orbax")
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", fail)
    with pytest.raises(OSError, match=r"model\.orbax: Orbax could not write it: .*No space left"):
        write_checkpoint(tmp_path, {"a": from_array(np.ones(1))}, format="orbax")
    assert not [*tmp_path.iterdir()]


def test_where_orbax_is_not_installed(weights, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "diptych.backends.jax.orbax", raising=False)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    for call in (lambda: open_checkpoint(weights), lambda: write_checkpoint(tmp_path / "new", {}, format="orbax")):
        with pytest.raises(
            ImportError, match=r"need orbax and JAX, which are not installed; pip install 'diptych\[jax\]'"
        ):
            call()
