"""Square windows over a grid of patches, shifted in every second layer (Swin, Liu et al. 2021, arXiv:2103.14030).

Letters of the shapes: B batch, W windows of an image, S patches of a window, T patches of an image, D width, N heads.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from diptych.core.semantics.positions import patch_distances

Grid = tuple[int, int]
"""Rows and columns of patches."""

_APART = -100.0
"""The bias between patches that only the shift brought into one window, as published."""


class Windows(NamedTuple):
    """How the grid of one image is divided.

    Attributes:
        grid: rows and columns of patches.
        side: rows and columns of a window.
        shift: by how many rows and columns every second layer moves the windows; 0 for none.
    """

    grid: Grid
    side: int
    shift: int

    @classmethod
    def over(cls, grid: Grid, size: int) -> "Windows":
        """Windows of a size; over a grid that isn't larger, windows as large as it allows, which never move."""
        return cls(grid, min(size, *grid), size // 2 if size < min(grid) else 0)

    @property
    def counts(self) -> Grid:
        """The windows from top to bottom and from left to right; the last ones may reach beyond the grid."""
        rows, columns = self.grid
        return -(-rows // self.side), -(-columns // self.side)

    @property
    def covered_grid(self) -> Grid:
        """The rows and columns of all windows together."""
        down, across = self.counts
        return down * self.side, across * self.side


def stage_grids(grid: Grid, stages: int) -> list[Grid]:
    """The grid of each stage, of which every one halves the grid of the one before, rounded up."""
    rows, columns = grid
    return [(-(-rows // 2**stage), -(-columns // 2**stage)) for stage in range(stages)]


def partition(ops: Any, states: Any, windows: Windows, shift: int) -> Any:
    """(B, T, D) -> (B * W, S, D): the patches of each window, with zeros where it reaches beyond the grid.

    Args:
        ops: the backend's functions.
        states: the grids, row by row.
        windows: how they are divided.
        shift: the rows and columns by which the windows are moved down and to the right.
    """
    xp, batch, width = ops.xp, states.shape[0], states.shape[2]
    (down, across), side = windows.counts, windows.side
    grid = ops.pad_end(xp.reshape(states, (batch, *windows.grid, width)), (batch, *windows.covered_grid, width))
    if shift:
        grid = xp.roll(grid, (-shift, -shift), axis=(1, 2))
    tiles = xp.permute_dims(xp.reshape(grid, (batch, down, side, across, side, width)), (0, 1, 3, 2, 4, 5))
    return xp.reshape(tiles, (batch * down * across, side * side, width))


def merge(ops: Any, states: Any, windows: Windows, shift: int) -> Any:
    """(B * W, S, D) -> (B, T, D): the inverse of `partition`."""
    xp, width, (rows, columns) = ops.xp, states.shape[2], windows.grid
    (down, across), side = windows.counts, windows.side
    tiles = xp.permute_dims(xp.reshape(states, (-1, down, across, side, side, width)), (0, 1, 3, 2, 4, 5))
    grid = xp.reshape(tiles, (-1, *windows.covered_grid, width))
    if shift:
        grid = xp.roll(grid, (shift, shift), axis=(1, 2))
    return xp.reshape(grid[:, :rows, :columns], (-1, rows * columns, width))


def merge_patches(ops: Any, states: Any, grid: Grid) -> Any:
    """(B, T, D) -> (B, T / 4, 4 D): squares of four patches side by side, the lower one after the upper one.

    An odd grid is filled up with zeros at the bottom and right.
    """
    xp, batch, width = ops.xp, states.shape[0], states.shape[2]
    rows, columns = (-(-size // 2) for size in grid)
    even = ops.pad_end(xp.reshape(states, (batch, *grid, width)), (batch, 2 * rows, 2 * columns, width))
    squares = xp.permute_dims(xp.reshape(even, (batch, rows, 2, columns, 2, width)), (0, 1, 3, 4, 2, 5))
    return xp.reshape(squares, (batch, rows * columns, 4 * width))


def relative_bias(ops: Any, table: Any, side: int) -> Any:
    """The bias (1, N, S, S) of each pair of patches of a window.

    Args:
        ops: the backend's functions.
        table: ((2 M - 1)^2, N), in the order of `positions.patch_distances` of a window of M rows and columns.
        side: rows and columns of the window, M at most; a smaller one has the middle of the table.
    """
    xp, span = ops.xp, math.isqrt(table.shape[0])
    margin = span // 2 + 1 - side
    middle = xp.reshape(table, (span, span, -1))[margin : span - margin, margin : span - margin]
    distances = xp.reshape(middle, (-1, table.shape[1]))
    return xp.permute_dims(distances[ops.indices(patch_distances(side, side), table)], (2, 0, 1))[None]


def shift_bias(ops: Any, windows: Windows, like: Any) -> Any:
    """The bias (W, 1, S, S) that keeps patches apart in shifted windows, if the image's other end lies between them.

    Args:
        ops: the backend's functions.
        windows: how the grid is divided.
        like: an array with the dtype and device of the bias.
    """
    side, shift, (down, across) = windows.side, windows.shift, windows.counts
    # along each axis: what no window mixes with the other end, and the two parts of the last window
    rows, columns = (
        (np.arange(size) >= size - side).astype(int) + (np.arange(size) >= size - shift)
        for size in windows.covered_grid
    )
    regions = (3 * rows[:, None] + columns[None, :]).reshape(down, side, across, side).swapaxes(1, 2)
    regions = ops.constant(regions.reshape(down * across, 1, side * side).astype(float), like)
    return _APART * ops.xp.astype(regions[:, :, :, None] != regions[:, :, None, :], like.dtype)
