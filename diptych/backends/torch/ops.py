"""Functions that the torch models are made of; the JAX backend has the same ones.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, H head width, C Y X images.
"""

import math
from collections.abc import Callable
from typing import Any, TypedDict

import array_api_compat.torch
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core import check
from diptych.core.errors import InputError
from diptych.core.semantics import losses

xp: Any = array_api_compat.torch
"""The array namespace in which `core.semantics` is computed."""


class Init(TypedDict, total=False):
    """What every layer is built with."""

    dtype: torch.dtype


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""The functions behind `hidden_act`."""


def attention(
    query: Float[Tensor, "B T D"],
    key: Float[Tensor, "B S D"],
    value: Float[Tensor, "B S D"],
    mask: Bool[Tensor, "#B 1 #T S"] | None = None,
    *,
    heads: int,
    causal: bool = False,
    dropout: Callable[..., Any],
    rngs: None = None,
    weights: bool = False,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B N T S"] | None]:
    """Scaled dot-product attention in several heads; a query that may see no key gives zeros.

    Args:
        query, key, value: projected states, the heads side by side in D.
        mask: True where a query may see a key.
        heads: number of heads N.
        causal: a query sees itself and what came before; only without a mask.
        dropout: the layer that drops probabilities.
        rngs: nothing; torch draws from its global generator.
        weights: whether the probabilities are returned too, after dropout.
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if not weights:
        rate = dropout.rate if dropout.training else 0.0  # pyright: ignore[reportFunctionMemberAccess]
        states = F.scaled_dot_product_attention(query, key, value, mask, rate, is_causal=causal)
        return states.transpose(1, 2).flatten(2), None
    if causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()[None, None]
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    probabilities = scores.softmax(-1)
    if mask is not None:
        probabilities = probabilities.masked_fill(~mask, 0.0)
    probabilities = dropout(probabilities.to(query.dtype), rngs)
    return (probabilities @ value).transpose(1, 2).flatten(2), probabilities


def resized(
    table: Float[Tensor, "P D"], rows: Float[np.ndarray, "Y y"], columns: Float[np.ndarray, "X x"]
) -> Float[Tensor, "Q D"]:
    """A table of y * x patch positions resampled to Y * X by two matrices."""
    grid = table.unflatten(0, (rows.shape[1], columns.shape[1]))
    return torch.einsum("Yy,Xx,yxd->YXd", constant(rows, grid), constant(columns, grid), grid).flatten(0, 1)


def constant(values: np.ndarray, like: Tensor) -> Tensor:
    """A table of core's as a tensor of another's dtype and device."""
    return torch.from_numpy(values).to(like)


def steps(count: int, like: Tensor) -> Int[Tensor, "T"]:
    """The numbers 0 … count - 1, on another tensor's device."""
    return torch.arange(count, device=like.device)


def at_row(values: Float[Tensor, "B T D"], index: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
    """One row of each sequence."""
    return values[steps(values.shape[0], values), index]


def norm(values: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
    """The length of each row, without an epsilon."""
    return values.square().sum(-1, keepdim=True).sqrt()


def boundary_ids(where: str, name: str, value: Any, axes: str, like: Tensor, *, size: int, table: str) -> Tensor:
    """A caller's ids as a tensor on the model's device.

    Raises:
        InputError: they are not integers, do not have these axes, or one is not a row of the table.
    """
    ids = _seen(where, name, value)
    check.integer_dtype(where, name, str(ids.dtype).removeprefix("torch."))
    ids = _indices(ids)
    check.rank(where, name, ids.shape, axes)
    check.ids_in_range(where, name, _bounds(ids), size, table)
    return ids.to(like.device)


def boundary_floats(where: str, name: str, value: Any, axes: str, like: Tensor) -> Tensor:
    """A caller's numbers as a tensor of the model's dtype and device.

    Raises:
        InputError: they are not floating, or do not have these axes.
    """
    values = _seen(where, name, value)
    if not values.is_floating_point():
        raise InputError(f"{where}: {name} has dtype {str(values.dtype).removeprefix('torch.')}, but floats are needed")
    check.rank(where, name, values.shape, axes)
    return values.to(like)


def boundary_mask(where: str, name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A caller's attention mask as a tensor on the model's device.

    Raises:
        InputError: it has another shape.
    """
    values = _seen(where, name, value)
    check.shape(where, name, values.shape, shape, ", as many as there are tokens")
    return values.to(like.device)


def boundary_labels(where: str, name: str, value: Any, logits: Tensor) -> Tensor:
    """A caller's class or word ids as a tensor beside the logits.

    Raises:
        InputError: they are not integers, not one for each row of logits, or one is neither -100 nor a class.
    """
    labels = _seen(where, name, value)
    check.integer_dtype(where, name, str(labels.dtype).removeprefix("torch."))
    labels = _indices(labels)
    check.shape(where, name, labels.shape, logits.shape[:-1])
    counted = labels.where(labels != losses.IGNORED, 0)
    check.ids_in_range(where, name, _bounds(counted), logits.shape[-1], "the output")
    return labels.to(logits.device, torch.int64)  # the only dtype that indexes


def boundary_targets(where: str, name: str, value: Any, logits: Tensor, problem_type: str | None) -> Tensor:
    """A caller's labels of a classifier or regression, as a tensor beside the logits.

    Raises:
        InputError: they do not fit the problem type.
    """
    labels = _seen(where, name, value)
    problem = losses.problem(logits.shape[-1], labels.is_floating_point(), problem_type)
    if problem == "single_label_classification":
        return boundary_labels(where, name, labels, logits)
    check.targets(where, name, labels.shape, logits.shape, problem)
    return labels.to(logits.device)


def boundary_rngs(where: str, rngs: Any) -> None:
    """Torch takes no keys.

    Raises:
        InputError: one is given.
    """
    if rngs is not None:
        raise InputError(f"{where}: rngs={rngs!r}, but torch draws from its global generator; use torch.manual_seed")


def _seen(where: str, name: str, value: Any) -> Tensor:
    """A tensor as it is, anything else by way of numpy, whose dtypes and strides are more than torch takes."""
    if isinstance(value, Tensor):
        return value
    array = np.require(check.numbers(where, name, value), requirements=["C", "W"])
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _indices(ids: Tensor) -> Tensor:
    """Integers in a dtype that indexes, which narrow and unsigned ones don't."""
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.to(torch.int64)


def _bounds(ids: Tensor) -> tuple[int, int] | None:
    """Smallest and largest id, or None where the values can't be seen."""
    if ids.numel() == 0 or ids.is_meta or torch.compiler.is_compiling():
        return None
    if ids.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    low, high = torch.aminmax(ids)
    return int(low), int(high)
