import errno
import gc
from itertools import combinations

import msgpack
import numpy as np
import pytest

from diptych.core.checkpoint import files, tensors
from diptych.core.checkpoint.msgpack import read_msgpack, write_msgpack
from diptych.core.checkpoint.safetensors import read_safetensors, write_safetensors
from diptych.core.checkpoint.tensors import from_array
from diptych.core.errors import CheckpointError


def test_a_view_keeps_its_file_mapped_and_needs_no_copy(tmp_path):
    path = tmp_path / "m"
    write_msgpack(path, {"a.b": from_array(np.arange(1000.0))})
    source = read_msgpack(path)["a.b"]
    array = source.read()
    assert np.shares_memory(array, source.read())
    del source
    path.unlink()
    gc.collect()
    np.testing.assert_array_equal(array, np.arange(1000.0))


@pytest.mark.parametrize("limit", [7, 36, 100, 1000])
@pytest.mark.parametrize("part", [1, 60, 1000])
def test_parts_and_chunks_may_end_anywhere(tmp_path, monkeypatch, limit, part):
    array, seen = np.arange(120, dtype=np.int32).reshape(10, 3, 4), []
    write_safetensors(tmp_path / "source", {"a.x": from_array(array), "b": from_array(array[0])})
    source = read_safetensors(tmp_path / "source")
    write_msgpack(tmp_path / "whole", source, max_chunk_size=limit)
    monkeypatch.setattr(tensors, "PART", part)
    write_msgpack(tmp_path / "parts", source, seen.append, max_chunk_size=limit)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert seen == [480, 48]
    found = read_msgpack(tmp_path / "parts")["a.x"]
    np.testing.assert_array_equal(found.read(), array)
    for start, stop in combinations(range(11), 2):
        np.testing.assert_array_equal(found.read_rows(start, stop), array[start:stop])


