"""Initial weights: each tensor drawn by numpy from a stream keyed by the seed and the parameter's path.

A path's values depend on nothing else, so both backends start from the same bits, in any order of construction.
"""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constant:
    """Every entry the same."""

    value: float


@dataclass(frozen=True)
class Normal:
    """Independent normal entries of mean 0; row `zero_row` of a table, if given, is zero."""

    std: float
    zero_row: int | None = None


Distribution = Constant | Normal


def draw(distribution: Distribution, shape: tuple[int, ...], *, seed: int, path: str) -> np.ndarray:
    """A float32 array of the distribution, the same for the same seed, path and shape everywhere."""
    if isinstance(distribution, Constant):
        return np.full(shape, distribution.value, np.float32)
    values = generator(seed, path).standard_normal(shape, np.float32)
    values *= np.float32(distribution.std)
    if distribution.zero_row is not None:
        values[distribution.zero_row] = 0.0
    return values


def generator(seed: int, path: str) -> np.random.Generator:
    """The stream of random numbers that belongs to a seed and a path."""
    key = hashlib.sha256(f"{seed}:{path}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
