"""Matrix products on a CPU that are faster than torch's own if no gradient is needed; torch computes all others.

There are several ways to compute a product. For each shape, the fastest one is measured at its first use in a process.
The environment variable DIPTYCH_TORCH_PRODUCTS pins one instead, with which every process computes the same bits:
"torch", "onednn", "columns" or "parts". JAX needs none of this: XLA chooses its own products.

A model's layers are exactly torch.nn's, since tools look for these types. Only while the model is called without
gradients, its nn.Linear and nn.Conv2d layers are of subclasses that use these products: inside `fast`.
"""

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from diptych.core.errors import InputError

_PRIVATE_NAMES = (
    "_is_tracing",
    "_functorch",
    "_len_torch_dispatch_stack",
    "_len_torch_function_stack",
    "_get_mkldnn_enabled",
)
"""The private names of torch that `_is_eligible` uses."""

_onednn_linear: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if all(hasattr(torch._C, n) for n in _PRIVATE_NAMES) else None
)
"""oneDNN's linear layer, private to torch: builds without oneDNN lack it, and other versions may."""

_PLAIN_TYPES = (Tensor, nn.Parameter)

_SMALLEST_WEIGHT = 2**17
"""The number of weight entries from which the products below are faster; each call costs up to 15 µs more."""

_SPLITS = 16
"""Parts into which a product for few rows is split, since torch gives each thread whole products of a batch."""

_SAMPLE = 32
"""The most rows with which ways are compared."""

_GAIN = 0.9
"""The part of the time of torch's own product that another way must not exceed to be taken."""

WAYS = ("torch", "onednn", "columns", "parts")
"""The names of the ways to compute a product; not all of them apply to each."""


def _pin_in(environment: Mapping[str, str]) -> str | None:
    """The way that an environment pins for the whole process; None if ways are measured."""
    name = environment.get(variable := "DIPTYCH_TORCH_PRODUCTS") or None
    if name is not None and name not in WAYS:
        raise InputError(f"{variable}={name!r}, but it must be one of {', '.join(WAYS)}, or not set")
    return name


_OF_PROCESS = _pin_in(os.environ)

_pinned: ContextVar[str | None] = ContextVar("pinned", default=_OF_PROCESS)
"""The way that is taken wherever it applies; None if ways are measured."""

Way = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Computes the product of values (*B, D), a weight and a bias."""

_fastest: dict[tuple[Any, ...], Way] = {}
"""The way that was fastest, by kind of product, rows, shape of the weight, bias and number of threads."""


def linear_product(
    values: Float[Tensor, "*B D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, "F"] | None = None
) -> Float[Tensor, "*B F"]:
    """x W^T + b for every row; if no gradient is needed, in the way that was measured to be fastest on this CPU."""
    if (
        not _is_eligible(values, weight, bias)
        or values.shape[-1:] != weight.shape[1:]
        or not (bias is None or bias.shape == weight.shape[:1])
    ):
        return nn.functional.linear(values, weight, bias)
    return _way(_linear_ways, values, weight, bias)(values, weight, bias)


def column_product(
    values: Float[Tensor, "*B D"], weight: Float[Tensor, "D F"], bias: Float[Tensor, "F"]
) -> Float[Tensor, "*B F"]:
    """x W + b for every row, as `linear_product`."""
    if (
        not _is_eligible(values, weight, bias)
        or values.shape[-1:] != weight.shape[:-1]
        or bias.shape != weight.shape[1:]
    ):
        return _addmm(values, weight, bias)
    return _way(_column_ways, values, weight, bias)(values, weight, bias)


def _linear_ways(rows: int, weight: Tensor) -> dict[str, Way]:
    """The ways to compute x W^T + b by name, torch's own first."""
    ways: dict[str, Way] = {"torch": nn.functional.linear, "onednn": _onednn}
    if rows <= 4:
        ways["columns"] = _linear_as_columns
    if rows == 1 and weight.shape[0] % _SPLITS == 0:
        ways["parts"] = _linear_in_parts
    return ways


def _column_ways(rows: int, weight: Tensor) -> dict[str, Way]:
    """The ways to compute x W + b by name, torch's own first."""
    ways: dict[str, Way] = {"torch": _addmm, "onednn": _onednn_of_columns}
    if rows <= 3 and weight.shape[0] % _SPLITS == 0:
        ways["parts"] = _columns_in_parts
    return ways


@contextmanager
def pin(way: str | None) -> Generator[None]:
    """A scope in which one way is taken wherever it applies, and torch's own elsewhere; None measures them."""
    token = _pinned.set(way)
    try:
        yield
    finally:
        _pinned.reset(token)


def _way(ways_for: Callable[[int, Tensor], dict[str, Way]], values: Tensor, weight: Tensor, bias: Tensor | None) -> Way:
    """The way to take: the pinned one, torch's own where that doesn't apply, or the fastest, which is found here once.

    Which one that is depends on the chip: MKL is slow for few rows on AMD, and hard to beat on Intel.
    """
    rows = values.numel() // values.shape[-1]
    if rows == 0:
        return ways_for(rows, weight)["torch"]
    if (pinned := _pinned.get()) is not None:
        ways = ways_for(rows, weight)
        return ways.get(pinned, ways["torch"])
    rows = rows if rows <= 4 else min(1 << (rows - 1).bit_length(), _SAMPLE)
    key = (ways_for, rows, weight.shape, bias is None, torch.get_num_threads())
    way = _fastest.get(key)
    if way is None:
        ways = ways_for(rows, weight)
        way = _fastest[key] = ways[_measure(ways, values.reshape(-1, values.shape[-1])[:rows], weight, bias)]
    return way


