"""Checkpoints that are damaged, and files that lie outside of their directory."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from diptych.core.checkpoint.directory import open_checkpoint
from diptych.core.errors import CheckpointError
from tests.core.directories import write_shards


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="absent: no such directory"):
        open_checkpoint(tmp_path / "absent")


def test_a_directory_without_weights_lists_what_was_looked_for(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"holds no weights: looked for model\.safetensors, model\.safetensors\.index\.json, pytorch_model\.bin, "
        r"pytorch_model\.bin\.index\.json, flax_model\.msgpack, flax_model\.msgpack\.index\.json, "
        r"model\.orbax or another directory with _METADATA; found nothing$",
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").touch()
    (tmp_path / "flax_model.msgpack").touch()
    with pytest.raises(
        CheckpointError,
        match=r"looked for model\.safetensors, model\.safetensors\.index\.json; found config\.json, flax_model\.msg",
    ):
        open_checkpoint(tmp_path, "safetensors")


def test_files_of_other_formats_are_not_read(tmp_path):
    (tmp_path / "model.ckpt").touch()
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(
        CheckpointError,
        match=r"These are not read: model\.ckpt, tf_model\.h5; .* save them as safetensors",
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object, not list"),
        ("{", r"is not valid JSON \("),
        ('{"weight_map": {"a": "x", "a": "y"}}', "has the same name twice: a"),
        ("{}", "needs a 'weight_map' that names the file of each tensor, found None"),
        ('{"weight_map": {}}', "needs a 'weight_map' that names the file of each tensor, found {}"),
        ('{"weight_map": ["a"]}', r"needs a 'weight_map' that names the file of each tensor, found \['a'\]"),
        ('{"weight_map": {"a": 3}}', "the file of tensor 'a' must be a file name, not 3"),
        ('{"weight_map": {"a": "b\\u0000"}}', r"the file of tensor 'a' must be a file name, not 'b\\x00'"),
    ],
)
def test_a_damaged_index_is_named_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors\.index\.json: {message}"):
        open_checkpoint(tmp_path)


def test_all_missing_shards_are_listed(tmp_path):
    write_shards(tmp_path, {"a.safetensors": ["a"]}, {"a": "a.safetensors", "b": "b.safetensors", "c": "c.safetensors"})
    with pytest.raises(CheckpointError, match=r"names files that are not there: b\.safetensors, c\.safetensors\. Down"):
        open_checkpoint(tmp_path)


def test_tensors_that_their_shard_does_not_hold(tmp_path):
    weight_map = {"a": "a.safetensors", "x": "a.safetensors", "b": "b.safetensors", "y": "b.safetensors"}
    write_shards(tmp_path, {"a.safetensors": ["a"], "b.safetensors": ["b"]}, weight_map)
    with pytest.raises(
        CheckpointError,
        match=r"not in the file that it names for them: x \(a\.safetensors\), y \(b\.safetensors\)\. The files belong",
    ):
        open_checkpoint(tmp_path)


def test_tensors_in_another_shard_than_the_index_says(tmp_path):
    write_shards(
        tmp_path, {"a.safetensors": ["a"], "b.safetensors": ["b"]}, {"a": "b.safetensors", "b": "a.safetensors"}
    )
    with pytest.raises(CheckpointError, match=r"names for them: a \(b\.safetensors\), b \(a\.safetensors\)\."):
        open_checkpoint(tmp_path)


def test_tensors_that_the_index_does_not_name(tmp_path):
    write_shards(tmp_path, {"a.safetensors": ["a", "x", "y"]}, {"a": "a.safetensors"})
    with pytest.raises(CheckpointError, match=r"does not name them: x \(a\.safetensors\), y \(a\.safetensors\)\. The"):
        open_checkpoint(tmp_path)


def test_tensors_that_are_stored_twice(tmp_path):
    write_shards(tmp_path, {"a.safetensors": ["a", "x"], "b.safetensors": ["b", "x"]})
    with pytest.raises(CheckpointError, match=r"stored in several files: x \(a\.safetensors, b\.safetensors\)\. The"):
        open_checkpoint(tmp_path)


def test_shards_of_two_formats(tmp_path):
    write_shards(tmp_path, {"a.safetensors": ["a"], "b.safetensors": ["b"]})
    save_file({"b": np.arange(3.0)}, tmp_path / "b.safetensors", metadata={"format": "flax"})
    with pytest.raises(
        CheckpointError,
        match=r"b\.safetensors: its metadata says format 'flax', that of the files before it 'pt'; the files belong",
    ):
        open_checkpoint(tmp_path)
    save_file({"b": np.arange(3.0)}, tmp_path / "b.safetensors")
    assert open_checkpoint(tmp_path).metadata == {"format": "pt"}


def test_a_shard_in_a_folder_below_is_read(tmp_path):
    (tmp_path / "weights").mkdir()
    write_shards(tmp_path, {"weights/a.safetensors": ["a"], "b.safetensors": ["b"]})
    assert open_checkpoint(tmp_path).tensors.keys() == {"a", "b"}


# Files outside of the directory


def outside(tmp_path):
    """A file that a checkpoint has no business with."""
    save_file({"a": np.arange(3.0)}, tmp_path / "secret.safetensors")
    return tmp_path / "secret.safetensors"


@pytest.mark.parametrize("name", ["../secret.safetensors", "below/../../secret.safetensors", "{secret}"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_name_that_leaves_the_directory(tmp_path, monkeypatch, name, relative):
    name = name.format(secret=outside(tmp_path))
    directory = write_shards(tmp_path / "model", {}, {"a": name})
    if relative:
        monkeypatch.chdir(directory)
        directory = "."
    with pytest.raises(
        CheckpointError, match=rf"the file '{name}' of the checkpoint is .*/secret\.safetensors, outside of"
    ):
        open_checkpoint(directory)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_that_leaves_the_directory(tmp_path, absolute):
    target = outside(tmp_path)
    directory = write_shards(tmp_path / "model", {}, {"a": "a.safetensors"})
    (directory / "a.safetensors").symlink_to(target if absolute else "../secret.safetensors")
    with pytest.raises(
        CheckpointError, match=r"the file 'a\.safetensors' of the checkpoint is .*/secret\.safetensors, outs"
    ):
        open_checkpoint(directory)


def test_an_index_that_is_a_link_out_of_the_directory(tmp_path):
    directory = write_shards(tmp_path / "model", {"a.safetensors": ["a"]})
    os.replace(directory / "model.safetensors.index.json", tmp_path / "index.json")
    (directory / "model.safetensors.index.json").symlink_to("../index.json")
    with pytest.raises(
        CheckpointError, match=r"the file 'model\.safetensors\.index\.json' of the checkpoint is .*/index\.json"
    ):
        open_checkpoint(directory)


def test_a_link_inside_the_directory_and_a_linked_directory_are_read(tmp_path):
    directory = write_shards(tmp_path / "model", {"real.safetensors": ["a"]}, {"a": "a.safetensors"})
    (directory / "a.safetensors").symlink_to("real.safetensors")
    (tmp_path / "link").symlink_to("model")
    assert list(open_checkpoint(tmp_path / "link").tensors) == ["a"]


def hub_cache(tmp_path, shared):
    """The cache of huggingface_hub: links to blobs, which version 2 may share between repositories."""
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_shards(snapshot, {"a.safetensors": ["a"], "b.safetensors": ["b"]})
    for number, file in enumerate(sorted(snapshot.iterdir())):
        blob = repository / "blobs" / f"sha{number}"
        if shared and file.suffix == ".safetensors":
            store = tmp_path / "hub" / "blobs" / "ab" / f"xet{number}"
            store.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, store)
            blob.symlink_to(os.path.relpath(store, blob.parent))
        else:
            os.replace(file, blob)
        file.symlink_to(f"../../blobs/{blob.name}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_the_cache_of_the_hub_is_read(tmp_path, shared):
    snapshot = hub_cache(tmp_path, shared)
    assert open_checkpoint(snapshot).tensors.keys() == {"a", "b"}
    assert all(source.read().tolist() == [0, 1, 2] for source in open_checkpoint(snapshot).tensors.values())


def test_a_link_out_of_the_cache_of_the_hub_is_refused(tmp_path):
    snapshot = hub_cache(tmp_path, shared=False)
    (snapshot / "a.safetensors").unlink()
    (snapshot / "a.safetensors").symlink_to(outside(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"the file 'a\.safetensors' of the checkpoint is .*secret\.safetensors, outside"
    ):
        open_checkpoint(snapshot)
    foreign = tmp_path / "hub" / "models--owner--other" / "blobs"
    foreign.mkdir(parents=True)
    os.replace(tmp_path / "secret.safetensors", foreign / "sha")
    (snapshot / "a.safetensors").unlink()
    (snapshot / "a.safetensors").symlink_to(foreign / "sha")
    with pytest.raises(
        CheckpointError, match=r"the file 'a\.safetensors' of the checkpoint is .*other/blobs/sha, outside"
    ):
        open_checkpoint(snapshot)
