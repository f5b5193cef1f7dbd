"""The layers of the JAX models: Flax NNX's own, with the constructor and the defaults of the torch backend's.

They are built without values, as shapes and dtypes; a model gives them values when it is complete.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int

from diptych.backends.jax.ops import Init
from diptych.core.errors import InputError

ModuleList = nnx.List


class _NoKeys:
    """Stands in for nnx.Rngs where no value is drawn."""

    def params(self) -> None:
        return None


def _abstract(key: None, shape: tuple[int, ...], dtype: Any) -> Any:
    # inside a trace, as of nnx.eval_shape, only arrays can be returned, and these cost nothing
    empty = jnp.zeros((), dtype)
    if isinstance(empty, Tracer):
        return jnp.zeros(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype)


def _flax(init: Init) -> dict[str, Any]:
    return {"param_dtype": init.get("dtype", jnp.float32), "dtype": init.get("compute_dtype"), "rngs": _NoKeys()}


class Linear(nnx.Linear):
    """x K + b, with K of shape (in, out)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, **init: Unpack[Init]) -> None:
        made = {"kernel_init": _abstract, "bias_init": _abstract}
        super().__init__(in_features, out_features, use_bias=bias, **made, **_flax(init))


class LinearInOut(Linear):
    """x W + b, with W of shape (in, out): GPT-2's linear layer, published in Flax's layout."""

    def __init__(self, in_features: int, out_features: int, **init: Unpack[Init]) -> None:
        super().__init__(in_features, out_features, **init)


class Embedding(nnx.Embed):
    """A table of rows; row `padding_idx` gets no gradient from being looked up."""

    def __init__(
        self, num_embeddings: int, features: int, *, padding_idx: int | None = None, **init: Unpack[Init]
    ) -> None:
        super().__init__(num_embeddings, features, embedding_init=_abstract, **_flax(init))
        self.padding_idx = padding_idx

    def __call__(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The rows of the ids; outside the table they are NaN, at either end."""
        table = self.rows(self)
        looked_up = table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        if self.padding_idx is None:
            return looked_up
        return jnp.where((ids == self.padding_idx)[..., None], jax.lax.stop_gradient(looked_up), looked_up)

    def rows(self, like: Any) -> Float[Array, "V D"]:
        """The whole table, for use beside another array."""
        return self.embedding[...].astype(like.dtype)

    def attend(self, query: Float[Array, "*B D"]) -> Float[Array, "*B V"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Products with every row: the output layer that is tied to this table."""
        return query @ self.rows(query).T


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis, the variance taken in two passes."""

    def __init__(self, features: int, eps: float, **init: Unpack[Init]) -> None:
        made = {"scale_init": _abstract, "bias_init": _abstract}
        super().__init__(features, epsilon=eps, use_fast_variance=False, **made, **_flax(init))


def _convolution(inputs: Array, kernel: Array, strides: tuple[int, ...], *padding: Any, **options: Any) -> Array:
    size = kernel.shape[:2]
    if strides != size:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, *padding, **options)
    # windows that tile the image: one matrix product, which XLA's CPU compiler takes half the time for
    rows, columns = inputs.shape[1] // size[0], inputs.shape[2] // size[1]
    covered = inputs[:, : rows * size[0], : columns * size[1]]
    tiles = covered.reshape(-1, rows, size[0], columns, size[1], inputs.shape[-1]).swapaxes(2, 3)
    flat = tiles.reshape(-1, rows, columns, kernel[..., 0].size)
    return jnp.matmul(flat, kernel.reshape(-1, kernel.shape[-1]), precision=options["precision"])


class Conv2d(nnx.Conv):
    """A convolution without padding over (batch, height, width, channels)."""

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
        made: dict[str, Any] = {"kernel_init": _abstract, "bias_init": _abstract}
        made |= {"padding": "VALID", "conv_general_dilated": _convolution}
        size, strides = (kernel_size, kernel_size), (stride, stride)
        super().__init__(in_features, out_features, size, strides, use_bias=bias, **made, **_flax(init))

    def patches(self, pixel_values: Float[Array, "B C Y X"]) -> Float[Array, "B P D"]:
        """The output as a sequence, row by row."""
        output = self(pixel_values.transpose(0, 2, 3, 1))
        return output.reshape(output.shape[0], -1, output.shape[-1])


class Dropout(nnx.Module):
    """Zeroes entries at a rate in train mode and scales up the rest."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.deterministic = True
        self.salt = 0  # the model sets it from the layer's path, so that no two layers share a mask

    def __call__(self, values: Float[Array, "*B"], rngs: Any = None) -> Float[Array, "*B"]:
        """The values, thinned out in train mode by a key.

        Raises:
            InputError: no key is given where one is needed.
        """
        if self.deterministic or self.rate == 0.0:
            return values
        if self.rate == 1.0 and rngs is not None:
            return jnp.zeros_like(values)
        kept = jax.random.bernoulli(_own_key("dropout", self.rate, self.salt, rngs), 1.0 - self.rate, values.shape)
        return jnp.where(kept, values / (1.0 - self.rate), 0.0)


class LayerDrop(nnx.Module):
    """Leaves a layer out at a rate in train mode, for the whole batch (Fan et al. 2019, arXiv:1909.11556)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.deterministic = True
        self.salt = 0  # as Dropout's

    def __call__(self, before: Float[Array, "*B"], after: Float[Array, "*B"], rngs: Any = None) -> Float[Array, "*B"]:
        """What the layer made of its input, or the input itself.

        Raises:
            InputError: no key is given where one is needed.
        """
        if self.deterministic or self.rate == 0.0:
            return after
        kept = jax.random.bernoulli(_own_key("layerdrop", self.rate, self.salt, rngs), 1.0 - self.rate)
        return jnp.where(kept, after, before)


def _own_key(what: str, rate: float, salt: int, rngs: Any) -> Any:
    if rngs is None:
        raise InputError(f"{what}={rate} in train mode needs a key: call the model with rngs=jax.random.key(…)")
    return jax.random.fold_in(rngs, salt)


class Buffer(nnx.Variable[Any]):
    """Numbers that a checkpoint holds and that nothing trains."""


def buffer(shape: tuple[int, ...], **init: Unpack[Init]) -> Any:
    """A buffer without values."""
    return Buffer(_abstract(None, shape, init.get("dtype", jnp.float32)))


def parameter(shape: tuple[int, ...], **init: Unpack[Init]) -> Any:
    """A free parameter without values."""
    return nnx.Param(_abstract(None, shape, init.get("dtype", jnp.float32)))


def value(free: Any, like: Array) -> Array:
    """A free parameter's or a buffer's array, for use beside another; a buffer gets no gradient."""
    found = free[...].astype(like.dtype)
    return jax.lax.stop_gradient(found) if isinstance(free, Buffer) else found