def _measure(ways: dict[str, Way], values: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """The name of the fastest way, or torch's own if nothing is much faster."""
    seconds = dict.fromkeys(ways, math.inf)
    begun = time.perf_counter()
    for index in range(4):
        for name, way in ways.items():
            start = time.perf_counter()
            way(values, weight, bias)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
        if index > 0 and time.perf_counter() - begun > 0.1:
            break
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < _GAIN * seconds["torch"] else "torch"


def _addmm(values: Tensor, weight: Tensor, bias: Any) -> Tensor:
    return torch.addmm(bias, values.reshape(-1, weight.shape[0]), weight).view(*values.shape[:-1], weight.shape[1])


def _onednn(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _onednn_linear(values, weight, bias, "none", [], "")


def _onednn_of_columns(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _onednn_linear(values, weight.T, bias, "none", [], "")


def _linear_as_columns(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    few = values.reshape(-1, weight.shape[1])
    rows = few.shape[0]
    few = torch.cat((few, few)) if rows == 1 else few  # two columns take less time than one
    columns = weight @ few.T if bias is None else torch.addmm(bias.unsqueeze(1), weight, few.T)
    return columns.T[:rows].contiguous().view(*values.shape[:-1], weight.shape[0])


def _linear_in_parts(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs, inputs = weight.shape
    repeated = values.reshape(1, 1, inputs).expand(_SPLITS, 1, inputs)
    product = torch.bmm(repeated, weight.view(_SPLITS, -1, inputs).mT).view(*values.shape[:-1], outputs)
    return product if bias is None else product.add_(bias)


def _columns_in_parts(values: Tensor, weight: Tensor, bias: Any) -> Tensor:
    inputs, outputs = weight.shape
    parts = values.reshape(-1, _SPLITS, inputs // _SPLITS).transpose(0, 1)
    product = torch.bmm(parts, weight.view(_SPLITS, -1, outputs)).sum(0)
    return product.add_(bias).view(*values.shape[:-1], outputs)


def _is_eligible(values: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a product is one of large float32 matrices on a CPU, and only its values are needed.

    oneDNN's product has no gradient, and tools that trace, transform, count or intercept operations don't know it.
    """
    return (
        _onednn_linear is not None
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and type(values) in _PLAIN_TYPES
        and type(weight) in _PLAIN_TYPES
        and values.is_cpu
        and weight.is_cpu
        and values.dtype is torch.float32
        and weight.dtype is torch.float32
        and weight.numel() >= _SMALLEST_WEIGHT
        and values.layout is torch.strided
        and weight.layout is torch.strided
        and weight.is_contiguous()
        and (bias is None or (type(bias) in _PLAIN_TYPES and bias.is_cpu and bias.dtype is torch.float32))
        and not (
            torch.is_grad_enabled()
            and (values.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad))
        )
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_mkldnn_enabled()
    )


class _Linear(nn.Linear):
    """An nn.Linear inside `fast`."""

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return _reduce_as(nn.Linear, super().__reduce_ex__(protocol))

    def forward(self, input: Tensor) -> Tensor:
        return linear_product(input, self.weight, self.bias)


class _Conv2d(nn.Conv2d):
    """An nn.Conv2d inside `fast`."""

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return _reduce_as(nn.Conv2d, super().__reduce_ex__(protocol))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        size = self.kernel_size
        if self.stride != size or self.padding != (0, 0) or self.dilation != (1, 1) or self.groups != 1:
            return super()._conv_forward(input, weight, bias)
        # windows that tile the image: one matrix product, three times as fast for a single image
        rows, columns = input.shape[2] // size[0], input.shape[3] // size[1]
        covered = input[..., : rows * size[0], : columns * size[1]]
        tiles = covered.unflatten(3, (columns, size[1])).unflatten(2, (rows, size[0])).permute(0, 2, 4, 1, 3, 5)
        return linear_product(tiles.flatten(3), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _reduce_as(exact: type[nn.Module], reduced: Any) -> Any:
    """What pickles a layer, for a copy or a file of torch's own class: a callback or another thread may make one."""
    return (object.__new__, (exact,), *reduced[2:])  # pickle takes __newobj__ for the layer's own class alone


_FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, nn.Conv2d: _Conv2d}

_inside: ContextVar[bool] = ContextVar("inside", default=False)
"""Whether the caller is inside `fast` already, so that a call of a model in a model has nothing to do."""


def fast(modules: Iterable[Any]) -> AbstractContextManager[None]:
    """A scope in which layers inside the modules compute their products here; it is empty where gradients are recorded.

    Two threads may use it for one model: whichever leaves first gives the layers back to torch for both.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch._C._is_tracing() or _inside.get():
        return nullcontext()
    return _fast(modules)


@contextmanager
def _fast(modules: Iterable[Any]) -> Generator[None]:
    token = _inside.set(True)
    layers = [(layer, type(layer)) for layer in _with_children(modules) if type(layer) in _FAST]
    try:
        for layer, exact in layers:
            _set_class(layer, _FAST[exact])
        yield
    finally:
        for layer, exact in layers:
            _set_class(layer, exact)
        _inside.reset(token)


def _with_children(modules: Iterable[Any]) -> list[nn.Module]:
    """All modules inside the given ones, in half the time of nn.Module's own walk, which small models notice."""
    found = [module for module in modules if isinstance(module, nn.Module)]
    for each in found:
        found.extend(child for child in each._modules.values() if child is not None)
    return found


def _set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    object.__setattr__(module, "__class__", kind)  # nn.Module's own looks for parameters and submodules first
