import errno
import gc
import json
import math
import threading

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diptych.core.checkpoint import files
from diptych.core.checkpoint.safetensors import read_metadata, read_safetensors, write_safetensors
from diptych.core.checkpoint.tensors import DTYPES, TensorSource, digest, from_array
from diptych.core.errors import CheckpointError


def one_of_each():
    """One tensor per dtype with random bits, and the shapes that are easy to get wrong."""
    generator = np.random.default_rng(0)
    tensors = {}
    for name, dtype in DTYPES.items():
        count = 6 * dtype.itemsize
        bits = generator.integers(0, 2 if name == "BOOL" else 256, count, np.uint8)
        tensors[f"layers.{name}"] = from_array(bits.view(dtype).reshape(2, 3))
    tensors["scalar"] = from_array(np.asarray(2.5, np.float32))
    tensors["empty"] = from_array(np.empty((0, 3), np.float32))
    tensors["é 文"] = from_array(np.arange(5, dtype=np.float16))
    return tensors


def hand_made(path, header, data=b"", length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype="F32", shape=(2,), start=0, stop=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_what_was_written_is_read_bit_for_bit(tmp_path):
    tensors = one_of_each()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    found = read_safetensors(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, source in tensors.items():
        read = found[name].read()
        assert (found[name].shape, found[name].dtype) == (read.shape, read.dtype) == (source.shape, source.dtype)
        assert read.tobytes() == source.read().tobytes()
        assert found[name].nbytes == len(read.tobytes())
        assert digest(found[name]) == digest(source)
        assert read.flags.c_contiguous
        assert read.flags.aligned
        assert not read.flags.writeable
    assert len({digest(source) for source in tensors.values()}) == len(tensors)


def test_the_bytes_are_those_of_the_reference_implementation(tmp_path):
    tensors = one_of_each()
    write_safetensors(tmp_path / "ours.safetensors", tensors)
    arrays = {name: source.read() for name, source in tensors.items()}
    save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_the_order_of_the_tensors_does_not_change_the_file(tmp_path):
    tensors = one_of_each()
    write_safetensors(tmp_path / "a", tensors, {"format": "pt", "a": "1"})
    write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"a": "1", "format": "pt"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_come_in_the_order_of_the_file(tmp_path):
    header = {"second": entry(start=8, stop=16), "first": entry()}
    path = hand_made(tmp_path / "model.safetensors", header, np.arange(4, dtype=np.float32).tobytes())
    found = read_safetensors(path)
    assert list(found) == ["first", "second"]
    np.testing.assert_array_equal(found["second"].read(), np.asarray([2, 3], np.float32))


def test_metadata_says_pt_unless_it_is_given(tmp_path):
    write_safetensors(tmp_path / "default", {})
    write_safetensors(tmp_path / "own", {}, {"format": "flax", "note": "ü"})
    hand_made(tmp_path / "none", {})
    assert read_metadata(tmp_path / "default") == {"format": "pt"}
    assert read_metadata(tmp_path / "own") == {"format": "flax", "note": "ü"}
    assert read_metadata(tmp_path / "none") == {}
    assert read_safetensors(tmp_path / "own") == {}


def test_a_view_keeps_its_file_mapped_and_needs_no_copy(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": from_array(np.arange(1000.0)), "b": from_array(np.arange(10.0))})
    source = read_safetensors(path)["a"]
    array = source.read()
    assert np.shares_memory(array, source.read())
    del source
    path.unlink()
    gc.collect()
    np.testing.assert_array_equal(array, np.arange(1000.0))


def test_a_file_that_is_not_aligned_is_read(tmp_path):
    values = np.arange(3, dtype=np.float32)
    header = json.dumps({"a": entry(shape=(3,), stop=12)}).encode()
    path = hand_made(tmp_path / "model.safetensors", header + b" " * (1 - len(header) % 2), values.tobytes())
    np.testing.assert_array_equal(read_safetensors(path)["a"].read(), values)


def test_progress_adds_up(tmp_path):
    seen = []
    tensors = one_of_each()
    write_safetensors(tmp_path / "model.safetensors", tensors, progress=seen.append)
    assert sorted(seen) == sorted(source.nbytes for source in tensors.values())


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"[1, 2]", b"", "the header: must be a JSON object, not list"),
        (b"{not json", b"", r"the header: is not valid JSON \(Expecting property name"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", r"the header: is not valid JSON \(Exceeds the limit"),
        (b"[" * 100_000, b"", r"the header: is not valid JSON \(maximum recursion depth"),
        (b'{"\xff": 1}', b"", r"the header: is not valid JSON \('utf-8' codec can't decode byte 0xff"),
        (b'{"a": 1, "b": 2, "a": 3}', b"", "the header: has the same name twice: a"),
        (b'{"a": {"dtype": "F32", "dtype": "F16"}}', b"", "the header: has the same name twice: dtype"),
        ({"a": 3}, b"", "tensor 'a' has the header entry 3; needed are a dtype, a shape"),
        ({"a": entry(shape=(-2,))}, bytes(8), r"tensor 'a' has the header entry {'dtype': 'F32', 'shape': \[-2\]"),
        ({"a": entry(shape=(True, 2))}, bytes(8), r"tensor 'a' has the header entry .*'shape': \[True, 2\]"),
        ({"a": entry(start=8, stop=0)}, bytes(8), r"tensor 'a' has the header entry .*'data_offsets': \[8, 0\]"),
        ({"a": entry()}, bytes(7), "tensor 'a' ends at byte 8 of the data, which has 7: the file is truncated"),
        ({"a": entry(shape=(3,))}, bytes(8), r"tensor 'a' takes 8 bytes, but float32 \(3,\) needs 12"),
        (
            {"a": entry(), "b": entry(start=4, stop=12)},
            bytes(12),
            "tensors 'a' and 'b' overlap at byte 4 of the data",
        ),
        ({"a": entry(dtype="F4")}, bytes(8), "tensor 'a' has dtype 'F4'; supported are BOOL, U8, .*BF16.*U64"),
        ({"a": entry(dtype="C64")}, bytes(8), "tensor 'a' has dtype 'C64'; supported are"),
        ({"a": entry(dtype="float32")}, bytes(8), "tensor 'a' has dtype 'float32'; supported are"),
        ({"a": entry()}, bytes(12), r"the safetensors library refuses it \(.*[Mm]etadata"),
        ({"a": entry(start=4, stop=12)}, bytes(12), r"the safetensors library refuses it \(.*offset"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, header, data, message):
    path = hand_made(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=f"model.safetensors: {message}"):
        read_safetensors(path)


def test_metadata_that_is_not_strings_is_refused(tmp_path):
    path = hand_made(tmp_path / "model.safetensors", {"__metadata__": {"format": 3}})
    with pytest.raises(CheckpointError, match=r"__metadata__ must hold strings by name, not {'format': 3}"):
        read_metadata(path)
    with pytest.raises(CheckpointError, match="the safetensors library refuses it"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty. Download or save it again"),
        (b"\x00\x01\x02", "has 3 bytes, too few for a safetensors file"),
        (b"\x09" + bytes(7) + b"{}      ", "announces a header of 9 bytes, but the file has 16: it is truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, not the weights"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model.safetensors: {message}"):
        read_safetensors(tmp_path / "model.safetensors")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": from_array(np.arange(3.0)), "b": from_array(np.arange(2, dtype=np.int8))})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            read_safetensors(path)


def test_whatever_the_reference_refuses_is_refused(tmp_path):
    """Random damage to the header: never a crash, and never accepted against the reference."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": from_array(np.arange(3.0)), "b": from_array(np.arange(2, dtype=np.int8))})
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole) - 26)] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError:
            with pytest.raises(CheckpointError):
                read_safetensors(path)
            refused += 1
    assert refused > 100


def test_a_dtype_without_a_name_is_not_written(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"memory: tensor 'a' has dtype '<c16' \(complex128\); supported are BOOL"
    ):
        write_safetensors(tmp_path / "model.safetensors", {"a": from_array(np.zeros(2, complex))})
    with pytest.raises(CheckpointError, match=r"memory: tensor 'a' has dtype '>f4' \(float32\); supported are BOOL"):
        write_safetensors(tmp_path / "model.safetensors", {"a": from_array(np.zeros(2, ">f4"))})
    assert list(tmp_path.iterdir()) == []


def test_the_reserved_name_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="'__metadata__' is reserved in safetensors"):
        write_safetensors(tmp_path / "model.safetensors", {"__metadata__": from_array(np.zeros(2))})


@pytest.mark.parametrize("array", [np.zeros((3, 2), np.float32), np.zeros((2, 3), ml_dtypes.bfloat16)])
def test_a_source_that_gives_something_else_is_an_error_and_leaves_no_file(tmp_path, array):
    source = TensorSource((2, 3), np.dtype(np.float32), lambda: array, "elsewhere")
    announced = rf"announced as float32 \(2, 3\), but reading it gave {array.dtype.name} \({array.shape[0]}, "
    with pytest.raises(CheckpointError, match=f"elsewhere: tensor 'a' was {announced}"):
        write_safetensors(tmp_path / "model.safetensors", {"a": source})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_oserror_with_the_path_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": from_array(np.arange(3.0))})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors") as caught:
        write_safetensors(path, {"a": from_array(np.arange(4.0))})
    assert caught.value.errno == errno.ENOSPC
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == before


def test_what_fails_while_a_thread_brings_the_file_to_the_disk_is_not_lost(tmp_path, monkeypatch):
    """Only the first fsync after an error says so."""
    failed = threading.Event()

    def full_once(descriptor):
        if not failed.is_set():
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_once)
    monkeypatch.setattr(files, "_INTERVAL", 0.0)
    slow = TensorSource((), np.dtype(np.bool_), lambda: np.asarray(failed.wait(10)), "slow")
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors"):
        write_safetensors(tmp_path / "model.safetensors", {"a": slow})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_an_oserror_with_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        read_safetensors(tmp_path / "absent.safetensors")


def test_a_large_tensor_is_written_whole(tmp_path):
    array = np.arange(3_000_000, dtype=np.uint32).reshape(3, 1000, 1000)
    write_safetensors(tmp_path / "model.safetensors", {"a": from_array(array.transpose(2, 0, 1))})
    found = read_safetensors(tmp_path / "model.safetensors")["a"]
    assert found.nbytes == math.prod(array.shape) * 4
    np.testing.assert_array_equal(found.read(), array.transpose(2, 0, 1))
