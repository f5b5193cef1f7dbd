"""Each layer against torch.nn's in float64: values and gradients, in both backends, with every size different."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn.utils import parametrizations
from transformers.models.idefics.modeling_idefics import IdeficsRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from diptych.backends.jax import layers as jax_layers
from diptych.backends.jax import slots as jax_slots
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import slots as torch_slots
from diptych.core.checkpoint.slots import Slot, flax_axes, published_axes
from tests.assertions import assert_close

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A layer, torch.nn's own that it must equal, and the shape of its input.

    Attributes:
        name: of the layer.
        arguments, options: of its constructor.
        original: torch.nn's own.
        shape: of the input in our layout, channels last but for images.
        function: of `layers`, which applies the layer; by default it is called.
        kinds: kind of slot by parameter.
        moved: whether the original has channels second where ours has them last.
    """

    name: str
    arguments: tuple[Any, ...]
    original: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kinds: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    function: str = ""
    moved: bool = True

    def built(self, backend: Any, **init: Any) -> Any:
        return getattr(backend, self.name)(*self.arguments, **self.options, **init)

    def apply(self, backend: Any, layer: Any, inputs: Any) -> Any:
        return getattr(backend, self.function)(layer, inputs) if self.function else layer(inputs)


def conv(name: str, *arguments: Any, shape: tuple[int, ...], **options: Any) -> Case:
    original = getattr(nn, name)
    kinds = {"weight": "conv", "bias": "plain"} if options.get("bias", True) else {"weight": "conv"}
    function = "patches" if name == "Conv2d" else ""
    return Case(name, arguments, lambda: original(*arguments, **options), shape, kinds, options, function)


def weight_norm(*arguments: int, shape: tuple[int, ...], **options: Any) -> Case:
    original: Any = nn.Conv1d
    kinds = {name: "plain" for name in ("weight_g", "weight_v", "bias") if name != "bias" or options.get("bias", True)}
    return Case(
        "WeightNormConv1d",
        arguments,
        lambda: parametrizations.weight_norm(original(*arguments, **options), dim=2),
        shape,
        kinds,
        options,
    )


NORM = {"weight": "norm", "bias": "plain"}
STATISTICS = {"running_mean": "buffer", "running_var": "buffer"}
CASES = {
    "conv1d": conv("Conv1d", 3, 5, 4, shape=(2, 11, 3)),
    "conv1d, stride": conv("Conv1d", 3, 5, 4, stride=3, shape=(2, 12, 3)),
    "conv1d, odd, padding": conv("Conv1d", 3, 5, 7, padding=2, stride=2, shape=(2, 13, 3), bias=False),
    "conv1d, samples": conv("Conv1d", 1, 5, 4, stride=3, shape=(2, 12, 1)),
    "conv1d, groups": conv("Conv1d", 6, 9, 5, padding=1, groups=3, shape=(2, 11, 6)),
    "conv1d, tiles": conv("Conv1d", 3, 5, 2, stride=2, shape=(2, 11, 3), bias=False),
    "conv1d, a channel each": conv("Conv1d", 4, 4, 3, groups=4, stride=2, padding=3, shape=(2, 7, 4)),
    "conv1d, pointwise": conv("Conv1d", 3, 5, 1, shape=(2, 7, 3)),
    "conv2d, tiles": conv("Conv2d", 3, 5, 4, stride=4, shape=(2, 3, 9, 14)),
    "conv2d, oblong tiles": conv("Conv2d", 3, 5, (2, 4), stride=(2, 4), shape=(2, 3, 9, 14)),
    "conv2d, oblong": conv("Conv2d", 3, 5, (2, 3), stride=(3, 2), padding=(1, 2), shape=(2, 3, 9, 14)),
    "conv2d, padded tiles": conv("Conv2d", 3, 5, 3, stride=3, padding=1, shape=(2, 3, 9, 14)),
    "conv2d, grouped tiles": conv("Conv2d", 4, 6, 3, stride=3, groups=2, shape=(2, 4, 9, 14)),
    "conv2d, a channel each": conv("Conv2d", 4, 4, 3, groups=4, padding=1, bias=False, shape=(2, 4, 5, 6)),
    "weight norm": weight_norm(6, 8, 5, padding=2, groups=2, shape=(2, 11, 6)),
    "weight norm, even": weight_norm(3, 5, 4, padding=2, shape=(2, 11, 3)),
    "weight norm, stride": weight_norm(3, 5, 4, stride=3, bias=False, shape=(2, 11, 3)),
    "group norm": Case("GroupNorm", (3, 12, 1e-3), lambda: nn.GroupNorm(3, 12, 1e-3), (2, 7, 12), NORM),
    "a channel a group": Case("GroupNorm", (5, 5, 1e-3), lambda: nn.GroupNorm(5, 5, 1e-3), (2, 7, 5), NORM),
    "group norm of images": Case("GroupNorm", (2, 6, 1e-3), lambda: nn.GroupNorm(2, 6, 1e-3), (2, 3, 4, 6), NORM),
    "batch norm": Case("BatchNorm", (5, 1e-3), lambda: nn.BatchNorm1d(5, 1e-3), (3, 7, 5), NORM | STATISTICS),
    "batch norm of images": Case(
        "BatchNorm", (5, 1e-3), lambda: nn.BatchNorm2d(5, 1e-3), (3, 4, 7, 5), NORM | STATISTICS
    ),
    "rms norm": Case("RMSNorm", (5, 1e-2), lambda: nn.RMSNorm(5, 1e-2), (2, 3, 7, 5), {"weight": "norm"}, moved=False),
    "layer norm": Case("LayerNorm", (5, 1e-2), lambda: nn.LayerNorm(5, 1e-2), (2, 7, 5), NORM, moved=False),
}
WHERE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def published_values(case: Case, dtype: Any = np.float64) -> Arrays:
    """Random numbers for every parameter and buffer of a layer."""
    random = np.random.default_rng(1)
    values = {slot.path: random.normal(size=slot.shape) for slot in torch_slots.leaves(case.built(torch_layers))}
    return {path: (abs(held) + 0.5 if path == "running_var" else held).astype(dtype) for path, held in values.items()}


