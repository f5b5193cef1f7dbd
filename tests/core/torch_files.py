"""Files as `torch.save` makes them, written opcode by opcode: core's tests run without torch."""

import pickle
import struct
import zipfile

import numpy as np


def value(content):
    """The opcodes of a number, a text or a tuple of them."""
    return pickle.dumps(content, 2)[2:-1]


def imported(name):
    """The opcode that imports a name."""
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def storage(key="0", count=6, type="torch.FloatStorage", kind="storage", rest=b""):
    """A storage; `rest` stands after the five parts that all have."""
    return b"(" + value(kind) + imported(type) + value(key) + value("cpu") + value(count) + rest + b"tQ"


ORDERED_DICT = imported("collections.OrderedDict") + b")R"


def tensor(memory=None, shape=(2, 3), strides=(3, 1), offset=0, rest=b"", rebuild="torch._utils._rebuild_tensor_v2"):
    """A tensor in a storage; `rest` stands after the six arguments that all have."""
    memory = storage() if memory is None else memory
    arguments = memory + value(offset) + value(shape) + value(strides) + b"\x89" + ORDERED_DICT + rest
    return imported(rebuild) + b"(" + arguments + b"tR"


def pickled(entries):
    """A dict of opcodes by name."""
    return b"\x80\x02}(" + b"".join(value(name) + entry for name, entry in entries.items()) + b"u."


def members(pickle, *storages, byteorder=b"little"):
    """The members of an archive, as PyTorch names them."""
    files = {"data.pkl": pickle, "version": b"3\n", "byteorder": byteorder}
    files |= {f"data/{key}": np.asarray(content).tobytes() for key, content in enumerate(storages)}
    return {f"archive/{name}": content for name, content in files.items() if content is not None}


def write(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def legacy(pickle, storages, version=1001, keys=None):
    """The content of a file in PyTorch's format from before version 1.6; storages are (count, bytes) by key."""
    magic, machine = value(0x1950A86A20F9469CFC6C), b"}" + value("little_endian") + b"\x88s"
    parts = (magic, value(version), machine)
    head = b"".join(b"\x80\x02" + part + b"." for part in parts) + pickle
    listed = b"\x80\x02](" + b"".join(value(key) for key in (keys or storages)) + b"e."
    return head + listed + b"".join(struct.pack("<q", count) + content for count, content in storages.values())


FLOATS = np.arange(6, dtype=np.float32)


def write_tensor(path, *arguments, **keywords):
    """A file with one tensor, "w"."""
    return write(path, members(pickled({"w": tensor(*arguments, **keywords)}), FLOATS))
