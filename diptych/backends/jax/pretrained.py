"""The base class of JAX models: building, initializing, loading and saving."""

import functools
import os
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Self, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from diptych.backends.jax import layers, ops, slots
from diptych.backends.jax.cache import Cache
from diptych.backends.jax.ops import Init
from diptych.core import outputs
from diptych.core.checkpoint.matching import LoadReport
from diptych.core.checkpoint.slots import Slot, flax_axes, published_axes
from diptych.core.checkpoint.strips import permute
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.dtypes import float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.generation.options import OwnOptions
from diptych.core.pretrained import PreTrained

Placement = jax.Device | jax.sharding.Sharding | Callable[[str, tuple[int, ...]], Any] | None


class Build(TypedDict, total=False):
    """The keywords that every model's constructor takes.

    seed: keys the initial values; None builds without values, as jax.ShapeDtypeStructs.
    dtype: of the parameters, by any framework's name; float32 if not given.
    gradient_checkpointing: whether activations are recomputed in the backward pass, which saves their memory.
    compute_dtype: in which layers compute; the parameters' if not given.
    sharding: a device, a Sharding, or a function from published path and stored shape to one of them; JAX's default
        device if not given.
    """

    seed: int | None
    dtype: Any
    gradient_checkpointing: bool
    compute_dtype: Any
    sharding: Placement


class PreTrainedModel(nnx.Module, PreTrained):
    """A model with a config, whose parameters have the names of its published checkpoints.

    It is a pytree: `jax.jit(lambda model, ids: model(ids))` works on it. It starts in eval mode. `train()` and `eval()`
    return the model. Under jit, ids can't be checked, and an id out of range gives NaN.
    """

    def _begin(self, config: ModelConfig, build: Build) -> Init:
        """Stores the config, checks the keywords, and returns those of the layers' constructors."""
        self._check_build(build, list(Build.__annotations__))
        self._begin_config(config)
        self.deterministic = True
        # on the instance, so that new and loaded models have the same pytree structure
        self.load_report = LoadReport()
        self._own_options = OwnOptions()
        compute_dtype = build.get("compute_dtype")
        return {
            "dtype": _jax_dtype(build.get("dtype")),
            "compute_dtype": None if compute_dtype is None else _jax_dtype(compute_dtype),
        }

    def _finish(self, build: Build) -> None:
        """Completes the model after its modules are built, and draws its initial values."""
        for path, module in slots.modules(self):
            if isinstance(module, layers.RandomLayer):
                module.salt = zlib.crc32(".".join(map(str, path)).encode())
        self._compute_dtype = build.get("compute_dtype") and float_name(build.get("compute_dtype"))
        self._finish_config()
        self._freeze_as_configured()
        self.gradient_checkpointing_enable(build.get("gradient_checkpointing", False))
        seed = build.get("seed", 0)
        if seed is not None:
            self._draw(self._leaves(), seed, build.get("sharding"))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("config", "generation_config"):  # properties, which nnx would treat as parts of the pytree
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

    def trainable_parameters(self) -> Self:
        """A tree like the model with True for each trainable parameter, False for frozen parameters and buffers.

        As the mask of `optax.masked(optimizer, model.trainable_parameters())`, it leaves the others out of updates.
        """
        variables, _ = jax.tree.flatten(self, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
        flags = [is_trainable((), variable) for variable in variables]
        return jax.tree.unflatten(jax.tree.structure(self), flags)

    def trainable_filter(self) -> nnx.filterlib.Filter:
        """The `nnx` filter of the trainable parameters: for `nnx.split`, `nnx.DiffState`, `nnx.Optimizer(wrt=…)`."""
        return is_trainable

    def num_parameters(self) -> int:
        """The number of entries in all parameters; tied ones count once."""
        return sum(leaf.get_value().size for slot, leaf in slots.iterate(self) if slot.kind != "buffer")

    def init_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache for a decoder's call, as `past_key_values`.

        Args:
            batch_size: the number of rows.
            max_length: the maximum number of tokens.

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
        **options: Any,
    ) -> Self:
        """A model with the weights of a checkpoint: safetensors, pytorch_model.bin or a Flax msgpack, also in shards.

        Args:
            name_or_path: a directory, or a name on the Hugging Face hub.
            dtype: of the parameters; by default the file's.
            compute_dtype: in which layers compute; by default the parameters'.
            sharding: where the parameters go: a device, a Sharding, or a function of published path and stored shape.
            gradient_checkpointing: whether activations are recomputed in the backward pass, which saves their memory.
            allow_fresh: parameters or modules that the file may lack; they are newly initialized.
            ignore: tensors of the file to skip; names, modules, or patterns with *.
            ignore_config: unknown fields of config.json to skip.
            options: config fields to change; keywords of the class's constructor; or which checkpoint is meant and how
                it is downloaded, see `HubOptions`: revision, subfolder, variant, token, cache_dir, local_files_only.

        Raises:
            CheckpointError: the files cannot be read or do not fit the model; every missing, unexpected and misshaped
                tensor is listed.
            ConfigError: config.json is missing or needs an unsupported feature, or generation_config.json is invalid.
        """
        return cls._load(
            name_or_path,
            dtype=dtype,
            placement=sharding,
            build={"compute_dtype": compute_dtype, "gradient_checkpointing": gradient_checkpointing},
            allow_fresh=allow_fresh,
            ignore=ignore,
            ignore_config=ignore_config,
            options=options,
        )

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str | None = "5GB",
        copy_from: str | os.PathLike[str] | None = None,
    ) -> None:
        """Writes config.json, safetensors and generation_config.json; transformers can load the directory.

        generation_config.json is written only if the model's options for `generate` were loaded from one or set; an
        older one in the directory is removed otherwise.

        Args:
            directory: created if it is missing; an older checkpoint in it is replaced once the new one is complete.
            max_shard_size: the largest size of a file, in bytes or as in "5GB"; None for a single file.
            copy_from: a checkpoint whose tokenizer and processor files are copied along: a directory, or a name on the
                hub.

        Raises:
            CheckpointError: the model has no values or other parameters than its class has, which are listed, or the
                directory is a file, or copy_from has no such files.
            OSError: the disk is full or not writable; the directory is left unchanged.
        """
        self._save(directory, max_shard_size, copy_from)

    @staticmethod
    def _ops() -> Any:
        return ops

    @staticmethod
    def _cache_class() -> Any:
        return Cache

    def _like(self) -> Any:
        """A shape with the dtype of the model's inputs."""
        leaf = next(slots.iterate(self))[1].get_value()
        if isinstance(leaf, jax.Array):
            ops.check_mesh(type(self).__name__, "the model", jax.typeof(leaf).sharding)
        return jax.ShapeDtypeStruct((), jnp.dtype(self._compute_dtype or self.dtype))

    def _submodules(self) -> Iterable[tuple[str, Any]]:
        return ((".".join(map(str, path)), module) for path, module in slots.modules(self))

    def _leaves(self) -> dict[Slot, Any]:
        return slots.leaves(self)

    @staticmethod
    def _is_module(value: Any) -> bool:
        return isinstance(value, nnx.Module)

    @staticmethod
    def _slots_of(module: Any) -> list[Slot]:
        return [*slots.leaves(module)]

    @staticmethod
    def _stored_axes(slot: Slot) -> tuple[int, ...]:
        return flax_axes(slot.kind, len(slot.shape))

    @staticmethod
    def _put(slot: Slot, leaf: Any, values: np.ndarray, placement: Any) -> None:
        target = placement
        if callable(placement) and not isinstance(placement, jax.sharding.Mesh):  # a mesh is a decorator too
            target = placement(slot.path, values.shape)
        if not isinstance(target, jax.Device | jax.sharding.Sharding | None):
            raise InputError(
                f"sharding: {slot.path} would go to {target!r}, but a device, a Sharding such as NamedSharding(mesh, "
                "PartitionSpec()), or a function of path and shape that returns one is needed"
            )
        ops.check_mesh("sharding", slot.path, target)
        try:
            # nothing else refers to the values, so the array may share their memory
            array = jax.device_put(values, target, may_alias=True)
        except ValueError as error:
            raise InputError(f"sharding: {slot.path} of shape {values.shape} as stored: {error}") from None
        leaf.set_value(array)

    @staticmethod
    def _placement(leaf: Any) -> Any:
        return getattr(leaf.get_value(), "sharding", None)

    @staticmethod
    def _dtype_name(leaf: Any) -> str:
        return float_name(leaf.get_value().dtype)

    @staticmethod
    def _is_frozen(leaf: Any) -> bool:
        return without_gradient in _get_hooks(leaf)

    @staticmethod
    def _set_frozen(leaf: Any, frozen: bool) -> None:
        others = tuple(hook for hook in _get_hooks(leaf) if hook is not without_gradient)
        hooks = (*others, without_gradient) if frozen else others
        metadata = {name: value for name, value in leaf.get_metadata().items() if name != "on_get_value"}
        # replaced, not changed in place: a copy of the model may share the dictionary
        leaf.set_metadata({**metadata, "on_get_value": hooks} if hooks else metadata)

    def _source(self, slot: Slot, leaf: Any) -> TensorSource:
        return _source(slot, leaf, type(self).__name__)

    @classmethod
    def _siblings(cls) -> Callable[[str], Any]:
        from diptych.backends import jax as backend

        return functools.partial(getattr, backend)


