"""A JAX model is a pytree of the ecosystem it lives in: jit, grad, nnx, optax, shardings."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import diptych.backends.jax as dp
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.parity.tiny import CONFIGS, RATES, WHOLE, inputs

WHERE = ("name", list(CONFIGS))


def built(name: str, **build: Any) -> Any:
    return getattr(dp, name)(CONFIGS[name], **build)


@pytest.mark.parametrize("name", WHOLE)
def test_models_with_equal_configs_share_one_program(name: str, tmp_path: Path) -> None:
    traces: list[int] = []

    @jax.jit
    def run(model: Any, call: Any) -> Any:
        traces.append(1)
        return model(**call)[0]

    drawn = built(name, seed=1)
    drawn.save_pretrained(tmp_path / "here")
    built(name, seed=1).save_pretrained(tmp_path / "there")
    cls = getattr(dp, name)
    models = [drawn, built(name, seed=2), *(cls.from_pretrained(tmp_path / place) for place in ("here", "there"))]
    models.append(nnx.merge(*nnx.split(drawn)))
    models.append(cls.from_pretrained(tmp_path / "here").train().eval())
    results = [run(model, inputs(name)) for model in models]
    assert len(traces) == 1
    for index in (2, 3, 4, 5):
        assert np.array_equal(results[index], results[0])
    assert not np.array_equal(results[1], results[0])
    other = drawn.config.replace(output_hidden_states=True)
    models[1].config = other
    run(models[1], inputs(name))
    assert len(traces) == 2


@pytest.mark.parametrize("name", RATES)
def test_gradients_are_a_model_and_one_step_lowers_the_loss(name: str) -> None:
    call = {**inputs(name), **({"return_loss": True} if name == "CLIPModel" else {"labels": inputs(name)["input_ids"]})}
    optimizer = optax.sgd(RATES[name])

    def loss_of(model: Any) -> Any:
        return model(**call).loss

    @jax.jit
    def step(model: Any, state: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(model)
        updates, state = optimizer.update(gradients, state, model)
        return optax.apply_updates(model, updates), state, loss, gradients

    model = built(name)
    after, state, before, gradients = step(model, optimizer.init(model))
    assert type(gradients) is type(after) is type(model)
    assert gradients.config == model.config
    assert gradients._leaves().keys() == model._leaves().keys()
    assert step(after, state)[2] < before

    @nnx.jit
    def step_in_place(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(loss_of)(model))

    step_in_place(model, nnx.Optimizer(model, optimizer, wrt=nnx.Param))
    found = {path: source.read() for path, source in sources(model).items()}
    for path, source in sources(after).items():
        assert_close(found[path], source.read().astype(np.float64), kind="float32", largest=1e-2, name=path)


def sources(model: Any) -> dict[str, TensorSource]:
    return model._sources()


@pytest.mark.parametrize(*WHERE)
def test_split_and_merge_give_the_same_model(name: str) -> None:
    model = built(name).train()
    definition, state = nnx.split(model)
    merged = nnx.merge(definition, state)
    assert merged.training and merged.config is model.config
    assert jax.tree.all(jax.tree.map(np.array_equal, model, merged))
    assert jax.tree.structure(model) == jax.tree.structure(merged)
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert len(paths) == len(model._leaves())
    clone = nnx.clone(model)
    assert clone.training
    assert jax.tree.all(jax.tree.map(np.array_equal, model, clone))


def test_scans_and_maps_go_over_models() -> None:
    models = [built("BertModel", seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    ids = inputs("BertModel")["input_ids"]
    together = jax.jit(jax.vmap(lambda model: model(ids).pooler_output))(stacked)
    for index, model in enumerate(models):  # one by one, without jit
        assert_close(together[index], np.asarray(model(ids).pooler_output, np.float64), kind="float32")


def test_under_jit_an_id_out_of_range_gives_nan() -> None:
    model, ids = built("BertModel"), inputs("BertModel")["input_ids"]
    run = jax.jit(lambda model, ids: model(ids).last_hidden_state)
    assert np.isfinite(run(model, ids)).all()
    for strange in (23, -1, 2**31 - 1):
        ids[1, 2] = strange
        states = np.asarray(run(model, ids))
        assert np.isnan(states[1]).all() and np.isfinite(states[0]).all()
        with pytest.raises(InputError, match=rf"input_ids holds {strange}, but vocab_size allows 0 to 22"):
            model(ids)


def test_arrays_from_outside_of_a_trace_are_seen_in_it() -> None:
    """JAX traces what is done with them there, although their values are known."""
    model = built("BertForMaskedLM")
    ids, labels = jnp.array([[1, 2, 3]]), jnp.array([[4, -100, 5]])

    def loss(model: Any, ids: Any, labels: Any) -> Any:
        return jax.jit(jax.grad(lambda model: model(ids, labels=labels).loss))(model)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loss(model, ids, labels)))
    with pytest.raises(InputError, match="input_ids holds 999, but vocab_size allows 0 to 22"):
        loss(model, ids.at[0, 1].set(999), labels)
    with pytest.raises(InputError, match="labels holds 999, but the output allows 0 to 22"):
        loss(model, ids, labels.at[0, 1].set(999))


def test_values_go_where_sharding_says(tmp_path: Path) -> None:
    device = jax.devices()[0]
    single = jax.sharding.SingleDeviceSharding(device)
    asked: dict[str, tuple[int, ...]] = {}

    def by_path(path: str, shape: tuple[int, ...]) -> Any:
        asked[path] = shape
        return single if path.endswith("weight") else device

    built("BertModel").save_pretrained(tmp_path)
    plain = built("BertModel")
    for sharding in (device, single, by_path):
        for model in (built("BertModel", sharding=sharding), dp.BertModel.from_pretrained(tmp_path, sharding=sharding)):
            assert jax.tree.all(jax.tree.map(np.array_equal, model, plain))
            assert all(leaf.committed and leaf.devices() == {device} for leaf in jax.tree.leaves(model))
    assert set(asked) == {slot.path for slot in plain._leaves()}
    assert asked["encoder.layer.0.intermediate.dense.weight"] == (12, 17)  # as JAX stores it
    known = "add_pooling_layer, seed, dtype, gradient_checkpointing, compute_dtype, sharding"
    with pytest.raises(TypeError, match=f"BertModel has no keyword device; it has {known}"):
        dp.BertModel(CONFIGS["BertModel"], device=device)


def test_float64_needs_x64() -> None:
    for dtype in ("float64", np.float64, jnp.float64):
        with pytest.raises(InputError, match=r"dtype='float64' needs 64-bit mode.*jax\.enable_x64"):
            built("BertModel", dtype=dtype)
    with jax.enable_x64(True):
        assert built("BertModel", dtype="float64").dtype.name == "float64"
