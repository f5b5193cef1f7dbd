"""The functions that the torch models use; the JAX backend has the same ones.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, H head width, C Y X images,
V vocabulary, K chosen entries of it, L tokens.
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
from torch._subclasses import FakeTensor

from diptych.core import check
from diptych.core.errors import InputError
from diptych.core.semantics.tables import each_table

xp: Any = array_api_compat.torch
"""The array namespace in which `core.semantics` is computed."""


def _mark_as_constant(table: Any) -> None:
    """Does what torch.compiler.assume_constant_result does, which imports the compiler: 1.5 s of each start."""
    table._dynamo_marked_constant = True


each_table(_mark_as_constant)


class Init(TypedDict, total=False):
    """Keywords of every layer's constructor."""

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
"""`hidden_act` -> the function."""


def split_heads(values: Float[Tensor, "B T D"], heads: int) -> Float[Tensor, "B N T H"]:
    """States (B, T, D) split into heads (B, N, T, H)."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention(
    query: Float[Tensor, "B N T H"],
    key: Float[Tensor, "K M S H"],
    value: Float[Tensor, "K M S H"],
    mask: Bool[Tensor, "#K 1 #T S"] | None = None,
    *,
    bias: Float[Tensor, "#B #N #T S"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: Callable[..., Any],
    rngs: None = None,
    weights: bool = False,
    upcast: bool = False,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B N T S"] | None]:
    """Multi-head scaled dot-product attention; a query with no visible key gives zeros.

    Args:
        query, key, value: projected states, as `split_heads` returns them. K, the rows of keys, may divide B: each then
            serves B / K consecutive rows of queries. M, the heads of keys, may divide N in the same way.
        mask: True where a query may see a key.
        bias: added to the scaled scores.
        causal: if there is no mask, whether a query sees only itself and earlier tokens.
        scale: the factor of the scores; by default 1 / sqrt(H).
        dropout: the dropout layer of the probabilities.
        rngs: None; torch draws from its global generator.
        weights: whether the probabilities are returned too, after dropout.
        upcast: whether the scores are computed in float32 or wider, whatever the states' dtype and autocast.
    """
    length, size, shared = query.shape[2], key.shape[2], query.shape[0] != key.shape[0]
    if causal and mask is None and (weights or upcast or shared or bias is not None):
        mask = torch.ones(length, size, dtype=torch.bool, device=query.device).tril()[None, None]
    if shared:
        switches = {"scale": scale, "dropout": dropout, "rngs": rngs, "weights": weights, "upcast": upcast}
        return _attention_of_shared_rows(query, key, value, mask, bias, switches)
    scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
    if not weights and not upcast:
        return _fused_attention(query, key, value, mask, bias, causal and mask is None, scale, dropout), None
    scores = _attention_scores(query, key, scale, upcast)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    probabilities = scores.softmax(-1)
    if mask is not None:
        probabilities = probabilities.masked_fill(~mask, 0.0)
    probabilities = dropout(probabilities.to(query.dtype), rngs)
    # the heads that share keys become one head, with their queries one after the other
    grouped = (*key.shape[:2], query.shape[1] // key.shape[1] * length)
    states = (probabilities.reshape(*grouped, size) @ value).reshape(*query.shape[:3], value.shape[-1])
    return states.transpose(1, 2).flatten(2), probabilities if weights else None


def _attention_of_shared_rows(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None, switches: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Attention in which each row of keys serves several rows of queries, which become one, one after the other."""
    batch, _, length, _ = query.shape
    rows = key.shape[0]
    shared = batch // rows
    query = query.unflatten(0, (rows, shared)).transpose(1, 2).flatten(2, 3)
    if mask is not None and mask.shape[2] != 1:
        mask = mask.repeat(1, 1, shared, 1)
    if bias is not None:
        bias = bias.expand(batch, -1, length, -1).unflatten(0, (rows, shared)).transpose(1, 2).flatten(2, 3)
    states, probabilities = attention(query, key, value, mask, bias=bias, **switches)
    if probabilities is not None:
        probabilities = probabilities.unflatten(2, (shared, length)).transpose(1, 2).flatten(0, 1)
    return states.unflatten(1, (shared, length)).flatten(0, 1), probabilities


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    scale: float,
    dropout: Any,
) -> Tensor:
    """The states (B, T, D) from torch's own kernel, which returns no probabilities."""
    if bias is not None:
        bias = bias.to(query.dtype)
        mask = bias if mask is None else torch.where(mask, bias, -math.inf)
    # a comparison of sizes is no bool while torch.compile traces them as symbols, unless a branch asks for it
    grouping = {"enable_gqa": True} if key.shape[1] != query.shape[1] else {}
    rate = dropout.p if dropout.training else 0.0
    options = {"is_causal": causal, "scale": scale, **grouping}
    return F.scaled_dot_product_attention(query, key, value, mask, rate, **options).transpose(1, 2).flatten(2)


