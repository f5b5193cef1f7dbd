"""The layers of the torch models: torch.nn's own, with the constructor and the defaults of the JAX backend's.

They are built without values, on the meta device; a model gives them values when it is complete.
"""

from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from diptych.backends.torch.ops import Init

ModuleList = nn.ModuleList


class Linear(nn.Linear):
    """x W^T + b, with W of shape (out, in)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, **init: Unpack[Init]) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta", **init)

    def reset_parameters(self) -> None:
        """Leaves the parameters without values."""

    def forward(self, input: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """The product for every row."""
        return _product(input, self.weight, self.bias)


class Conv1D(nn.Module):
    """x W + b, with W of shape (in, out): GPT-2's linear layer, published in Flax's layout."""

    def __init__(self, in_features: int, out_features: int, **init: Unpack[Init]) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = parameter((in_features, out_features), **init)
        self.bias = parameter((out_features,), **init)

    def forward(self, values: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """The product for every row."""
        return _product_of_columns(values, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What the model's printout says of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Embedding(nn.Embedding):
    """A table of rows; row `padding_idx` gets no gradient from being looked up."""

    def __init__(
        self, num_embeddings: int, features: int, *, padding_idx: int | None = None, **init: Unpack[Init]
    ) -> None:
        super().__init__(num_embeddings, features, padding_idx=padding_idx, device="meta", **init)

    def reset_parameters(self) -> None:
        """Leaves the parameters without values."""

    def rows(self, like: Tensor) -> Float[Tensor, "V D"]:
        """The whole table, for use beside another tensor."""
        return self.weight

    def attend(self, query: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Products with every row: the output layer that is tied to this table."""
        return _product(query, self.weight)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis, the variance taken in two passes."""

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        super().__init__(features, eps, device="meta", **init)

    def reset_parameters(self) -> None:
        """Leaves the parameters without values."""


class Conv2d(nn.Conv2d):
    """A convolution without padding over (batch, channels, height, width)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = True,
        **init: Unpack[Init],
    ) -> None:
        super().__init__(in_features, out_features, kernel_size, stride, bias=bias, device="meta", **init)

    def reset_parameters(self) -> None:
        """Leaves the parameters without values."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        size = self.kernel_size
        if self.stride != size:
            return super()._conv_forward(input, weight, bias)
        # windows that tile the image: one matrix product, which takes a third of the time for a single image
        rows, columns = input.shape[2] // size[0], input.shape[3] // size[1]
        covered = input[..., : rows * size[0], : columns * size[1]]
        tiles = covered.unflatten(3, (columns, size[1])).unflatten(2, (rows, size[0])).permute(0, 2, 4, 1, 3, 5)
        return _product(tiles.flatten(3), weight.flatten(1), bias).permute(0, 3, 1, 2)

    def patches(self, pixel_values: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B P D"]:
        """The output as a sequence, row by row."""
        return self(pixel_values).flatten(2).mT


class Dropout(nn.Module):
    """Zeroes entries at a rate in train mode and scales up the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Float[Tensor, "*B"], rngs: None = None) -> Float[Tensor, "*B"]:
        """The values, thinned out in train mode by torch's global generator."""
        return nn.functional.dropout(values, self.rate, self.training)


class LayerDrop(nn.Module):
    """Leaves a layer out at a rate in train mode, for the whole batch (Fan et al. 2019, arXiv:1909.11556)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(
        self, before: Float[Tensor, "*B"], after: Float[Tensor, "*B"], rngs: None = None
    ) -> Float[Tensor, "*B"]:
        """What the layer made of its input, or the input itself, as torch's global generator says."""
        if not self.training or self.rate == 0.0:
            return after
        return torch.where(torch.rand((), device=after.device) < self.rate, before, after)


def buffer(shape: tuple[int, ...], **init: Unpack[Init]) -> Any:
    """A buffer, which nothing trains, without values."""
    return nn.Buffer(torch.empty(shape, device="meta", dtype=init.get("dtype")))


def parameter(shape: tuple[int, ...], **init: Unpack[Init]) -> nn.Parameter:
    """A free parameter without values."""
    return nn.Parameter(torch.empty(shape, device="meta", dtype=init.get("dtype")))


