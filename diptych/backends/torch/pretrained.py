"""What every torch model can do: be built, filled, loaded and saved."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, TypedDict, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from diptych.backends.torch import slots
from diptych.backends.torch.ops import Init
from diptych.core import outputs, random
from diptych.core.checkpoint import loading
from diptych.core.checkpoint.matching import LoadReport
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.strips import permuted
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, ConfigError
from diptych.core.registry import described, part_of

Output = TypeVar("Output", bound=outputs.ModelOutput)


class Build(TypedDict, total=False):
    """The keywords that every model's constructor takes.

    seed: keys the initial values; None builds without any, on the meta device.
    dtype: of the parameters, by any framework's name; float32 if not given.
    device: where the parameters go; torch's default device if not given.
    """

    seed: int | None
    dtype: Any
    device: torch.device | str | None


class Switches(TypedDict, total=False):
    """The keywords that every model's call takes.

    output_attentions, output_hidden_states: whether these come too; the config's word without it.
    return_dict: False returns the record's `to_tuple()`.
    rngs: in JAX a key, needed in train mode; in torch None.
    """

    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None
    rngs: Any


class PreTrainedModel(nn.Module):
    """A model with a config, whose parameters have the names of its published checkpoints.

    It starts in eval mode. `train()` and `eval()` return the model.
    """

    load_report: LoadReport | None = None
    """What became of each tensor of the checkpoint; None if the model was not loaded."""
    _config: ModelConfig

    def _begin(self, config: ModelConfig, build: Build) -> Init:
        """What the layers are built with."""
        super().__init__()
        unknown = set(build) - set(Build.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no keyword {', '.join(sorted(unknown))}")
        self.config = config
        return {"dtype": _torch_dtype(build.get("dtype"))}

    def _finish(self, build: Build) -> None:
        """Gives the complete model its first values."""
        self.eval()
        seed = build.get("seed", 0)
        if seed is not None:
            self._draw(slots.leaves(self), seed, build.get("device"))

    @property
    def config(self) -> Any:
        """The model's config; frozen, so a change is `model.config = model.config.replace(…)`."""
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        wanted = described(type(self))[2]
        if not isinstance(config, wanted):
            raise ConfigError(f"{type(self).__name__}: config is a {type(config).__name__}, {wanted.__name__} is needed")
        self._config = config

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return next(self.parameters()).device

    def num_parameters(self) -> int:
        """The number of parameters' entries, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: Any = None,
        device: torch.device | str | None = None,
        allow_fresh: Iterable[str] = (),
        ignore: Iterable[str] = (),
        ignore_config: Iterable[str] = (),
        **config_changes: Any,
    ) -> Self:
        """A model with the weights of a checkpoint: safetensors or a Flax msgpack, in one file or in shards.

        Args:
            name_or_path: a directory, or a name on the Hugging Face hub.
            dtype: of the parameters; None keeps the file's.
            device: where the parameters go.
            allow_fresh: parameters or modules that the file may lack; they are drawn anew.
            ignore: tensors of the file to leave unread; names, modules, or patterns with *.
            ignore_config: unknown fields of config.json to leave unread.
            config_changes: config fields to change, or keywords of the class's constructor.

        Raises:
            CheckpointError: the files cannot be read or do not fit the model; every missing, unexpected and misshaped
                tensor is listed.
            ConfigError: config.json is missing or says what is not supported.
        """
        options, changes = _split(cls, config_changes)
        name, family, config_class = described(cls)
        source = loading.open_source(name_or_path, wanted=config_class, ignore_config=ignore_config, changes=changes)
        build = cast(Callable[..., Self], cls)
        guess = source.dtype_name if dtype is None else float_name(dtype)
        model = build(source.config, seed=None, dtype=guess, **options)
        found = loading.matched(
            source,
            [*slots.leaves(model)],
            class_name=name,
            family=family,
            known=lambda: _family_paths(source.whole, cls),
            allow_fresh=allow_fresh,
            ignore=ignore,
        )
        settled = loading.dtype_of(source, found, dtype)
        if settled != guess:
            model = build(source.config, seed=None, dtype=settled, **options)
        leaves = slots.leaves(model)
        for filling in found.fillings:
            _place(*leaves[filling.slot], permuted(filling.source.read(), filling.axes, FLOATS[settled]), device)
        model._draw({slot: leaves[slot] for slot in found.fresh}, 0, device)
        model.load_report = loading.report_of(source, found)
        return model

    def save_pretrained(self, directory: str | os.PathLike[str], *, max_shard_size: int | str | None = "5GB") -> None:
        """Writes config.json and safetensors, which transformers loads too.

        Args:
            directory: made if it is missing; an older checkpoint in it is replaced once the new one is complete.
            max_shard_size: most bytes a file, as a number or like "5GB"; None for one file.

        Raises:
            CheckpointError: the model has no values, or the directory is a file.
            OSError: the disk is full or not writable; what stood there stays.
        """
        name = described(type(self))[0]
        sources = {slot.path: _source(slot, tensor, name) for slot, tensor in slots.tensors(self).items()}
        loading.save(
            directory,
            self.config,
            sources,
            class_name=name,
            dtype=float_name(self.dtype),
            max_shard_size=max_shard_size,
        )

    def _option(self, name: str, given: bool | None) -> bool:
        """A call's switch, or the config's where the call is silent."""
        return bool(getattr(self.config, name) if given is None else given)

    def _inner(self, switches: Switches) -> Switches:
        """The switches for a model inside this one: settled by this one's config, and always a record."""
        return {
            **switches,
            "output_attentions": self._option("output_attentions", switches.get("output_attentions")),
            "output_hidden_states": self._option("output_hidden_states", switches.get("output_hidden_states")),
            "return_dict": True,
        }

    def _returned(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        """The record, or its tuple."""
        return output if self._option("return_dict", return_dict) else output.to_tuple()

    def _like(self) -> Tensor:
        """A tensor with the dtype and device that inputs must have."""
        return next(self.parameters())

    def _draw(self, leaves: Mapping[Slot, tuple[nn.Module, str]], seed: int, device: Any) -> None:
        """Gives parameters their initial values."""
        initial = described(type(self))[1].initial
        for slot, (module, name) in leaves.items():
            values = random.draw(initial(self.config, slot.path, slot.kind), slot.shape, seed=seed, path=slot.path)
            dtype = FLOATS[float_name(getattr(module, name).dtype)]
            _place(module, name, values.astype(dtype, copy=False), device)


def _split(cls: type, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of the constructor, and the rest."""
    own = [name for name, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY]
    return (
        {name: value for name, value in keywords.items() if name in own},
        {name: value for name, value in keywords.items() if name not in own},
    )


def _family_paths(config: ModelConfig, cls: type) -> set[str]:
    """Every parameter that a class of the family has under this config."""
    from diptych.backends import torch as backend

    classes = described(cls)[1].classes
    parts = {name: part_of(config, config_class) for name, config_class in classes.items()}
    return {
        slot.path
        for name, part in parts.items()
        if part is not None
        for slot in slots.leaves(getattr(backend, name)(part, seed=None))
    }


def _torch_dtype(dtype: Any) -> torch.dtype:
    return getattr(torch, "float32" if dtype is None else float_name(dtype))


def as_tensor(values: np.ndarray, device: Any = None) -> Tensor:
    """An array that nobody else holds as a tensor; bfloat16 passes by its bits."""
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).to(device or torch.get_default_device())
    return torch.from_numpy(values).to(device or torch.get_default_device())


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor's values in host memory, shared where they are there already; bfloat16 passes by its bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(FLOATS["bfloat16"])
    return tensor.numpy()


def _place(module: nn.Module, name: str, values: np.ndarray, device: Any) -> None:
    setattr(module, name, nn.Parameter(as_tensor(values, device)))


def _source(slot: Slot, tensor: Tensor, name: str) -> TensorSource:
    if tensor.is_meta:
        raise CheckpointError(f"{name}: {slot.path} has no values (the model was built with seed=None)")
    return TensorSource(slot.shape, FLOATS[float_name(tensor.dtype)], lambda: as_array(tensor), "memory")


def _register(record: type[outputs.ModelOutput]) -> None:
    def flatten(output: outputs.ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
        return list(output.values()), output.keys()

    def unflatten(values: Iterable[Any], names: Any) -> outputs.ModelOutput:
        return record(**dict(zip(names, values, strict=True)))

    pytree.register_pytree_node(
        record, flatten, unflatten, serialized_type_name=f"{record.__module__}.{record.__qualname__}"
    )


outputs.each_record(_register)