def _attention_scores(query: Tensor, key: Tensor, scale: float, upcast: bool) -> Tensor:
    """The scaled scores (B, N, T, S) in float32 or wider; heads that share keys become one head for the product."""
    wide = torch.promote_types(query.dtype, torch.float32)
    flat = query.reshape(*key.shape[:2], query.shape[1] // key.shape[1] * query.shape[2], query.shape[3])
    if upcast:
        with torch.autocast(query.device.type, enabled=False):
            scores = flat.to(wide) @ key.to(wide).mT * scale
    else:
        scores = (flat @ key.mT * scale).to(wide)
    return scores.reshape(*query.shape[:3], key.shape[2])


def rotate(
    states: Float[Tensor, "B N T H"], cos: Float[Tensor, "#B T H"], sin: Float[Tensor, "#B T H"]
) -> Float[Tensor, "B N T H"]:
    """States rotated by their positions' angles, the first half of each head against the second (RoPE as in Llama).

    Args:
        states: queries or keys, as `split_heads` returns them.
        cos, sin: rows of the tables of `core.semantics.positions.rotary`.
    """
    first, second = states.chunk(2, -1)
    return states * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]


def scan(
    step: Callable[[Any, Any], Any], carry: Any, items: tuple[Float[Tensor, "T ..."] | Int[Tensor, "T ..."], ...]
) -> Any:
    """The carry after `carry = step(carry, item)` for each item, a tuple of one row of each array."""
    for item in zip(*items, strict=True):
        carry = step(carry, item)
    return carry


def forward_key(rngs: Any) -> Any:
    """The key of a forward pass: None, since torch draws from its global generator."""
    return rngs


def resample_positions(
    table: Float[Tensor, "P D"], rows: Float[np.ndarray, "Y y"], columns: Float[np.ndarray, "X x"]
) -> Float[Tensor, "Q D"]:
    """A table of y * x patch positions, resampled to Y * X with two matrices."""
    grid = table.unflatten(0, (rows.shape[1], columns.shape[1]))
    return torch.einsum("Yy,Xx,yxd->YXd", constant(rows, grid), constant(columns, grid), grid).flatten(0, 1)


