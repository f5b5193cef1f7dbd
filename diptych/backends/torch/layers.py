"""The layers of the torch models: torch.nn's own, with the same constructors and defaults as in the JAX backend.

They are built without values, on the meta device; the complete model initializes or loads them.
"""

from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diptych.backends.torch import ops, products
from diptych.backends.torch.ops import Init, steps
from diptych.core.semantics import spans

ModuleList = nn.ModuleList


def Linear(in_features: int, out_features: int, *, bias: bool = True, **init: Unpack[Init]) -> nn.Linear:
    """x W^T + b, with W of shape (out, in)."""
    return nn.Linear(in_features, out_features, bias=bias, device="meta", **init)


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
        """The layer's description in the model's repr."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def Embedding(
    num_embeddings: int, features: int, *, padding_idx: int | None = None, **init: Unpack[Init]
) -> nn.Embedding:
    """An embedding table; looking up row `padding_idx` gives it no gradient."""
    weight = _empty_table(num_embeddings, features, **init)
    return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=padding_idx)


def _empty_table(rows: int, features: int, **init: Unpack[Init]) -> Tensor:
    """A table without values: the constructor of an embedding would draw some, and import torch's compiler for it."""
    return torch.empty(rows, features, device="meta", **init)


class DecoupledEmbedding(nn.Embedding):
    """An embedding table, and another one for the ids after its own, so that one can be trained without the other."""

    def __init__(self, num_embeddings: int, additional: int, features: int, **init: Unpack[Init]) -> None:
        super().__init__(num_embeddings, features, _weight=_empty_table(num_embeddings, features, **init))
        self.additional_embedding = Embedding(additional, features, **init)

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The rows of the ids."""
        own = ids < self.num_embeddings
        rows = super().forward(torch.where(own, ids, 0))
        additional = self.additional_embedding(torch.where(own, 0, ids - self.num_embeddings))
        return torch.where(own[..., None], rows, additional)


class DecoupledLinear(nn.Linear):
    """x W^T with more outputs after those of W, from a weight of their own; without a bias."""

    def __init__(self, in_features: int, out_features: int, additional: int, **init: Unpack[Init]) -> None:
        super().__init__(in_features, out_features, bias=False, device="meta", **init)
        self.additional_fc = Linear(in_features, additional, bias=False, **init)

    def forward(self, values: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Both products, one after the other."""
        return torch.cat((products.linear_product(values, self.weight), self.additional_fc(values)), -1)


def embedding_rows(embedding: Any, size: int, like: Tensor) -> Float[Tensor, "V D"]:
    """All rows of an embedding, as a lookup returns them: a wrapper such as LoRA's changes them.

    Args:
        embedding: the module that looks ids up.
        size: V, the number of rows.
        like: a tensor on the device of the ids.
    """
    if type(embedding).forward is nn.Embedding.forward:
        return embedding.weight
    return embedding(steps(size, like))


def tied_logits(states: Float[Tensor, "*B D"], embedding: Any, size: int) -> Float[Tensor, "*B V"]:
    """The products of states with all rows of an embedding of `size` rows: an output layer that is tied to it."""
    if type(embedding) is DecoupledEmbedding:
        own = products.linear_product(states, embedding.weight)
        additional = tied_logits(states, embedding.additional_embedding, size - embedding.num_embeddings)
        return torch.cat((own, additional), -1)
    return products.linear_product(states, embedding_rows(embedding, size, states))


def LayerNorm(features: int, eps: float, **init: Unpack[Init]) -> nn.LayerNorm:
    """Layer norm over the last axis, with the variance computed in two passes."""
    return nn.LayerNorm(features, eps, device="meta", **init)


class GroupNorm(nn.GroupNorm):
    """Normalises groups of adjacent channels over all positions of a row; channels come last, in and out."""

    returns_channels_last = True

    def __init__(self, groups: int, features: int, eps: float, **init: Unpack[Init]) -> None:
        super().__init__(groups, features, eps, device="meta", **init)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, states: Float[Tensor, "B *T C"], *, mask: Bool[Tensor, "B *T C"] | None = None
    ) -> Float[Tensor, "B *T C"]:
        """The states with mean 0 and variance 1 in each group, scaled and shifted.

        Args:
            states: to normalise.
            mask: what is counted, alike for all features; by default everything.
        """
        if mask is None:
            return super().forward(states.movedim(-1, 1)).movedim(1, -1)
        values = states.to(torch.promote_types(states.dtype, torch.float32)).flatten(1, -2)
        counted = mask[..., 0].flatten(1)[:, None].to(values.dtype)

        def mean(values: Float[Tensor, "B S C"]) -> Float[Tensor, "B 1 C"]:
            """The mean of each feature's group; a product takes no copy of the values."""
            features = counted @ values / counted.sum(-1, keepdim=True)
            groups = features.unflatten(-1, (self.num_groups, -1))
            return groups.mean(-1, keepdim=True).expand_as(groups).flatten(-2)

        with torch.autocast(states.device.type, enabled=False):
            centred = values - mean(values)
            scale = torch.rsqrt(mean(centred.square()) + self.eps) * self.weight
            return torch.addcmul(self.bias, centred, scale).to(states.dtype).reshape(states.shape)


