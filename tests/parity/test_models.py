"""Every model in float64: transformers against ours in torch, ours in torch against ours in JAX.

All outputs and the gradient of every parameter, over drawn sizes, options and inputs.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from diptych.core.registry import architectures
from tests.assertions import assert_close
from tests.family import Case, Choices, families, family_of
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


def compare_in_torch(case: Case, directory: Path) -> None:
    """transformers' model of a case against ours."""
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


def compare_in_both(case: Case, directory: Path) -> None:
    """Our two models of a case, between which nothing is undefined."""
    Oracle(case.name, case.config, **case.keywords).saved(directory)
    ours = Torch(case.name, directory, **case.keywords)
    inputs = {**case.inputs, "output_hidden_states": True, "output_attentions": True}
    weights = random_weights(ours.outputs(inputs))
    expected = ours.run(inputs, weights)
    with jax.enable_x64(True):
        outputs, gradients = Jax(case.name, directory, **case.keywords).run(inputs, weights)
    assert_equal_outputs(outputs, expected[0])
    assert_equal_gradients(gradients, expected[1])


def test_every_architecture_is_compared() -> None:
    assert sorted(name for family in families().values() for name in family.classes) == sorted(architectures())


def twin_again(name: str, choices: Choices) -> bool:
    """Whether the code of a class and its choices is compared already: of a twin, one class is enough."""
    twins = {family.model_type for family in families().values() if family.twin}
    return (family_of(name).twin and not name.endswith("ForCausalLM")) or not twins.isdisjoint(
        {choices.get("encoder"), choices.get("decoder")}
    )


def one_for_each_choice() -> list[tuple[str, Choices]]:
    """Every class and, in its family, every choice once, but for twins; masks and kinds of labels once in all families.

    XLA compiles for each, and the test against transformers makes all combinations.
    """
    found, seen, composites = [], set[object](), dict[str, int]()
    # encoder-decoders are the largest programs, so that the others come first
    for name, choices in sorted(CHOICES, key=lambda choice: family_of(choice[0]).encoder_decoder):
        if twin_again(name, choices):
            continue
        if "decoder" in choices:  # all parts are compared alone, and in torch in composites
            composites[name] = composites.get(name, 0) + 1
            if composites[name] > 3:
                continue
        family = family_of(name).model_type
        anywhere = ("padding", "encoder_padding", "problem_type")
        new = {("" if key in anywhere else family, key, str(value)) for key, value in choices.items()} | {name}
        if not new <= seen:
            found.append((name, choices))
        seen |= new
    return found


def each(choices: list[tuple[str, Choices]]) -> pytest.MarkDecorator:
    """A test for every class with the choices that are made for it."""
    return pytest.mark.parametrize(
        ("name", "choices"),
        choices,
        ids=lambda value: value if isinstance(value, str) else "-".join(f"{name}={value[name]}" for name in value),
    )


def few(share: int) -> settings:
    """The settings of a test that takes this part of the usual number of cases."""
    return settings(
        max_examples=max(1, settings().max_examples // share),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller case of what fails would take minutes to find
    )


@each(CHOICES)
@given(data=st.data())
@few(33)
def test_torch_agrees_with_transformers(name: str, choices: Choices, data: st.DataObject) -> None:
    with TemporaryDirectory() as directory:
        compare_in_torch(data.draw(cases(name, **choices)), Path(directory))


@each(one_for_each_choice())
@given(data=st.data())
@few(100)  # XLA compiles for most of the time
def test_jax_agrees_with_torch(name: str, choices: Choices, data: st.DataObject) -> None:
    # the simplest case comes first, which has one head and no padding: the next one shows more
    assume(data.draw(st.integers(0, 999)))
    with TemporaryDirectory() as directory:
        compare_in_both(data.draw(cases(name, **choices)), Path(directory))
