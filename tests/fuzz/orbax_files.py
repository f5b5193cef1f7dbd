"""Orbax checkpoints, from which hostile ones are made: arrays as folders, and in the B+tree of OCDBT."""

import json
import random
from typing import Any

import numpy as np

from tests.fuzz.mutation import mutate, mutate_json

ARRAYS = {"a.b": np.arange(6, dtype="<f4").reshape(2, 3), "c": np.arange(40, dtype="<i8")}
_MANIFEST, _NODE = b"\x0c\xdb\x3a\x2a", b"\x0c\xdb\x20\xde"


def metadata(ocdbt: bool = False, version: int = 2) -> bytes:
    """The description of the tree of `ARRAYS`."""
    tree = {
        name: {
            "key_metadata": [{"key": key, "key_type": 2} for key in name.split(".")],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
        for name in ARRAYS
    }
    return json.dumps({"tree_metadata": tree, "use_ocdbt": ocdbt, "use_zarr3": version == 3}).encode()


def describe(array: np.ndarray, version: int = 2, **changed: Any) -> bytes:
    """The metadata of an array in Zarr."""
    if version == 2:
        form: dict[str, Any] = {
            "zarr_format": 2, "shape": array.shape, "chunks": array.shape, "dtype": array.dtype.str, "order": "C",
            "compressor": None, "filters": None, "fill_value": None, "dimension_separator": ".",
        }  # fmt: skip
    else:
        plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
        parts = {
            "chunk_shape": array.shape, "codecs": plain, "index_location": "end",
            "index_codecs": [*plain, {"name": "crc32c"}],
        }  # fmt: skip
        form = {
            "zarr_format": 3, "node_type": "array", "shape": array.shape, "data_type": array.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": array.shape}}, "fill_value": 0,
            "chunk_key_encoding": {"name": "default"}, "codecs": [{"name": "sharding_indexed", "configuration": parts}],
        }  # fmt: skip
    return json.dumps(form | changed).encode()


def checkpoints() -> tuple[dict[str, bytes], ...]:
    """The same arrays in two versions of Zarr, and in OCDBT."""
    folders, sharded = {"_METADATA": metadata()}, {"_METADATA": metadata(version=3)}
    for name, array in ARRAYS.items():
        folders |= {f"{name}/.zarray": describe(array), f"{name}/{'.'.join('0' * array.ndim)}": array.tobytes()}
        index = np.array([0, array.nbytes], "<u8").tobytes()
        shard = array.tobytes() + index + crc32c(index)
        sharded |= {f"{name}/zarr.json": describe(array, 3), f"{name}/c/{'/'.join('0' * array.ndim)}": shard}
    return folders, sharded, {"_METADATA": metadata(ocdbt=True), **_database(folders)}


def change(draw: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    """Bytes, values of JSON, or bytes of a database under a new checksum."""
    if name.endswith(("_METADATA", ".zarray", "zarr.json")) and draw.random() < 0.75:
        return mutate_json(draw, data)
    start = max(data.find(_MANIFEST), data.find(_NODE))
    if start < 0 or draw.random() < 0.2:
        return mutate(draw, data, other)
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(start + 12, len(data) - 4)
        changed[place] = draw.choice((0, 1, changed[place] ^ 1 << draw.randrange(8), draw.randrange(256), 0x39, 0xFF))
    return seal(bytes(changed), start)


def seal(data: bytes, start: int = 0) -> bytes:
    """A file whose end, from a number of bytes on, gets the checksum that belongs to it."""
    return data[:-4] + crc32c(data[start:-4])


def crc32c(data: bytes) -> bytes:
    """The checksum of Castagnoli, which OCDBT and Zarr use."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return (remainder ^ 0xFFFFFFFF).to_bytes(4, "little")


def _database(entries: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a database in OCDBT, without the name and the id that differ in each."""
    import tensorstore

    store = {"driver": "ocdbt", "base": "memory://", "config": {"compression": None, "max_inline_value_bytes": 200}}
    with tensorstore.Transaction(atomic=True) as transaction:
        database = tensorstore.KvStore.open(store).result()
        for key, value in entries.items():
            if key != "_METADATA":
                database.with_transaction(transaction).write(key, value).result()
    files = {key.decode(): database.base.read(key).result().value for key in database.base.list().result()}
    (name,) = (key for key in files if key.startswith("d/"))
    renamed = f"d/{'0' * 32}"
    manifest, data = (files[key].replace(name.encode(), renamed.encode()) for key in ("manifest.ocdbt", name))
    return {
        "manifest.ocdbt": seal(manifest[:14] + bytes(16) + manifest[30:]),
        renamed: seal(data, data.index(_NODE)),
    }
