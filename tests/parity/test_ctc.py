"""The CTC loss of both backends against torch's own in float64, with gradients, and against all ways to say a text."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from diptych.backends.jax import ops as jax_ops
from diptych.backends.torch import ops as torch_ops
from diptych.core.semantics import ctc, losses
from tests.assertions import assert_close

B, T, V, L = 6, 9, 5, 4
LABELS = np.array(
    [[1, 2, 3, 4], [2, 2, 2, 1], [3, 1, 0, -100], [1, 1, 1, 1], [4, 99, 99, 99], [-100, -100, -100, -100]]
)
LABEL_COUNTS = np.array([4, 3, 2, 4, 1, 0])
FRAME_COUNTS = np.array([9, 5, 7, 8, 1, 3])
"""Rows: no repeats; just enough frames for repeats; shorter; repeats that fit; a single frame; no label."""


def torchs(logits: torch.Tensor, labels: np.ndarray, frames: Any, counts: Any, blank: int, **options: Any) -> Any:
    targets = np.where((labels < 0) | (labels >= V), 0, labels)
    return torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor(targets),
        torch.tensor(frames),
        torch.tensor(counts),
        blank,
        **options,
    )


def ours(ops: Any, logits: Any, labels: Any, frames: Any, counts: Any, blank: int, **options: Any) -> Any:
    return ctc.loss(ops, losses.log_softmax(ops.xp, logits), labels, frames, counts, blank=blank, **options)


def compare(labels: np.ndarray, frames: np.ndarray, counts: np.ndarray, blank: int, **options: Any) -> None:
    logits = np.random.default_rng(0).normal(size=(len(labels), T, V))
    tensor = torch.tensor(logits, requires_grad=True)
    expected = torchs(tensor, labels, frames, counts, blank, **options)
    (gradient,) = torch.autograd.grad(expected, tensor)
    found = ours(torch_ops, tensor, *map(torch.tensor, (labels, frames, counts)), blank, **options)
    (slope,) = torch.autograd.grad(found, tensor)
    assert_close(found.detach().numpy(), expected.detach().numpy(), name="torch")
    assert_close(slope.numpy(), gradient.numpy(), name="torch's gradient")
    with jax.enable_x64(True):
        run = jax.jit(jax.value_and_grad(lambda logits, *rest: ours(jax_ops, logits, *rest, blank, **options)))
        value, slope = run(*map(jnp.asarray, (logits, labels, frames, counts)))
        assert_close(np.asarray(value), expected.detach().numpy(), name="jax")
        assert_close(np.asarray(slope), gradient.numpy(), name="jax's gradient")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_values_and_gradients_are_torchs(reduction: str) -> None:
    compare(LABELS, FRAME_COUNTS, LABEL_COUNTS, 0, reduction=reduction)


def test_the_blank_may_be_any_word() -> None:
    labels = np.where(LABELS == 3, 0, LABELS)
    compare(labels, FRAME_COUNTS, np.array([4, 3, 2, 4, 1, 0]), 3)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_cannot_be_said_counts_as_nothing_if_asked(reduction: str) -> None:
    """Repeats need a blank between them: rows 1 and 3 lack a frame."""
    compare(
        LABELS, FRAME_COUNTS - np.array([6, 1, 0, 2, 0, 0]), LABEL_COUNTS, 0, reduction=reduction, zero_infinity=True
    )


def test_what_cannot_be_said_is_infinite_and_has_no_gradient() -> None:
    labels, frames, counts = LABELS[1:2], np.array([4]), LABEL_COUNTS[1:2]
    logits = np.random.default_rng(0).normal(size=(1, T, V))
    assert torchs(torch.tensor(logits), labels, frames, counts, 0).item() == math.inf
    tensor = torch.tensor(logits, requires_grad=True)
    found = ours(torch_ops, tensor, *map(torch.tensor, (labels, frames, counts)), 0)
    assert found.item() == math.inf
    assert not torch.autograd.grad(found, tensor)[0].any()
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(lambda logits: ours(jax_ops, logits, labels, frames, counts, 0))(logits)
    assert float(value) == math.inf and not np.asarray(slope).any()


def test_no_frames_say_no_labels() -> None:
    arguments = (np.array([[1, 2], [1, 2]]), np.array([0, 3]), np.array([0, 2]))
    compare(*arguments, 0)


def test_the_probability_is_the_sum_over_all_ways() -> None:
    logits = np.random.default_rng(3).normal(size=(1, 4, 3))
    log_probabilities = torch.tensor(logits).log_softmax(-1)
    for text in [(), (1,), (1, 2), (2, 2), (1, 2, 1), (1, 1, 1)]:
        total = 0.0
        for way in itertools.product(range(3), repeat=4):
            if tuple(word for word, _ in itertools.groupby(way) if word) == text:
                total += math.exp(sum(log_probabilities[0, time, word].item() for time, word in enumerate(way)))
        labels = torch.tensor([[*text, *[0] * (3 - len(text))]])
        found = ctc.loss(torch_ops, log_probabilities, labels, torch.tensor([4]), torch.tensor([len(text)]), blank=0)
        assert found.item() == pytest.approx(-math.log(total) / max(len(text), 1) if total else math.inf, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_narrow_probabilities_are_summed_in_float32(dtype: str) -> None:
    logits = np.random.default_rng(0).normal(size=(B, T, V)).astype(np.float32)
    expected = torchs(torch.tensor(logits), LABELS, FRAME_COUNTS, LABEL_COUNTS, 0).item()
    tensor = torch.tensor(logits).log_softmax(-1).to(getattr(torch, dtype))
    found = ctc.loss(torch_ops, tensor, *map(torch.tensor, (LABELS, FRAME_COUNTS, LABEL_COUNTS)), blank=0)
    array = jax.nn.log_softmax(jnp.asarray(logits)).astype(dtype)
    twin = ctc.loss(jax_ops, array, *map(jnp.asarray, (LABELS, FRAME_COUNTS, LABEL_COUNTS)), blank=0)
    assert found.dtype == torch.float32 and twin.dtype == jnp.float32
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    assert found.item() == pytest.approx(expected, rel=tolerance)
    assert float(twin) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("ops", [jax_ops, torch_ops], ids=["jax", "torch"])
def test_labels_are_packed_to_the_left(ops: Any) -> None:
    labels = ops.xp.asarray([[5, -100, 7, 0, 8], [-100, -100, -100, -100, -100], [1, 2, 3, 4, 5]])
    found, counts = ctc.pack_labels(ops.xp, labels, ops.xp.logical_and(labels >= 0, labels != 0))
    assert np.asarray(counts).tolist() == [3, 0, 5]
    assert np.asarray(found)[0].tolist() == [5, 7, 8, -100, 0] and np.asarray(found)[2].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ops", [jax_ops, torch_ops], ids=["jax", "torch"])
def test_a_scan_goes_through_the_items_in_order(ops: Any) -> None:
    items = (ops.xp.asarray([1.0, 2.0, 3.0]), ops.xp.asarray([4, 5, 6]))
    carry = (ops.xp.asarray(0.0), ops.xp.asarray(1))
    total, digits = ops.scan(lambda held, item: (held[0] * 2 + item[0], held[1] * 10 + item[1]), carry, items)
    assert float(total) == 11.0 and int(digits) == 1456
