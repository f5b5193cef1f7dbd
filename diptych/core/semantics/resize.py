"""Resampling of position tables, as matrices for both backends."""

from typing import Any

import numpy as np

from diptych.core.semantics.tables import cached_table

_A = -0.75  # PyTorch's cubic coefficient; other libraries use -0.5


@cached_table
def bicubic(source: int, target: int) -> np.ndarray:
    """The (target, source) float64 matrix of PyTorch's bicubic resampling to a given size, without antialiasing.

    Sample t of the target lies at (t + 1/2) source / target - 1/2 of the source (`align_corners=False`); the four
    nearest samples are weighted with Keys' cubic, and the border repeats.
    """
    return _bicubic_at((np.arange(target) + 0.5) * (source / target) - 0.5, source)


@cached_table
def bicubic_by_scale(source: int, target: int) -> np.ndarray:
    """As `bicubic`, with samples as close together as if there were a tenth of a sample more.

    IDEFICS resamples by the factor (target + 0.1) / source, which PyTorch takes as it is.
    """
    return _bicubic_at((np.arange(target) + 0.5) * (1.0 / ((target + 0.1) / source)) - 0.5, source)


def _bicubic_at(centres: np.ndarray, source: int) -> np.ndarray:
    """The matrix of samples at these places of the source."""
    target = len(centres)
    first = np.floor(centres).astype(int) - 1
    matrix = np.zeros((target, source))
    for tap in range(4):
        distance = np.abs(centres - (first + tap))
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        np.add.at(matrix, (np.arange(target), np.clip(first + tap, 0, source - 1)), np.where(distance <= 1, near, far))
    return matrix


@cached_table
def bilinear(source: int, target: int) -> np.ndarray:
    """The (target, source) float64 matrix of PyTorch's bilinear resampling to a given size, without antialiasing.

    The samples lie as in `bicubic`; the two nearest are weighted with their distance, and the border repeats.
    """
    centres = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0, source - 1.0)
    return np.clip(1.0 - np.abs(centres[:, None] - np.arange(source)[None, :]), 0.0, None)


def position_table(ops: Any, table: Any, source: tuple[int, int], target: tuple[int, int], *, special: int) -> Any:
    """A table of positions, resampled from one grid of patches to another with `bicubic`.

    Args:
        ops: the backend's functions.
        table: (special + rows * columns, D).
        source: the rows and columns of the table.
        target: those that are needed.
        special: the number of positions before the patches, of a class token and the like, which stay as they are.
    """
    if source == target:
        return table
    rows, columns = (bicubic(*sizes) for sizes in zip(source, target, strict=True))
    return ops.xp.concat([table[:special], ops.resample_positions(table[special:], rows, columns)], axis=0)


def scaled_position_table(
    ops: Any, table: Any, source: tuple[int, int], target: tuple[int, int], *, special: int
) -> Any:
    """As `position_table`, with `bicubic_by_scale`, which changes even a table of the right size."""
    rows, columns = (bicubic_by_scale(*sizes) for sizes in zip(source, target, strict=True))
    return ops.xp.concat([table[:special], ops.resample_positions(table[special:], rows, columns)], axis=0)


def distance_table(ops: Any, table: Any, source: tuple[int, int], target: tuple[int, int], *, special: int) -> Any:
    """A table of the distances between patches, resampled from one grid of patches to another with `bilinear`.

    Args:
        ops: the backend's functions.
        table: ((2 rows - 1) * (2 columns - 1) + special, N).
        source: the rows and columns of the table's grid.
        target: those of the grid that is needed.
        special: the number of distances after those of the patches, which stay as they are.
    """
    if source == target:
        return table
    count = table.shape[0] - special
    rows, columns = (bilinear(2 * old - 1, 2 * new - 1) for old, new in zip(source, target, strict=True))
    return ops.xp.concat([ops.resample_positions(table[:count], rows, columns), table[count:]], axis=0)
