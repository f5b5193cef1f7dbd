"""Every model in float64: transformers against ours in torch, ours in torch against ours in JAX.

All outputs and the gradient of every parameter, over drawn sizes, options and inputs.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diptych.core.registry import architectures
from tests.assertions import assert_close
from tests.family import Case, families
from tests.parity.cases import CHOICES, cases
from tests.parity.sides import Arrays, Jax, Oracle, Torch, random_weights


def assert_equal_outputs(found: Arrays, expected: Arrays, case: Case | None = None) -> None:
    """The same fields in the same order with the same values, where the case says that they are defined."""
    assert list(found) == list(expected)
    for path, value in expected.items():
        defined = np.ones(value.shape, bool) if case is None else case.defined(path, value.shape)
        assert found[path].shape == value.shape, path
        assert np.isfinite(found[path]).all(), path
        assert_close(found[path][defined], value[defined], name=path)


def assert_equal_gradients(found: Arrays, expected: Arrays) -> None:
    """The same parameters with the same gradients."""
    assert sorted(found) == sorted(expected)
    largest = max(np.abs(value).max(initial=0.0) for value in expected.values())
    assert largest > 0.0
    for path, value in expected.items():
        assert_close(found[path], value, largest=largest, name=f"gradient of {path}")


def masked(weights: Mapping[str, np.ndarray], case: Case) -> Arrays:
    """The weights with zeros where the oracle is not defined."""
    return {path: np.where(case.defined(path, weight.shape), weight, 0.0) for path, weight in weights.items()}


def compare(case: Case, directory: Path) -> None:
    """All three sides of a case."""
    theirs = Oracle(case.name, case.config, **case.keywords)
    ours = Torch(case.name, theirs.saved(directory), **case.keywords)

    inputs = {**case.inputs, "output_hidden_states": True}
    weights = random_weights(ours.outputs(inputs))
    expected = theirs.run(inputs, masked(weights, case))
    found = ours.run(inputs, masked(weights, case))
    assert_equal_outputs(found[0], expected[0], case)
    assert_equal_gradients(found[1], expected[1])

    inputs["output_attentions"] = True
    weights = random_weights(ours.outputs(inputs))
    exact = theirs.run(inputs, masked(weights, case), exact=True)
    assert_equal_outputs({path: exact[0][path] for path in expected[0]}, expected[0], case)
    found = ours.run(inputs, masked(weights, case))
    assert_equal_outputs(found[0], exact[0], case)
    assert_equal_gradients(found[1], exact[1])

    # Between our backends nothing is undefined.
    found = ours.run(inputs, weights)
    with jax.enable_x64(True):
        outputs, gradients = Jax(case.name, directory, **case.keywords).run(inputs, weights)
    assert_equal_outputs(outputs, found[0])
    assert_equal_gradients(gradients, found[1])


def test_every_architecture_is_compared() -> None:
    assert sorted(name for family in families().values() for name in family.classes) == sorted(architectures())


@pytest.mark.parametrize(
    ("name", "choices"),
    CHOICES,
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{name}={value[name]}" for name in value),
)
@given(data=st.data())
@settings(
    max_examples=settings().max_examples // 50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller case of what fails would take minutes to find
)
def test_all_sides_agree(name: str, choices: dict[str, Any], data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        compare(data.draw(cases(name, **choices)), Path(directory))
