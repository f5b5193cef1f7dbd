"""The functions that the JAX models use; the torch backend has the same ones.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, H head width, C Y X images,
V vocabulary, K chosen entries of it, L tokens.
"""

import math
from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType
from jaxtyping import Bool, Float, Int

from diptych.core import check
from diptych.core.errors import InputError

xp: Any = jnp
"""The array namespace in which `core.semantics` is computed."""


class Init(TypedDict, total=False):
    """Keywords of every layer's constructor."""

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
"""`hidden_act` -> the function."""


def split_heads(values: Float[Array, "B T D"], heads: int) -> Float[Array, "B N T H"]:
    """States (B, T, D) split into heads (B, N, T, H).

    XLA's CPU compiler multiplies (T, H) by (H, S) far faster than interleaved heads and tokens.
    """
    return values.reshape(*values.shape[:2], heads, values.shape[2] // heads).swapaxes(1, 2)


def attention(
    query: Float[Array, "B N T H"],
    key: Float[Array, "K M S H"],
    value: Float[Array, "K M S H"],
    mask: Bool[Array, "#K 1 #T S"] | None = None,
    *,
    bias: Float[Array, "#B #N #T S"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: Callable[..., Any],
    rngs: Any = None,
    weights: bool = False,
    upcast: bool = False,
) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
    """Multi-head scaled dot-product attention; a query with no visible key gives zeros.

    Args:
        query, key, value: projected states, as `split_heads` returns them. K, the rows of keys, may divide B: each then
            serves B / K consecutive rows of queries. M, the heads of keys, may divide N in the same way.
        mask: True where a query may see a key.
        bias: added to the scaled scores.
        causal: if there is no mask, whether a query sees only itself and earlier tokens.
        scale: the factor of the scores; by default 1 / sqrt(H).
        dropout: the dropout layer of the probabilities.
        rngs: a key for dropout.
        weights: whether the probabilities are returned too, after dropout.
        upcast: whether the scores are computed in float32 or wider, whatever the states' dtype.
    """
    length, size = query.shape[2], key.shape[2]
    if causal and mask is None:
        mask = jnp.tril(jnp.ones((length, size), bool))[None, None]
    if query.shape[0] != key.shape[0]:
        switches = {"scale": scale, "dropout": dropout, "rngs": rngs, "weights": weights, "upcast": upcast}
        return _attention_of_shared_rows(query, key, value, mask, bias, switches)
    scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
    scores = _attention_scores(query, key, scale, upcast)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    if mask is not None:
        probabilities = jnp.where(mask, probabilities, 0.0)
    probabilities = dropout(probabilities.astype(value.dtype), rngs)
    # the heads that share keys become one head, with their queries one after the other
    grouped = (*key.shape[:2], query.shape[1] // key.shape[1] * length)
    states = (probabilities.reshape(*grouped, size) @ value).reshape(*query.shape[:3], value.shape[-1])
    states = states.swapaxes(1, 2)
    return states.reshape(*states.shape[:2], query.shape[1] * value.shape[-1]), probabilities if weights else None


def _attention_of_shared_rows(
    query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None, switches: dict[str, Any]
) -> tuple[Array, Array | None]:
    """Attention in which each row of keys serves several rows of queries, which become one, one after the other."""
    batch, heads, length, width = query.shape
    rows, size = key.shape[0], key.shape[2]
    shared = batch // rows
    query = query.reshape(rows, shared, heads, length, width).swapaxes(1, 2)
    query = query.reshape(rows, heads, shared * length, width)
    if mask is not None and mask.shape[2] != 1:
        mask = jnp.tile(mask, (1, 1, shared, 1))
    if bias is not None:
        bias = jnp.broadcast_to(bias, (batch, bias.shape[1], length, size))
        bias = bias.reshape(rows, shared, -1, length, size).swapaxes(1, 2).reshape(rows, -1, shared * length, size)
    states, probabilities = attention(query, key, value, mask, bias=bias, **switches)
    if probabilities is not None:
        probabilities = probabilities.reshape(rows, heads, shared, length, size).swapaxes(1, 2)
        probabilities = probabilities.reshape(batch, heads, length, size)
    return states.reshape(batch, length, -1), probabilities


def _attention_scores(query: Array, key: Array, scale: float, upcast: bool) -> Array:
    """The scaled scores (B, N, T, S) in float32 or wider; heads that share keys become one head for the product."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    flat = query.reshape(*key.shape[:2], query.shape[1] // key.shape[1] * query.shape[2], query.shape[3])
    if upcast:
        flat, key = flat.astype(wide), key.astype(wide)
    scores = jnp.einsum("BNTH,BNSH->BNTS", flat, key, preferred_element_type=wide) * scale
    return scores.reshape(*query.shape[:3], key.shape[2])


def rotate(
    states: Float[Array, "B N T H"], cos: Float[Array, "#B T H"], sin: Float[Array, "#B T H"]
) -> Float[Array, "B N T H"]:
    """States rotated by their positions' angles, the first half of each head against the second (RoPE as in Llama).

    Args:
        states: queries or keys, as `split_heads` returns them.
        cos, sin: rows of the tables of `core.semantics.positions.rotary`.
    """
    first, second = jnp.split(states, 2, -1)
    return states * cos[:, None] + jnp.concatenate((-second, first), -1) * sin[:, None]


def scan(
    step: Callable[[Any, Any], Any], carry: Any, items: tuple[Float[Array, "T ..."] | Int[Array, "T ..."], ...]
) -> Any:
    """The carry after `carry = step(carry, item)` for each item, a tuple of one row of each array."""
    return jax.lax.scan(lambda held, item: (step(held, item), None), carry, items)[0]


@jax.tree_util.register_pytree_node_class
class ForwardKey:
    """The random key of one forward pass, which counts how often each layer has drawn from it.

    So a layer that is called twice in a pass has two masks, and another pass with the same key has the same two. The
    counts are Python numbers, updated while the pass runs or is traced: `jax.checkpoint` recomputes the same masks, and
    jit and eager calls agree. Code that JAX traces once and runs many times, such as the body of a scan, repeats its
    masks unless each iteration has its own key.
    """

    def __init__(self, key: Any, draws: "_Draws | None" = None) -> None:
        self.key = key
        self._draws = _Draws() if draws is None else draws

    def draw(self, salt: int) -> Any:
        """A layer's next key; the salt distinguishes it from other layers."""
        count = self._draws.counts.get(salt, 0)
        self._draws.counts[salt] = count + 1
        own = jax.random.fold_in(self.key, salt)
        return jax.random.fold_in(own, count) if count else own

    def tree_flatten(self) -> tuple[tuple[Any], "_Draws"]:
        """The key, and as a static part the counts, which all copies share."""
        return (self.key,), self._draws

    @classmethod
    def tree_unflatten(cls, draws: "_Draws", children: tuple[Any]) -> "ForwardKey":
        """A copy that shares the counts."""
        return cls(*children, draws)


class _Draws:
    """How often each layer has drawn; hashed by identity, as a static part of a pytree must be."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}


def forward_key(rngs: Any) -> Any:
    """The key of a forward pass, from a caller's key or one that an `nnx.Rngs` gives; `check_rngs` refuses the rest."""
    if isinstance(rngs, nnx.Rngs | nnx.RngStream):
        rngs = _next_key(rngs)
    return ForwardKey(rngs) if isinstance(rngs, Array) else rngs


def _next_key(rngs: nnx.Rngs | nnx.RngStream) -> Any:
    """The next key for dropout; the object itself inside a trace, which would see the same key on every run."""
    stream = _dropout_stream(rngs)
    if stream is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(stream)):
        return rngs
    try:
        return stream()
    except TraceContextError:
        return rngs


def _dropout_stream(rngs: nnx.Rngs | nnx.RngStream) -> nnx.RngStream | None:
    """The stream that Flax's own dropout would draw from."""
    return rngs if isinstance(rngs, nnx.RngStream) else vars(rngs).get("dropout", vars(rngs).get("default"))


def resample_positions(
    table: Float[Array, "P D"], rows: Float[np.ndarray, "Y y"], columns: Float[np.ndarray, "X x"]
) -> Float[Array, "Q D"]:
    """A table of y * x patch positions, resampled to Y * X with two matrices."""
    grid = table.reshape(rows.shape[1], columns.shape[1], -1)
    resampled = jnp.einsum("Yy,Xx,yxd->YXd", constant(rows, grid), constant(columns, grid), grid)
    return resampled.reshape(-1, table.shape[-1])


def pad_end(values: Array, shape: tuple[int, ...]) -> Array:
    """The values with zeros after them along each axis, up to the shape."""
    missing = [wanted - found for wanted, found in zip(shape, values.shape, strict=True)]
    return jnp.pad(values, [(0, after) for after in missing]) if any(missing) else values


def constant(values: np.ndarray, like: Array) -> Array:
    """A numpy array as an array of another's dtype."""
    return jnp.asarray(values, like.dtype)


def indices(values: np.ndarray, like: Any) -> Int[Array, "*B"]:
    """A numpy array of indices as an array."""
    return jnp.asarray(values)


def constant_rows(table: np.ndarray, ids: Int[Array, "*B"], like: Array) -> Float[Array, "*B D"]:
    """The rows of a numpy table at the ids, in another array's dtype; ids outside the table give NaN."""
    rows = constant(table, like).at[ids]
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def steps(count: int, like: Any) -> Int[Array, "T"]:
    """The numbers 0 … count - 1."""
    return jnp.arange(count)


def gather_rows(values: Float[Array, "B T D"], index: Int[Array, "B"]) -> Float[Array, "B D"]:
    """One token of each sequence, at its index."""
    return values[steps(values.shape[0], values), index]


def select_tokens(values: Float[Array, "B T D"], which: Any) -> Float[Array, "B K D"]:
    """The states of the last `which` tokens, of all tokens for 0, or of those at the (K,) positions."""
    if isinstance(which, int):
        return values[:, -which:]
    return values.at[:, which].get(mode="fill", fill_value=jnp.nan)  # under jit, positions can't be refused


def vector_norm(values: Float[Array, "B D"]) -> Float[Array, "B 1"]:
    """The Euclidean norm of each row, without an epsilon."""
    return jnp.sqrt(jnp.sum(jnp.square(values), axis=-1, keepdims=True))


def straight_through(values: Float[Array, "*B"], like: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Exactly the values, with the gradient of others (Bengio et al. 2013, arXiv:1308.3432)."""
    return values + (like - jax.lax.stop_gradient(like))


def top_k(values: Float[Array, "B V"], k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The `k` largest entries of each row and their indices, in descending order; ties are in order of index."""
    # jax.lax.top_k sorts 0 before -0, and NaN first or last by its sign
    values = jnp.where(jnp.isnan(values), jnp.nan, jnp.where(values == 0, 0.0, values))
    found, places = jax.lax.top_k(values, k)
    # Without barriers, XLA sorts all for a slice; one around the pair aborts its top-k rewriter over several devices.
    return jax.lax.optimization_barrier(found), jax.lax.optimization_barrier(places)


def membership_mask(ids: Int[Array, "B L"], chosen: Bool[Array, "B L"], size: int) -> Bool[Array, "B V"]:
    """(B, V): whether each id below `size` is among the chosen ids of its row."""
    places = jnp.where(chosen & (ids >= 0), ids, size)  # a negative one would count from the end
    marks = jnp.zeros((ids.shape[0], size), bool)
    return marks.at[steps(ids.shape[0], ids)[:, None], places].set(True, mode="drop")


def scatter_add(
    values: Float[Array, "B V"], ids: Int[Array, "B L"], amounts: Float[Array, "B L"]
) -> Float[Array, "B V"]:
    """The rows with the amounts added at their ids; ids outside the row are ignored."""
    places = jnp.where(ids >= 0, ids, values.shape[1])  # a negative one would count from the end
    return values.at[steps(values.shape[0], values)[:, None], places].add(amounts, mode="drop")


def concrete_array(caller: str, name: str, value: Any) -> Any:
    """A caller's argument as an array: JAX arrays unchanged, anything else through numpy.

    JAX would wrap 64-bit integers, even those of its own arrays outside the scope of `jax.enable_x64`.
    """
    if not isinstance(value, Array):
        return check.numbers(caller, name, value)
    check_mesh(caller, name, jax.typeof(value).sharding)
    wide = value.dtype.itemsize == 8 and not jax.config.read("jax_enable_x64")
    return np.asarray(value) if wide and not isinstance(value, Tracer) else value


def check_mesh(caller: str, what: str, sharding: Any) -> None:
    """Checks that XLA may choose the shardings of results: with explicit axes, each operation would have to say them.

    Raises:
        InputError: the mesh has explicit axes.
    """
    mesh = getattr(sharding, "mesh", None)
    if mesh is not None and AxisType.Explicit in mesh.axis_types:
        raise InputError(
            f"{caller}: {what} is on a mesh with explicit axes, the default of jax.make_mesh, but the models need "
            f"automatic ones: jax.make_mesh({mesh.axis_sizes}, {mesh.axis_names}, "
            f"axis_types=(AxisType.Auto,) * {len(mesh.axis_names)})"
        )


def dtype_name(values: Any) -> str:
    """The name of a dtype, as numpy spells it."""
    return values.dtype.name


def as_ids(values: Any, like: Any) -> Array:
    """Integers as int32 or int64; narrower dtypes could not hold every index."""
    ids = jnp.asarray(values)
    return ids if ids.dtype in (jnp.int32, jnp.int64) else ids.astype(jnp.int32)


def as_labels(values: Any, like: Any) -> Array:
    """Integers as int32 or int64."""
    return as_ids(values, like)


def as_floats(values: Any, like: Any) -> Array:
    """Floats in the model's dtype."""
    return jnp.asarray(values, like.dtype)


def on_device(values: Any, like: Any) -> Array:
    """A JAX array, in its own dtype."""
    return jnp.asarray(values)


def check_rngs(caller: str, rngs: Any) -> None:
    """Checks that the source of randomness is a single key.

    Raises:
        InputError: something else is given, or an `nnx.Rngs` inside a trace, where it would repeat one mask.
    """
    if isinstance(rngs, nnx.Rngs | nnx.RngStream):
        if isinstance(rngs, nnx.Rngs) and _dropout_stream(rngs) is None:
            raise InputError(f"{caller}: rngs has no stream dropout or default, but {', '.join(rngs) or 'none'}")
        raise InputError(
            f"{caller}: rngs is an nnx.{type(rngs).__name__} inside a trace, as of jax.jit, where every run would have "
            "the same masks; draw a key from it outside, and pass that as an argument"
        )
    if rngs is not None and not isinstance(rngs, Array | ForwardKey):
        raise InputError(f"{caller}: rngs is a {type(rngs).__name__}, but a key such as jax.random.key(0) is needed")
    key = rngs.key if isinstance(rngs, ForwardKey) else rngs
    if key is not None:
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if not typed and key.dtype != jnp.uint32:
            raise InputError(
                f"{caller}: rngs is an array of {key.dtype.name}, but a key such as jax.random.key(0) is needed"
            )
        wanted = () if typed else (2,)
        if key.shape != wanted:
            raise InputError(
                f"{caller}: rngs has shape {key.shape}, but a single key is needed; of several, as of "
                "jax.random.split, pass one"
            )


def concrete_length(length: Any) -> int | None:
    """A cache's length as a Python number; None if it is traced."""
    return None if isinstance(length, Tracer) else int(length)


def first_columns(values: Any, count: int) -> Any:
    """The first `count` columns of an array that a call returns, without a program for every count if possible."""
    known = to_numpy(values)
    return values[:, :count] if known is values else jnp.asarray(known[:, :count])


def stop_gradient(values: Array) -> Array:
    """The values, as constants for gradients."""
    return jax.lax.stop_gradient(values)


def to_numpy(values: Any) -> Any:
    """An array's values as a numpy array if they are known and on one device; anything else unchanged.

    An array over several devices stays there: its rows are computed where they are, and may be those of other hosts.
    """
    known = isinstance(values, Array) and not isinstance(values, Tracer)
    return np.asarray(values) if known and len(values.sharding.device_set) == 1 else values


def host_array(values: Any) -> Any:
    """An array as a caller's Python sees it between steps: numpy's, so that no length is compiled."""
    return np.asarray(values)


def min_max(values: Any, ignored: int | None = None) -> tuple[int, int] | None:
    """The smallest and the largest integer, with 0 in place of ignored ones; None if the values aren't known."""
    if values.size == 0 or isinstance(values, Tracer):
        return None
    numbers = _known_values(values)
    numbers = numbers if ignored is None else np.where(numbers != ignored, numbers, 0)
    return int(numbers.min()), int(numbers.max())


def all_finite(values: Any) -> bool | None:
    """Whether no entry is NaN or infinite; None if the values aren't known."""
    return None if isinstance(values, Tracer) else bool(np.isfinite(_known_values(values)).all())


def has_other_values(values: Any, allowed: tuple[int, int]) -> bool:
    """Whether an array is known to hold other values than these two."""
    if values.dtype == bool or isinstance(values, Tracer):
        return False
    numbers = _known_values(values)
    return bool(((numbers != allowed[0]) & (numbers != allowed[1])).any())


def _known_values(values: Any) -> np.ndarray:
    """The values of an array that is not traced, in one dimension; of a distributed one, those on this host's devices.

    Inside a trace, JAX would trace even operations on them.
    """
    shards = [shard.data for shard in values.addressable_shards] if isinstance(values, Array) else [values]
    return np.concatenate([np.asarray(shard).ravel() for shard in shards])


def is_array(value: Any) -> bool:
    """Whether a value is an array of this backend."""
    return isinstance(value, Array)


def is_traced(value: Any) -> bool:
    """Whether an array is being traced, so that its values aren't known."""
    return isinstance(value, Tracer)
