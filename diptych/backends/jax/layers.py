"""The layers of the JAX models: Flax NNX's own, with the same constructors and defaults as in the torch backend.

They are built without values, as shapes and dtypes; the complete model initializes or loads them.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from diptych.backends.jax import ops
from diptych.backends.jax.ops import ForwardKey, Init, steps
from diptych.core.errors import InputError
from diptych.core.semantics import spans

ModuleList = nnx.List


class _NoKeys:
    """Stands in for nnx.Rngs, since no values are drawn here."""

    def params(self) -> None:
        return None


def _abstract(key: None, shape: tuple[int, ...], dtype: Any) -> Any:
    # inside a trace, such as nnx.eval_shape, only arrays can be returned, and they cost nothing there
    empty = jnp.zeros((), dtype)
    if isinstance(empty, Tracer):
        return jnp.zeros(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype)


def _flax(init: Init) -> dict[str, Any]:
    return {"param_dtype": init.get("dtype", jnp.float32), "dtype": init.get("compute_dtype"), "rngs": _NoKeys()}


class Linear(nnx.Linear):
    """x K + b, with K of shape (in, out)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, **init: Unpack[Init]) -> None:
        options = {"kernel_init": _abstract, "bias_init": _abstract}
        super().__init__(in_features, out_features, use_bias=bias, **options, **_flax(init))


class LinearInOut(Linear):
    """x W + b, with W of shape (in, out): GPT-2's linear layer, published in Flax's layout."""

    def __init__(self, in_features: int, out_features: int, **init: Unpack[Init]) -> None:
        super().__init__(in_features, out_features, **init)


