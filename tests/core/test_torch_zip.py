import gc
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from diptych.core.checkpoint.tensors import DTYPES
from diptych.core.checkpoint.torch_zip import read_torch_zip
from diptych.core.errors import CheckpointError
from tests.core.torch_files import (
    FLOATS,
    ORDERED_DICT,
    imported,
    members,
    pickled,
    storage,
    tensor,
    value,
    write,
    write_tensor,
)

# Values


def test_a_view_keeps_its_file_mapped_and_needs_no_copy(tmp_path):
    source = read_torch_zip(write_tensor(tmp_path / "w.bin"))["w"]
    array = source.read()
    np.testing.assert_array_equal(array, FLOATS.reshape(2, 3))
    assert (source.shape, source.dtype.name, source.nbytes) == ((2, 3), "float32", 24)
    assert source.origin == str(tmp_path / "w.bin")
    assert array.flags.c_contiguous and not array.flags.writeable
    assert np.shares_memory(array, source.read())
    del source
    (tmp_path / "w.bin").unlink()
    gc.collect()
    np.testing.assert_array_equal(array, FLOATS.reshape(2, 3))


@pytest.mark.parametrize("byteorder", [b"little", b"big", None])
def test_every_dtype_in_either_byte_order(tmp_path, byteorder):
    entries, storages = {}, []
    generator = np.random.default_rng(0)
    for index, (name, dtype) in enumerate(DTYPES.items()):
        bits = generator.integers(0, 2 if name == "BOOL" else 2 ** (8 * dtype.itemsize) - 1, 5, f"u{dtype.itemsize}")
        storages.append(bits)
        untyped = storage(str(index), 5 * dtype.itemsize, "torch.storage.UntypedStorage")
        with_dtype = imported(f"torch.{dtype.name}")
        entries[name] = tensor(untyped, (5,), (1,), rest=with_dtype, rebuild="torch._utils._rebuild_tensor_v3")
    written = [bits.astype(bits.dtype.newbyteorder(">")) for bits in storages] if byteorder == b"big" else storages
    path = write(tmp_path / "w.bin", members(pickled(entries), *written, byteorder=byteorder))
    found = read_torch_zip(path)
    assert list(found) == list(DTYPES)
    for (name, dtype), bits in zip(DTYPES.items(), storages, strict=True):
        assert found[name].read().dtype == found[name].dtype == dtype
        assert found[name].read().tobytes() == bits.tobytes()


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "expected"),
    [
        ((3, 2), (1, 3), 0, FLOATS.reshape(2, 3).T),
        ((2,), (2,), 1, FLOATS[1:5:2]),
        ((), (), 4, FLOATS[4]),
        ((2, 2), (3, 1), 1, FLOATS.reshape(2, 3)[:, 1:]),
        ((1, 6), (2**62, 1), 0, FLOATS[None]),  # the stride of an axis of length 1 says nothing
        ((0, 3), (2**62, 1), 2**62, np.empty((0, 3), np.float32)),
    ],
)
def test_views_of_a_storage(tmp_path, shape, strides, offset, expected):
    read = read_torch_zip(write_tensor(tmp_path / "w.bin", shape=shape, strides=strides, offset=offset))["w"].read()
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, expected, strict=True)


def test_tensors_share_a_storage_and_parameters_are_tensors(tmp_path):
    parameter = imported("torch._utils._rebuild_parameter") + tensor() + b"\x88" + ORDERED_DICT + b"\x87R"
    half = tensor(shape=(3,), strides=(1,), offset=3)
    size = tensor(rest=b"N", shape=(6,), strides=(1,))
    size = size.replace(value((6,)), imported("torch.Size") + value((6,)) + b"\x85R", 1)
    entries = {"a": parameter, "b": half, "c": size}
    metadata = value("_metadata") + ORDERED_DICT + b"(" + value("") + b"}" + value("version") + value(1) + b"su"
    content = b"\x80\x02" + ORDERED_DICT + pickled(entries)[3:-1] + b"}" + metadata + b"sb."
    found = read_torch_zip(write(tmp_path / "w.bin", members(content, FLOATS)))
    assert {name: source.read().tolist() for name, source in found.items()} == {
        "a": [[0, 1, 2], [3, 4, 5]],
        "b": [3, 4, 5],
        "c": [0, 1, 2, 3, 4, 5],
    }


