"""Our reader and writer of Flax's serialization format against Flax's own."""

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from diptych.core.checkpoint.msgpack import MAX_CHUNK_SIZE, read_msgpack, write_msgpack
from diptych.core.checkpoint.tensors import NUMPY_DTYPES, digest, from_array
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
