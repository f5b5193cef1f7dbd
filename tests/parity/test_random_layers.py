"""Layers that draw in train mode: stochastic depth, and what a layer that is called twice in a forward pass draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import diptych.backends.jax
from diptych.backends.jax import layers as jax_layers
from diptych.backends.jax import ops as jax_ops
from diptych.backends.jax import stacks as jax_stacks
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import ops as torch_ops
from diptych.backends.torch import stacks as torch_stacks
from diptych.core.errors import InputError
from tests.parity.tiny import CONFIGS

ONES = jnp.ones((8, 16))
RANDOM = {
    "dropout": lambda layer, key: layer(ONES, key),
    "layerdrop": lambda layer, key: layer(jnp.zeros((4, 2)), jnp.ones((4, 2)), key),
    "stochastic depth": lambda layer, key: layer(ONES, key),
}
LAYERS = {
    "dropout": jax_layers.Dropout,
    "layerdrop": jax_layers.LayerDrop,
    "stochastic depth": jax_layers.StochasticDepth,
}


class Twice(nnx.Module):
    """A model with one Dropout that serves twice in each layer, and one layer that serves twice."""

    def __init__(self, checkpoint: bool = False, rate: float = 0.5) -> None:
        self.dropout, self.checkpoint = jax_layers.Dropout(rate), checkpoint

    def layer(self, states: Any, rngs: Any) -> Any:
        return self.dropout(jnp.sin(self.dropout(states, rngs) + 1.0), rngs) * 2.0

    def __call__(self, states: Any, rngs: Any = None) -> Any:
        key = jax_ops.forward_key(rngs)
        layer = jax.checkpoint(lambda states, key: self.layer(states, key)) if self.checkpoint else self.layer
        states = layer(states, key)
        layer = jax_stacks.with_checkpointing(self.layer, self.checkpoint)
        return layer(states, key)


def masks_of(model: Twice, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The masks of a call, in order."""
    found: list[np.ndarray] = []
    call = jax_layers.Dropout.__call__

    def recorded(self: Any, values: Any, rngs: Any = None) -> Any:
        mask = call(self, jnp.ones_like(values), rngs)
        found.append(np.asarray(mask == 0))
        return values * mask

    with monkeypatch.context() as patch:
        patch.setattr(jax_layers.Dropout, "__call__", recorded)
        model(ONES, jax.random.key(0))
    return found


def test_a_layer_that_is_called_again_draws_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Twice()
    model.train()
    masks = masks_of(model, monkeypatch)
    assert len(masks) == 4
    for first in range(4):
        for second in range(first):
            assert 0.3 < np.mean(masks[first] == masks[second]) < 0.7
    # the next pass with the same key has the same masks
    for left, right in zip(masks, masks_of(model, monkeypatch), strict=True):
        assert np.array_equal(left, right)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_jit_eager_gradients_and_checkpoints_agree(checkpoint: bool) -> None:
    """Not only the values: the gradient is zero where the masks of the forward pass are, computed again or not."""
    plain, model = Twice(), Twice(checkpoint)
    plain.train()
    model.train()
    key = jax.random.key(3)
    expected, pull = jax.vjp(lambda states: plain(states, key), ONES)
    (slope,) = pull(ONES)
    ways: dict[str, Callable[..., Any]] = {
        "eager": lambda states: model(states, key),
        "jit": jax.jit(lambda states: model(states, key)),
        "again": lambda states: model(states, key),
    }
    for name, way in ways.items():
        found, pull = jax.vjp(way, ONES)
        assert np.allclose(found, expected, rtol=1e-6), name
        assert np.allclose(pull(ONES)[0], slope, rtol=1e-6), name
    compiled = jax.jit(jax.grad(lambda states, key: model(states, key).sum()))
    assert np.allclose(compiled(ONES, key), slope, rtol=1e-6)
    assert not np.allclose(compiled(ONES, jax.random.key(4)), slope)