@pytest.mark.parametrize("protocol", [4, 5])
def test_later_protocols(tmp_path, protocol):
    content = pickle.dumps({}, protocol)[:-1] + b"("
    for name in ("a", "b"):  # SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL and a name taken from the memo
        text = pickle.dumps(name, protocol)
        content += text[text.index(b"\x8c") : -1]
        if name == "a":
            module, function = (
                b"\x8c" + bytes([len(part)]) + part for part in (b"torch._utils", b"_rebuild_tensor_v2")
            )
            rebuild = module + b"\x94" + function + b"\x94\x93\x94"
        else:
            rebuild = b"h\x04"
        content += rebuild + tensor().removeprefix(imported("torch._utils._rebuild_tensor_v2"))
    found = read_torch_zip(write(tmp_path / "w.bin", members(content + b"u.", FLOATS)))
    assert [source.read().tobytes() for source in found.values()] == [FLOATS.tobytes()] * 2


# What is no dict of tensors


class Command:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def called(name, arguments=b")"):
    return imported(name) + arguments + b"R"


HOSTILE = {
    "os.system": (called("os.system", value("false") + b"\x85"), "asks for os.system"),
    "builtins.eval": (called("builtins.eval", value("1/0") + b"\x85"), "asks for builtins.eval"),
    "a method of a dict": (called("builtins.getattr"), "asks for builtins.getattr"),
    "a module that is not imported": (called("antigravity.geohash"), "asks for antigravity.geohash"),
    "numpy": (called("numpy.core.multiarray._reconstruct"), "asks for numpy.core.multiarray._reconstruct"),
    "another tensor": (called("torch._utils._rebuild_sparse_tensor"), "asks for torch._utils._rebuild_sparse_tensor"),
    "an old tensor": (called("torch._utils._rebuild_tensor"), "asks for torch._utils._rebuild_tensor"),
    "a subclass": (called("torch._tensor._rebuild_from_type_v2"), "asks for torch._tensor._rebuild_from_type_v2"),
    "a complex storage": (tensor(storage(type="torch.ComplexFloatStorage")), "asks for torch.ComplexFloatStorage"),
    "a path in a name": (imported("torch.storage UntypedStorage.x"), "asks for torch.storage.UntypedStorage.x"),
    "an instance": (b"(" + value("false") + b"ios\nsystem\n", "has the instruction INST 'os system' at byte"),
    "a class": (b"(" + imported("torch.FloatStorage") + b"o", "has the instruction OBJ at byte"),
    "a new object": (imported("torch.FloatStorage") + b")\x81", "has the instruction NEWOBJ at byte"),
    "an extension": (b"\x82\x01", "has the instruction EXT1 '1' at byte"),
    "a set": (b"\x8f", "has the instruction EMPTY_SET at byte"),
    "bytes": (b"C\x01a", "has the instruction SHORT_BINBYTES"),
    "a text persistent id": (b"P0\n", "has the instruction PERSID '0'"),
    "another persistent id": (storage(kind="module"), "has a persistent id of type torch.FloatStorage"),
    "a function as a storage": (storage(type="torch.Size"), "has a persistent id of type torch.Size"),
    "a call of a storage": (called("torch.FloatStorage"), "calls torch.FloatStorage"),
    "a call of a dict": (b"})R", "calls a dict"),
    "the state of a tensor": (tensor() + b"}b", "sets the state of a storedtensor"),
    "the state of a function": (imported("torch.Size") + b"}b", "sets the state of a name"),
    "the state of slots": (ORDERED_DICT + b"N}\x86b", "sets the state of a dict"),
    "a conjugate view": (tensor(rest=b"}" + value("conj") + b"\x88s"), "has a tensor with metadata"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_by_name_and_not_executed(tmp_path, name):
    entry, message = HOSTILE[name]
    path = write(tmp_path / "w.bin", members(pickled({"w": entry}), FLOATS))
    with pytest.raises(CheckpointError) as caught:
        read_torch_zip(path)
    assert str(caught.value).startswith(f"{path}: its pickle {message}")
    assert ", which diptych does not read; nothing was executed. If you trust the file, load it with " in str(
        caught.value
    )
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_command_is_executed_in_any_protocol(tmp_path, protocol):
    content = pickle.dumps({"w": Command(os.mkdir, str(tmp_path / "made"))}, protocol)
    with pytest.raises(CheckpointError, match=r"its pickle (asks for (posix|nt)\.mkdir|has the instruction)"):
        read_torch_zip(write(tmp_path / "w.bin", members(content)))
    pickle.loads(content)
    assert (tmp_path / "made").is_dir()  # so the pickle was a command


DAMAGED = {
    "no end": (pickled({"w": tensor()})[:-1], "pickle exhausted before seeing STOP"),
    "a cut argument": (pickled({"w": tensor()})[:60], "newline|expected|not enough|remain"),
    "an unknown opcode": (b"\x80\x02\xff.", "opcode b'\\\\xff' unknown"),
    "an empty stack": (b"\x80\x02.", "not enough values"),
    "two objects": (b"\x80\x02}}.", "too many values"),
    "no mark": (b"\x80\x02}u.", "pop from empty list"),
    "nothing to take": (b"\x80\x02\x86.", "pop from empty list"),
    "an unknown memo": (b"\x80\x02h\x07.", "KeyError: 7"),
    "a name without a value": (b"\x80\x02}(" + value("w") + b"u.", "argument"),
    "one name twice": (b"\x80\x02}(" + 2 * (value("w") + tensor()) + b"u.", "ValueError: the name w twice"),
    "a number as a name": (b"\x80\x02}" + value(1) + tensor() + b"s.", "TypeError: a int in place of a str"),
    "entries of a list in a dict": (b"\x80\x02}" + tensor() + b"a.", "a dict in place of a list"),
    "entries of a dict in a list": (b"\x80\x02]" + value("w") + tensor() + b"s.", "a list in place of a dict"),
    "an unknown argument": (pickled({"w": called("collections.OrderedDict", value(1) + b"\x85")}), "TypeError"),
    "too many arguments": (pickled({"w": tensor(rest=b"NN")}), "TypeError: _tensor"),
    "no storage": (pickled({"w": tensor(b"N")}), "a nonetype in place of a storage"),
    "no dtype": (pickled({"w": tensor(storage(type="torch.storage.UntypedStorage"))}), "in place of a dtype"),
    "a wrong dtype": (
        pickled({"w": tensor(rest=imported("torch.Size"), rebuild="torch._utils._rebuild_tensor_v3")}),
        "KeyError: 'torch.Size'",
    ),
    "a wrong shape": (pickled({"w": tensor(shape=(2, -3))}), "sizes that are no integers from 0 to"),
    "a shape of booleans": (pickled({"w": tensor(shape=(True,), strides=(1,))}), "sizes that are no integers"),
    "a wrong offset": (pickled({"w": tensor(offset=0.5)}), "sizes that are no integers from 0 to"),
    "a wrong count": (pickled({"w": tensor(storage(count=-6))}), "sizes that are no integers from 0 to"),
    "a huge shape": (pickled({"w": tensor(shape=(2**63,), strides=(1,))}), "sizes that are no integers from 0 to"),
    "a shape of too many axes": (pickled({"w": tensor(shape=(1,) * 33, strides=(1,) * 33)}), "a tensor of 33 axes"),
    "strides missing": (pickled({"w": tensor(strides=(1,))}), "ValueError: zip"),
    "a wrong parameter": (
        pickled({"w": imported("torch._utils._rebuild_parameter") + b"N\x88N\x87R"}),
        "a nonetype in place of a storedtensor",
    ),
    "a wrong name": (b"\x80\x04NN\x93.", "a nonetype in place of a str"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_pickle(tmp_path, name):
    content, message = DAMAGED[name]
    path = write(tmp_path / "w.bin", members(content, FLOATS))
    with pytest.raises(CheckpointError, match=rf"w\.bin: its pickle is damaged \(.*({message}).*\)\. Download or save"):
        read_torch_zip(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02].", r"holds a list, but a dict of tensors by name is needed"),
        (b"\x80\x02" + tensor() + b".", "holds a storedtensor, but a dict of tensors by name is needed"),
        (
            pickled({"epoch": value(3), "state_dict": pickled({"w": tensor()})[2:-1]}),
            r"a dict of tensors alone is needed, but 2 of its 2 entries hold something else: epoch \(int\), "
            r"state_dict \(dict\)\. If the weights are inside one of them, save that one alone with torch",
        ),
        (
            pickled({f"{n}": b"N" for n in range(6)}),
            r"a dict .* 6 of its 6 .* else: 0 \(nonetype\), .* 4 \(nonetype\) …\. If",
        ),
    ],
)
def test_a_dict_of_tensors_alone_is_needed(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=rf"w\.bin: {message}"):
        read_torch_zip(write(tmp_path / "w.bin", members(content, FLOATS)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": storage("7")}, "needs 24 bytes of storage data/7, which is not in the file"),
        ({"memory": storage("../w")}, r"needs 24 bytes of storage data/\.\./w, which is not in the file"),
        ({"memory": storage(count=7)}, "needs 28 bytes of storage data/0, which has 24 bytes"),
        ({"memory": storage(count=2**62)}, "needs 18446744073709551616 bytes of storage data/0, which has 24 bytes"),
        ({"memory": storage(type="torch.DoubleStorage")}, "needs 48 bytes of storage data/0, which has 24 bytes"),
        ({"offset": 1}, "ends at byte 28 of its storage, which has 24"),
        ({"strides": (4, 1)}, "ends at byte 28 of its storage, which has 24"),
        (
            {"shape": (2**40, 3), "strides": (0, 1)},
            r"repeats the entries of its storage \(\d+ of 6\), as after expand",
        ),
        ({"shape": (0, 2**49), "strides": (1, 1)}, r"has the shape \(0, 562949953421312\), which no array can have"),
    ],
)
def test_a_tensor_outside_of_its_storage(tmp_path, arguments, message):
    with pytest.raises(CheckpointError, match=rf"w\.bin: tensor 'w' {message}.* Download or save the file again"):
        read_torch_zip(write_tensor(tmp_path / "w.bin", **arguments))


# Archives


def test_members_that_cannot_be_mapped(tmp_path):
    files = members(pickled({"w": tensor()}), FLOATS)
    path = write(tmp_path / "w.bin", files, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"its member archive/data\.pkl is compressed or encrypted, so it cannot"):
        read_torch_zip(path)
    path = write(tmp_path / "w.bin", files)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"its member archive/data\.pkl is compressed or encrypted, so it cannot"):
        read_torch_zip(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_not_apart(tmp_path):
    path = tmp_path / "w.bin"
    message = r"its member .* overlaps another one, has the same name, or is not where the directory says\. Download"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled({}))
        archive.writestr("b/data.pkl", pickled({}))
    with pytest.raises(CheckpointError, match=message):
        read_torch_zip(path)
    write_tensor(path)
    whole = path.read_bytes()
    storage_entry = whole.index(b"archive/data/0", whole.index(b"PK\x01\x02")) - 46
    for field, replacement in (
        (42, 0),  # the storage begins where the pickle does
        (42, 1),  # at no local header
        (42, len(whole) - 10),
        (42, 2**31),
        (20, 2**20),  # it is longer than the file
        (24, 20),  # its sizes before and after compression differ
    ):
        changed = bytearray(whole)
        struct.pack_into("<I", changed, storage_entry + field, replacement)
        if field == 20:
            struct.pack_into("<I", changed, storage_entry + 24, replacement)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=message):
            read_torch_zip(path)


