"""What every JAX model can do: be built, filled, loaded and saved."""

import functools
import os
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Self, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diptych.backends.jax import layers, slots
from diptych.backends.jax.cache import Cache
from diptych.backends.jax.ops import Init
from diptych.core import outputs
from diptych.core.checkpoint.matching import LoadReport
from diptych.core.checkpoint.slots import Slot, flax_axes, published_axes
from diptych.core.checkpoint.strips import permuted
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.composite import Composite
from diptych.core.config import ModelConfig
from diptych.core.dtypes import float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.generation.options import OwnOptions
from diptych.core.pretrained import PreTrained

Placement = jax.Device | jax.sharding.Sharding | Callable[[str, tuple[int, ...]], Any] | None


class Build(TypedDict, total=False):
    """The keywords that every model's constructor takes.

    seed: keys the initial values; None builds without any, of jax.ShapeDtypeStructs.
    dtype: of the parameters, by any framework's name; float32 if not given.
    gradient_checkpointing: whether layers are computed again for the gradient, which saves their memory.
    compute_dtype: that layers compute in; the parameters' if not given.
    sharding: where the parameters go: a device, a Sharding, or a function of published path and stored shape that gives
        one; JAX's default device if not given.
    """

    seed: int | None
    dtype: Any
    gradient_checkpointing: bool
    compute_dtype: Any
    sharding: Placement