def test_a_pass_in_a_pass_goes_on_with_its_counts() -> None:
    key = jax_ops.forward_key(jax.random.key(0))
    assert jax_ops.forward_key(key) is key and jax_ops.forward_key(None) is None
    copy = jax.tree_util.tree_map(lambda array: array, key)
    own = [np.asarray(jax.random.key_data(one.draw(7))).tolist() for one in (key, copy, key, copy)]
    assert len({tuple(words) for words in own}) == 4
    fresh = jax_ops.forward_key(jax.random.key(0))
    assert np.asarray(jax.random.key_data(fresh.draw(7))).tolist() == own[0]
    assert torch_ops.forward_key(None) is None


@pytest.mark.parametrize("name", RANDOM)
def test_the_first_draw_is_the_bare_keys(name: str) -> None:
    """And with a bare key, a layer has the same mask in every call."""
    layer, run = LAYERS[name](0.5), RANDOM[name]
    layer.train()
    bare = jax.random.key(11)
    key = jax_ops.forward_key(bare)
    first, draws = run(layer, bare), [run(layer, key) for _ in range(8)]
    assert np.array_equal(first, run(layer, bare)) and np.array_equal(first, draws[0])
    assert any(not np.array_equal(first, again) for again in draws[1:])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_stochastic_depth_drops_whole_rows_at_its_rate(backend: str) -> None:
    rate, rows = 0.3, 4000
    values = np.arange(1, 1 + rows * 6, dtype=np.float32).reshape(rows, 3, 2)
    if backend == "jax":
        layer, branch = jax_layers.StochasticDepth(rate), jnp.asarray(values)
        assert layer(branch) is branch
        layer.train()
        found = np.asarray(layer(branch, jax.random.key(0)))
        with pytest.raises(InputError, match=r"^drop_path_rate=0\.3 in train mode needs a key: "):
            layer(branch)
    else:
        layer, branch = torch_layers.StochasticDepth(rate).eval(), torch.tensor(values)
        assert layer(branch) is branch
        found = layer.train()(branch).numpy()
    dropped = (found == 0).all(axis=(1, 2))
    assert abs(np.mean(dropped) - rate) < 6 * (rate * (1 - rate) / rows) ** 0.5
    assert np.allclose(found[~dropped], values[~dropped] / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_stochastic_depth_at_its_ends(rate: float) -> None:
    layer, twin = torch_layers.StochasticDepth(rate).train(), jax_layers.StochasticDepth(rate)
    twin.train()
    branch = torch.full((3, 2), torch.inf)
    expected = branch if rate == 0.0 else torch.zeros(3, 2)
    assert torch.equal(layer(branch), expected)
    assert np.array_equal(np.asarray(twin(jnp.asarray(branch.numpy()), jax.random.key(0))), expected.numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dropped_branch_keeps_its_dtype(dtype: str) -> None:
    twin = jax_layers.StochasticDepth(0.5)
    twin.train()
    assert twin(jnp.ones((4, 2), dtype), jax.random.key(0)).dtype == jnp.dtype(dtype)
    layer = torch_layers.StochasticDepth(0.5).train()
    assert layer(torch.ones(4, 2, dtype=getattr(torch, dtype))).dtype == getattr(torch, dtype)


def test_torch_recomputes_the_same_rows_under_a_checkpoint() -> None:
    layer, values = torch_layers.StochasticDepth(0.5).train(), torch.ones(64, 3, requires_grad=True)
    found = torch_stacks.with_checkpointing(lambda states: layer(states).sin(), True)(values)
    (slope,) = torch.autograd.grad(found.sum(), values)
    assert torch.equal(slope == 0, found == 0)


def test_every_layer_that_draws_has_a_salt_of_its_own() -> None:
    model: Any = diptych.backends.jax.BertModel(CONFIGS["BertModel"])
    model.branch, model.other = jax_layers.StochasticDepth(0.5), jax_layers.StochasticDepth(0.5)
    model._finish({"seed": None})
    drawing = [module for _, module in nnx.iter_modules(model) if isinstance(module, jax_layers.RandomLayer)]
    assert len({layer.salt for layer in drawing}) == len(drawing) and model.branch in drawing
