"""Threads that share a model: none notices the others, and no switch of one reaches another."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import torch

from diptych.conversion import capture
from tests.backends import each_backend
from tests.parity.writers import array, small

IDS = np.random.default_rng(0).integers(1, 13, (2, 5))
ASKED = {"max_new_tokens": 3, "do_sample": True, "seed": 4, "pad_token_id": 0}


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What calls return that begin at the same time, each in a thread of its own."""
    begin = threading.Barrier(len(calls))
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: (begin.wait(), call())[1], calls))


@each_backend
def test_calls_and_texts_are_those_of_one_thread(backend: str) -> None:
    model = small(backend, dtype="float32")
    calls = [lambda: array(model(IDS).logits), lambda: array(model.generate(IDS, **ASKED).sequences)] * 2
    wanted = [call() for call in calls]
    for _ in range(3):
        for found, expected in zip(together(*calls), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_double_precision_stays_in_its_thread() -> None:
    inside, outside = threading.Event(), threading.Event()

    def wide() -> Any:
        with jax.enable_x64(True):
            inside.set()
            assert outside.wait(60)
            return small("jax")(IDS).logits.dtype

    def narrow() -> Any:
        assert inside.wait(60)
        found = small("jax", dtype="float32")(IDS).logits.dtype
        outside.set()
        return found

    assert together(wide, narrow) == [np.float64, np.float32]


def test_a_setting_of_the_process_is_given_back_once() -> None:
    """Otherwise one thread would take for the caller's what another one has set."""
    before, seen = torch.get_float32_matmul_precision(), []

    def enter() -> None:
        with capture._exact_torch():
            seen.append(torch.get_float32_matmul_precision())
            threading.Event().wait(0.02)

    torch.set_float32_matmul_precision("medium")
    try:
        together(*[enter] * 3)
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"] * 3, "medium")
    finally:
        torch.set_float32_matmul_precision(before)
