"""Windows over a grid, patch by patch, as a reader can check."""

from types import SimpleNamespace

import array_api_compat.numpy as xp
import numpy as np
import pytest

from diptych.core.semantics import windows
from diptych.core.semantics.windows import Windows


def pad_end(values, shape):
    return np.pad(values, [(0, wanted - found) for wanted, found in zip(shape, values.shape, strict=True)])


OPS = SimpleNamespace(xp=xp, pad_end=pad_end, constant=lambda values, like: values, indices=lambda values, like: values)


def numbered(grid):
    """Patches that hold their row and column, from 1 on; zeros are padding."""
    rows, columns = np.indices(grid)
    return np.stack([rows + 1, columns + 1], -1).reshape(1, -1, 2).astype(float)


@pytest.mark.parametrize(
    ("grid", "size", "expected"),
    [
        ((8, 6), 4, Windows((8, 6), 4, 2)),
        ((7, 9), 3, Windows((7, 9), 3, 1)),
        ((7, 7), 7, Windows((7, 7), 7, 0)),  # one window: there is nowhere to move
        ((4, 9), 4, Windows((4, 9), 4, 0)),
        ((3, 9), 4, Windows((3, 9), 3, 0)),  # as large as the grid allows
        ((5, 5), 1, Windows((5, 5), 1, 0)),
    ],
)
def test_windows_fit_the_grid(grid, size, expected):
    assert Windows.over(grid, size) == expected


def test_grids_halve_and_keep_the_rest():
    assert windows.stage_grids((13, 8), 4) == [(13, 8), (7, 4), (4, 2), (2, 1)]


@pytest.mark.parametrize("shift", [0, 1])
def test_each_window_holds_its_patches(shift):
    tiling = Windows((4, 5), 3, 1)
    assert tiling.counts == (2, 2) and tiling.covered_grid == (6, 6)
    found = windows.partition(OPS, numbered((4, 5)), tiling, shift).reshape(2, 2, 3, 3, 2)
    for down, across, row, column in np.ndindex(2, 2, 3, 3):
        at = ((3 * down + row + shift) % 6, (3 * across + column + shift) % 6)  # what leaves at the end comes back
        inside = at[0] < 4 and at[1] < 5
        expected = (at[0] + 1, at[1] + 1) if inside else (0, 0)
        np.testing.assert_array_equal(found[down, across, row, column], expected)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_are_merged_again(shift):
    states = np.random.default_rng(0).standard_normal((3, 7 * 6, 5))
    tiling = Windows((7, 6), 4, 2)
    parts = windows.partition(OPS, states, tiling, shift)
    assert parts.shape == (3 * 4, 16, 5)
    np.testing.assert_array_equal(windows.merge(OPS, parts, tiling, shift), states)


def test_four_patches_become_one_column_by_column():
    merged = windows.merge_patches(OPS, numbered((3, 5)), (3, 5)).reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(merged[0, 1], [(1, 3), (2, 3), (1, 4), (2, 4)])
    np.testing.assert_array_equal(merged[1, 2], [(3, 5), (0, 0), (0, 0), (0, 0)])


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_bias_depends_on_what_lies_between_two_patches(side):
    table = np.random.default_rng(0).standard_normal((5 * 5, 2))  # of windows of 3
    bias = windows.relative_bias(OPS, table, side)
    assert bias.shape == (1, 2, side**2, side**2)
    for row, column, other_row, other_column in np.ndindex(side, side, side, side):
        found = bias[0, :, row * side + column, other_row * side + other_column]
        np.testing.assert_array_equal(found, table[(row - other_row + 2) * 5 + column - other_column + 2])


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (9, 12)])
def test_a_shift_keeps_both_ends_apart(grid):
    tiling = Windows.over(grid, 4)
    down, across = tiling.counts
    bias = windows.shift_bias(OPS, tiling, np.zeros(1))
    assert bias.shape == (down * across, 1, 16, 16) and bias.dtype == np.float64
    places = np.moveaxis(np.indices(tiling.covered_grid), 0, -1).reshape(1, -1, 2)
    rows, columns = tiling.covered_grid
    whole = Windows((rows, columns), 4, 2)
    for index, window in enumerate(windows.partition(OPS, places, whole, 2).reshape(down * across, 16, 2)):
        together = (np.abs(window[:, None] - window[None, :]) < 4).all(-1)
        np.testing.assert_array_equal(bias[index, 0], np.where(together, 0.0, -100.0))
