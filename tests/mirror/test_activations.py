"""One vocabulary of activations, the same functions behind it on all sides."""

from typing import get_args

import jax
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

import diptych.backends.jax.ops
import diptych.backends.torch.ops
from diptych.core.config import Activation
from tests.assertions import assert_close

POINTS = np.concatenate([np.linspace(-12.0, 12.0, 241), [-1e-8, 0.0, 1e-8, 5.9999, 6.0001]])


def test_the_tables_have_exactly_the_names_of_the_config() -> None:
    assert set(diptych.backends.jax.ops.ACTIVATIONS) == set(get_args(Activation))
    assert set(diptych.backends.torch.ops.ACTIVATIONS) == set(get_args(Activation))


@pytest.mark.parametrize("name", get_args(Activation))
def test_values_and_slopes_are_those_of_transformers(name: str) -> None:
    expected_at = torch.tensor(POINTS, requires_grad=True)
    expected = ACT2FN[name](expected_at)
    expected.sum().backward()
    points = torch.tensor(POINTS, requires_grad=True)
    found = diptych.backends.torch.ops.ACTIVATIONS[name](points)
    found.sum().backward()
    assert_close(found.detach(), expected.detach(), name=name)
    assert_close(points.grad, expected_at.grad, name=f"slope of {name}")
    with jax.enable_x64(True):
        function = diptych.backends.jax.ops.ACTIVATIONS[name]
        assert_close(function(jax.numpy.asarray(POINTS)), expected.detach(), name=name)
        smooth = POINTS[POINTS != 0.0]  # at a kink the frameworks choose different slopes
        slopes = jax.vmap(jax.grad(function))(jax.numpy.asarray(smooth))
        assert_close(slopes, expected_at.grad[torch.tensor(POINTS != 0.0)], name=f"slope of {name}")