class Embedding(nnx.Embed):
    """An embedding table; looking up row `padding_idx` gives it no gradient."""

    def __init__(
        self, num_embeddings: int, features: int, *, padding_idx: int | None = None, **init: Unpack[Init]
    ) -> None:
        super().__init__(num_embeddings, features, embedding_init=_abstract, **_flax(init))
        self.dtype = init.get("compute_dtype")  # nnx.Embed keeps the table's dtype, which a cast of the model changes
        self.padding_idx = padding_idx

    def __call__(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The rows of the ids; ids outside the table, negative ones included, give NaN."""
        table = jnp.asarray(self.embedding[...], self.dtype)
        looked_up = table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        if self.padding_idx is None:
            return looked_up
        return jnp.where((ids == self.padding_idx)[..., None], jax.lax.stop_gradient(looked_up), looked_up)


class DecoupledEmbedding(Embedding):
    """An embedding table, and another one for the ids after its own, so that one can be trained without the other."""

    def __init__(self, num_embeddings: int, additional: int, features: int, **init: Unpack[Init]) -> None:
        super().__init__(num_embeddings, features, **init)
        self.additional_embedding = Embedding(additional, features, **init)

    def __call__(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """The rows of the ids; ids outside both tables give NaN."""
        own = ids < self.num_embeddings
        rows = super().__call__(jnp.where(own, ids, 0))
        additional = self.additional_embedding(jnp.where(own, 0, ids - self.num_embeddings))
        return jnp.where(own[..., None], rows, additional)


class DecoupledLinear(Linear):
    """x K with more outputs after those of K, from a kernel of their own; without a bias."""

    def __init__(self, in_features: int, out_features: int, additional: int, **init: Unpack[Init]) -> None:
        super().__init__(in_features, out_features, bias=False, **init)
        self.additional_fc = Linear(in_features, additional, bias=False, **init)

    def __call__(self, values: Float[Array, "*B D"]) -> Float[Array, "*B F"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Both products, one after the other."""
        return jnp.concatenate((super().__call__(values), self.additional_fc(values)), -1)


def embedding_rows(embedding: Any, size: int, like: Array) -> Float[Array, "V D"]:
    """All rows of an embedding, as a lookup returns them: a wrapper such as LoRA's changes them.

    Args:
        embedding: the module that looks ids up.
        size: V, the number of rows.
        like: an array of the dtype that is needed.
    """
    if type(embedding).__call__ is Embedding.__call__:
        return jnp.asarray(embedding.embedding[...], like.dtype)
    return embedding(steps(size, like)).astype(like.dtype)


def tied_logits(states: Float[Array, "*B D"], embedding: Any, size: int) -> Float[Array, "*B V"]:
    """The products of states with all rows of an embedding of `size` rows: an output layer that is tied to it."""
    if type(embedding) is DecoupledEmbedding:
        own = states @ jnp.asarray(embedding.embedding[...], states.dtype).T
        additional = tied_logits(states, embedding.additional_embedding, size - embedding.num_embeddings)
        return jnp.concatenate((own, additional), -1)
    return states @ embedding_rows(embedding, size, states).T


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis, with the variance computed in two passes."""

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        options = {"scale_init": _abstract, "bias_init": _abstract}
        super().__init__(features, epsilon=eps, use_fast_variance=False, **options, **_flax(init))


class GroupNorm(nnx.GroupNorm):
    """Normalises groups of adjacent channels over all positions of a row; channels come last, in and out."""

    returns_channels_last = True

    def __init__(self, groups: int, features: int, eps: float, **init: Unpack[Init]) -> None:
        options = {"scale_init": _abstract, "bias_init": _abstract, "use_fast_variance": False}
        super().__init__(features, groups, epsilon=eps, **options, **_flax(init))


class RMSNorm(nnx.RMSNorm):
    """Divides by the root mean square of the last axis, as Llama does: rounded to the states' dtype before the scale.

    The mean is computed in float32 or wider.
    """

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        super().__init__(features, epsilon=eps, scale_init=_abstract, **_flax(init))

    def __call__(self, hidden_states: Float[Array, "*B D"]) -> Float[Array, "*B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The states scaled to a mean square of 1, times the weight."""
        states, scale = _in_one_dtype(self.dtype, hidden_states, self.scale)
        wide = states.astype(jnp.promote_types(states.dtype, jnp.float32))
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        return scale.reshape((1,) * (states.ndim - 1) + scale.shape) * normed.astype(states.dtype)


class BatchNorm(nnx.Module):
    """Batch norm with the stored statistics, even in train mode; channels come last, in and out."""

    returns_channels_last = True

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        self.scale, self.bias = parameter((features,), **init), parameter((features,), **init)
        self.running_mean, self.running_var = buffer((features,), **init), buffer((features,), **init)
        self.eps, self.dtype = eps, init.get("compute_dtype")

    def __call__(self, states: Float[Array, "B *T C"]) -> Float[Array, "B *T C"]:
        """The states of every channel, shifted and scaled."""
        own = (self.scale, self.bias, self.running_mean, self.running_var)
        states, scale, bias, mean, variance = _in_one_dtype(self.dtype, states, *own)
        axes = (1,) * (states.ndim - 1)
        wide = jnp.promote_types(states.dtype, jnp.float32)
        scale = scale.astype(wide) * jax.lax.rsqrt(jax.lax.stop_gradient(variance).astype(wide) + self.eps)
        shift = bias.astype(wide) - jax.lax.stop_gradient(mean).astype(wide) * scale
        return (states.astype(wide) * scale.reshape(*axes, -1) + shift.reshape(*axes, -1)).astype(states.dtype)


def _in_one_dtype(dtype: Any, states: Array, *variables: Any) -> tuple[Array, ...]:
    """The states and the variables' arrays in one dtype: the given one, or the one that JAX promotes them to."""
    arrays = (states, *(variable[...] for variable in variables))
    dtype = jnp.result_type(*arrays) if dtype is None else dtype
    return tuple(jnp.asarray(array, dtype) for array in arrays)


def _convolution_1d(inputs: Array, kernel: Array, strides: tuple[int, ...], padding: Any, **options: Any) -> Array:
    size, channels = kernel.shape[:2]
    if channels != 1 or options["feature_group_count"] != 1 or any(map(any, padding)):
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
    # raw samples: one matrix product, five times as fast with XLA's CPU compiler
    reach = inputs.shape[1] - size + 1
    windows = jnp.concatenate([inputs[:, step : step + reach : strides[0]] for step in range(size)], axis=-1)
    return jnp.matmul(windows, kernel[:, 0], precision=options["precision"])


class Conv1d(nnx.Conv):
    """A 1D convolution over a sequence; channels come last, in and out.

    `layer_norm_follows` says that the channels of each step are best adjacent in memory, which XLA sees to.
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
        options: dict[str, Any] = {"kernel_init": _abstract, "bias_init": _abstract, "padding": padding}
        options |= {"feature_group_count": groups, "use_bias": bias, "conv_general_dilated": _convolution_1d}
        super().__init__(in_features, out_features, kernel_size, stride, **options, **_flax(init))

    def __call__(self, states: Float[Array, "B T C"]) -> Float[Array, "B L F"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The features at every step of the kernel, L = (T + 2 padding - kernel) // stride + 1."""
        return super().__call__(states)


class WeightNormConv1d(nnx.Module):
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
        self.weight_g = parameter((1, 1, kernel_size), **init)
        self.weight_v = parameter((out_features, in_features // groups, kernel_size), **init)
        self.bias = parameter((out_features,), **init) if bias else None
        self.stride, self.padding, self.groups = stride, padding, groups
        self.dtype = init.get("compute_dtype")

    def __call__(self, states: Float[Array, "B T C"]) -> Float[Array, "B L F"]:
        """The features at every step of the kernel, L = (T + 2 padding - kernel) // stride + 1."""
        states, norms, directions = _in_one_dtype(self.dtype, states, self.weight_g, self.weight_v)
        wide = directions.astype(jnp.promote_types(directions.dtype, jnp.float32))
        lengths = jnp.sqrt(jnp.sum(jnp.square(wide), axis=(0, 1), keepdims=True))
        features = jax.lax.conv_general_dilated(
            states,
            (wide * (norms / lengths)).astype(states.dtype),
            (self.stride,),
            [(self.padding, self.padding)],
            dimension_numbers=("NTC", "OIT", "NTC"),
            feature_group_count=self.groups,
        )
        return features if self.bias is None else features + value(self.bias, features)[None, None]


def _convolution(inputs: Array, kernel: Array, strides: tuple[int, ...], padding: Any, **options: Any) -> Array:
    size = kernel.shape[:2]
    if strides != size or options["feature_group_count"] != 1 or any(map(any, padding)):
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
    # windows that tile the image: one matrix product, twice as fast with XLA's CPU compiler
    rows, columns = inputs.shape[1] // size[0], inputs.shape[2] // size[1]
    covered = inputs[:, : rows * size[0], : columns * size[1]]
    tiles = covered.reshape(-1, rows, size[0], columns, size[1], inputs.shape[-1]).swapaxes(2, 3)
    flat = tiles.reshape(-1, rows, columns, kernel[..., 0].size)
    return jnp.matmul(flat, kernel.reshape(-1, kernel.shape[-1]), precision=options["precision"])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


class Conv2d(nnx.Conv):
    """A convolution over images, (batch, height, width, channels); what remains after the last whole step is dropped.

    Kernel, stride and padding are (height, width), or one number for both.
    """

    returns_channels_last = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        **init: Unpack[Init],
    ) -> None:
        options: dict[str, Any] = {"kernel_init": _abstract, "bias_init": _abstract, "padding": _pair(padding)}
        options |= {"feature_group_count": groups, "use_bias": bias, "conv_general_dilated": _convolution}
        super().__init__(in_features, out_features, _pair(kernel_size), _pair(stride), **options, **_flax(init))


def patches(convolution: Any, pixel_values: Float[Array, "B C Y X"]) -> Float[Array, "B P D"]:
    """The output of a convolution as a sequence of patches, row by row."""
    output = convolution(pixel_values.transpose(0, 2, 3, 1))
    return output.reshape(output.shape[0], -1, output.shape[-1])


class RandomLayer(nnx.Module):
    """A layer that is random in train mode, with probability `rate`; it draws from the key of the call.

    The mask depends on the key, on the layer's path in its model, and on how often the layer was called before in the
    same forward pass, which `ops.forward_key` counts. With a bare key, every call of one layer has the same mask.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.deterministic = True
        self.salt = 0  # the model sets it from the layer's path, so that no two layers share a mask

    def _own_key(self, name: str, rngs: Any) -> Any:
        if rngs is None:
            raise InputError(
                f"{name}={self.rate} in train mode needs a key: call the model with rngs=jax.random.key(…)"
            )
        return rngs.draw(self.salt) if isinstance(rngs, ForwardKey) else jax.random.fold_in(rngs, self.salt)


class Dropout(RandomLayer):
    """Zeroes entries with probability `rate` in train mode and scales up the rest."""

    def __call__(self, values: Float[Array, "*B"], rngs: Any = None) -> Float[Array, "*B"]:
        """The values, with dropout in train mode.

        Raises:
            InputError: a key is needed, but none is given.
        """
        if self.deterministic or self.rate == 0.0:
            return values
        if self.rate == 1.0 and rngs is not None:
            return jnp.zeros_like(values)
        keep = jax.random.bernoulli(self._own_key("dropout", rngs), 1.0 - self.rate, values.shape)
        return jnp.where(keep, values / (1.0 - self.rate), 0.0)


class LayerDrop(RandomLayer):
    """Skips a layer with probability `rate` in train mode, for the whole batch (Fan et al. 2019, arXiv:1909.11556)."""

    def __call__(self, before: Float[Array, "*B"], after: Float[Array, "*B"], rngs: Any = None) -> Float[Array, "*B"]:
        """The layer's output, `after`, or its input, `before`, if the layer is skipped.

        Raises:
            InputError: a key is needed, but none is given.
        """
        if self.deterministic or self.rate == 0.0:
            return after
        keep = jax.random.bernoulli(self._own_key("layerdrop", rngs), 1.0 - self.rate)
        return jnp.where(keep, after, before)


class StochasticDepth(RandomLayer):
    """Skips a residual branch with probability `rate` in train mode, per row (Huang et al. 2016, arXiv:1603.09382)."""

    def __call__(self, branch: Float[Array, "B *T"], rngs: Any = None) -> Float[Array, "B *T"]:
        """The branch's contribution to each row: zero, or itself scaled up by 1 / (1 - rate).

        Raises:
            InputError: a key is needed, but none is given.
        """
        if self.deterministic or self.rate == 0.0:
            return branch
        if self.rate == 1.0 and rngs is not None:
            return jnp.zeros_like(branch)
        rows = (branch.shape[0], *(1,) * (branch.ndim - 1))
        keep = jax.random.bernoulli(self._own_key("drop_path_rate", rngs), 1.0 - self.rate, rows)
        return jnp.where(keep, branch / (1.0 - self.rate), 0.0)


class SpanMask(RandomLayer):
    """Chooses random spans of an axis to mask in train mode (SpecAugment, Park et al. 2019, arXiv:1904.08779)."""

    def __init__(self, axis: str, *, rate: float, span: int, least: int) -> None:
        super().__init__(rate)
        self.axis, self.span, self.least = axis, span, least

    def __call__(
        self, like: Float[Array, "B T D"], size: int, lengths: Int[Array, "B"] | None, rngs: Any = None
    ) -> Bool[Array, "B S"] | None:
        """(B, size), True in the spans, which lie within the rows' lengths; None if nothing is masked.

        Raises:
            InputError: a key is needed, but none is given.
        """
        if self.deterministic or self.rate == 0.0:
            return None
        bits = jax.random.bits(self._own_key(f"mask_{self.axis}_prob", rngs), (2,), jnp.uint32)
        seed = jax.lax.bitcast_convert_type(bits, jnp.int32)
        options: dict[str, Any] = {"axis": self.axis, "rate": self.rate, "span": self.span, "least": self.least}
        return spans.draw(ops, seed, like.shape[0], size, lengths, **options)


class GumbelNoise(RandomLayer):
    """Noise that makes the largest of several logits a random choice, in train mode."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def __call__(
        self, logits: Float[Array, "*B V"], noise: Float[Array, "*B V"] | None, rngs: Any = None
    ) -> Float[Array, "*B V"] | None:
        """The given noise, or a standard Gumbel's; None in eval mode.

        Raises:
            InputError: a key is needed, but none is given.
        """
        if self.deterministic or noise is not None:
            return None if self.deterministic else noise
        return jax.random.gumbel(self._own_key("gumbel_noise", rngs), logits.shape, logits.dtype)


class Buffer(nnx.Variable[Any]):
    """Values that a checkpoint holds and that never train."""


def buffer(shape: tuple[int, ...], **init: Unpack[Init]) -> Any:
    """A buffer without values."""
    return Buffer(_abstract(None, shape, init.get("dtype", jnp.float32)))


def parameter(shape: tuple[int, ...], **init: Unpack[Init]) -> Any:
    """A free parameter without values."""
    return nnx.Param(_abstract(None, shape, init.get("dtype", jnp.float32)))


def value(free: Any, like: Array) -> Array:
    """The array of a free parameter or buffer in the dtype of another; a buffer gets no gradient."""
    array = jnp.asarray(free[...], like.dtype)
    return jax.lax.stop_gradient(array) if isinstance(free, Buffer) else array
