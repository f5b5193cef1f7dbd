"""Runs a model of either backend, or of transformers, and captures every module's output and every gradient."""

import contextlib
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diptych.core.checkpoint.slots import published_axes
from diptych.core.random import generator

_one_at_a_time = threading.Lock()


@dataclass
class Run:
    """The results of one run of a model, in published names and layouts.

    Attributes:
        modules: module path -> its output, in the order in which calls ended; later calls of the same module have "#2",
            "#3" … after the path.
        outputs: name -> array, records inside records joined by dots.
        gradients: parameter -> gradient of a sum of all outputs, weighted with fixed random numbers.
        shapes: parameter -> shape.
    """

    modules: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    outputs: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    gradients: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def values(self, kind: str) -> dict[str, np.ndarray]:
        """The values of a kind: "module", "output" or "gradient"."""
        return {"module": self.modules, "output": self.outputs, "gradient": self.gradients}[kind]


def weights_of(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The random weights of an output's entries in the sum that is differentiated."""
    return generator(seed, f"weights of {name}").standard_normal(shape)


def run_torch(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    seed: int,
    gradients: bool,
    published: Callable[[str], str | None] = lambda name: name,
) -> Run:
    """Runs a torch model, ours or of transformers.

    Args:
        model: in eval mode.
        inputs: numpy arrays and plain values by keyword.
        seed: keys the weights of the outputs.
        gradients: whether to differentiate.
        published: returns a module's or parameter's published name; None for a module that has none, which is then not
            captured.
    """
    import torch

    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    names = {name: str(published(name)) for name, _ in model.named_parameters()}
    captured: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(_torch_hook(captured, name))
        for path, module in model.named_modules()
        if path and next(module.parameters(), None) is not None and (name := published(path)) is not None
    ]
    given = {name: _torch_input(value, device, dtype) for name, value in inputs.items()}
    if "use_cache" in inspect.signature(model.forward).parameters:
        given.setdefault("use_cache", False)  # otherwise transformers' decoders return their caches too
    try:
        with _exact_torch(), torch.set_grad_enabled(gradients), warnings.catch_warnings():
            # transformers warns of its own past behaviour whenever a composite is called with labels
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            named = _floating_arrays(model(**given), _is_floating_tensor)
            found = _torch_gradients(model, named, seed) if gradients else {}
    finally:
        for hook in hooks:
            hook.remove()
    return Run(
        {name: _numpy(value) for name, value in captured.items()},
        {name: _numpy(value) for name, value in named.items()},
        {names[name]: value for name, value in found.items()},
        {names[name]: tuple(parameter.shape) for name, parameter in model.named_parameters()},
    )


