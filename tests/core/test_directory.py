import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file

from diptych.core.checkpoint import directory as module
from diptych.core.checkpoint.atomic import new_directory
from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.errors import CheckpointError, InputError
from tests.core.directories import contents, digests, names, tensors

FORMATS = ["safetensors", "flax-msgpack"]
SINGLE = {"safetensors": "model.safetensors", "flax-msgpack": "flax_model.msgpack"}
SHARD = {"safetensors": "model-{:05d}-of-{:05d}.safetensors", "flax-msgpack": "flax_model-{:05d}-of-{:05d}.msgpack"}


# Writing and opening


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_to_one_file_is_read_back(tmp_path, format):
    files = write_checkpoint(tmp_path / "new", tensors(), format=format)
    assert files == (tmp_path / "new" / SINGLE[format],)
    assert names(tmp_path / "new") == [SINGLE[format]]
    checkpoint = open_checkpoint(tmp_path / "new")
    assert (checkpoint.format, checkpoint.directory, checkpoint.files) == (format, tmp_path / "new", files)
    assert digests(checkpoint.tensors) == digests(tensors())
    assert checkpoint.metadata == ({"format": "pt"} if format == "safetensors" else {})
    assert all(source.origin == str(files[0]) for source in checkpoint.tensors.values())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("size", "shards"),
    [
        (1, [40, 24, 4, 16]),
        (43, [40, 28, 16]),
        (64, [64, 20]),
        ("0.068KB", [68, 16]),
        (84, [84]),
        ("1GB", [84]),
        (None, [84]),
    ],
)
def test_shards_are_no_larger_than_asked_for(tmp_path, format, size, shards):
    files = write_checkpoint(tmp_path, tensors(), format=format, max_shard_size=size)
    assert len(files) == len(shards)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.files == files
    assert digests(checkpoint.tensors) == digests(tensors())
    sizes = [
        sum(source.nbytes for source in checkpoint.tensors.values() if source.origin == str(file)) for file in files
    ]
    assert sizes == shards
    if len(shards) > 1:
        expected = [SHARD[format].format(number, len(shards)) for number in range(1, len(shards) + 1)]
        assert [file.name for file in files] == expected
        assert names(tmp_path) == sorted([*expected, f"{SINGLE[format]}.index.json"])


def test_the_index_is_that_of_the_hub(tmp_path):
    write_checkpoint(tmp_path, tensors(), max_shard_size=64)
    text = (tmp_path / "model.safetensors.index.json").read_text()
    index = {
        "metadata": {"total_size": 84},
        "weight_map": {
            "encoder.layers.0.weight": "model-00001-of-00002.safetensors",
            "encoder.layers.0.bias": "model-00001-of-00002.safetensors",
            "logit_scale": "model-00002-of-00002.safetensors",
            "decoder.weight": "model-00002-of-00002.safetensors",
        },
    }
    assert text == json.dumps(index, indent=2, sort_keys=True) + "\n"
    assert load_file(tmp_path / "model-00002-of-00002.safetensors").keys() == {"logit_scale", "decoder.weight"}


def test_the_index_of_flax_shards_has_paths(tmp_path):
    """As transformers 4.57 wrote it (flax_shard_checkpoint); each shard is a tree of its own."""
    write_checkpoint(tmp_path, tensors(), format="flax-msgpack", max_shard_size=64)
    index = json.loads((tmp_path / "flax_model.msgpack.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 84},
        "weight_map": {
            "encoder/layers/0/weight": "flax_model-00001-of-00002.msgpack",
            "encoder/layers/0/bias": "flax_model-00001-of-00002.msgpack",
            "logit_scale": "flax_model-00002-of-00002.msgpack",
            "decoder/weight": "flax_model-00002-of-00002.msgpack",
        },
    }
    second = msgpack.unpackb((tmp_path / "flax_model-00002-of-00002.msgpack").read_bytes())
    assert second.keys() == {"logit_scale", "decoder"}


def test_metadata_is_kept_and_progress_counts_the_bytes_of_each_tensor(tmp_path):
    seen = []
    write_checkpoint(tmp_path, tensors(), max_shard_size=64, metadata={"format": "flax"}, progress=seen.append)
    assert open_checkpoint(tmp_path).metadata == {"format": "flax"}
    assert sorted(seen) == [4, 16, 24, 40]


def test_safetensors_is_preferred_and_the_format_can_be_chosen(tmp_path):
    write_checkpoint(tmp_path / "flax", tensors(2), format="flax-msgpack")
    write_checkpoint(tmp_path, tensors(1))
    os.replace(tmp_path / "flax" / "flax_model.msgpack", tmp_path / "flax_model.msgpack")
    assert open_checkpoint(tmp_path).format == "safetensors"
    assert digests(open_checkpoint(tmp_path).tensors) == digests(tensors(1))
    assert digests(open_checkpoint(tmp_path, "safetensors").tensors) == digests(tensors(1))
    assert digests(open_checkpoint(tmp_path, "flax-msgpack").tensors) == digests(tensors(2))


@pytest.mark.parametrize("size", ["5MB", "5 mb", "5000KB", "5000000", "0.005GB", 5_000_000])
def test_sizes_in_thousands(size):
    assert module.size_in_bytes(size) == 5_000_000


@pytest.mark.parametrize(("size", "expected"), [("1KiB", 2**10), ("1GiB", 2**30), ("2TB", 2 * 10**12), ("7B", 7)])
def test_sizes_of_shards_may_have_units(size, expected):
    assert module.size_in_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "5XB", "-5GB", "5 G B", "five", 0, -1, True, 1.5, "0MB"])
