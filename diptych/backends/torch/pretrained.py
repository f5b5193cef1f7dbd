"""The base class of torch models: building, initializing, loading and saving."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from diptych.backends.torch import ops, products, slots
from diptych.backends.torch.cache import Cache
from diptych.backends.torch.ops import Init
from diptych.core import outputs
from diptych.core.checkpoint.matching import NamedTensors, Target, match
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.pretrained import PreTrained
from diptych.core.registry import describe_class, within


class Build(TypedDict, total=False):
    """The keywords that every model's constructor takes.

    seed: keys the initial values; None builds without values, on the meta device.
    dtype: of the parameters, by any framework's name; float32 if not given.
    gradient_checkpointing: whether activations are recomputed in the backward pass, which saves their memory.
    device: of the parameters; torch's default device if not given.
    """

    seed: int | None
    dtype: Any
    gradient_checkpointing: bool
    device: torch.device | str | None


class PreTrainedModel(nn.Module, PreTrained):
    """A model with a config, whose parameters have the names of its published checkpoints.

    It starts in eval mode. `train()` and `eval()` return the model.
    """

    def _begin(self, config: ModelConfig, build: Build) -> Init:
        """Stores the config, checks the keywords, and returns those of the layers' constructors."""
        super().__init__()
        self._check_build(build, list(Build.__annotations__))
        self._begin_config(config)
        return {"dtype": _torch_dtype(build.get("dtype"))}

    def _finish(self, build: Build) -> None:
        """Completes the model after its modules are built, and draws its initial values."""
        self.eval()
        self._finish_config()
        self._freeze_as_configured()
        self.gradient_checkpointing_enable(build.get("gradient_checkpointing", False))
        seed = build.get("seed", 0)
        if seed is not None:
            self._draw(self._leaves(), seed, build.get("device"))

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Calls `forward`, with products that are faster than torch's own where no gradient is needed."""
        with products.fast([self]):
            return super().__call__(*inputs, **keywords)

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return next(self.parameters()).device

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are not frozen, with their published paths; buffers are not among them.

        Pass them to an optimizer: `torch.optim.AdamW(model.trainable_parameters())`.
        """
        return ((path, parameter) for path, parameter in self.named_parameters() if parameter.requires_grad)

    def num_parameters(self) -> int:
        """The number of entries in all parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())

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
        device: torch.device | str | None = None,
        gradient_checkpointing: bool = False,
        mmap: bool = False,
        allow_fresh: Iterable[str] = (),
        ignore: Iterable[str] = (),
        ignore_config: Iterable[str] = (),
        **options: Any,
    ) -> Self:
        """A model with the weights of a checkpoint: safetensors, pytorch_model.bin or a Flax msgpack, also in shards.

        Args:
            name_or_path: a directory, or a name on the Hugging Face hub.
            dtype: of the parameters; by default the file's.
            device: of the parameters.
            gradient_checkpointing: whether activations are recomputed in the backward pass, which saves their memory.
            mmap: whether parameters stay in the mapped file if they lie there as the model needs them: they are read
                when they are used, and changing one never changes the file. The file must stay as it is while the model
                lives: writing into it changes the model, and truncating it ends the process. Replacing or deleting it
                is safe. By default, and always for another dtype, layout or device, they are copied.
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
            placement=device,
            build={"gradient_checkpointing": gradient_checkpointing},
            mmap=mmap,
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
        older one in the directory is removed otherwise. If processes share the model's parameters (FSDP2), all of them
        have to call this, and the first one writes.

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
        if ops.is_sharded(self._like()) and torch.distributed.get_rank() != 0:
            self._sources()  # takes part in gathering what the first process writes
            return
        self._save(directory, max_shard_size, copy_from)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module's; if `strict`, a dict with other spellings of the published names is taken too.

        So the dict of the same class in transformers fits, whose tied layers have names of their own.
        """
        if strict and state_dict.keys() != self.state_dict().keys():
            state_dict = self._with_own_names(state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    def _with_own_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """A dict under the model's own names, if it has a tensor for each of them; otherwise the same dict."""
        if not all(isinstance(value, Tensor) for value in state_dict.values()):
            return state_dict
        tensors = {name: _tensor_source(value) for name, value in state_dict.items()}
        name, family, _ = describe_class(type(self))
        target = Target(name, [*self._leaves()], within(family, self.config))
        try:
            found = match(NamedTensors("the dict", tensors), target)
        except CheckpointError:
            return state_dict
        return {filling.slot.path: state_dict[filling.name] for filling in found.fillings}

    @staticmethod
    def _ops() -> Any:
        return ops

    @staticmethod
    def _cache_class() -> Any:
        return Cache

    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the model's inputs."""
        return next(self.parameters())

    def _submodules(self) -> Iterable[tuple[str, Any]]:
        return self.named_modules()

    def _leaves(self) -> dict[Slot, Any]:
        return slots.leaves(self)

    @staticmethod
    def _is_module(value: Any) -> bool:
        return isinstance(value, nn.Module)

    @staticmethod
    def _slots_of(module: Any) -> list[Slot]:
        return [*slots.leaves(module)]

    @staticmethod
    def _stored_axes(slot: Slot) -> tuple[int, ...]:
        return tuple(range(len(slot.shape)))

    @staticmethod
    def _put(slot: Slot, leaf: Any, values: np.ndarray, placement: Any) -> None:
        module, name = leaf
        tensor, before = as_tensor(values, placement), getattr(module, name)
        trains = before.requires_grad
        setattr(module, name, nn.Buffer(tensor) if slot.kind == "buffer" else nn.Parameter(tensor, trains))

    @staticmethod
    def _placement(leaf: Any) -> Any:
        return getattr(*leaf).device

    @staticmethod
    def _dtype_name(leaf: Any) -> str:
        return float_name(getattr(*leaf).dtype)

    @staticmethod
    def _is_frozen(leaf: Any) -> bool:
        return not getattr(*leaf).requires_grad

    @staticmethod
    def _set_frozen(leaf: Any, frozen: bool) -> None:
        parameter = getattr(*leaf).requires_grad_(not frozen)
        if frozen:  # an optimizer that already holds the parameter would take another step with it
            parameter.grad = None

    def _source(self, slot: Slot, leaf: Any) -> TensorSource:
        return _source(slot, getattr(*leaf), type(self).__name__)

    @classmethod
    def _siblings(cls) -> Callable[[str], Any]:
        from diptych.backends import torch as backend

        return functools.partial(getattr, backend)


def _torch_dtype(dtype: Any) -> torch.dtype:
    return getattr(torch, "float32" if dtype is None else float_name(dtype))


def as_tensor(values: np.ndarray, device: Any = None) -> Tensor:
    """A tensor that may share the memory of an array to which nothing else refers; bfloat16 keeps its bits.

    Raises:
        InputError: this build of torch has no such device.
    """
    device = torch.get_default_device() if device is None else _check_device(device)
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(values).to(device)


def _check_device(device: Any) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        own = torch.accelerator.current_accelerator()
        known = "cpu" if own is None else f"cpu and {own.type}"
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InputError(f"device={device!r}: {reason}; this build of torch computes on {known}") from error


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor's values in host memory, without a copy if they are on the CPU; bfloat16 keeps its bits."""
    tensor = _gather(tensor).detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(FLOATS["bfloat16"])
    return tensor.numpy()


def _source(slot: Slot, tensor: Tensor, name: str) -> TensorSource:
    if tensor.is_meta:
        raise CheckpointError(f"{name}: {slot.path} has no values (the model was built with seed=None)")
    if ops.is_sharded(tensor):  # at once: all processes have to gather in one order
        tensor = _gather(tensor).cpu()
    return _tensor_source(tensor)


def _tensor_source(tensor: Tensor) -> TensorSource:
    name = ops.dtype_name(tensor)
    return TensorSource(tuple(tensor.shape), np.dtype(FLOATS.get(name, name)), lambda: as_array(tensor), "memory")


def _gather(tensor: Any) -> Tensor:
    """The whole of a tensor of which several processes may hold a part each; they all have to call this."""
    return tensor.full_tensor() if ops.is_sharded(tensor) else tensor


def _register(record: type[outputs.ModelOutput]) -> None:
    def flatten(output: outputs.ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
        return list(output.values()), output.keys()

    def unflatten(values: Iterable[Any], names: Any) -> outputs.ModelOutput:
        return record(**dict(zip(names, values, strict=True)))

    pytree.register_pytree_node(
        record, flatten, unflatten, serialized_type_name=f"{record.__module__}.{record.__qualname__}"
    )


outputs.each_record(_register)
