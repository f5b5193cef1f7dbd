"""Calls of the three sides: transformers, ours in torch, ours in JAX; numpy in, numpy out.

A case is called twice in torch: once for what every call returns, on the path that attention takes then, and once for
the attention probabilities too. The scalar whose gradient is taken weighs every entry of every output at random.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

import diptych.backends.jax
import diptych.backends.torch
from tests.parity import oracle

Arrays = dict[str, np.ndarray]


def leaves(output: Any, prefix: str = "") -> dict[str, Any]:
    """The arrays of a record, tuple or array by path, in order."""
    if isinstance(output, tuple):
        pairs = [(str(index), value) for index, value in enumerate(output)]
    elif hasattr(output, "to_tuple"):
        pairs = list(output.items())
    else:
        return {prefix: output}
    return {
        path: leaf
        for name, value in pairs
        for path, leaf in leaves(value, f"{prefix}.{name}" if prefix else name).items()
    }


def random_weights(outputs: Mapping[str, np.ndarray]) -> Arrays:
    """A weight for every entry of every output."""
    random = np.random.default_rng(5)
    return {path: random.standard_normal(value.shape) for path, value in outputs.items()}


def _scalar(outputs: dict[str, Any], weights: Mapping[str, Any]) -> Any:
    return sum((outputs[path] * weight).sum() for path, weight in weights.items())


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}


def _torch_run(model: torch.nn.Module, inputs: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None) -> Arrays:
    """The outputs; the gradients are left in the parameters."""
    model.zero_grad()
    outputs = leaves(model(**_tensors(inputs)))
    if weights is not None:
        _scalar(outputs, _tensors(weights)).backward()
    return {path: value.detach().numpy() for path, value in outputs.items()}


class Oracle:
    """transformers' model of a case."""

    def __init__(self, name: str, config: Any, **keywords: Any) -> None:
        self.model = oracle.built(name, config, **keywords)

    def outputs(self, inputs: Mapping[str, Any], *, exact: bool = False) -> Arrays:
        return self.run(inputs, None, exact=exact)[0]

    def run(
        self, inputs: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None, *, exact: bool = False
    ) -> tuple[Arrays, Arrays]:
        self.model.set_attn_implementation(oracle.EXACT if exact else "sdpa")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Version v4.12.0 introduces a better way to train encoder-decoder models")
            outputs = _torch_run(self.model, inputs, weights)
        return outputs, oracle.gradients(self.model)

    def saved(self, directory: Path) -> Path:
        return oracle.saved(self.model, directory)


class Torch:
    """Our torch model of a checkpoint."""

    def __init__(self, name: str, directory: Path, **keywords: Any) -> None:
        self.model = getattr(diptych.backends.torch, name).from_pretrained(directory, **keywords)

    def outputs(self, inputs: Mapping[str, Any]) -> Arrays:
        return self.run(inputs, None)[0]

    def run(self, inputs: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None) -> tuple[Arrays, Arrays]:
        outputs = _torch_run(self.model, inputs, weights)
        return outputs, {
            name: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
            for name, parameter in self.model.named_parameters()
        }


class Jax:
    """Our JAX model of a checkpoint; enter x64 first. One call's programs serve all inputs of its shapes."""

    def __init__(self, name: str, directory: Path, **keywords: Any) -> None:
        self.model = getattr(diptych.backends.jax, name).from_pretrained(directory, **keywords)
        self._programs: dict[Any, Any] = {}

    def outputs(self, inputs: Mapping[str, Any]) -> Arrays:
        arrays, call = self._call(inputs)
        return self._arrays(self._compiled("outputs", inputs, call)(self.model, arrays))

    def run(self, inputs: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        arrays, call = self._call(inputs)

        def weighed(model: Any, arrays: Any, weights: Any) -> Any:
            output = call(model, arrays)
            return _scalar(leaves(output), weights), output

        program = self._compiled("gradients", inputs, jax.grad(weighed, has_aux=True))
        gradients, output = program(self.model, arrays, weights)
        untrained = {slot.path for slot in self.model._leaves() if slot.kind == "buffer"}
        found = {path: source.read() for path, source in gradients._sources().items()}
        assert not any(found[path].any() for path in untrained)
        return self._arrays(output), {path: gradient for path, gradient in found.items() if path not in untrained}

    def _call(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """The inputs that are arrays, and the function of the model and them."""
        switches = {name: value for name, value in inputs.items() if not isinstance(value, np.ndarray)}
        arrays = {name: value for name, value in inputs.items() if name not in switches}
        return arrays, lambda model, arrays: model(**arrays, **switches)

    def _compiled(self, kind: str, inputs: Mapping[str, Any], function: Any) -> Any:
        key = (kind, *sorted((name, value) for name, value in inputs.items() if not isinstance(value, np.ndarray)))
        return self._programs.setdefault(key, jax.jit(function))

    @staticmethod
    def _arrays(output: Any) -> Arrays:
        return {path: np.asarray(value) for path, value in leaves(output).items()}