def test_what_is_no_size(tmp_path, size):
    with pytest.raises(InputError, match=f"max_shard_size: {size!r} is no size; give bytes above 0, or a string like"):
        write_checkpoint(tmp_path, tensors(), max_shard_size=size)
    assert names(tmp_path) == []


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_unknown_format(tmp_path, format):
    with pytest.raises(
        InputError, match=r"^open_checkpoint: format='onnx' is not known; .* safetensors, torch, flax-msgpack, orbax$"
    ):
        open_checkpoint(tmp_path, format="onnx")
    with pytest.raises(InputError, match=rf"format='{format}' is not known; known: safetensors, flax-msgpack, orbax$"):
        write_checkpoint(tmp_path, {}, format=format)


# What is in the way, and what goes wrong


@pytest.mark.parametrize(
    "before", [("safetensors", 1), ("safetensors", None), ("flax-msgpack", 1), ("flax-msgpack", None)]
)
@pytest.mark.parametrize(
    "after", [("safetensors", 44), ("safetensors", 1), ("safetensors", None), ("flax-msgpack", 64)]
)
def test_older_weights_go_and_other_files_stay(tmp_path, before, after):
    others = ["config.json", "model.safetensors.txt", "my-model.safetensors", "model-1-of-2.safetensors", "vocab.txt"]
    for name in others:
        (tmp_path / name).touch()
    write_checkpoint(tmp_path, tensors(1), format=before[0], max_shard_size=before[1])
    write_checkpoint(tmp_path, tensors(2), format=after[0], max_shard_size=after[1])
    write_checkpoint(tmp_path / "alone", tensors(2), format=after[0], max_shard_size=after[1])
    alone = names(tmp_path / "alone")
    assert names(tmp_path) == sorted([*others, "alone", *alone])
    assert digests(open_checkpoint(tmp_path).tensors) == digests(tensors(2))


@pytest.mark.parametrize("format", FORMATS)
def test_a_checkpoint_can_be_written_over_itself(tmp_path, format):
    write_checkpoint(tmp_path, tensors(), format=format, max_shard_size=44)
    checkpoint = open_checkpoint(tmp_path)
    write_checkpoint(tmp_path, checkpoint.tensors, format=format, max_shard_size=44)
    assert digests(open_checkpoint(tmp_path).tensors) == digests(tensors()) == digests(checkpoint.tensors)


def broken(error, name="decoder.weight"):
    """The tensors, of which one cannot be read."""

    def fail():
        raise error

    return {**tensors(2), name: TensorSource((2,), np.dtype(np.float32), fail, "broken")}


@pytest.mark.parametrize("size", [None, 44])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad sector"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, size, format, error):
    write_checkpoint(tmp_path, tensors(1), format=format, max_shard_size=1)
    before = contents(tmp_path)
    with pytest.raises(type(error)):
        write_checkpoint(tmp_path, broken(error), format=format, max_shard_size=size)
    assert contents(tmp_path) == before
    with pytest.raises(type(error)):
        write_checkpoint(tmp_path / "a" / "new", broken(error), format=format, max_shard_size=size)
    assert not (tmp_path / "a" / "new").exists()


def test_the_path_is_in_the_error_of_a_failing_disk(tmp_path):
    with pytest.raises(OSError, match=r"bad sector: '.*model-00002-of-00002\.safetensors") as caught:
        write_checkpoint(tmp_path, broken(OSError(errno.EIO, "bad sector")), max_shard_size=44)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(("before", "after"), [(44, 44), (1, 44), (None, 44), (44, None), (None, None)])
def test_a_failure_while_renaming_puts_everything_back(tmp_path, monkeypatch, before, after):
    """Each rename of a save fails once."""
    write_checkpoint(tmp_path, tensors(1), max_shard_size=before)
    old, rename, failures = contents(tmp_path), os.replace, 0
    for failing in range(100):
        count = iter(range(1000))

        def replace_or_fail(source, target, count=count, failing=failing):
            if next(count) == failing:
                raise OSError(errno.EIO, "bad sector", str(source))
            rename(source, target)

        monkeypatch.setattr(os, "replace", replace_or_fail)
        try:
            write_checkpoint(tmp_path, tensors(2), max_shard_size=after)
        except OSError:
            failures += 1
            assert contents(tmp_path) == old
        else:
            break
    assert failures >= 2
    assert digests(open_checkpoint(tmp_path).tensors) == digests(tensors(2))


