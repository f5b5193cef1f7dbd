"""The same random bits, numbers and choices in numpy, torch and JAX, in and out of compiled programs."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import array_api_compat.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import diptych.backends.jax.ops as jax_ops
import diptych.backends.torch.ops as torch_ops
from diptych.core.semantics import sampling

SEEDS = (0, 1, -1, 2**31, 2**32 + 7, 2**64 - 1, -(2**63), 1234567890123456789)
ROWS = np.arange(300, dtype=np.int32)


class Side(NamedTuple):
    """A way to compute."""

    ops: Any
    there: Any
    compiled: bool
    x64: bool


NUMPY = Side(
    SimpleNamespace(xp=array_api_compat.numpy, steps=lambda count, like: np.arange(count)), np.asarray, False, True
)
SIDES = {
    "torch": Side(torch_ops, torch.from_numpy, False, True),
    "jax": Side(jax_ops, jnp.asarray, False, True),
    "jax, compiled": Side(jax_ops, jnp.asarray, True, True),
    "jax, narrow": Side(jax_ops, jnp.asarray, False, False),
    "jax, narrow, compiled": Side(jax_ops, jnp.asarray, True, False),
}


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    with jax.enable_x64(SIDES[request.param].x64):
        yield SIDES[request.param]


def run(side: Side, function: Any, *arrays: np.ndarray) -> np.ndarray:
    given = [side.there(array) for array in arrays]
    with np.errstate(over="ignore"):
        return np.asarray((jax.jit(function) if side.compiled else function)(*given))


def assert_equal(side: Side, function: Any, *arrays: np.ndarray) -> None:
    """A function of `ops` and arrays gives the same bits as in numpy, of one dtype."""
    found, expected = (
        run(each, lambda *given, each=each: function(each.ops, *given), *arrays) for each in (side, NUMPY)
    )
    assert found.dtype.kind == expected.dtype.kind and (found.dtype.kind != "f" or found.dtype == expected.dtype)
    np.testing.assert_array_equal(found, expected)


def test_random_words_are_the_same_on_every_side(side: Side) -> None:
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (4, 1000)).astype(np.int32)
    words[:, 0], words[:, 1], words[:, 2] = -1, 2**31 - 1, -(2**31)

    def stacked(ops: Any, *parts: Any) -> Any:
        return ops.xp.stack(sampling.threefry2x32(parts[:2], parts[2:]))

    assert run(side, lambda *parts: stacked(side.ops, *parts), *words).dtype == np.int32
    assert_equal(side, stacked, *words)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers_are_the_same_on_every_side(side: Side, dtype: str) -> None:
    seeds = np.array([sampling.seed_words(seed) for seed in SEEDS], np.int32)
    if not side.x64:
        dtype = "float32"

    def drawn(ops: Any, seeds: Any, rows: Any) -> Any:
        found = [sampling.uniform(ops.xp, words, 5, rows, 2, getattr(ops.xp, dtype)) for words in seeds]
        return ops.xp.stack(found)

    assert_equal(side, drawn, seeds, ROWS)


@pytest.mark.parametrize("seed", SEEDS[-2:])
def test_entries_drawn_without_replacement_are_the_same_on_every_side(side: Side, seed: int) -> None:
    """Weights are whole numbers, which every order of summing adds up alike."""
    weights = np.random.default_rng(1).integers(0, 9, (300, 700)).astype(np.float64 if side.x64 else np.float32)
    weights[0] = 0.0
    weights[1, 5:] = 0.0
    words = np.array(sampling.seed_words(seed), np.int32)
    assert_equal(side, lambda ops, *given: sampling.sample_without_replacement(ops, *given, 3, 6), weights, words)
