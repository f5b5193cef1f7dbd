"""A JAX model computes with the leaves that it has: cast, fetched to the host, or behind a wrapper."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import diptych.backends.jax as dp
from diptych.backends.jax import layers
from tests.assertions import assert_close
from tests.parity.tiny import CONFIGS, inputs


def built(name: str, **build: Any) -> Any:
    return getattr(dp, name)(CONFIGS[name], **build)


def call(model: Any, given: Any) -> Any:
    return model(**given)


def cast(tree: Any) -> Any:
    """What `jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)` makes of leaves without values."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cast_model_computes_what_one_of_that_dtype_computes(name: str) -> None:
    for build in ({}, {"compute_dtype": "float32"}):
        native = built(name, seed=None, dtype="bfloat16", **build)
        program = str(jax.make_jaxpr(call)(native, inputs(name)))
        assert str(jax.make_jaxpr(call)(cast(built(name, seed=None, **build)), inputs(name))) == program


@pytest.mark.parametrize(
    "layer",
    [
        layers.Linear(4, 6),
        layers.LinearInOut(4, 6),
        layers.LayerNorm(4, 1e-5),
        layers.GroupNorm(2, 4, 1e-5),
        layers.RMSNorm(4, 1e-5),
        layers.BatchNorm(4, 1e-5),
        layers.Conv1d(4, 6, 3),
        layers.WeightNormConv1d(4, 6, 3),
        layers.Conv2d(4, 6, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_cast_layer_computes_in_its_dtype(layer: Any) -> None:
    shape = (2, 5, 5, 4) if isinstance(layer, layers.Conv2d) else (2, 5, 4)
    states = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    assert jax.eval_shape(lambda layer, states: layer(states), cast(layer), states).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", CONFIGS)
def test_leaves_may_be_numpy_arrays(name: str) -> None:
    model, given = built(name), inputs(name)
    on_host = jax.device_get(model)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(on_host))
    found, expected = (jax.eval_shape(call, of, given) for of in (model, on_host))
    assert found == expected
    assert jax.eval_shape(lambda given: call(on_host, given), given) == expected  # not traced, but seen as they are


def test_numpy_leaves_give_the_same_numbers() -> None:
    model, given = built("BertForMaskedLM"), inputs("BertForMaskedLM")
    assert np.array_equal(jax.device_get(model)(**given).logits, model(**given).logits)


class LowRank(nnx.Module):
    """An embedding and a low-rank addition to its table, as LoRA makes it."""

    def __init__(self, base: Any, size: int, width: int) -> None:
        random = np.random.default_rng(3)
        self.base_layer = base
        self.lora_a = nnx.Param(jnp.asarray(random.standard_normal((size, 2)), jnp.float32))
        self.lora_b = nnx.Param(jnp.asarray(random.standard_normal((2, width)), jnp.float32))

    def __call__(self, ids: Any) -> Array:
        return self.base_layer(ids) + self.lora_a[...][ids] @ self.lora_b[...]


WRAPPED = {
    "GPT2LMHeadModel": ("transformer", "wte"),
    "BertForMaskedLM": ("bert", "embeddings", "word_embeddings"),
    "BartForConditionalGeneration": ("model", "shared"),
    "BartForCausalLM": ("model", "decoder", "embed_tokens"),
    "CLIPVisionModel": ("vision_model", "embeddings", "position_embedding"),
}
"""Class -> the path of a table that is read in another way than by looking ids up."""


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_table_is_the_wrapper_s_everywhere(name: str) -> None:
    adapted, merged, given = built(name), built(name), inputs(name)
    *path, last = WRAPPED[name]
    owner, table = adapted, merged
    for part in path:
        owner, table = getattr(owner, part), getattr(table, part)
    table = getattr(table, last).embedding
    wrapper = LowRank(getattr(owner, last), *table.shape)
    setattr(owner, last, wrapper)
    table[...] = table[...] + wrapper.lora_a[...] @ wrapper.lora_b[...]
    found, expected = (jax.jit(call)(model, given) for model in (adapted, merged))
    for field in ("logits", "last_hidden_state"):
        if field in expected:
            assert_close(found[field], np.asarray(expected[field], np.float64), kind="float32", name=field)
