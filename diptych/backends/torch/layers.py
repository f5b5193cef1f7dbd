"""The layers of the torch models: torch.nn's own, with the constructor and the defaults of the JAX backend's.

They are built without values, on the meta device; a model gives them values when it is complete.
"""

from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diptych.backends.torch import products
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
        return products.linear_product(input, self.weight, self.bias)


class LinearInOut(nn.Module):
    """x W + b, with W of shape (in, out): GPT-2's linear layer, published in Flax's layout."""

    def __init__(self, in_features: int, out_features: int, **init: Unpack[Init]) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = parameter((in_features, out_features), **init)
        self.bias = parameter((out_features,), **init)

    def forward(self, values: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """The product for every row."""
        return products.column_product(values, self.weight, self.bias)

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
        return products.linear_product(query, self.weight)


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
        return products.linear_product(tiles.flatten(3), weight.flatten(1), bias).permute(0, 3, 1, 2)

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