class PreTrainedModel(nnx.Module, PreTrained):
    """A model with a config, whose parameters have the names of its published checkpoints.

    It is a pytree: `jax.jit(lambda model, ids: model(ids))` works on it. It starts in eval mode. `train()` and `eval()`
    return the model. Under jit the values of ids can't be checked; an id out of range gives NaN there.
    """

    def _begin(self, config: ModelConfig, build: Build) -> Init:
        """What the layers are built with."""
        self._check_build(build, list(Build.__annotations__))
        self.config = config
        self.deterministic = True
        self.load_report = LoadReport()  # of its own, or a loaded model would be another pytree than a drawn one
        self._own_options = OwnOptions()  # for the same reason
        compute_dtype = build.get("compute_dtype")
        return {
            "dtype": _jax_dtype(build.get("dtype")),
            "compute_dtype": None if compute_dtype is None else _jax_dtype(compute_dtype),
        }

    def _finish(self, build: Build) -> None:
        """Gives the complete model its first values."""
        for path, module in nnx.iter_modules(self):
            if isinstance(module, layers.Dropout | layers.LayerDrop):
                module.salt = zlib.crc32(".".join(map(str, path)).encode())
        self._compute_dtype = build.get("compute_dtype") and float_name(build.get("compute_dtype"))
        self.gradient_checkpointing_enable(build.get("gradient_checkpointing", False))
        seed = build.get("seed", 0)
        if seed is not None:
            self._draw(self._leaves(), seed, build.get("sharding"))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "config":
            self._check_config(value)
        if name == "generation_config":  # a property, which nnx would take for a part of the pytree
            return object.__setattr__(self, name, value)
        super().__setattr__(name, value)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The parameters' dtype."""
        return next(slots.iterate(self))[1].get_value().dtype

    @property
    def training(self) -> bool:
        """Whether the model is in train mode."""
        return not self.deterministic

    def train(self, mode: bool = True, **attributes: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Switches dropout on; returns the model."""
        super().train(**attributes) if mode else super().eval(**attributes)
        return self

    def eval(self, **attributes: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Switches dropout off; returns the model."""
        return self.train(False, **attributes)

    def num_parameters(self) -> int:
        """The number of parameters' entries, tied ones counted once."""
        return sum(leaf.get_value().size for slot, leaf in slots.iterate(self) if slot.kind != "buffer")

    def init_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache for a decoder's call, as `past_key_values`.

        Args:
            batch_size: rows.
            max_length: tokens for which there is room.

        Raises:
            InputError: the model is no decoder, or a size is not positive.
        """
        return Cache.empty(self._cache_shape(batch_size, max_length), batch_size, max_length, self._like())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: Any = None,
        compute_dtype: Any = None,
        sharding: Placement = None,
        gradient_checkpointing: bool = False,
        allow_fresh: Iterable[str] = (),
        ignore: Iterable[str] = (),
        ignore_config: Iterable[str] = (),
        **config_changes: Any,
    ) -> Self:
        """A model with the weights of a checkpoint: safetensors or a Flax msgpack, in one file or in shards.

        Args:
            name_or_path: a directory, or a name on the Hugging Face hub.
            dtype: of the parameters; None keeps the file's.
            compute_dtype: that layers compute in; None means the parameters'.
            sharding: where the parameters go: a device, a Sharding, or a function of published path and stored shape.
            gradient_checkpointing: whether layers are computed again for the gradient, which saves their memory.
            allow_fresh: parameters or modules that the file may lack; they are drawn anew.
            ignore: tensors of the file to leave unread; names, modules, or patterns with *.
            ignore_config: unknown fields of config.json to leave unread.
            config_changes: config fields to change, or keywords of the class's constructor.

        Raises:
            CheckpointError: the files cannot be read or do not fit the model; every missing, unexpected and misshaped
                tensor is listed.
            ConfigError: config.json is missing or says what is not supported, or generation_config.json is broken.
        """
        return cls._load(
            name_or_path,
            dtype=dtype,
            where=sharding,
            build={"compute_dtype": compute_dtype, "gradient_checkpointing": gradient_checkpointing},
            allow_fresh=allow_fresh,
            ignore=ignore,
            ignore_config=ignore_config,
            changes=config_changes,
        )

    def save_pretrained(self, directory: str | os.PathLike[str], *, max_shard_size: int | str | None = "5GB") -> None:
        """Writes config.json and safetensors, which transformers loads too, and generation_config.json beside them.

        That holds the model's options for `generate`, if they were loaded from one or set; without, the directory has
        none afterwards.

        Args:
            directory: made if it is missing; an older checkpoint in it is replaced once the new one is complete.
            max_shard_size: most bytes a file, as a number or like "5GB"; None for one file.

        Raises:
            CheckpointError: the model has no values, or the directory is a file.
            OSError: the disk is full or not writable; what stood there stays.
        """
        self._save(directory, max_shard_size)

    def _like(self) -> Any:
        """A shape with the dtype that inputs must have."""
        return jax.ShapeDtypeStruct((), jnp.dtype(self._compute_dtype or self.dtype))

    def _submodules(self) -> Iterable[Any]:
        return (module for _, module in nnx.iter_modules(self))

    def _leaves(self) -> dict[Slot, Any]:
        return slots.leaves(self)

    @staticmethod
    def _stored_axes(slot: Slot) -> tuple[int, ...]:
        return flax_axes(slot.kind, len(slot.shape))

    @staticmethod
    def _put(slot: Slot, leaf: Any, values: np.ndarray, where: Any) -> None:
        target = where(slot.path, values.shape) if callable(where) else where
        # nobody else holds the values, so the array may keep their memory
        leaf.set_value(jax.device_put(values, target, may_alias=True))

    @staticmethod
    def _dtype_name(leaf: Any) -> str:
        return float_name(leaf.get_value().dtype)

    def _sources(self) -> dict[str, TensorSource]:
        return {slot.path: _source(slot, leaf, type(self).__name__) for slot, leaf in self._leaves().items()}

    @classmethod
    def _siblings(cls) -> Callable[[str], Any]:
        from diptych.backends import jax as backend

        return functools.partial(getattr, backend)


class CompositeModel(Composite, PreTrainedModel):
    """An encoder and a decoder in one."""

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: str | os.PathLike[str],
        decoder: str | os.PathLike[str],
        *,
        dtype: Any = None,
        compute_dtype: Any = None,
        sharding: Placement = None,
        gradient_checkpointing: bool = False,
        ignore_config: Iterable[str] = (),
        **config_changes: Any,
    ) -> Self:
        """A model with the weights of two checkpoints; what the two lack to work together is drawn anew.

        That is the decoder's cross-attention, its head, the encoder's pooler and the layer between two widths;
        `fresh_parameters` names it, and so does a log line.

        Args:
            encoder, decoder: directories, or names on the Hugging Face hub.
            dtype: of the parameters; None keeps the files'.
            compute_dtype: that layers compute in; None means the parameters'.
            sharding: where the parameters go: a device, a Sharding, or a function of published path and stored shape.
            gradient_checkpointing: whether layers are computed again for the gradient, which saves their memory.
            ignore_config: unknown fields of either config.json to leave unread.
            config_changes: fields of the composite's config, or of a part's behind "encoder_" or "decoder_".

        Raises:
            CheckpointError: the files cannot be read or do not fit their part, or have several dtypes.
            ConfigError: a config.json is missing, says what is not supported, or cannot serve as the part.
        """
        return cls._load_parts(
            {"encoder": encoder, "decoder": decoder},
            dtype=dtype,
            where=sharding,
            build={"compute_dtype": compute_dtype, "gradient_checkpointing": gradient_checkpointing},
            ignore_config=ignore_config,
            changes=config_changes,
        )


def _jax_dtype(dtype: Any) -> Any:
    name = "float32" if dtype is None else float_name(dtype)
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError(
            "dtype='float64' needs 64-bit mode, without which JAX gives float32: enter `with jax.enable_x64():` or "
            "set jax_enable_x64"
        )
    return jnp.dtype(name)


def _source(slot: Slot, variable: nnx.Variable[Any], name: str) -> TensorSource:
    stored = variable.get_value()
    if isinstance(stored, jax.ShapeDtypeStruct):
        raise CheckpointError(f"{name}: {slot.path} has no values (the model was built with seed=None)")
    axes = published_axes(slot.kind, len(slot.shape))
    return TensorSource(slot.shape, np.dtype(stored.dtype), lambda: permuted(np.asarray(stored), axes), "memory")


def _register(record: type[outputs.ModelOutput]) -> None:
    def flatten_with_keys(output: outputs.ModelOutput) -> tuple[Any, tuple[str, ...]]:
        return [(jax.tree_util.GetAttrKey(name), value) for name, value in output.items()], output.keys()

    def unflatten(names: tuple[str, ...], values: Iterable[Any]) -> outputs.ModelOutput:
        return record(**dict(zip(names, values, strict=True)))

    def flatten(output: outputs.ModelOutput) -> tuple[Any, tuple[str, ...]]:
        return output.values(), output.keys()

    jax.tree_util.register_pytree_with_keys(record, flatten_with_keys, unflatten, flatten)


outputs.each_record(_register)
