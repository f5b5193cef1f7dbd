"""The comparison that every other test relies on fails where it should."""

import re

import numpy as np
import pytest

from tests.assertions import TOLERANCES, assert_close

VALUES = np.linspace(-2.0, 4.0, 24).reshape(2, 3, 4)


def changed(place: tuple[int, ...], value: float) -> np.ndarray:
    values = VALUES.copy()
    values[place] = value
    return values


@pytest.mark.parametrize("kind", TOLERANCES)
def test_what_is_equal_or_as_near_as_rounding_passes(kind: str) -> None:
    dtype = np.dtype(kind) if kind != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16
    assert_close(VALUES.astype(dtype), VALUES, kind=kind)
    assert_close(np.zeros((0, 3), dtype), np.zeros((0, 3)), kind=kind)
    assert_close(np.zeros(3, dtype), np.zeros(3), kind=kind)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_on_either_side_and_on_both(strange: float) -> None:
    bad = changed((1, 0, 2), strange)
    with pytest.raises(AssertionError, match=rf"^logits: found is {strange} at \[1, 0, 2\]"):
        assert_close(bad, VALUES, name="logits")
    with pytest.raises(AssertionError, match=rf"^value: expected is {strange} at \[1, 0, 2\]"):
        assert_close(VALUES, bad)
    with pytest.raises(AssertionError, match="found is"):
        assert_close(bad, bad)


@pytest.mark.parametrize("shape", [(24,), (2, 3, 4, 1), (2, 4, 3), (1, 2, 3, 4)])
def test_another_shape_fails_even_where_it_would_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match=re.escape(f"shape {shape}, expected (2, 3, 4)")):
        assert_close(VALUES.reshape(shape), VALUES)
    with pytest.raises(AssertionError, match=re.escape("shape (), expected (2, 3, 4)")):
        assert_close(np.float64(1.0), np.ones((2, 3, 4)))


def test_a_sign_fails_and_so_do_errors_that_cancel() -> None:
    with pytest.raises(AssertionError, match=r": 4 at \[1, 2, 3\], expected -4; largest difference 8\.000e\+00"):
        assert_close(VALUES, changed((1, 2, 3), -4.0))
    with pytest.raises(AssertionError, match=r"largest difference 1\.000e-03, 2\.500e-04 of the largest entry"):
        assert_close(VALUES + 1e-3 * np.array([1.0, -1.0, 1.0, -1.0]), VALUES)


def test_the_difference_is_measured_against_the_largest_expected_entry() -> None:
    assert_close(VALUES + 3.9e-9, VALUES)
    with pytest.raises(AssertionError, match=r"allowed 4\.004e-09"):
        assert_close(VALUES + 4.1e-9, VALUES)
    with pytest.raises(AssertionError, match=r"largest difference 1\.000e-09, inf of"):
        assert_close(np.full(3, 1e-9), np.zeros(3))


def test_noise_passes_only_beside_larger_tensors_of_its_kind() -> None:
    noise = np.full(3, 1e-13)
    assert_close(noise, np.zeros(3), largest=1.0)
    with pytest.raises(AssertionError, match=r"allowed 0\.000e"):
        assert_close(noise, np.zeros(3))
    with pytest.raises(AssertionError, match=r"allowed 1\.000e-12"):
        assert_close(noise * 20, np.zeros(3), largest=1.0)


def test_a_narrower_dtype_fails_on_either_side() -> None:
    with pytest.raises(AssertionError, match="dtype float32, expected float64"):
        assert_close(VALUES.astype(np.float32), VALUES)
    with pytest.raises(AssertionError, match="compared with float32"):
        assert_close(VALUES, VALUES.astype(np.float32))
    with pytest.raises(KeyError, match="int32"):
        assert_close(VALUES.astype(np.int32), VALUES, kind="int32")


def test_a_comparison_returns_nothing_that_could_be_ignored() -> None:
    assert assert_close(VALUES, VALUES) is None
