"""`ops.attention` in both backends against a direct computation in float64: values, probabilities and gradients."""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diptych.backends.jax import layers as jax_layers
from diptych.backends.jax import ops as jax_ops
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import ops as torch_ops
from tests.assertions import assert_close

B, K, N, M, T, S, H = 4, 2, 6, 3, 5, 7, 3

BIASES = {
    "no bias": None,
    "bias": (B, N, T, S),
    "bias of heads": (1, N, 1, S),
    "bias of rows": (B, 1, T, S),
    "bias of places": (1, 1, T, S),
}


@dataclass(frozen=True)
class Case:
    bias: tuple[int, ...] | None
    rows: int
    heads: int
    seen: str


CASES = {
    f"{bias}, {rows} rows of keys, {heads} heads, {seen}": Case(BIASES[bias], rows, heads, seen)
    for bias, (rows, heads), seen in itertools.product(
        BIASES, [(B, N), (B, M), (K, N), (K, 1)], ["all", "mask", "padding", "causal"]
    )
}

COMPILED = [case for index, case in enumerate(CASES.values()) if index % 4 == (index // 4 + index // 16) % 4]
"""The cases that JAX runs too: each pair of a kind of bias, keys and mask, but not each triple."""


def drawn(case: Case) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    random = np.random.default_rng(0)
    shapes = {
        "query": (B, N, T, H),
        "key": (case.rows, case.heads, S, H),
        "value": (case.rows, case.heads, S, H),
    }
    arrays = {name: random.normal(size=shape) for name, shape in shapes.items()}
    if case.bias is not None:
        arrays["bias"] = random.normal(size=case.bias)
    mask = None
    if case.seen in ("mask", "padding"):
        mask = random.random((case.rows, 1, T if case.seen == "mask" else 1, S)) < 0.6
        mask[0, :, -1] = False  # a query that sees no key
    return arrays, mask


def direct(case: Case, query: Any, key: Any, value: Any, bias: Any, mask: Any) -> tuple[Any, Any]:
    """Row by row and head by head."""
    rows: list[Any] = []
    probabilities: list[Any] = []
    for row, head in itertools.product(range(B), range(N)):
        from_row, from_head = row // (B // case.rows), head // (N // case.heads)
        scores = query[row, head] @ key[from_row, from_head].mT / H**0.5
        if bias is not None:
            scores = scores + bias.expand(B, N, T, S)[row, head]
        seen = torch.ones(T, S, dtype=torch.bool)
        if mask is not None:
            seen = torch.tensor(mask).expand(case.rows, 1, T, S)[from_row, 0]
        elif case.seen == "causal":
            seen = seen.tril()
        raised = torch.where(seen, (scores - scores.max()).exp(), 0.0)
        sums = raised.sum(-1, keepdim=True)
        probabilities.append(raised / torch.where(sums == 0, 1.0, sums))
        rows.append(probabilities[-1] @ value[from_row, from_head])
    states = torch.stack(rows).unflatten(0, (B, N)).transpose(1, 2).flatten(2)
    return states, torch.stack(probabilities).unflatten(0, (B, N))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_attention_is_the_direct_computation(case: Case) -> None:
    arrays, mask = drawn(case)
    weights = np.random.default_rng(1).normal(size=(B, T, N * H))

    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    states, probabilities = direct(case, *(tensors.get(name) for name in ("query", "key", "value", "bias")), mask)
    gradients = torch.autograd.grad((states * torch.tensor(weights)).sum(), list(tensors.values()))
    causal = case.seen == "causal"

    for returned, upcast in ((False, False), (True, False), (False, True)):
        found, own = torch_ops.attention(
            tensors["query"],
            tensors["key"],
            tensors["value"],
            None if mask is None else torch.tensor(mask),
            bias=tensors.get("bias"),
            causal=causal,
            dropout=torch_layers.Dropout(0.0),
            weights=returned,
            upcast=upcast,
        )
        assert_close(found.detach().numpy(), states.detach().numpy(), name="torch")
        if returned:
            assert own is not None
            assert_close(own.detach().numpy(), probabilities.detach().numpy(), name="torch's probabilities")
        slopes = torch.autograd.grad((found * torch.tensor(weights)).sum(), list(tensors.values()))
        for name, left, right in zip(tensors, slopes, gradients, strict=True):
            assert_close(left.numpy(), right.numpy(), name=f"torch, {name}")

    if case not in COMPILED:
        return

    def objective(arrays: dict[str, Any]) -> Any:
        found = jax_ops.attention(
            arrays["query"],
            arrays["key"],
            arrays["value"],
            None if mask is None else jnp.asarray(mask),
            bias=arrays.get("bias"),
            causal=causal,
            dropout=jax_layers.Dropout(0.0),
            weights=True,
        )
        return jnp.sum(found[0] * weights), found

    with jax.enable_x64(True):
        run = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (_, (found, own)), slopes = run({name: jnp.asarray(array) for name, array in arrays.items()})
    assert_close(np.asarray(found), states.detach().numpy(), name="jax")
    assert_close(np.asarray(own), probabilities.detach().numpy(), name="jax's probabilities")
    for name, gradient in zip(arrays, gradients, strict=True):
        assert_close(np.asarray(slopes[name]), gradient.numpy(), name=f"jax, {name}")


FAST = [case for case in CASES if CASES[case].rows == B]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kernel", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], ids=["flash", "math"])
def test_both_kernels_of_torch_give_the_same(name: str, kernel: SDPBackend) -> None:
    """Which one torch takes depends on whether the bias needs a gradient, on dtypes and on its version."""
    case = CASES[name]
    arrays, mask = drawn(case)
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    states, _ = direct(case, *(tensors.get(key) for key in ("query", "key", "value", "bias")), mask)
    with torch.no_grad(), sdpa_kernel(kernel):
        found, _ = torch_ops.attention(
            tensors["query"],
            tensors["key"],
            tensors["value"],
            None if mask is None else torch.tensor(mask),
            bias=tensors.get("bias"),
            causal=case.seen == "causal",
            dropout=torch_layers.Dropout(0.0),
        )
    assert_close(found.numpy(), states.numpy())


@pytest.mark.parametrize("returned", [False, True])
def test_a_wide_bias_serves_narrow_states(returned: bool) -> None:
    arrays, mask = drawn(Case((B, N, T, S), B, M, "mask"))
    assert mask is not None
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    narrow = {name: tensor.bfloat16() for name, tensor in tensors.items() if name != "bias"}
    options = {"dropout": torch_layers.Dropout(0.0), "weights": returned}
    wide, _ = torch_ops.attention(
        tensors["query"], tensors["key"], tensors["value"], torch.tensor(mask), bias=tensors["bias"], **options
    )
    found, _ = torch_ops.attention(**narrow, mask=torch.tensor(mask), bias=tensors["bias"], **options)
    assert found.dtype == torch.bfloat16 and (found.float() - wide).abs().max() < 0.05
    twin, _ = jax_ops.attention(
        **{name: jnp.asarray(arrays[name], jnp.bfloat16) for name in narrow},
        mask=jnp.asarray(mask),
        bias=jnp.asarray(arrays["bias"], jnp.float32),
        dropout=jax_layers.Dropout(0.0),
        weights=returned,
    )
    assert twin.dtype == jnp.bfloat16 and np.abs(np.asarray(twin, np.float32) - wide.numpy()).max() < 0.05


def test_a_batch_may_be_empty() -> None:
    shapes, options = ((0, N, T, H), (0, M, S, H), (0, M, S, H)), {"weights": True}
    found, _ = torch_ops.attention(*(torch.zeros(s) for s in shapes), dropout=torch_layers.Dropout(0.0), **options)
    twin, _ = jax_ops.attention(*(jnp.zeros(s) for s in shapes), dropout=jax_layers.Dropout(0.0), **options)
    assert found.shape == twin.shape == (0, T, N * H)
