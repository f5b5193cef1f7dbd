"""Functions that the torch models are made of; the JAX backend has the same ones.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, H head width, C Y X images,
V vocabulary, K of it, L tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypedDict

import array_api_compat.torch
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diptych.core import check
from diptych.core.errors import InputError
from diptych.core.semantics import losses, masks

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


def split(values: Float[Tensor, "B T D"], heads: int) -> Float[Tensor, "B N T H"]:
    """States whose heads lie side by side, head by head."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention(
    query: Float[Tensor, "B N T H"],
    key: Float[Tensor, "K N S H"],
    value: Float[Tensor, "K N S H"],
    mask: Bool[Tensor, "#K 1 #T S"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: Callable[..., Any],
    rngs: None = None,
    weights: bool = False,
    upcast: bool = False,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B N T S"] | None]:
    """Scaled dot-product attention in several heads; a query that may see no key gives zeros.

    Args:
        query, key, value: projected states, as `split` gives them. K, the rows of keys, may be a part of B: each then
            serves as many rows of queries, one after the other.
        mask: True where a query may see a key.
        causal: without a mask, a query sees itself and what came before.
        scale: what scores are multiplied with; 1 / sqrt(H) without it.
        dropout: the layer that drops probabilities.
        rngs: nothing; torch draws from its global generator.
        weights: whether the probabilities are returned too, after dropout.
        upcast: whether the scores are products in float32 or wider, whatever the states and autocast say.
    """
    if key.shape[0] != query.shape[0]:
        side_by_side = query.unflatten(0, (key.shape[0], -1)).transpose(1, 2)
        switches = {"scale": scale, "dropout": dropout, "rngs": rngs, "weights": weights, "upcast": upcast}
        states, probabilities = attention(side_by_side.flatten(2, 3), key, value, mask, **switches)
        if probabilities is not None:
            probabilities = probabilities.unflatten(2, side_by_side.shape[2:4]).transpose(1, 2).flatten(0, 1)
        return states.unflatten(1, side_by_side.shape[2:4]).flatten(0, 1), probabilities
    causal = causal and mask is None
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    if not weights and not upcast:
        rate = dropout.rate if dropout.training else 0.0  # pyright: ignore[reportFunctionMemberAccess]
        states = F.scaled_dot_product_attention(query, key, value, mask, rate, is_causal=causal, scale=scale)
        return states.transpose(1, 2).flatten(2), None
    if causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()[None, None]
    wide = torch.promote_types(query.dtype, torch.float32)
    if upcast:
        with torch.autocast(query.device.type, enabled=False):
            scores = query.to(wide) @ key.to(wide).mT * scale
    else:
        scores = (query @ key.mT * scale).to(wide)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    probabilities = scores.softmax(-1)
    if mask is not None:
        probabilities = probabilities.masked_fill(~mask, 0.0)
    probabilities = dropout(probabilities.to(query.dtype), rngs)
    return (probabilities @ value).transpose(1, 2).flatten(2), probabilities if weights else None


def checkpointed(layer: Callable[..., Any], on: bool) -> Callable[..., Any]:
    """The layer, whose inner values are computed again for the gradient instead of kept, if that is switched on."""
    if not on or not torch.is_grad_enabled():
        return layer
    return functools.partial(checkpoint, layer, use_reentrant=False)


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


def kept(values: Float[Tensor, "B T D"], which: Any) -> Float[Tensor, "B K D"]:
    """The states of the last `which` tokens, of all for 0, or of those at the places of a (K,) array."""
    return values[:, -which:] if isinstance(which, int) else values[:, which]


def norm(values: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
    """The length of each row, without an epsilon."""
    return values.square().sum(-1, keepdim=True).sqrt()


def top_k(values: Float[Tensor, "B V"], k: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The `k` largest of each row and where they stand, from the largest down; of equal ones, the first come first."""
    found, places = values.topk(min(k + 1, values.shape[1]))
    if (found[:, 1:] < found[:, :-1]).all():
        return found[:, :k], places[:, :k]
    # torch.topk takes equal ones in any order
    if found.isnan().any():
        found, places = values.sort(dim=1, descending=True, stable=True)
        return found[:, :k], places[:, :k]
    above, equal = values > found[:, k - 1 : k], values == found[:, k - 1 : k]
    taken = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    places = taken.nonzero()[:, 1].unflatten(0, (-1, k))
    found, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return found, places.gather(1, order)


def marked(ids: Int[Tensor, "B L"], chosen: Bool[Tensor, "B L"], size: int) -> Bool[Tensor, "B V"]:
    """Which of the numbers below `size` are among the chosen ids of each row."""
    places = torch.where(chosen & (ids >= 0) & (ids < size), ids, size).to(torch.int64)
    marks = torch.zeros(ids.shape[0], size + 1, dtype=torch.bool, device=ids.device)
    return marks.scatter_(1, places, True)[:, :size]


def added(values: Float[Tensor, "B V"], ids: Int[Tensor, "B L"], amounts: Float[Tensor, "B L"]) -> Float[Tensor, "B V"]:
    """Each row with the amounts added where their ids say; those that are no place of it are left out."""
    inside = (ids >= 0) & (ids < values.shape[1])
    places = torch.where(inside, ids, 0).to(torch.int64)
    return values.scatter_add(1, places, torch.where(inside, amounts, 0.0))


def boundary_ids(where: str, name: str, value: Any, axes: str, like: Tensor, *, size: int, table: str) -> Tensor:
    """A caller's ids as a tensor on the model's device.

    Raises:
        InputError: they are not integers, do not have these axes, or one is not a row of the table.
    """
    ids = _seen(where, name, value)
    check.integer_dtype(where, name, str(ids.dtype).removeprefix("torch."))
    ids = _indices(ids)
    check.rank(where, name, ids.shape, axes)
    check.ids_in_range(where, name, bounds(ids), size, table)
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


def boundary_mask(
    where: str, name: str, value: Any, shape: tuple[int, int], like: Tensor, *, widths: tuple[int, ...] = ()
) -> Tensor:
    """A caller's attention mask as a tensor on the model's device.

    Args:
        where, name, value: what errors name, and the mask.
        shape: (B, T).
        like: what has the model's dtype and device.
        widths: others than T that it may have, where it speaks of tokens seen before too.

    Raises:
        InputError: it has another shape.
    """
    values = _seen(where, name, value)
    if len(values.shape) == 2 and values.shape[1] in widths:
        shape = (shape[0], values.shape[1])
    check.shape(where, name, values.shape, shape, ", as many as there are tokens")
    return values.to(like.device)


def boundary_words(
    where: str,
    input_ids: Any,
    inputs_embeds: Any,
    words: Callable[..., Any],
    like: Tensor,
    *,
    size: int,
    width: int,
    prefix: str = "",
) -> tuple[Tensor | None, Tensor]:
    """A caller's ids, if they are given, and their embeddings or the caller's in their place.

    Args:
        where, input_ids, inputs_embeds: what errors name, and the caller's arguments, of which one is None.
        words: the table of embeddings.
        like: what has the model's dtype and device.
        size: rows of the table, `vocab_size`.
        width: of the embeddings, `hidden_size`.
        prefix: what stands before the arguments' names, "decoder_" for those of the second text.

    Raises:
        InputError: both are given or none, one is not of its dtype or shape, or an id is not in the vocabulary.
    """
    ids, embeds = f"{prefix}input_ids", f"{prefix}inputs_embeds"
    check.exactly_one(where, **{ids: input_ids, embeds: inputs_embeds})
    if input_ids is not None:
        input_ids = boundary_ids(where, ids, input_ids, "batch, tokens", like, size=size, table="vocab_size")
        check.has_tokens(where, input_ids.shape[1])
        return input_ids, words(input_ids)
    inputs_embeds = boundary_floats(where, embeds, inputs_embeds, "batch, tokens, hidden_size", like)
    check.has_tokens(where, inputs_embeds.shape[1])
    check.shape(where, embeds, inputs_embeds.shape, (*inputs_embeds.shape[:2], width))
    return None, inputs_embeds


def boundary_rows(
    where: str, name: str, value: Any, shape: tuple[int, int], like: Tensor, size: int, table: str
) -> Tensor:
    """A caller's ids of (B, T) or, for all rows alike, (1, T).

    Raises:
        InputError: they are not integers, do not have this shape, or one is not a row of the table.
    """
    ids = boundary_ids(where, name, value, "batch, tokens", like, size=size, table=table)
    rows = 1 if ids.shape[0] == 1 else shape[0]
    check.shape(where, name, ids.shape, (rows, shape[1]), ", as many as there are tokens")
    return ids


def boundary_types(where: str, value: Any, shape: tuple[int, int], like: Tensor, size: int) -> Tensor:
    """A caller's token types of (B, T) or (1, T); without them type 0.

    Raises:
        InputError: they are not integers, do not have this shape, or one is not below `type_vocab_size`.
    """
    if value is None:
        return xp.zeros_like(steps(shape[1], like))[None]
    return boundary_rows(where, "token_type_ids", value, shape, like, size, "type_vocab_size")


def boundary_memory(
    where: str,
    states: Any,
    attention_mask: Any,
    batch: int,
    like: Tensor,
    *,
    width: int,
    crosses: bool,
    seen: tuple[int, int] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """What a caller says of the encoder's tokens: their states (B, S, D) if given, and the mask (B, 1, 1, S) over them.

    Args:
        where: what errors name first.
        states: `encoder_hidden_states`, or None.
        attention_mask: `encoder_attention_mask` (B, S), or None.
        batch: rows of the decoder.
        like: what has the model's dtype and device.
        width: D.
        crosses: whether the decoder has cross-attention.
        seen: rows and tokens that the cache has of the encoder, which are attended to then; None if it has none.

    Raises:
        InputError: the decoder has none, one has another dtype or shape, or a mask is given of nothing.
    """
    if states is not None:
        if not crosses:
            raise InputError(f"{where}: encoder_hidden_states are given, but the config has add_cross_attention=False")
        states = boundary_floats(where, "encoder_hidden_states", states, "batch, tokens, hidden_size", like)
        check.shape(where, "encoder_hidden_states", states.shape, (batch, states.shape[1], width))
    if attention_mask is None:
        return states, None
    values = _seen(where, "encoder_attention_mask", attention_mask)
    size = seen if states is None or seen is not None else (batch, states.shape[1])
    if size is None:
        raise InputError(f"{where}: encoder_attention_mask is given, but no encoder_hidden_states")
    mask = boundary_mask(where, "encoder_attention_mask", values, size, like)
    return states, masks.padding(xp, mask)


def boundary_labels(where: str, name: str, value: Any, logits: Tensor) -> Tensor:
    """A caller's class or word ids as a tensor beside the logits.

    Raises:
        InputError: they are not integers, not one for each row of logits, or one is neither -100 nor a class.
    """
    labels = _seen(where, name, value)
    check.integer_dtype(where, name, str(labels.dtype).removeprefix("torch."))
    check.shape(where, name, labels.shape, logits.shape[:-1])
    return _labels(where, name, labels, logits.shape[-1], "the output").to(logits.device)


def boundary_text(where: str, name: str, value: Any, like: Tensor, *, size: int) -> Tensor:
    """A caller's labels of (B, T) words, of which a decoder's inputs are made, as a tensor on the model's device.

    Raises:
        InputError: they are not integers, do not have these axes, or one is neither -100 nor a word.
    """
    labels = _seen(where, name, value)
    check.integer_dtype(where, name, str(labels.dtype).removeprefix("torch."))
    check.rank(where, name, labels.shape, "batch, tokens")
    return _labels(where, name, labels, size, "vocab_size").to(like.device)


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


def _labels(where: str, name: str, labels: Tensor, size: int, table: str) -> Tensor:
    labels = _indices(labels)
    counted = labels.where(labels != losses.IGNORED, 0)
    check.ids_in_range(where, name, bounds(counted), size, table)
    return labels.to(torch.int64)  # the only dtype that indexes


def _indices(ids: Tensor) -> Tensor:
    """Integers in a dtype that indexes, which narrow and unsigned ones don't."""
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.to(torch.int64)


def leading(values: Any, count: int) -> Any:
    """The first `count` columns of an array that a call returns."""
    return values[:, :count]


def host(values: Any) -> Any:
    """A tensor's values as numpy has them; anything else as it is."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def bounds(ids: Tensor) -> tuple[int, int] | None:
    """Smallest and largest id, or None where the values can't be seen."""
    if ids.numel() == 0 or ids.is_meta or torch.compiler.is_compiling():
        return None
    if ids.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    low, high = torch.aminmax(ids)
    return int(low), int(high)


def is_array(value: Any) -> bool:
    """Whether a value is an array of this backend."""
    return isinstance(value, Tensor)


def is_traced(value: Any) -> bool:
    """Whether a value is an array of a program that is being traced, so that its values aren't known."""
    return isinstance(value, Tensor) and (value.is_meta or torch.compiler.is_compiling())
