"""The benchmark of generation stops where a side is wrong, and goes on where rounding decides."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("bench_generation")


EXACT = np.array([0.0, 5.0, 5.0 - 2e-6, 1.0])
"""Scores in float64, of which two are almost equal."""


class Worker:
    """A side whose scores differ from float64 by an amount."""

    def __init__(self, side, error):
        self.side, self.error = side, error

    def __call__(self, command, *, row, beginning, exact):
        assert (command, row, beginning) == ("scores", 1, [7, 8])
        return (EXACT if exact else EXACT + self.error).tolist()


@pytest.mark.parametrize(
    ("token", "error", "fails"), [(2, 1e-6, False), (3, 1e-6, True), (2, 1e-8, True), (2, 1e-3, True), (1, 1e-3, False)]
)
def test_greedy_tokens_are_judged_by_what_float64_says(bench, token, error, fails):
    row = SimpleNamespace(mode="greedy")
    texts = {"transformers": np.array([[7, 8, 1], [7, 8, 1]]), "diptych jax": np.array([[7, 8, 1], [7, 8, token]])}
    workers = [Worker("transformers", 1e-6), Worker("diptych jax", error)]
    found = {name: {} for name in texts}
    if fails:
        with pytest.raises(
            RuntimeError, match=f"token 2 of sequence 1 is {token} in diptych jax, whose score in float64"
        ):
            bench.agree(row, texts, workers, found)
        return
    bench.agree(row, texts, workers, found)
    assert found["diptych jax"]["equal"] == (2 if token == 1 else 1)