class RMSNorm(nn.RMSNorm):
    """Divides by the root mean square of the last axis, as Llama does: rounded to the states' dtype before the scale.

    The mean is computed in float32 or wider.
    """

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        super().__init__(features, eps, device="meta", **init)

    def forward(self, hidden_states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The states scaled to a mean square of 1, times the weight."""
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True).add(self.eps or 0.0))
        return self.weight * normed.to(hidden_states.dtype)


class BatchNorm(nn.Module):
    """Batch norm with the stored statistics, even in train mode; channels come last, in and out."""

    returns_channels_last = True

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        super().__init__()
        self.weight, self.bias = parameter((features,), **init), parameter((features,), **init)
        self.running_mean, self.running_var = buffer((features,), **init), buffer((features,), **init)
        self.eps = eps

    def forward(self, states: Float[Tensor, "B *T C"]) -> Float[Tensor, "B *T C"]:
        """The states of every channel, shifted and scaled."""
        statistics = (self.running_mean, self.running_var)
        first = states.movedim(-1, 1)
        return nn.functional.batch_norm(first, *statistics, self.weight, self.bias, eps=self.eps).movedim(1, -1)


class Conv1d(nn.Conv1d):
    """A 1D convolution over a sequence; channels come last, in and out.

    `layer_norm_follows` says that the channels of each step are best adjacent in memory.
    """

    returns_channels_last = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        layer_norm_follows: bool = False,
        **init: Unpack[Init],
    ) -> None:
        options: dict[str, Any] = {"groups": groups, "bias": bias, "device": "meta"}
        super().__init__(in_features, out_features, kernel_size, stride, padding, **options, **init)
        self.layer_norm_follows = layer_norm_follows

    def forward(self, states: Float[Tensor, "B T C"]) -> Float[Tensor, "B L F"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The features at every step of the kernel, L = (T + 2 padding - kernel) // stride + 1."""
        if self._as_product(states):
            windows = states.unfold(1, self.kernel_size[0], self.stride[0]).mT.flatten(2)
            return nn.functional.linear(windows, self.weight.mT.flatten(1), self.bias)
        # of a single channel, torch would take the strides of `mT` for channels last, and so would all that follows
        first = states[..., 0][:, None] if self.in_channels == 1 else states.mT
        return super().forward(first).mT

    def _as_product(self, states: Tensor) -> bool:
        """Whether one matrix product over overlapping windows is faster than torch's convolution.

        On a CPU it is where channels are adjacent in memory, as after a layer norm, or shall be. Its gradient isn't.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        if self.in_channels == 1 and not self.layer_norm_follows:
            return False
        return states.is_cpu and self.groups == 1 and self.padding == (0,) and states.is_contiguous()


class WeightNormConv1d(nn.Module):
    """A Conv1d whose weight is `weight_v`, scaled to the norm `weight_g` at each position of the kernel.

    This is torch's `weight_norm(…, dim=2)`, as published for Wav2Vec2's positional convolution.
    """

    returns_channels_last = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        **init: Unpack[Init],
    ) -> None:
        super().__init__()
        self.weight_g = parameter((1, 1, kernel_size), **init)
        self.weight_v = parameter((out_features, in_features // groups, kernel_size), **init)
        self.bias = parameter((out_features,), **init) if bias else None
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, states: Float[Tensor, "B T C"]) -> Float[Tensor, "B L F"]:
        """The features at every step of the kernel, L = (T + 2 padding - kernel) // stride + 1."""
        wide = self.weight_v.to(torch.promote_types(self.weight_v.dtype, torch.float32))
        # torch.linalg.vector_norm takes four times as long over the first axes
        lengths = wide.square().sum((0, 1), keepdim=True).sqrt()
        weight = (wide * (self.weight_g / lengths)).to(self.weight_v.dtype)
        options: dict[str, int] = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        return nn.functional.conv1d(states.mT, weight, self.bias, **options).mT


def Conv2d(
    in_features: int,
    out_features: int,
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    bias: bool = True,
    **init: Unpack[Init],
) -> nn.Conv2d:
    """A convolution over images, (batch, channels, height, width); what remains after the last whole step is dropped.

    Kernel, stride and padding are (height, width), or one number for both.
    """
    options: dict[str, Any] = {"groups": groups, "bias": bias, "device": "meta"}
    return nn.Conv2d(in_features, out_features, kernel_size, stride, padding, **options, **init)


def patches(convolution: Any, pixel_values: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B P D"]:
    """The output of a convolution as a sequence of patches, row by row."""
    return convolution(pixel_values).flatten(2).mT


class RandomLayer(nn.Module):
    """A layer that is random in train mode, with probability `rate`; it draws from torch's global generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate


class Dropout(nn.Dropout):
    """Zeroes entries with probability `rate` in train mode and scales up the rest."""

    def forward(self, values: Float[Tensor, "*B"], rngs: None = None) -> Float[Tensor, "*B"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The values, with dropout in train mode."""
        return super().forward(values)


class LayerDrop(RandomLayer):
    """Skips a layer with probability `rate` in train mode, for the whole batch (Fan et al. 2019, arXiv:1909.11556)."""

    def forward(
        self, before: Float[Tensor, "*B"], after: Float[Tensor, "*B"], rngs: None = None
    ) -> Float[Tensor, "*B"]:
        """The layer's output, `after`, or its input, `before`, if the layer is skipped."""
        if not self.training or self.rate == 0.0:
            return after
        return torch.where(torch.rand((), device=after.device) < self.rate, before, after)


class StochasticDepth(RandomLayer):
    """Skips a residual branch with probability `rate` in train mode, per row (Huang et al. 2016, arXiv:1603.09382)."""

    def forward(self, branch: Float[Tensor, "B *T"], rngs: None = None) -> Float[Tensor, "B *T"]:
        """The branch's contribution to each row: zero, or itself scaled up by 1 / (1 - rate)."""
        if not self.training or self.rate == 0.0:
            return branch
        if self.rate == 1.0:
            return torch.zeros_like(branch)
        rows = (branch.shape[0], *(1,) * (branch.ndim - 1))
        dropped = torch.rand(rows, device=branch.device) < self.rate
        return torch.where(dropped, 0.0, branch / (1.0 - self.rate))


class SpanMask(RandomLayer):
    """Chooses random spans of an axis to mask in train mode (SpecAugment, Park et al. 2019, arXiv:1904.08779)."""

    def __init__(self, axis: str, *, rate: float, span: int, least: int) -> None:
        super().__init__(rate)
        self.axis, self.span, self.least = axis, span, least

    def forward(
        self, like: Float[Tensor, "B T D"], size: int, lengths: Int[Tensor, "B"] | None, rngs: None = None
    ) -> Bool[Tensor, "B S"] | None:
        """(B, size), True in the spans, which lie within the rows' lengths; None if nothing is masked."""
        if not self.training or self.rate == 0.0:
            return None
        seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=like.device)
        options: dict[str, Any] = {"axis": self.axis, "rate": self.rate, "span": self.span, "least": self.least}
        return spans.draw(ops, seed, like.shape[0], size, lengths, **options)


class GumbelNoise(RandomLayer):
    """Noise that makes the largest of several logits a random choice, in train mode."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def forward(
        self, logits: Float[Tensor, "*B V"], noise: Float[Tensor, "*B V"] | None, rngs: None = None
    ) -> Float[Tensor, "*B V"] | None:
        """The given noise, or a standard Gumbel's; None in eval mode."""
        if not self.training or noise is not None:
            return noise if self.training else None
        return -torch.empty_like(logits).exponential_().log()


def buffer(shape: tuple[int, ...], **init: Unpack[Init]) -> Any:
    """A buffer without values; it never trains."""
    return nn.Buffer(torch.empty(shape, device="meta", dtype=init.get("dtype")))


def parameter(shape: tuple[int, ...], **init: Unpack[Init]) -> nn.Parameter:
    """A free parameter without values."""
    return nn.Parameter(torch.empty(shape, device="meta", dtype=init.get("dtype")))


def value(free: Any, like: Tensor) -> Tensor:
    """The tensor of a free parameter or buffer."""
    return free
