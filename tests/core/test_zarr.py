"""What Zarr arrays declare, and what is refused before memory is reserved for it."""

import json
import math

import numpy as np
import pytest

from diptych.core.checkpoint.zarr import parse_metadata, require_memory
from diptych.core.errors import CheckpointError
from tests.fuzz.orbax_files import describe

ARRAY = np.zeros((5, 7), np.float32)


def sharded(**changed):
    """The codecs of an array in shards of which each part is stored alone."""
    return json.loads(describe(ARRAY, 3))["codecs"][0]["configuration"] | changed


def in_shards(**changed):
    return [{"name": "sharding_indexed", "configuration": sharded(**changed)}]


@pytest.mark.parametrize("version", [2, 3])
def test_the_sizes_of_an_array(version):
    found = parse_metadata(describe(ARRAY, version), version, "a.b", "run")
    assert (found.shape, found.chunks, found.parts, found.itemsize) == ((5, 7), (5, 7), (5, 7), 4)
    assert (found.nbytes, found.count) == (140, 1)
    if version == 2:
        found = parse_metadata(describe(ARRAY, chunks=[2, 4], dtype="bfloat16"), 2, "a", "run")
        assert (found.nbytes, found.count) == (6 * 8 * 2, 6)  # chunks are whole, beyond the end of the array too
    else:
        codecs = in_shards(chunk_shape=[1, 7])
        found = parse_metadata(describe(ARRAY, 3, codecs=codecs, data_type="float64"), 3, "a", "run")
        assert (found.nbytes, found.count) == (5 * 7 * 8, 5)
    scalar = parse_metadata(describe(np.zeros(()), version), version, "a", "run")
    assert (scalar.nbytes, scalar.count) == (8, 1)


@pytest.mark.parametrize(
    ("version", "changed", "message"),
    [
        (2, {"shape": None}, r"has the shape None, in chunks of \[5, 7\] and \[5, 7\], which are none"),
        (2, {"shape": [5]}, r"has the shape \[5\], in chunks of"),
        (2, {"shape": [5, True]}, r"has the shape \[5, True\]"),
        (2, {"shape": [5, -1]}, r"has the shape \[5, -1\]"),
        (2, {"chunks": [5, 0]}, r"in chunks of \[5, 0\]"),
        (2, {"chunks": [5, 7.0]}, r"in chunks of \[5, 7\.0\]"),
        (2, {"compressor": {"id": "blosc"}}, r"is stored with \['blosc'\], but only None, zstd, gzip, zlib are read"),
        (2, {"compressor": {"id": ["x"]}}, r"is stored with \[\['x'\]\]"),
        (2, {"compressor": 3}, "lacks a part of the metadata of an array in version 2 of Zarr"),
        (2, {"filters": [{"id": "delta"}]}, r"is stored with \[\{'id': 'delta'\}\]"),
        (2, {"dtype": [["x", "<f4", [2**40]]]}, r"tensor 'a' has dtype \"\[\['x', '<f4', \[1099511627776\]\]\]\""),
        (2, {"dtype": "<f1"}, "tensor 'a' has dtype '<f1'"),
        (2, {"dtype": "|V99999999999"}, r"tensor 'a' has dtype '\|V99999999999'"),
        (3, {"chunk_grid": {"name": "regular"}}, "lacks a part of the metadata of an array in version 3 of Zarr"),
        (3, {"codecs": [{"name": "vlen"}]}, r"is stored with \['vlen'\]"),
        (3, {"codecs": in_shards(codecs=in_shards())}, "lacks a part of the metadata of an array in version 3"),
        (3, {"codecs": in_shards() * 2}, "lacks a part of the metadata of an array in version 3"),
        (3, {"codecs": in_shards(chunk_shape=[0, 7])}, r"in chunks of \[5, 7\] and \[0, 7\]"),
        (3, {"data_type": "float9"}, "tensor 'a' has dtype 'float9'"),
    ],
)
def test_descriptions_that_are_none(version, changed, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_metadata(describe(ARRAY, version, **changed), version, "a", "run")
    assert str(caught.value).startswith("run: ")


@pytest.mark.parametrize(
    ("shape", "chunks", "dtype"),
    [
        ([2**40], [2**40], "<f4"),
        ([2**47], [2**47], "<f4"),
        ([2], [2**33], "<f4"),  # a chunk is reserved as a whole
        ([2**20], [1], "|u1"),  # more chunks than bytes
    ],
)
def test_arrays_that_the_files_cannot_hold(shape, chunks, dtype):
    large = parse_metadata(describe(ARRAY, shape=shape, chunks=chunks, dtype=dtype), 2, "large", "run")
    small = parse_metadata(describe(ARRAY), 2, "small", "run")
    assert large.nbytes >= math.prod(shape)
    with pytest.raises(CheckpointError, match=r"run: declares arrays of \d+ bytes in \d+ chunks, but its files have "
                       r"1000 bytes, which cannot hold.* the largest is large, "):  # fmt: skip
        require_memory({"small": small, "large": large}, 1000, "run")
    require_memory({"small": small}, 1000, "run")