def _torch_gradients(model: Any, outputs: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """The gradient of the weighted sum of all outputs by parameter; zeros where none depends on it."""
    import torch

    weighed = [
        (value * torch.as_tensor(weights_of(name, tuple(value.shape), seed)).to(value)).sum()
        for name, value in outputs.items()
    ]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(torch.stack(weighed).sum(), list(parameters.values()), allow_unused=True)
    return {
        name: _numpy(torch.zeros_like(parameter) if gradient is None else gradient)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def run_jax(model: Any, inputs: Mapping[str, Any], *, seed: int, gradients: bool) -> Run:
    """Runs a JAX model of ours, compiled as a whole; arguments as for `run_torch`.

    While it is traced, the `__call__` of every module's type is wrapped, to capture each call by its module's path.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from diptych.backends.jax import slots

    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    arrays = {name: value for name, value in inputs.items() if isinstance(value, np.ndarray) and value.ndim}
    plain = {name: _plain_input(value) for name, value in inputs.items() if name not in arrays}
    channels_last: dict[str, bool] = {}

    def objective(parameters: Any, arrays: dict[str, Any]) -> Any:
        rebuilt = nnx.merge(graph, parameters, rest)
        with _record_calls(rebuilt, channels_last) as captured:
            output = rebuilt(**arrays, **plain)
        named = _floating_arrays(output, _is_floating_jax_array)
        weighed = [
            jnp.sum(value * jnp.asarray(weights_of(name, value.shape, seed), value.dtype))
            for name, value in named.items()
        ]
        return sum(weighed[1:], start=weighed[0]), (captured, named)

    with jax.default_matmul_precision("highest"):
        if gradients:
            (_, (captured, named)), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(parameters, arrays)
        else:
            (_, (captured, named)), grads = jax.jit(objective)(parameters, arrays), None
    found: dict[str, np.ndarray] = {}
    if grads is not None:
        holder = nnx.merge(graph, grads, rest)
        for slot, leaf in slots.leaves(holder).items():
            stored = np.asarray(leaf.get_value())
            found[slot.path] = stored.transpose(published_axes(slot.kind, stored.ndim))
    # jax.jit returns dictionaries sorted by key; `channels_last` remembers the order of the calls
    modules = {
        name: np.moveaxis(held, -1, 1) if moved else held
        for name, moved in channels_last.items()
        for held in [np.asarray(captured[name])]
    }
    shapes = {slot.path: slot.shape for slot in slots.leaves(model)}
    return Run(modules, {name: np.asarray(named[name]) for name in named}, found, shapes)


def shift_names(shift: Callable[[str], str]) -> Callable[[str], str]:
    """Applies a prefix shift of parameter names to names of modules and parameters."""
    return lambda name: shift(f"{name}.").removesuffix(".")


def _floating_arrays(output: Any, wanted: Callable[[Any], bool], prefix: str = "") -> dict[str, Any]:
    """The floating arrays of a record, by field name."""
    if wanted(output):
        return {prefix or "output": output}
    found: dict[str, Any] = {}
    if callable(getattr(output, "keys", None)):  # a cache's keys are arrays
        for name in output.keys():  # noqa: SIM118  (records iterate over names, but are no dictionaries)
            found |= _floating_arrays(output[name], wanted, f"{prefix}.{name}" if prefix else name)
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            found |= _floating_arrays(value, wanted, f"{prefix}[{index}]")
    return found


def _is_floating_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_floating_jax_array(value: Any) -> bool:
    import jax.numpy as jnp

    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def _main_output(output: Any, wanted: Callable[[Any], bool]) -> Any:
    """A module's main output: the array itself, or the first of a tuple or record."""
    if wanted(output):
        return output
    values = output.values() if hasattr(output, "values") else output if isinstance(output, tuple | list) else ()
    return next((found for value in values if (found := _main_output(value, wanted)) is not None), None)


def _unused_name(path: str, taken: Mapping[str, Any]) -> str:
    count = 1
    name = path
    while name in taken:
        count += 1
        name = f"{path}#{count}"
    return name


def _torch_hook(captured: dict[str, Any], path: str) -> Callable[..., None]:
    def keep(module: Any, arguments: Any, output: Any) -> None:
        main = _main_output(output, _is_floating_tensor)
        if main is not None:
            main = main.detach().clone()  # modules of transformers may write into what others returned
            captured[_unused_name(path, captured)] = main.movedim(-1, 1) if _returns_channels_last(module) else main

    return keep


@contextlib.contextmanager
def _record_calls(model: Any, channels_last: dict[str, bool]) -> Iterator[dict[str, Any]]:
    """Records the main output of every module with parameters that is called inside the block.

    As with hooks in torch, the call of a parent class within that of its subclass is no call of the module.

    Args:
        model: the model.
        channels_last: filled with each output's name, in the order of the calls, and whether its channels come last
            instead of second as in the published layout.
    """
    from flax import nnx

    owners = {
        path[:depth] for path in nnx.to_flat_state(nnx.state(model, nnx.Param)).paths for depth in range(len(path))
    }
    paths = {
        id(module): ".".join(map(str, path)) for path, module in nnx.iter_modules(model) if path and path in owners
    }
    types = {type(module) for _, module in nnx.iter_modules(model) if callable(module)}
    captured: dict[str, Any] = {}
    channels_last.clear()

    def wrap(cls: type, call: Callable[..., Any]) -> Callable[..., Any]:
        def keep(module: Any, *arguments: Any, **keywords: Any) -> Any:
            output = call(module, *arguments, **keywords)
            # a subclass may call the method of its base class, whose output is not the module's
            path = paths.get(id(module)) if type(module) is cls else None
            main = _main_output(output, _is_floating_jax_array)
            if path is not None and main is not None:
                name = _unused_name(path, captured)
                captured[name], channels_last[name] = main, _returns_channels_last(module)
            return output

        return keep

    with _one_at_a_time:  # whole types are wrapped
        own = {cls: cls.__dict__.get("__call__") for cls in types}
        for cls, call in {cls: cls.__call__ for cls in types}.items():
            cls.__call__ = wrap(cls, call)
        try:
            yield captured
        finally:
            for cls, call in own.items():
                if call is None:
                    del cls.__call__
                else:
                    cls.__call__ = call


@contextlib.contextmanager
def _exact_torch() -> Iterator[None]:
    """Full float32 products inside the block, torch's own, whatever is fastest here."""
    import torch

    from diptych.backends.torch import products

    with _one_at_a_time:  # the precision is one of the process
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with products.pin("torch"):
                yield
        finally:
            torch.set_float32_matmul_precision(before)


def _numpy(value: Any) -> np.ndarray:
    from diptych.backends.torch.pretrained import as_array

    return np.array(as_array(value))


def _torch_input(value: Any, device: Any, dtype: Any) -> Any:
    import torch

    if not isinstance(value, np.ndarray) or not value.ndim:
        return _plain_input(value)
    tensor = torch.from_numpy(np.array(value)).to(device)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _plain_input(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) else value


def _returns_channels_last(module: Any) -> bool:
    """Whether a module declares that its output has channels last, instead of second as in the published layout."""
    return bool(getattr(module, "returns_channels_last", False))