def array_payload(shape=(2,), dtype="int8", data=b"\x01\x02"):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def chunked(shape, chunks):
    return {"w": {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (msgpack.packb([1, 2]), "holds type list at the top, not a map of names"),
        (msgpack.packb(array_payload()), "holds type extension at the top, not a map"),
        (msgpack.packb({}) + b"\x00", "the tree ends at byte 1, but the file has 2"),
        (msgpack.packb({3: array_payload()}), "the map at the top has a key of type integer, not a string"),
        (msgpack.packb({"a": {b"b": 1}}), "the map at a has a key of type bytes, not a string"),
        (msgpack.packb({"a.b": array_payload()}), r"the map at the top has the key 'a\.b'; a key must not be empty"),
        (msgpack.packb({"a": {"b/c": 1}}), "the map at a has the key 'b/c'; a key must not be empty"),
        (msgpack.packb({"": array_payload()}), "the map at the top has the key ''; a key must not be empty"),
        (b"\x82\xa1a" + msgpack.packb({}) + b"\xa1a" + msgpack.packb({}), "the map at the top has the key 'a' twice"),
        (b"\x81\xa1\xff\xc0", "the string at byte 2 is not UTF-8"),
        (b"\x81\xc1", "byte 1 is 0xc1, which msgpack does not use"),
        (b"\x81\xa1a" * 200, "goes deeper than 100 levels"),
        (msgpack.packb({"a": {"b": [array_payload()]}}), r"'a\.b' is of type list, not an array"),
        (msgpack.packb({"a": 3}), "'a' is of type integer, not an array"),
        (msgpack.packb({"a": -3}), "'a' is of type negative integer, not an array"),
        (msgpack.packb({"a": -300}), "'a' is of type negative integer, not an array"),
        (msgpack.packb({"a": 1.5}), "'a' is of type float, not an array"),
        (msgpack.packb({"a": None}), "'a' is of type nil, not an array"),
        (msgpack.packb({"a": True}), "'a' is of type boolean, not an array"),
        (msgpack.packb({"a": "text"}), "'a' is of type string, not an array"),
        (msgpack.packb({"a": b"data"}), "'a' is of type bytes, not an array"),
        (
            msgpack.packb({"a": msgpack.ExtType(2, msgpack.packb((0.0, 1.0)))}),
            "'a' is of type msgpack extension of type 2, not an array",
        ),
        (
            msgpack.packb({"a": array_payload(dtype="complex64", data=bytes(16))}),
            "tensor 'a' has dtype 'complex64'; supported are bool, .*bfloat16.*uint64",
        ),
        (msgpack.packb({"a": array_payload(dtype="F32", data=bytes(8))}), "tensor 'a' has dtype 'F32'; supported are"),
        (msgpack.packb({"a": array_payload((3,))}), r"tensor 'a' takes 2 bytes, but int8 \(3,\) needs 3"),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((2,), "int8", b"12")) + b"x")}),
            r"tensor 'a' takes 3 bytes, but int8 \(2,\) needs 2",
        ),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((2,), "int8")))}),
            r"tensor 'a' is not stored as \(shape, dtype, bytes\): found type list \(2\) where type list belongs",
        ),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((-2,), "int8", b"12")))}),
            r"tensor 'a' is not stored as .*: found type negative integer \(-2\) where type integer belongs",
        ),
        (
            msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((2,), "int8", b"12"))[:-1])}),
            "ends at byte 17 inside a value that needs 1 more: the file is truncated",
        ),
        (msgpack.packb(chunked({"0": 4}, {"0": array_payload()})), r"the chunks of tensor 'w' .* shape \(4,\)"),
        (msgpack.packb(chunked({"1": 2}, {"0": array_payload()})), r"the chunks of tensor 'w' .* shape \(\)"),
        (msgpack.packb(chunked({"0": 2}, {"1": array_payload()})), r"the chunks of tensor 'w' .* shape \(2,\)"),
        (msgpack.packb(chunked({"0": 2}, {})), r"the chunks of tensor 'w' .* shape \(2,\)"),
        (msgpack.packb(chunked({"0": 2}, {"0": 2})), r"the chunks of tensor 'w' .* shape \(2,\)"),
        (msgpack.packb(chunked(2, {"0": array_payload()})), r"the chunks of tensor 'w' .* shape \(\)"),
        (
            msgpack.packb(chunked({"0": 4}, {"0": array_payload(), "1": array_payload(dtype="uint8")})),
            r"the chunks of tensor 'w' .* shape \(4,\)",
        ),
    ],
)
def test_what_is_no_tree_of_arrays_is_refused(tmp_path, content, message):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"flax_model.msgpack: {message}"):
        read_msgpack(tmp_path / "flax_model.msgpack")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    write_msgpack(path, {"a.b": from_array(np.arange(3.0)), "c": from_array(np.zeros(300, np.int8))})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"flax_model\.msgpack: (ends at byte|the file is empty)"):
            read_msgpack(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a.b"], "m: 'a' is a tensor and the parent of 'a.b'; a tree cannot hold both"),
        (["a.b.c", "a.b"], "m: 'a.b' is a tensor and the parent of others; a tree cannot hold both"),
        (["a..b"], "m: tensor 'a..b' names no place in a tree"),
        ([""], "m: tensor '' names no place in a tree"),
        (["a/b"], "m: tensor 'a/b' names no place in a tree"),
    ],
)
def test_names_that_make_no_tree_are_not_written(tmp_path, names, message):
    with pytest.raises(CheckpointError, match=message):
        write_msgpack(tmp_path / "m", {name: from_array(np.zeros(2)) for name in names})
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_without_a_name_is_not_written(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"memory: tensor 'a' has dtype '<c16' \(complex128\); supported are BOOL"
    ):
        write_msgpack(tmp_path / "m", {"a": from_array(np.zeros(2, complex))})


def test_a_full_disk_is_an_oserror_with_the_path_and_leaves_no_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*flax_model\.msgpack") as caught:
        write_msgpack(tmp_path / "flax_model.msgpack", {"a": from_array(np.arange(4.0))})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
