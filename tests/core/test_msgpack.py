import errno
import gc

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest

from diptych.core.checkpoint import files
from diptych.core.checkpoint.msgpack import MAX_CHUNK_SIZE, read_msgpack, write_msgpack
from diptych.core.checkpoint.tensors import NUMPY_DTYPES, TensorSource, digest, from_array
from diptych.core.errors import CheckpointError


def flat(tree, keys=()):
    """Join the keys of a tree, in its order."""
    if not isinstance(tree, dict):
        return {".".join(keys): tree}
    return {name: leaf for key, node in tree.items() for name, leaf in flat(node, (*keys, key)).items()}


def tree_of_each():
    """A tree with each dtype, keys that are not sorted, and lengths on both sides of msgpack's short forms."""
    generator = np.random.default_rng(0)
    dtypes = {}
    for name, dtype in NUMPY_DTYPES.items():
        bits = generator.integers(0, 2 if name == "bool" else 256, 6 * dtype.itemsize, np.uint8)
        dtypes[name] = bits.view(dtype).reshape(2, 3)
    return {
        "zebra": {"kernel": np.arange(12.0).reshape(3, 4), "bias": np.asarray(3, np.float32)},
        "dtypes": dtypes,
        "layers": {str(index): {"scale": np.full(index, index, np.int8)} for index in range(17)},
        "sizes": {f"{size:x<40}": np.zeros(size, np.uint8) for size in (0, 127, 128, 255, 256, 65_535, 65_536)},
        "ü" * 200: {"k" * 300: np.zeros((1, 200, 300), ml_dtypes.bfloat16)},
        "a": {"b": {"c": np.zeros((1,) * 17, np.int64)}},
    }


def sources(tree):
    return {name: from_array(np.asarray(leaf)) for name, leaf in flat(tree).items()}


def test_what_flax_wrote_is_read_bit_for_bit_in_its_order(tmp_path):
    tree = tree_of_each()
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    found = read_msgpack(tmp_path / "flax_model.msgpack")
    expected = flat(tree)
    assert list(found) == list(expected)
    for name, array in expected.items():
        read = found[name].read()
        assert (found[name].shape, found[name].dtype) == (read.shape, read.dtype) == (array.shape, array.dtype)
        assert read.tobytes() == array.tobytes()
        assert read.flags.c_contiguous
        assert not read.flags.writeable
    assert digest(found["zebra.kernel"]) == digest(from_array(tree["zebra"]["kernel"]))


def test_the_bytes_are_those_of_flax(tmp_path):
    tree = tree_of_each()
    write_msgpack(tmp_path / "flax_model.msgpack", sources(tree))
    assert (tmp_path / "flax_model.msgpack").read_bytes() == flax.serialization.to_bytes(tree)


def test_names_of_one_parent_may_stand_apart(tmp_path):
    """A tree holds a parent once, where it first appeared."""
    names = ["b.x", "a.x", "b.y", "c", "a.y"]
    write_msgpack(tmp_path / "m", {name: from_array(np.full(2, index)) for index, name in enumerate(names)})
    tree = {
        "b": {"x": np.full(2, 0), "y": np.full(2, 2)},
        "a": {"x": np.full(2, 1), "y": np.full(2, 4)},
        "c": np.full(2, 3),
    }
    assert (tmp_path / "m").read_bytes() == flax.serialization.to_bytes(tree)


def test_flax_reads_what_was_written(tmp_path):
    tree = tree_of_each()
    write_msgpack(tmp_path / "flax_model.msgpack", sources(tree))
    restored = flat(flax.serialization.msgpack_restore((tmp_path / "flax_model.msgpack").read_bytes()))
    assert {name: (leaf.dtype, leaf.shape, leaf.tobytes()) for name, leaf in restored.items()} == {
        name: (leaf.dtype, leaf.shape, leaf.tobytes()) for name, leaf in flat(tree).items()
    }


def test_jax_arrays_and_numpy_scalars_are_read(tmp_path):
    tree = {"scale": np.float32(2.5), "weight": jnp.arange(3, dtype=jnp.bfloat16), "nothing": {}}
    (tmp_path / "m").write_bytes(flax.serialization.to_bytes(tree))
    found = read_msgpack(tmp_path / "m")
    assert list(found) == ["scale", "weight"]
    assert found["scale"].read().shape == ()
    assert found["scale"].read() == np.float32(2.5)
    assert found["weight"].read().tolist() == [0, 1, 2]
    assert found["weight"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("limit", [1, 8, 20, 64, 95])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_arrays_over_the_limit_are_cut_as_flax_cuts_them(tmp_path, monkeypatch, limit, dtype):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", limit)
    tree = {
        "embedding": np.arange(24).reshape(2, 3, 4).astype(dtype),
        "small": {"b": np.zeros(3, np.int8)},
    }
    write_msgpack(tmp_path / "m", sources(tree), max_chunk_size=limit)
    # to_bytes cuts in place, so it gets a tree of its own
    assert (tmp_path / "m").read_bytes() == flax.serialization.to_bytes(dict(tree))
    found = read_msgpack(tmp_path / "m")
    assert list(found) == ["embedding", "small.b"]
    assert found["embedding"].shape == (2, 3, 4)
    assert found["embedding"].dtype == dtype
    assert found["embedding"].read().tobytes() == np.arange(24).astype(dtype).tobytes()
    assert found["embedding"].read().flags.c_contiguous


def test_the_limit_is_that_of_flax():
    assert MAX_CHUNK_SIZE == flax.serialization.MAX_CHUNK_SIZE


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


def test_progress_adds_up_and_one_array_at_a_time_is_read(tmp_path):
    events = []

    def source(name):
        def read():
            events.append(f"read {name}")
            return np.zeros(4, np.float32)

        return TensorSource((4,), np.dtype(np.float32), read, "test")

    write_msgpack(
        tmp_path / "m",
        {"a.x": source("a.x"), "b": source("b")},
        progress=lambda nbytes: events.append(f"written {nbytes}"),
    )
    assert events == ["read a.x", "written 16", "read b", "written 16"]


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
        (flax.serialization.to_bytes({"a": 1j}), "'a' is of type msgpack extension of type 2, not an array"),
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


def test_random_damage_never_crashes_and_never_invents_a_tree(tmp_path):
    path = tmp_path / "flax_model.msgpack"
    write_msgpack(path, {"a.b": from_array(np.arange(3.0)), "c": from_array(np.zeros(3, np.int8))})
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            found = {name: source.read() for name, source in read_msgpack(path).items()}
        except CheckpointError:
            refused += 1
            continue
        theirs = flat(flax.serialization.msgpack_restore(bytes(damaged)))
        assert {name: leaf.tobytes() for name, leaf in theirs.items()} == {
            name: leaf.tobytes() for name, leaf in found.items()
        }
    assert refused > 100


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
