"""Functions that the JAX models are made of; the torch backend has the same ones.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, H head width, C Y X images,
V vocabulary, K of it, L tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from diptych.core import check
from diptych.core.errors import InputError
from diptych.core.semantics import losses, masks

xp: Any = jnp
"""The array namespace in which `core.semantics` is computed."""


class Init(TypedDict, total=False):
    """What every layer is built with."""

    dtype: Any
    compute_dtype: Any


def _gelu(x: Array) -> Array:
    return x * (0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5))))


def _gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""The functions behind `hidden_act`."""


def split(values: Float[Array, "B T D"], heads: int) -> Float[Array, "B N T H"]:
    """States whose heads lie side by side, head by head.

    XLA's CPU compiler multiplies (T, H) by (H, S) far faster than where heads and tokens are interleaved.
    """
    return values.reshape(*values.shape[:2], heads, values.shape[2] // heads).swapaxes(1, 2)


def attention(
    query: Float[Array, "B N T H"],
    key: Float[Array, "K N S H"],
    value: Float[Array, "K N S H"],
    mask: Bool[Array, "#K 1 #T S"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: Callable[..., Any],
    rngs: Any = None,
    weights: bool = False,
    upcast: bool = False,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
    """Scaled dot-product attention in several heads; a query that may see no key gives zeros.

    Args:
        query, key, value: projected states, as `split` gives them. K, the rows of keys, may be a part of B: each then
            serves as many rows of queries, one after the other.
        mask: True where a query may see a key.
        causal: without a mask, a query sees itself and what came before.
        scale: what scores are multiplied with; 1 / sqrt(H) without it.
        dropout: the layer that drops probabilities.
        rngs: a key for dropout.
        weights: whether the probabilities are returned too, after dropout.
        upcast: whether the scores are products in float32 or wider, whatever the states are.
    """
    if key.shape[0] != query.shape[0]:
        side_by_side = query.reshape(key.shape[0], -1, *query.shape[1:]).swapaxes(1, 2)
        rows, heads, count, length, width = side_by_side.shape
        switches = {"scale": scale, "dropout": dropout, "rngs": rngs, "weights": weights, "upcast": upcast}
        query = side_by_side.reshape(rows, heads, count * length, width)
        states, probabilities = attention(query, key, value, mask, **switches)
        if probabilities is not None:
            probabilities = probabilities.reshape(rows, heads, count, length, -1).swapaxes(1, 2)
            probabilities = probabilities.reshape(rows * count, heads, length, -1)
        return states.reshape(rows * count, length, -1), probabilities
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    if causal and mask is None:
        mask = jnp.tril(jnp.ones((query.shape[-2], key.shape[-2]), bool))[None, None]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    if upcast:
        query, key = query.astype(wide), key.astype(wide)
    scores = jnp.einsum("BNTH,BNSH->BNTS", query, key, preferred_element_type=wide) * scale
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    if mask is not None:
        probabilities = jnp.where(mask, probabilities, 0.0)
    probabilities = dropout(probabilities.astype(value.dtype), rngs)
    states = (probabilities @ value).swapaxes(1, 2)
    return states.reshape(*states.shape[:2], states.shape[2] * states.shape[3]), probabilities if weights else None


def checkpointed(layer: Callable[..., Any], on: bool) -> Callable[..., Any]:
    """The layer, whose inner values are computed again for the gradient instead of kept, if that is switched on."""
    if not on:
        return layer
    return lambda *arrays, **switches: jax.checkpoint(functools.partial(layer, **switches))(*arrays)


def resized(
    table: Float[Array, "P D"], rows: Float[np.ndarray, "Y y"], columns: Float[np.ndarray, "X x"]
) -> Float[Array, "Q D"]:
    """A table of y * x patch positions resampled to Y * X by two matrices."""
    grid = table.reshape(rows.shape[1], columns.shape[1], -1)
    resampled = jnp.einsum("Yy,Xx,yxd->YXd", constant(rows, grid), constant(columns, grid), grid)
    return resampled.reshape(-1, table.shape[-1])


def constant(values: np.ndarray, like: Array) -> Array:
    """A table of core's as an array of another's dtype."""
    return jnp.asarray(values, like.dtype)


def steps(count: int, like: Any) -> Int[Array, "T"]:
    """The numbers 0 … count - 1."""
    return jnp.arange(count)


def at_row(values: Float[Array, "B T D"], index: Int[Array, "B"]) -> Float[Array, "B D"]:
    """One row of each sequence."""
    return values[steps(values.shape[0], values), index]


def kept(values: Float[Array, "B T D"], which: Any) -> Float[Array, "B K D"]:
    """The states of the last `which` tokens, of all for 0, or of those at the places of a (K,) array."""
    return values[:, -which:] if isinstance(which, int) else values[:, which]


def norm(values: Float[Array, "B D"]) -> Float[Array, "B 1"]:
    """The length of each row, without an epsilon."""
    return jnp.sqrt(jnp.sum(jnp.square(values), axis=-1, keepdims=True))


def top_k(values: Float[Array, "B V"], k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The `k` largest of each row and where they stand, from the largest down; of equal ones, the first come first."""
    # jax.lax.top_k takes 0 before -0, and what is no number first or last by its sign
    values = jnp.where(jnp.isnan(values), jnp.nan, jnp.where(values == 0, 0.0, values))
    found, places = jax.lax.optimization_barrier(jax.lax.top_k(values, k))  # without it, XLA sorts all for a slice
    return found, places


def marked(ids: Int[Array, "B L"], chosen: Bool[Array, "B L"], size: int) -> Bool[Array, "B V"]:
    """Which of the numbers below `size` are among the chosen ids of each row."""
    places = jnp.where(chosen & (ids >= 0), ids, size)  # a negative one would count from the end
    marks = jnp.zeros((ids.shape[0], size), bool)
    return marks.at[steps(ids.shape[0], ids)[:, None], places].set(True, mode="drop")


def added(values: Float[Array, "B V"], ids: Int[Array, "B L"], amounts: Float[Array, "B L"]) -> Float[Array, "B V"]:
    """Each row with the amounts added where their ids say; those that are no place of it are left out."""
    places = jnp.where(ids >= 0, ids, values.shape[1])  # a negative one would count from the end
    return values.at[steps(values.shape[0], values)[:, None], places].add(amounts, mode="drop")


def boundary_ids(where: str, name: str, value: Any, axes: str, like: Any, *, size: int, table: str) -> Array:
    """A caller's ids as an array.

    Raises:
        InputError: they are not integers, do not have these axes, or one is not a row of the table.
    """
    ids = _seen(where, name, value)
    check.integer_dtype(where, name, ids.dtype.name)
    check.rank(where, name, ids.shape, axes)
    check.ids_in_range(where, name, bounds(ids), size, table)
    return _indices(jnp.asarray(ids))


def boundary_floats(where: str, name: str, value: Any, axes: str, like: Any) -> Array:
    """A caller's numbers as an array of the model's dtype.

    Raises:
        InputError: they are not floating, or do not have these axes.
    """
    values = _seen(where, name, value)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise InputError(f"{where}: {name} has dtype {values.dtype.name}, but floats are needed")
    check.rank(where, name, values.shape, axes)
    return jnp.asarray(values, like.dtype)


def boundary_mask(
    where: str, name: str, value: Any, shape: tuple[int, int], like: Any, *, widths: tuple[int, ...] = ()
) -> Array:
    """A caller's attention mask as an array.

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
    return jnp.asarray(values)


def boundary_words(
    where: str,
    input_ids: Any,
    inputs_embeds: Any,
    words: Callable[..., Any],
    like: Any,
    *,
    size: int,
    width: int,
    prefix: str = "",
) -> tuple[Array | None, Array]:
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


def boundary_rows(where: str, name: str, value: Any, shape: tuple[int, int], like: Any, size: int, table: str) -> Array:
    """A caller's ids of (B, T) or, for all rows alike, (1, T).

    Raises:
        InputError: they are not integers, do not have this shape, or one is not a row of the table.
    """
    ids = boundary_ids(where, name, value, "batch, tokens", like, size=size, table=table)
    rows = 1 if ids.shape[0] == 1 else shape[0]
    check.shape(where, name, ids.shape, (rows, shape[1]), ", as many as there are tokens")
    return ids


def boundary_types(where: str, value: Any, shape: tuple[int, int], like: Any, size: int) -> Array:
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
    like: Any,
    *,
    width: int,
    crosses: bool,
    seen: tuple[int, int] | None = None,
) -> tuple[Array | None, Array | None]:
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


def boundary_labels(where: str, name: str, value: Any, logits: Array) -> Array:
    """A caller's class or word ids as an array.

    Raises:
        InputError: they are not integers, not one for each row of logits, or one is neither -100 nor a class.
    """
    labels = _seen(where, name, value)
    check.integer_dtype(where, name, labels.dtype.name)
    check.shape(where, name, labels.shape, logits.shape[:-1])
    return _labels(where, name, labels, logits.shape[-1], "the output")


def boundary_text(where: str, name: str, value: Any, like: Any, *, size: int) -> Array:
    """A caller's labels of (B, T) words, of which a decoder's inputs are made, as an array.

    Raises:
        InputError: they are not integers, do not have these axes, or one is neither -100 nor a word.
    """
    labels = _seen(where, name, value)
    check.integer_dtype(where, name, labels.dtype.name)
    check.rank(where, name, labels.shape, "batch, tokens")
    return _labels(where, name, labels, size, "vocab_size")


def boundary_targets(where: str, name: str, value: Any, logits: Array, problem_type: str | None) -> Array:
    """A caller's labels of a classifier or regression, as an array.

    Raises:
        InputError: they do not fit the problem type.
    """
    labels = _seen(where, name, value)
    floating = bool(jnp.issubdtype(labels.dtype, jnp.floating))
    problem = losses.problem(logits.shape[-1], floating, problem_type)
    if problem == "single_label_classification":
        return boundary_labels(where, name, labels, logits)
    check.targets(where, name, labels.shape, logits.shape, problem)
    return jnp.asarray(labels)


def boundary_rngs(where: str, rngs: Any) -> None:
    """Calls take a key, never a stateful source of keys: under `jax.jit` that would repeat one mask.

    Raises:
        InputError: something else is given.
    """
    if rngs is not None and not isinstance(rngs, Array):
        raise InputError(f"{where}: rngs is a {type(rngs).__name__}, but a key such as jax.random.key(0) is needed")


def _seen(where: str, name: str, value: Any) -> Any:
    """A JAX array as it is, anything else as numpy has it: before JAX would wrap 64-bit integers.

    It wraps those of its own arrays too, once the scope that allowed them is left.
    """
    if not isinstance(value, Array):
        return check.numbers(where, name, value)
    wide = value.dtype.itemsize == 8 and not jax.config.read("jax_enable_x64")
    return np.asarray(value) if wide and not isinstance(value, Tracer) else value


def _labels(where: str, name: str, labels: Any, size: int, table: str) -> Array:
    if not isinstance(labels, Tracer):
        seen = np.asarray(labels)
        check.ids_in_range(where, name, bounds(np.where(seen != losses.IGNORED, seen, 0)), size, table)
    return _indices(jnp.asarray(labels))


def _indices(ids: Array) -> Array:
    """Integers in a dtype that indexes; narrow and unsigned ones need not, and could not hold every index."""
    return ids if ids.dtype in (jnp.int32, jnp.int64) else ids.astype(jnp.int32)


def leading(values: Any, count: int) -> Any:
    """The first `count` columns of an array that a call returns; JAX would compile a program for every count."""
    return values[:, :count] if isinstance(values, Tracer) else jnp.asarray(np.asarray(values)[:, :count])


def host(values: Any) -> Any:
    """An array's values as numpy has them, where they can be seen; anything else as it is."""
    return np.asarray(values) if isinstance(values, Array) and not isinstance(values, Tracer) else values


def bounds(ids: Any) -> tuple[int, int] | None:
    """Smallest and largest id, or None where the values can't be seen."""
    if ids.size == 0 or isinstance(ids, Tracer):
        return None
    seen = np.asarray(ids)  # inside a trace, JAX would trace these too, though the ids themselves can be seen
    return int(seen.min()), int(seen.max())


def is_array(value: Any) -> bool:
    """Whether a value is an array of this backend."""
    return isinstance(value, Array)


def is_traced(value: Any) -> bool:
    """Whether a value is an array of a program that is being traced, so that its values aren't known."""
    return isinstance(value, Tracer)