# A whole new directory


def save(directory, value=1):
    (directory / "config.json").write_text(str(value))
    write_checkpoint(directory, tensors(value))


def test_a_new_directory_appears_when_it_is_complete(tmp_path):
    with new_directory(tmp_path / "a" / "b" / "new") as partial:
        assert partial.parents[2] == tmp_path / "a" / "b"
        assert partial.parents[1].name.startswith(".new.partial-")
        save(partial)
        assert not (tmp_path / "a" / "b" / "new").exists()
    assert names(tmp_path / "a" / "b") == ["new"]
    assert names(tmp_path / "a" / "b" / "new") == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug"), OSError(errno.ENOSPC, "full")])
def test_a_new_directory_that_fails_leaves_nothing(tmp_path, error):

    def fail():
        with new_directory(tmp_path / "a" / "b" / "new") as partial:
            save(partial)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == []


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "new").mkdir(mode=0o700)
    before = (tmp_path / "new").stat()
    with new_directory(tmp_path / "new") as partial:
        save(partial)
    after = (tmp_path / "new").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["config.json", "model.safetensors"]


def test_the_new_directory_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").mkdir()
    with new_directory(tmp_path / "new") as partial:
        save(partial)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_is_there_is_not_overwritten_unasked(tmp_path):
    with new_directory(tmp_path / "new") as partial:
        save(partial)
    before = contents(tmp_path / "new")
    with (
        pytest.raises(CheckpointError, match=r"new: is there already and not empty; .*overwrite=True \(--overwrite\)"),
        new_directory(tmp_path / "new"),
    ):
        pass
    assert contents(tmp_path / "new") == before


def test_overwriting_exchanges_the_directory_only_when_the_new_one_is_complete(tmp_path):
    with new_directory(tmp_path / "new") as partial:
        save(partial, 1)
        (partial / "extra").touch()
    (tmp_path / "new").chmod(0o2710)
    with new_directory(tmp_path / "new", overwrite=True) as partial:
        save(partial, 2)
        assert (tmp_path / "new" / "config.json").read_text() == "1"
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["config.json", "model.safetensors"]
    assert digests(open_checkpoint(tmp_path / "new").tensors) == digests(tensors(2))
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o2710


@pytest.mark.parametrize("mounted", [False, True])
def test_a_directory_in_use_stays_when_it_is_overwritten(tmp_path, monkeypatch, mounted):
    save(tmp_path)
    (tmp_path / "extra").touch()
    before = tmp_path.stat()
    if mounted:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    else:
        monkeypatch.chdir(tmp_path)
    with new_directory(tmp_path if mounted else ".", overwrite=True) as partial:
        save(partial, 2)
    assert tmp_path.stat().st_ino == before.st_ino
    assert names(tmp_path) == ["config.json", "model.safetensors"]
    assert digests(open_checkpoint(tmp_path).tensors) == digests(tensors(2))


def test_overwriting_through_a_link_replaces_what_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    save(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to("real")
    with new_directory(tmp_path / "link", overwrite=True) as partial:
        save(partial, 2)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").read_text() == "2"


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("moved", [False, True], ids=["before the move", "after it"])
def test_overwriting_that_fails_puts_the_old_one_back(tmp_path, monkeypatch, failing, moved):
    (tmp_path / "new").mkdir()
    save(tmp_path / "new", 1)
    before, rename, count = contents(tmp_path / "new"), os.replace, iter(range(100))

    def replace_or_fail(source, target):
        fails = next(count) == failing
        if moved or not fails:
            rename(source, target)
        if fails:
            raise OSError(errno.EIO, "bad sector", str(source))

    def fail():
        with new_directory(tmp_path / "new", overwrite=True) as partial:
            save(partial, 2)
            monkeypatch.setattr(os, "replace", replace_or_fail)

    with pytest.raises(OSError, match="bad sector"):
        fail()
    assert names(tmp_path) == ["new"]
    assert contents(tmp_path / "new") == before


def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "new").write_text("mine")
    with (
        pytest.raises(CheckpointError, match="new: is a file; give the name of a directory"),
        new_directory(tmp_path / "new", overwrite=True),
    ):
        pass
    assert (tmp_path / "new").read_text() == "mine"
    with (
        pytest.raises(
            CheckpointError, match=r"deep/er: .*/new is a file, not a directory; give a place in a directory"
        ),
        new_directory(tmp_path / "new" / "deep" / "er"),
    ):
        pass


def test_a_directory_without_a_checkpoint_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(CheckpointError, match=r"holds files but no config\.json, so it is not a checkpoint"),
        new_directory(tmp_path, overwrite=True),
    ):
        pass
    assert names(tmp_path) == ["thesis.txt"]


def test_a_checkpoint_cannot_be_changed(tmp_path):
    write_checkpoint(tmp_path, tensors())
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(AttributeError):
        checkpoint.format = "flax-msgpack"
    assert replace(checkpoint, format="flax-msgpack").files == checkpoint.files
