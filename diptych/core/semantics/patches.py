"""Sequences of patches as images, and back."""

from typing import Any


def as_image(xp: Any, patches: Any, grid: tuple[int, int]) -> Any:
    """A sequence of patches (B, rows * columns, D) as an image of D channels, (B, D, rows, columns)."""
    return xp.reshape(xp.matrix_transpose(patches), (patches.shape[0], patches.shape[2], *grid))


def join_pixels(xp: Any, patches: Any, grid: tuple[int, int], side: int) -> Any:
    """The pixels of square patches, (B, rows * columns, C * side^2), as images (B, C, rows * side, columns * side).

    A patch holds its pixels channel by channel, and row by row in each of them.
    """
    batch, (rows, columns) = patches.shape[0], grid
    pixels = xp.reshape(patches, (batch, rows, columns, -1, side, side))
    return xp.reshape(xp.permute_dims(pixels, (0, 3, 1, 4, 2, 5)), (batch, -1, rows * side, columns * side))