def filled_torch(case: Case, values: Arrays, dtype: torch.dtype = torch.float64) -> Any:
    layer = case.built(torch_layers, dtype=dtype)
    for slot, (module, name) in torch_slots.leaves(layer).items():
        held = torch.tensor(values[slot.path].astype(np.float64)).to(dtype)
        setattr(module, name, nn.Buffer(held) if slot.kind == "buffer" else nn.Parameter(held))
    return layer


def filled_jax(case: Case, values: Arrays, **init: Any) -> Any:
    layer = case.built(jax_layers, **init)
    for slot, variable in jax_slots.leaves(layer).items():
        held = values[slot.path].transpose(flax_axes(slot.kind, len(slot.shape)))
        variable.set_value(jnp.asarray(held, init["dtype"]))
    return layer


def filled_original(case: Case, values: Arrays) -> nn.Module:
    layer = case.original().double()
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    state = {names.get(path, path): torch.tensor(held) for path, held in values.items()}
    left, unknown = layer.load_state_dict(state, strict=False)
    assert set(left) <= {"num_batches_tracked"} and not unknown
    return layer.eval()


def run_original(case: Case, layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    if case.function == "patches":
        return layer(inputs).flatten(2).mT
    return layer(inputs.movedim(-1, 1)).movedim(1, -1) if case.moved else layer(inputs)


def gradient_of(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.grad is not None
    return tensor.grad.numpy()


@WHERE
def test_values_and_gradients_are_torchs(case: Case) -> None:
    random = np.random.default_rng(2)
    values, given = published_values(case), random.normal(size=case.shape)

    original, inputs = filled_original(case, values), torch.tensor(given, requires_grad=True)
    expected = run_original(case, original, inputs)
    weights = random.normal(size=expected.shape)
    (expected * torch.tensor(weights)).sum().backward()
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    gradients = {names.get(path, path): gradient_of(parameter) for path, parameter in original.named_parameters()}
    gradients["inputs"] = gradient_of(inputs)

    ours, inputs = filled_torch(case, values), torch.tensor(given, requires_grad=True)
    for mode in (True, False):  # none of these layers has a train mode of its own
        found = case.apply(torch_layers, ours.train(mode), inputs)
        assert_close(found.detach().numpy(), expected.detach().numpy(), name="torch")
    (found * torch.tensor(weights)).sum().backward()
    for path, gradient in gradients.items():
        assert_close(gradient_of(inputs if path == "inputs" else getattr(ours, path)), gradient, name=f"torch, {path}")

    with jax.enable_x64(True):
        twin = filled_jax(case, values, dtype=jnp.float64)
        graph, state = nnx.split(twin)

        def objective(state: Any, inputs: Any) -> Any:
            output = case.apply(jax_layers, nnx.merge(graph, state), inputs)
            return jnp.sum(output * weights), output

        run = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
        (_, output), (parameters, own) = run(state, jnp.asarray(given))
        assert_close(np.asarray(output), expected.detach().numpy(), name="jax")
        assert_close(np.asarray(own), gradients["inputs"], name="jax, inputs")
        for slot, variable in jax_slots.leaves(nnx.merge(graph, parameters)).items():
            held = np.asarray(variable.get_value())
            held = held.transpose(published_axes(slot.kind, held.ndim))
            gradient = np.zeros(held.shape) if slot.kind == "buffer" else gradients[slot.path]
            assert_close(held, gradient, name=f"jax, {slot.path}")


@WHERE
def test_both_backends_have_the_slots_of_the_published_file(case: Case) -> None:
    found = list(torch_slots.leaves(case.built(torch_layers)))
    assert sorted(found, key=str) == sorted(jax_slots.leaves(case.built(jax_layers)), key=str)
    assert {slot.path: slot.kind for slot in found} == case.kinds
    if case.name != "WeightNormConv1d":
        state = case.original().state_dict()
        assert {slot.path: slot.shape for slot in found} == {
            path: tuple(held.shape) for path, held in state.items() if path != "num_batches_tracked"
        }
    assert Slot("weight_v", (8, 3, 5), "plain") in found or case.arguments != (6, 8, 5)


@WHERE
def test_16_bits_are_enough_to_run(case: Case) -> None:
    values, given = published_values(case, np.float32), np.random.default_rng(2).normal(size=case.shape)
    expected = run_original(
        case, filled_original(case, {k: v.astype(float) for k, v in values.items()}), torch.tensor(given)
    )
    wide = {"dtype": jnp.dtype("float32"), "compute_dtype": jnp.dtype("float16")}
    for name, init in (("bfloat16", {"dtype": jnp.dtype("bfloat16")}), ("float16", wide)):
        wanted = expected.detach().numpy()
        ours = filled_torch(case, values, getattr(torch, name))
        found = case.apply(torch_layers, ours, torch.tensor(given).to(getattr(torch, name)))
        assert found.dtype == getattr(torch, name)
        assert_rough(found.detach().double().numpy(), wanted)
        twin = filled_jax(case, values, **init)
        found = case.apply(jax_layers, twin, jnp.asarray(given, name))
        assert found.dtype == jnp.dtype(name)
        assert_rough(np.asarray(found, np.float64), wanted)


def assert_rough(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_rms_norm_rounds_where_llama_and_idefics_do(name: str) -> None:
    case, random = CASES["rms norm"], np.random.default_rng(2)
    dtype = np.float32 if name == "float32" else ml_dtypes.bfloat16
    values, given = published_values(case, dtype), (9.0 * random.normal(size=(6, 50, 5))).astype(dtype)
    wide = torch.tensor(given.astype(np.float32)).to(getattr(torch, name))
    ours = filled_torch(case, values, getattr(torch, name))
    twin = filled_jax(case, values, dtype=jnp.dtype(name))
    for cls in (LlamaRMSNorm, IdeficsRMSNorm):
        original = cls(5, 1e-2).to(wide.dtype)
        original.weight = ours.weight
        expected = original(wide)
        assert torch.equal(ours(wide), expected)
        found, wanted = np.asarray(twin(jnp.asarray(given)), np.float64), expected.detach().double().numpy()
        # XLA's mean and root may be off by a unit of float32, which seldom reaches bfloat16
        assert np.mean(found != wanted) < (1.0 if name == "float32" else 0.01)
        assert np.abs(found - wanted).max() <= (1e-6 if name == "float32" else 2**-7) * np.abs(wanted).max()


def test_statistics_are_not_trained_and_not_renewed() -> None:
    case = CASES["batch norm"]
    values, given = published_values(case, np.float32), np.full((3, 7, 5), 9.0, np.float32)
    layer = filled_torch(case, values, torch.float32).train()
    layer(torch.tensor(given))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    twin = filled_jax(case, values, dtype=jnp.float32)
    twin.train()
    twin(jnp.asarray(given))
    for name in ("running_mean", "running_var"):
        assert np.array_equal(getattr(layer, name).numpy(), values[name])
        assert np.array_equal(np.asarray(getattr(twin, name).get_value()), values[name])
        assert type(getattr(twin, name)) is jax_layers.Buffer


@pytest.mark.parametrize("backend", [jax_layers, torch_layers], ids=["jax", "torch"])
def test_where_channels_come_last_is_asked_of_the_layer(backend: Any) -> None:
    last = {name for name, cls in vars(backend).items() if getattr(cls, "returns_channels_last", False)}
    images = {"Conv2d"} if backend is jax_layers else set()
    assert last == {"Conv1d", "WeightNormConv1d", "GroupNorm", "BatchNorm"} | images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(4, 3), (3, 5), (2, 2), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_without_a_gradient_is_a_product(channels: int, kernel: int, stride: int, bias: bool) -> None:
    """Of inputs whose channels are adjacent, also at each length where a window more begins."""
    case = conv("Conv1d", channels, 5, kernel, stride=stride, bias=bias, shape=(2, 11, channels))
    layer = filled_torch(case, published_values(case))
    for length in range(kernel, kernel + 2 * stride + 1):
        states = torch.tensor(np.random.default_rng(length).normal(size=(2, length, channels)))
        expected = layer(states)
        with torch.no_grad():
            assert layer._as_product(states) == (channels > 1)
            found, apart = layer(states), layer(states.mT.contiguous().mT)
        assert_close(found.numpy(), expected.detach().numpy(), name="product")
        assert_close(apart.numpy(), expected.detach().numpy(), name="convolution")