def without_gradient(variable: nnx.Variable[Any], value: Any) -> Any:
    """The hook of a frozen parameter: stops gradients whenever its value is read."""
    return jax.lax.stop_gradient(value) if isinstance(value, Tracer) else value


def is_trainable(path: Any, value: Any) -> bool:
    """Whether a variable is a parameter that is not frozen; an `nnx` filter."""
    return isinstance(value, nnx.Param) and without_gradient not in _get_hooks(value)


def _get_hooks(variable: nnx.Variable[Any]) -> tuple[Any, ...]:
    hooks = variable.get_metadata("on_get_value", ())
    return hooks if isinstance(hooks, tuple) else (hooks,)


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
    return TensorSource(slot.shape, np.dtype(stored.dtype), lambda: permute(np.asarray(stored), axes), "memory")


def _register(record: type[outputs.ModelOutput]) -> None:
    def flatten_with_keys(output: outputs.ModelOutput) -> tuple[Any, tuple[str, ...]]:
        return [(jax.tree_util.GetAttrKey(name), value) for name, value in output.items()], output.keys()

    def unflatten(names: tuple[str, ...], values: Iterable[Any]) -> outputs.ModelOutput:
        return record(**dict(zip(names, values, strict=True)))

    def flatten(output: outputs.ModelOutput) -> tuple[Any, tuple[str, ...]]:
        return output.values(), output.keys()

    jax.tree_util.register_pytree_with_keys(record, flatten_with_keys, unflatten, flatten)


outputs.each_record(_register)
