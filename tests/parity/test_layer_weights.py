"""The first values of the layers that sound and images need: the same bits in both backends, by every distribution."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import diptych.backends.jax
import diptych.backends.torch
from diptych.backends.jax import layers as jax_layers
from diptych.backends.torch import layers as torch_layers
from diptych.core import pretrained, random
from diptych.core.checkpoint.slots import Slot
from diptych.core.random import Constant, Distribution, NormOf, TruncatedNormal, Uniform
from tests.parity.tiny import CONFIGS

BACKENDS = {"jax": (diptych.backends.jax, jax_layers), "torch": (diptych.backends.torch, torch_layers)}
CONFIG = CONFIGS["BertModel"]


def initial(config: Any, slot: Slot) -> Distribution:
    """As a family of sound would say it."""
    leaf = slot.path.split(".")[-1]
    if leaf == "weight_g":
        return NormOf("weight_v", (0, 1))
    if leaf == "weight_v":
        return random.uniform_for_bias(random.fan_in(slot.shape))
    if slot.kind == "conv":
        return random.kaiming_normal(slot.shape)
    if slot.kind == "norm" or leaf == "running_var":
        return Constant(1.0)
    if slot.kind in ("plain", "buffer"):
        return Uniform(0.0, 1.0) if slot.path == "conv.bias" else Constant(0.0)
    return TruncatedNormal(config.initializer_range)


def built(backend: str, **build: Any) -> Any:
    """A BERT with layers that it does not have."""
    models, layers = BACKENDS[backend]
    model = models.BertModel(CONFIG, seed=None, **build)
    init = {"dtype": model.dtype}
    model.conv = layers.Conv1d(6, 9, 5, groups=3, **init)
    model.positions = layers.WeightNormConv1d(6, 8, 5, groups=2, **init)
    model.image = layers.Conv2d(3, 4, (2, 5), **init)
    model.group_norm, model.batch_norm = layers.GroupNorm(2, 6, 1e-5, **init), layers.BatchNorm(6, 1e-5, **init)
    model.rms_norm = layers.RMSNorm(6, 1e-5, **init)
    return model


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    describe_class = pretrained.describe_class

    def patched(cls: type) -> Any:
        name, family, config_class = describe_class(cls)
        return name, dataclasses.replace(family, initial=initial), config_class

    monkeypatch.setattr(pretrained, "describe_class", patched)


def values_of(model: Any) -> dict[str, np.ndarray]:
    return {path: source.read() for path, source in model._sources().items()}


@pytest.mark.usefixtures("family")
def test_a_seed_gives_the_same_bits_in_both_backends() -> None:
    found = {}
    for backend in BACKENDS:
        model = built(backend)
        model._draw(model._leaves(), 7, None)
        found[backend] = values_of(model)
    assert found["jax"].keys() == found["torch"].keys()
    for path, values in found["jax"].items():
        assert values.dtype == np.float32
        assert values.tobytes() == found["torch"][path].tobytes(), path
    own = found["torch"]
    directions, norms = own["positions.weight_v"], own["positions.weight_g"]
    assert np.abs(directions).max() <= 1 / math.sqrt(15)
    np.testing.assert_allclose(norms[0, 0], np.linalg.norm(directions.reshape(24, 5), axis=0), rtol=1e-6)
    assert 0.5 < own["conv.weight"].std() / math.sqrt(2 / 10) < 1.5
    assert (own["batch_norm.running_var"] == 1).all() and not own["batch_norm.running_mean"].any()
    assert 0 < own["conv.bias"].min() < own["conv.bias"].max() < 1


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_is_that_of_the_values_that_were_loaded(backend: str) -> None:
    """A file may lack weight_g alone: it then follows the file's weight_v, not the one that a seed would give."""
    model = built(backend)
    leaves = model._leaves()
    model._draw(leaves, 7, None)
    loaded = values_of(model)
    slot = next(slot for slot in leaves if slot.path == "positions.weight_g")
    model._draw({slot: model._leaves()[slot]}, 0, None)
    assert np.array_equal(values_of(model)["positions.weight_g"], loaded["positions.weight_g"])


@pytest.mark.usefixtures("family")
def test_narrower_norms_are_the_rounded_float32_ones() -> None:
    wide = built("torch")
    wide._draw(wide._leaves(), 7, None)
    for backend in BACKENDS:
        narrow = built(backend, dtype="bfloat16")
        narrow._draw(narrow._leaves(), 7, None)
        for path, values in values_of(narrow).items():
            assert values.dtype.name == "bfloat16"
            assert np.array_equal(values, values_of(wide)[path].astype(values.dtype)), (backend, path)