def value(free: Any, like: Tensor) -> Tensor:
    """A free parameter's or a buffer's tensor, for use beside another."""
    return free


_KNOWN = ("_is_tracing", "_functorch", "_len_torch_dispatch_stack", "_len_torch_function_stack", "_get_mkldnn_enabled")
"""What of torch's private names `_is_plain` asks."""

_onednn: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if all(hasattr(torch._C, n) for n in _KNOWN) else None
)
"""oneDNN's product of rows, private to torch: a build without oneDNN lacks it, and other versions may."""

_PLAIN = (Tensor, nn.Parameter)

_WORTHWHILE = 2**17
"""Entries of a weight from which the ways below take less time; a call of theirs costs up to 15 µs more."""

_GROUPS = 16
"""Parts into which a product for one row is cut, since torch gives its threads whole products of a batch."""

_CACHED = 3072
"""Entries that the rows may have for a product with few columns to run as fast as the weight can be read."""


def _product(
    values: Float[Tensor, "*B D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, "F"] | None = None
) -> Float[Tensor, "*B F"]:
    """x W^T + b for every row, in the way that was fastest on a CPU (AMD Zen 4, torch 2.13) if no gradient is needed.

    Torch takes MKL's product, which needs up to twice the time for many rows and up to five times for few, where it
    does not read W as fast as memory gives it.
    """
    if (
        not _is_plain(values, weight, bias)
        or values.shape[-1:] != weight.shape[1:]
        or not (bias is None or bias.shape == weight.shape[:1])
    ):
        return nn.functional.linear(values, weight, bias)
    outputs, inputs = weight.shape
    rows = values.numel() // inputs
    shape = (*values.shape[:-1], outputs)
    if 1 <= rows <= 4 and max(rows, 2) * inputs <= _CACHED:
        few = values.reshape(rows, inputs)
        few = torch.cat((few, few)) if rows == 1 else few  # two columns take less time than one
        columns = weight @ few.T if bias is None else torch.addmm(bias.unsqueeze(1), weight, few.T)
        return columns.T[:rows].contiguous().view(shape)
    if rows == 1 and outputs % _GROUPS == 0:
        repeated = values.reshape(1, 1, inputs).expand(_GROUPS, 1, inputs)
        product = torch.bmm(repeated, weight.view(_GROUPS, -1, inputs).mT).view(shape)
        return product if bias is None else product.add_(bias)
    return _onednn(values, weight, bias, "none", [], "")


def _product_of_columns(
    values: Float[Tensor, "*B D"], weight: Float[Tensor, "D F"], bias: Float[Tensor, "F"]
) -> Float[Tensor, "*B F"]:
    """x W + b for every row, likewise; columns of W lie apart, so that a few rows are cut into parts instead."""
    shape = (*values.shape[:-1], weight.shape[-1])
    if not _is_plain(values, weight, bias) or values.shape[-1:] != weight.shape[:-1] or bias.shape != weight.shape[1:]:
        return torch.addmm(bias, values.reshape(-1, weight.shape[0]), weight).view(shape)
    inputs, outputs = weight.shape
    rows = values.numel() // inputs
    if 1 <= rows <= 3 and inputs % _GROUPS == 0:
        parts = values.reshape(rows, _GROUPS, -1).transpose(0, 1)
        return torch.bmm(parts, weight.view(_GROUPS, -1, outputs)).sum(0).add_(bias).view(shape)
    return _onednn(values, weight.T, bias, "none", [], "")


def _is_plain(values: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a product is one of large float32 matrices on a CPU, and nothing but its numbers is asked for.

    oneDNN's has no gradient, and those who trace, transform, count or intercept operations know torch's own.
    """
    return (
        _onednn is not None
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and type(values) in _PLAIN
        and type(weight) in _PLAIN
        and values.is_cpu
        and weight.is_cpu
        and values.dtype is torch.float32
        and weight.dtype is torch.float32
        and weight.numel() >= _WORTHWHILE
        and values.layout is torch.strided
        and weight.layout is torch.strided
        and weight.is_contiguous()
        and (bias is None or (type(bias) in _PLAIN and bias.is_cpu and bias.dtype is torch.float32))
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
