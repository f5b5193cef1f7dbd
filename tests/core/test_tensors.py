"""Tensors that are read in parts."""

import numpy as np
import pytest

from diptych.core.checkpoint import tensors
from diptych.core.checkpoint.tensors import TensorSource, bitwise_equal, digest, from_array, read_in_parts


def by_rows(array, read=None):
    """A source of an array, which notes the rows that are read."""
    notes = [] if read is None else read

    def read_rows(start, stop):
        notes.append((start, stop))
        return array[start:stop]

    return TensorSource(array.shape, array.dtype, lambda: array, "memory", read_rows=read_rows)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((7, 3), [(0, 2), (2, 4), (4, 6), (6, 7)]),
        ((3, 2, 10), [(0, 1), (1, 2), (2, 3)]),
        ((17,), [(0, 8), (8, 16), (16, 17)]),
        ((2, 4), []),
        ((5, 0), []),
    ],
)
def test_a_tensor_is_read_in_parts_of_whole_rows(monkeypatch, shape, rows):
    monkeypatch.setattr(tensors, "PART", 32)
    array, read = np.arange(np.prod(shape), dtype=np.int32).reshape(shape), []
    source = by_rows(array, read)
    found = [b"".join(parts) for parts in read_in_parts([("a", source), ("b", from_array(array))])]
    assert found == [array.tobytes()] * 2
    assert sorted(read) == rows
    assert digest(source) == digest(from_array(array))


def test_every_bit_is_compared(monkeypatch):
    monkeypatch.setattr(tensors, "PART", 32)
    array = np.zeros((10, 3), np.float32)
    array[0, 0] = np.nan
    assert bitwise_equal(by_rows(array), by_rows(array.copy()))
    for row in range(10):
        other = array.copy()
        other[row, 2] = -0.0
        assert not bitwise_equal(by_rows(array), by_rows(other))
        assert not bitwise_equal(by_rows(array), from_array(other))
    assert bitwise_equal(from_array(np.zeros(())), from_array(np.zeros(())))
    assert bitwise_equal(from_array(np.zeros(0)), from_array(np.zeros(0)))
