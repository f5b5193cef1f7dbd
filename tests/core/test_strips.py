from itertools import permutations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.checkpoint import strips
from diptych.core.checkpoint.strips import aligned_empty, count_infinities, permute
from diptych.core.checkpoint.tensors import DTYPES
from diptych.core.dtypes import FLOATS


def random_bits(shape, dtype, offset=0):
    """An array of random bits that starts `offset` bytes behind an aligned address."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = aligned_empty((size + offset,), np.uint8)
    memory[...] = np.random.default_rng(0).integers(0, 2 if dtype == np.bool_ else 256, size + offset, np.uint8)
    return memory[offset:].view(dtype).reshape(shape)


def is_fresh_and_aligned(copy, source):
    aligned = copy.ctypes.data % 64 == 0 or copy.size == 0  # numpy gives no memory at all an address of its own
    return aligned and copy.flags.c_contiguous and not np.shares_memory(copy, source)


@pytest.mark.parametrize("alignment", [64, 256, 4096])
@pytest.mark.parametrize("shape", [(), (5,), (3, 7, 2)])
def test_fresh_memory_is_aligned(shape, alignment):
    arrays = [aligned_empty(shape, ml_dtypes.bfloat16, alignment) for _ in range(10)]
    for array in arrays:
        assert (array.shape, array.dtype) == (shape, ml_dtypes.bfloat16)
        assert array.ctypes.data % alignment == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_bits_are_kept(dtype, offset, axes):
    array = random_bits((37, 50), dtype, offset)
    copy = permute(array, axes)
    assert copy.dtype == dtype
    assert copy.tobytes() == array.transpose(axes).tobytes()
    assert is_fresh_and_aligned(copy, array)


SHAPES = [
    (),
    (0,),
    (5,),
    (0, 4),
    (4, 0),
    (15, 3),
    (16, 1),
    (17, 40),
    (300, 5),
    (6, 18, 20),
    (40, 3, 5, 5),
    (5, 5, 3, 40),
]


@pytest.mark.parametrize("shape", [*SHAPES, (2, 0, 3), (1, 1, 1, 1), (3, 18, 2, 2, 5)], ids=str)
def test_all_orders_of_the_axes(shape):
    array = random_bits(shape, np.float32)
    for axes in permutations(range(len(shape))):
        copy = permute(array, axes)
        assert copy.shape == array.transpose(axes).shape
        assert copy.tobytes() == array.transpose(axes).tobytes()
        assert is_fresh_and_aligned(copy, array)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("shape", [(300, 5), (40, 3, 5, 5), (5, 5, 3, 40)], ids=str)
def test_large_arrays_are_copied_part_by_part(shape, offset, monkeypatch):
    monkeypatch.setattr(strips, "_CACHED", 1000)
    array = random_bits(shape, np.float32, offset)
    for axes in permutations(range(len(shape))):
        copy = permute(array, axes)
        assert copy.tobytes() == array.transpose(axes).tobytes()
        assert is_fresh_and_aligned(copy, array)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=3).flatmap(
        lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))
    )
)
def test_strips_of_any_shape_are_the_transposed_array(case):
    shape, axes = case
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    np.testing.assert_array_equal(permute(array, tuple(axes)), array.transpose(axes))


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.float32, ml_dtypes.bfloat16),
        (np.float32, np.float16),
        (np.float32, np.float64),
        (ml_dtypes.bfloat16, np.float32),
        (np.float16, ml_dtypes.bfloat16),
        (np.float64, np.float32),
        (np.int64, np.int32),
    ],
)
def test_the_dtype_is_converted_on_the_way(source, target, axes):
    array = (1000 * np.random.default_rng(0).standard_normal((70, 33))).astype(source)
    copy = permute(array, axes, target)
    assert copy.dtype == target
    assert copy.tobytes() == array.astype(target).transpose(axes).tobytes()
    assert copy.tobytes() != array.transpose(axes).tobytes()
    assert is_fresh_and_aligned(copy, array)


def test_a_source_that_cannot_be_written_or_is_not_contiguous_is_copied():
    array = np.arange(200.0).reshape(10, 20)
    array.flags.writeable = False
    np.testing.assert_array_equal(permute(array, (1, 0)), array.T)
    np.testing.assert_array_equal(permute(array.T, (1, 0)), array)
    np.testing.assert_array_equal(permute(array[::2, ::-3], (1, 0)), array[::2, ::-3].T)
    assert permute(array, (0, 1)).flags.writeable


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
def test_infinities_are_counted(dtype):
    values = np.zeros((3, 5), dtype)
    assert count_infinities(values) == 0
    values[0, 1], values[2, 4], values[1, 1], values[1, 2] = np.inf, -np.inf, np.nan, ml_dtypes.finfo(dtype).max
    assert count_infinities(values) == count_infinities(values.T) == 2
    assert count_infinities(np.full(3, np.inf, dtype)[1:]) == 2


def test_float64_is_rounded_to_bfloat16_once():
    """By way of float32, values just beyond a middle would become the middle, and go to the even side."""
    exponents = np.arange(-140, 127)[:, None]
    middles = np.ldexp(1 + np.arange(1, 16, 2) / 2**8, exponents)  # half of the last place of bfloat16
    steps = [-(2.0**-30), -(2.0**-52), 0, 2.0**-52, 2.0**-30]
    values = np.stack([middles + np.ldexp(step, exponents) for step in steps])
    finite = np.arange(0x7F80, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    for sign in (1, -1):
        for axes in ((0, 1, 2), (2, 1, 0)):
            found = permute(sign * values, axes, ml_dtypes.bfloat16).astype(np.float64)
            given = values.transpose(axes)
            below = np.searchsorted(finite, given, "right") - 1
            low, high = finite[below], np.append(finite, 2.0**128)[below + 1]
            up = np.where(given - low == high - given, below % 2 == 1, given - low > high - given)
            np.testing.assert_array_equal(found, sign * np.where(up, high, low))
    middle = (finite[-1] + 2.0**128) / 2
    limits = permute(np.array([middle, np.nextafter(middle, 0), np.nan, -np.inf]), (0,), ml_dtypes.bfloat16)
    np.testing.assert_array_equal(limits.astype(np.float64), [np.inf, finite[-1], np.nan, -np.inf])
