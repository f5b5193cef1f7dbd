"""Matrix products on a CPU that are faster than torch's own if no gradient is needed; torch computes all others.

The choice of algorithm was measured on AMD Zen 4 with torch 2.13. JAX needs none of this: XLA chooses its own.

A model's layers are exactly torch.nn's, since tools look for these types. Only while the model is called without
gradients, its nn.Linear and nn.Conv2d layers are of subclasses that use these products: inside `fast`.
"""

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

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
"""Parts into which a product for one row is split, since torch gives each thread whole products of a batch."""

_LARGEST_INPUT = 3072
"""The most entries of the rows with which a product of few columns runs as fast as the weight can be read."""


def linear_product(
    values: Float[Tensor, "*B D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, "F"] | None = None
) -> Float[Tensor, "*B F"]:
    """x W^T + b for every row; if no gradient is needed, with the product that was fastest on a CPU.

    Torch uses MKL, which takes up to twice the time for many rows, and up to five times for few, where it does not read
    W at the speed of the memory.
    """
    if (
        not _is_eligible(values, weight, bias)
        or values.shape[-1:] != weight.shape[1:]
        or not (bias is None or bias.shape == weight.shape[:1])
    ):
        return nn.functional.linear(values, weight, bias)
    outputs, inputs = weight.shape
    rows = values.numel() // inputs
    shape = (*values.shape[:-1], outputs)
    if 1 <= rows <= 4 and max(rows, 2) * inputs <= _LARGEST_INPUT:
        few = values.reshape(rows, inputs)
        few = torch.cat((few, few)) if rows == 1 else few  # two columns take less time than one
        columns = weight @ few.T if bias is None else torch.addmm(bias.unsqueeze(1), weight, few.T)
        return columns.T[:rows].contiguous().view(shape)
    if rows == 1 and outputs % _SPLITS == 0:
        repeated = values.reshape(1, 1, inputs).expand(_SPLITS, 1, inputs)
        product = torch.bmm(repeated, weight.view(_SPLITS, -1, inputs).mT).view(shape)
        return product if bias is None else product.add_(bias)
    return _onednn_linear(values, weight, bias, "none", [], "")


def column_product(
    values: Float[Tensor, "*B D"], weight: Float[Tensor, "D F"], bias: Float[Tensor, "F"]
) -> Float[Tensor, "*B F"]:
    """x W + b for every row, as `linear_product`; W's columns are strided, so few rows are split into parts instead."""
    shape = (*values.shape[:-1], weight.shape[-1])
    if (
        not _is_eligible(values, weight, bias)
        or values.shape[-1:] != weight.shape[:-1]
        or bias.shape != weight.shape[1:]
    ):
        return torch.addmm(bias, values.reshape(-1, weight.shape[0]), weight).view(shape)
    inputs, outputs = weight.shape
    rows = values.numel() // inputs
    if 1 <= rows <= 3 and inputs % _SPLITS == 0:
        parts = values.reshape(rows, _SPLITS, -1).transpose(0, 1)
        return torch.bmm(parts, weight.view(_SPLITS, -1, outputs)).sum(0).add_(bias).view(shape)
    return _onednn_linear(values, weight.T, bias, "none", [], "")


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

    def forward(self, input: Tensor) -> Tensor:
        return linear_product(input, self.weight, self.bias)


class _Conv2d(nn.Conv2d):
    """An nn.Conv2d inside `fast`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        size = self.kernel_size
        if self.stride != size or self.padding != (0, 0) or self.dilation != (1, 1) or self.groups != 1:
            return super()._conv_forward(input, weight, bias)
        # windows that tile the image: one matrix product, three times as fast for a single image
        rows, columns = input.shape[2] // size[0], input.shape[3] // size[1]
        covered = input[..., : rows * size[0], : columns * size[1]]
        tiles = covered.unflatten(3, (columns, size[1])).unflatten(2, (rows, size[0])).permute(0, 2, 4, 1, 3, 5)
        return linear_product(tiles.flatten(3), weight.flatten(1), bias).permute(0, 3, 1, 2)


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
