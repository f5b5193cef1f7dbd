"""Initial weights: numpy draws each tensor from a stream keyed by the seed and the parameter's path.

The values depend on nothing else, so both backends start from the same bits, in any order of construction.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constant:
    """All entries have the same value."""

    value: float


@dataclass(frozen=True)
class Normal:
    """Independent normal entries of mean 0; row `zero_row` of a table, if given, is zero."""

    std: float
    zero_row: int | None = None


@dataclass(frozen=True)
class TruncatedNormal:
    """Independent normal entries of mean 0, truncated to lie between `low` and `high`.

    The bounds are values, not multiples of `std`: as in `torch.nn.init.trunc_normal_`, whose defaults these are.

    Raises:
        ValueError: 0 does not lie between the bounds.
    """

    std: float
    low: float = -2.0
    high: float = 2.0

    def __post_init__(self) -> None:
        if not self.low <= 0.0 <= self.high or self.low == self.high:
            raise ValueError(f"TruncatedNormal: the bounds {self.low} and {self.high} must have 0 between them")


@dataclass(frozen=True)
class Uniform:
    """Independent entries, uniform between `low` and `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class NormOf:
    """The Euclidean norm of another tensor of the module over some of its axes, which are kept with size 1.

    Attributes:
        name: the other tensor's name in the module; weight norm's weight_g is NormOf("weight_v", (0, 1)).
        axes: the axes that are summed over.
    """

    name: str
    axes: tuple[int, ...]


Distribution = Constant | Normal | TruncatedNormal | Uniform | NormOf


def fan_in(shape: tuple[int, ...]) -> int:
    """The number of inputs of each output of a published weight (out, in / groups, kernel…)."""
    return math.prod(shape[1:])


def kaiming_normal(shape: tuple[int, ...]) -> Normal:
    """`torch.nn.init.kaiming_normal_` for a weight (out, in / groups, kernel…): std sqrt(2 / fan_in)."""
    return Normal(math.sqrt(2.0 / fan_in(shape)))


def uniform_for_bias(fan_in: int) -> Uniform:
    """The default of torch.nn for biases and linear weights: uniform within ±1 / sqrt(fan_in)."""
    return Uniform(-1.0 / math.sqrt(fan_in), 1.0 / math.sqrt(fan_in))


def draw(
    distribution: Distribution,
    shape: tuple[int, ...],
    *,
    seed: int,
    path: str,
    other: Callable[[str], np.ndarray] | None = None,
) -> np.ndarray:
    """A float32 array drawn from the distribution; the same for the same seed, path and shape.

    Args:
        distribution: the distribution.
        shape: of the array.
        seed: keys all the parameters of a model.
        path: the parameter's published name.
        other: returns the initial values of another parameter by path, for `NormOf`.

    Raises:
        ValueError: the norm of the other tensor has another shape, or `other` is needed but missing.
    """
    match distribution:
        case Constant(value):
            return np.full(shape, value, np.float32)
        case Normal(std, zero_row):
            values = generator(seed, path).standard_normal(shape, np.float32)
            values *= np.float32(std)
            if zero_row is not None:
                values[zero_row] = 0.0
            return values
        case TruncatedNormal():
            return _truncated_normal(distribution, shape, generator(seed, path))
        case Uniform(low, high):
            values = generator(seed, path).random(shape, np.float32)
            values *= np.float32(high - low)
            values += np.float32(low)
            return values
        case NormOf(name, axes):
            owner, dot, _ = path.rpartition(".")
            if other is None:
                raise ValueError(f"{path}: the norm of {owner}{dot}{name} is needed, which is not known here")
            values = other(f"{owner}{dot}{name}").astype(np.float64)
            norms = np.sqrt(np.sum(values**2, axis=axes, keepdims=True)).astype(np.float32)
            if norms.shape != shape:
                raise ValueError(f"{path}: shape {list(shape)}, but the norm of {name} has shape {list(norms.shape)}")
            return norms


def _truncated_normal(distribution: TruncatedNormal, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Rejection sampling: from the normal distribution if the bounds are wide, else from the uniform one."""
    std, low, high = (np.float32(value) for value in (distribution.std, distribution.low, distribution.high))
    wide = high - low > std
    values, missing = np.empty(shape, np.float32), np.ones(shape, np.bool_)
    while count := int(missing.sum()):
        if wide:
            values[missing] = random.standard_normal(count, np.float32) * std
            missing = (values < low) | (values > high)
        else:
            candidates = random.random(count, np.float32) * (high - low) + low
            accepted = random.random(count, np.float32) <= np.exp(-0.5 * np.square(candidates / std))
            values[missing] = candidates
            missing[missing] = ~accepted
    return values


def generator(seed: int, path: str) -> np.random.Generator:
    """The stream of random numbers that belongs to a seed and a path."""
    key = hashlib.sha256(f"{seed}:{path}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