def test_archives_of_something_else(tmp_path):
    path = write(tmp_path / "w.bin", {"a.txt": b"", "b.txt": b""})
    with pytest.raises(CheckpointError, match=r"w\.bin: has no data\.pkl, not a dict of tensors, as torch\.save"):
        read_torch_zip(path)
    write(path, members(pickled({})) | {"archive/constants.pkl": b""})
    with pytest.raises(CheckpointError, match=r"w\.bin: is a TorchScript program, not a dict of tensors"):
        read_torch_zip(path)
    write(path, members(pickled({}), byteorder=b"middle"))
    with pytest.raises(CheckpointError, match=r"its byte order is b'middle', but little or big is needed"):
        read_torch_zip(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is empty"):
        read_torch_zip(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        read_torch_zip(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_torch_zip(tmp_path / "absent")


def test_a_pickle_that_differs_from_its_checksum(tmp_path):
    path = write_tensor(tmp_path / "w.bin")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"storage", b"storagf", 1))
    with pytest.raises(CheckpointError, match=r"its data\.pkl differs from its checksum, so it is damaged"):
        read_torch_zip(path)
    # torch.serialization.set_crc32_options(False) leaves it out
    changed = bytearray(content)
    struct.pack_into("<I", changed, content.index(b"PK\x01\x02") + 16, 0)
    path.write_bytes(changed)
    assert read_torch_zip(path)["w"].read().tobytes() == FLOATS.tobytes()


def test_values_that_differ_from_their_checksum(tmp_path):
    entries = {"w": tensor(), "again": tensor(), "other": tensor(storage("1"))}
    path = write(tmp_path / "w.bin", members(pickled(entries), FLOATS, FLOATS + 6))
    content = path.read_bytes()
    changed = bytearray(content)
    changed[content.index(FLOATS.tobytes()) + 9] ^= 1
    path.write_bytes(changed)
    found = read_torch_zip(path)  # of which only headers are read
    for name in ("w", "again", "w"):
        with pytest.raises(
            CheckpointError, match=r"w\.bin: its data/0 differs from its checksum, so it is damaged\. Download or save"
        ):
            found[name].read()
    assert [found["other"].read().tobytes() for _ in range(2)] == [(FLOATS + 6).tobytes()] * 2


def test_any_truncation_and_any_flipped_bit_is_an_error_or_changes_nothing(tmp_path):
    path = write_tensor(tmp_path / "w.bin")
    content = path.read_bytes()
    for length in range(0, len(content), 13):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_torch_zip(path)
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            values = {name: source.read().tobytes() for name, source in read_torch_zip(path).items()}
        except CheckpointError:
            continue
        assert values == {"w": FLOATS.tobytes()}