def pad_end(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values with zeros after them along each axis, up to the shape."""
    missing = [wanted - found for wanted, found in zip(shape, values.shape, strict=True)]
    return F.pad(values, [size for after in reversed(missing) for size in (0, after)]) if any(missing) else values


def constant(values: np.ndarray, like: Tensor) -> Tensor:
    """A numpy array as a tensor of another's dtype and device."""
    return torch.from_numpy(values).to(like)


def indices(values: np.ndarray, like: Tensor) -> Int[Tensor, "*B"]:
    """A numpy array of indices as a tensor on another's device."""
    return torch.from_numpy(values).to(like.device)


def constant_rows(table: np.ndarray, ids: Int[Tensor, "*B"], like: Tensor) -> Float[Tensor, "*B D"]:
    """The rows of a numpy table at the ids, in another tensor's dtype."""
    rows = torch.from_numpy(table)
    # on a CPU nothing else is converted
    return rows[ids].to(like) if ids.is_cpu else rows.to(like)[ids]


def steps(count: int, like: Tensor) -> Int[Tensor, "T"]:
    """The numbers 0 … count - 1, on another tensor's device."""
    return torch.arange(count, device=like.device)


def gather_rows(values: Float[Tensor, "B T D"], index: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
    """One token of each sequence, at its index."""
    return values[steps(values.shape[0], values), index]


def select_tokens(values: Float[Tensor, "B T D"], which: Any) -> Float[Tensor, "B K D"]:
    """The states of the last `which` tokens, of all tokens for 0, or of those at the (K,) positions."""
    return values[:, -which:] if isinstance(which, int) else values[:, which]


def vector_norm(values: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
    """The Euclidean norm of each row, without an epsilon."""
    return values.square().sum(-1, keepdim=True).sqrt()


def straight_through(values: Float[Tensor, "*B"], like: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Exactly the values, with the gradient of others (Bengio et al. 2013, arXiv:1308.3432)."""
    return values + (like - like.detach())


def top_k(values: Float[Tensor, "B V"], k: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The `k` largest entries of each row and their indices, in descending order; ties are in order of index."""
    found, places = values.topk(min(k + 1, values.shape[1]))
    if (found[:, 1:] < found[:, :-1]).all():
        return found[:, :k], places[:, :k]
    # torch.topk returns ties in any order
    if found.isnan().any():
        found, places = values.sort(dim=1, descending=True, stable=True)
        return found[:, :k], places[:, :k]
    above, equal = values > found[:, k - 1 : k], values == found[:, k - 1 : k]
    taken = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    places = taken.nonzero()[:, 1].unflatten(0, (-1, k))
    found, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return found, places.gather(1, order)


def membership_mask(ids: Int[Tensor, "B L"], chosen: Bool[Tensor, "B L"], size: int) -> Bool[Tensor, "B V"]:
    """(B, V): whether each id below `size` is among the chosen ids of its row."""
    places = torch.where(chosen & (ids >= 0) & (ids < size), ids, size).to(torch.int64)
    marks = torch.zeros(ids.shape[0], size + 1, dtype=torch.bool, device=ids.device)
    return marks.scatter_(1, places, True)[:, :size]


def scatter_add(
    values: Float[Tensor, "B V"], ids: Int[Tensor, "B L"], amounts: Float[Tensor, "B L"]
) -> Float[Tensor, "B V"]:
    """The rows with the amounts added at their ids; ids outside the row are ignored."""
    inside = (ids >= 0) & (ids < values.shape[1])
    places = torch.where(inside, ids, 0).to(torch.int64)
    return values.scatter_add(1, places, torch.where(inside, amounts, 0.0))


def concrete_array(caller: str, name: str, value: Any) -> Tensor:
    """A caller's argument as a tensor: tensors unchanged, anything else through numpy.

    numpy accepts more dtypes and strides than torch does.
    """
    if isinstance(value, Tensor):
        return value
    array = np.require(check.numbers(caller, name, value), requirements=["C", "W"])
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def dtype_name(values: Tensor) -> str:
    """The name of a dtype, as numpy spells it."""
    return str(values.dtype).removeprefix("torch.")


def as_ids(values: Tensor, like: Tensor) -> Tensor:
    """Integers in a dtype that torch can index with, on the model's device."""
    values = values if values.dtype in (torch.int32, torch.int64) else values.to(torch.int64)
    return values.to(like.device)


def as_labels(values: Tensor, like: Tensor) -> Tensor:
    """Integers in int64, the only dtype that `gather` accepts, on the model's device."""
    return values.to(device=like.device, dtype=torch.int64)


def as_floats(values: Tensor, like: Tensor) -> Tensor:
    """Floats in the model's dtype, on its device."""
    return values.to(like)


def on_device(values: Tensor, like: Tensor) -> Tensor:
    """A tensor on the model's device, in its own dtype."""
    return values.to(like.device)


def check_rngs(caller: str, rngs: Any) -> None:
    """Checks that no key is given.

    Raises:
        InputError: one is given.
    """
    if rngs is not None:
        raise InputError(f"{caller}: rngs={rngs!r}, but torch draws from its global generator; use torch.manual_seed")


def concrete_length(length: int) -> int | None:
    """A cache's length as a Python number; None if it is traced."""
    return length


def first_columns(values: Any, count: int) -> Any:
    """The first `count` columns of an array that a call returns."""
    return values[:, :count]


def stop_gradient(values: Tensor) -> Tensor:
    """The values, as constants for gradients."""
    return values.detach()


def to_numpy(values: Any) -> Any:
    """A tensor's values as a numpy array; anything else unchanged."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def host_array(values: Any) -> Any:
    """A tensor as a caller's Python sees it between steps: the tensor itself."""
    return values


def min_max(values: Tensor, ignored: int | None = None) -> tuple[int, int] | None:
    """The smallest and the largest integer, with 0 in place of ignored ones; None if the values aren't known."""
    if values.numel() == 0 or is_traced(values):
        return None
    if values.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    values = values if values.dtype in (torch.int32, torch.int64) else values.to(torch.int64)
    low, high = torch.aminmax(values if ignored is None else values.where(values != ignored, 0))
    return int(low), int(high)


def all_finite(values: Tensor) -> bool | None:
    """Whether no entry is NaN or infinite; None if the values aren't known."""
    if is_traced(values) or (values.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    return bool(torch.isfinite(values).all())


def has_other_values(values: Tensor, allowed: tuple[int, int]) -> bool:
    """Whether an array is known to hold other values than these two."""
    if values.dtype == torch.bool or is_traced(values) or (values.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    return bool(((values != allowed[0]) & (values != allowed[1])).any())


def is_array(value: Any) -> bool:
    """Whether a value is an array of this backend."""
    return isinstance(value, Tensor)


def is_traced(value: Any) -> bool:
    """Whether an array is being traced or transformed, so that its values aren't known."""
    return isinstance(value, Tensor) and (
        value.is_meta
        or torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or isinstance(value, FakeTensor)
        or is_transformed(value)
    )


def is_transformed(value: Tensor) -> bool:
    """Whether a tensor stands for others inside a transform of torch.func, such as the rows of a vmap."""
    # torch.compile does not know the function, and has no such tensors
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(value)  # pyright: ignore[reportAttributeAccessIssue]


def is_sharded(value: Tensor) -> bool:
    """Whether several processes hold a part of a tensor each, as FSDP2's parameters outside of `forward`."""
    return hasattr(value, "full_tensor")
