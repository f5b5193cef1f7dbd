"""Live models handed from one framework to the other, tensor by tensor and without a disk between them."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from diptych.conversion.slots import options_of
from diptych.core.checkpoint.matching import Match, match
from diptych.core.checkpoint.strips import permuted
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.generation.options import OwnOptions
from diptych.core.pretrained import PreTrained
from diptych.core.registry import architectures, described, families, within


def to_jax(model: Any, *, dtype: Any = None, sharding: Any = None) -> Any:
    """The JAX model with a live one's weights, configs, dtype and train mode; it shares no memory with it.

    Args:
        model: of either backend, or of `transformers` if its class is known here. A JAX model gives a copy with the
            same `compute_dtype`; others have no such thing, so the copy computes in the parameters' dtype.
        dtype: of the parameters; None keeps the model's.
        sharding: where the parameters go: a device, a Sharding, or a function of published path and stored shape; None
            is JAX's default device.

    Raises:
        InputError: the class is not known, the parameters have several dtypes and none is asked for, or float64 is
            asked for without x64.
        CheckpointError: the model has no values, or parameters that its class does not have.
        ImportError: JAX or Flax is not installed.
    """
    from diptych.backends import jax as backend

    computing = getattr(model, "_compute_dtype", None) if isinstance(model, PreTrained) else None
    build = {} if computing is None else {"compute_dtype": computing}
    return _twin(opened(model), backend, dtype, sharding, build)


def to_torch(model: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """The torch model with a live one's weights, configs, dtype and train mode; it shares no memory with it.

    Args:
        model: of either backend, or of `transformers` if its class is known here. A JAX model's `compute_dtype` is left
            behind: in torch that is a matter of autocast.
        dtype: of the parameters; None keeps the model's.
        device: where the parameters go; None is torch's default device.

    Raises:
        InputError: the class is not known, or the parameters have several dtypes and none is asked for.
        CheckpointError: the model has no values, or parameters that its class does not have.
        ImportError: PyTorch is not installed.
    """
    from diptych.backends import torch as backend

    return _twin(opened(model), backend, dtype, device, {})


@dataclass(frozen=True)
class Opened:
    """A live model, taken apart."""

    framework: Literal["jax", "torch", "transformers"]
    described_as: str
    architecture: str
    config: ModelConfig
    tensors: dict[str, TensorSource]
    training: bool
    own_options: OwnOptions


def opened(model: Any) -> Opened:
    """A live model's class, config and tensors.

    Raises:
        InputError: its class is not known.
    """
    if isinstance(model, PreTrained):
        architecture = described(type(model))[0]
        framework = (
            "jax" if "diptych.backends.jax.pretrained" in {base.__module__ for base in type(model).__mro__} else "torch"
        )
        training: bool = model.training  # pyright: ignore[reportAttributeAccessIssue]
        named, own = f"the {architecture}", model._own_options
        return Opened(framework, named, architecture, model.config, model._sources(), training, own)
    transformers, known = sys.modules.get("transformers"), architectures()
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        for base in type(model).__mro__:
            if base.__module__.startswith("transformers.") and base.__name__ in known:
                return _opened_transformers(model, base.__name__)
    raise InputError(
        f"a {type(model).__module__}.{type(model).__name__} is no model that is known here; known, of diptych and of "
        f"transformers: {', '.join(known)}"
    )


def _opened_transformers(model: Any, architecture: str) -> Opened:
    from diptych.backends.torch.pretrained import as_array

    named = f"the {architecture} of transformers"
    config_class = families()[architectures()[architecture]].classes[architecture]
    config = config_class.from_json(model.config.to_json_string(use_diff=False), where=f"the config of {named}")
    tensors: dict[str, TensorSource] = {}
    saved = model.state_dict()
    # which give what is tied once, but for the buffers that no checkpoint holds
    buffers = [pair for pair in model.named_buffers() if pair[0] in saved and pair[1].is_floating_point()]
    for name, parameter in [*model.named_parameters(), *buffers]:
        if parameter.is_meta:
            raise CheckpointError(f"{named}: {name} has no values (it is on the meta device)")
        read = functools.partial(as_array, parameter)
        tensors[name] = TensorSource(tuple(parameter.shape), FLOATS[float_name(parameter.dtype)], read, named)
    own = OwnOptions.of_live(getattr(model, "generation_config", None), config)
    return Opened("transformers", named, architecture, config, tensors, model.training, own)


def _twin(opened: Opened, backend: ModuleType, dtype: Any, where: Any, build: dict[str, Any]) -> Any:
    found_dtype = float_name(dtype) if dtype is not None else _only_dtype(opened)
    model_class = getattr(backend, opened.architecture)
    twin, found = _fitting(model_class, opened, {"dtype": found_dtype, **build})
    leaves = twin._leaves()
    for filling in found.fillings:
        slot = filling.slot
        values = permuted(filling.source.read(), twin._stored_axes(slot), FLOATS[found_dtype])
        twin._put(slot, leaves[slot], values, where)
    twin._draw({slot: leaves[slot] for slot in found.constant}, 0, where)
    twin._own_options = opened.own_options
    return twin.train(opened.training)


def _only_dtype(opened: Opened) -> str:
    counts: dict[str, int] = {}
    for tensor in opened.tensors.values():
        counts[tensor.dtype.name] = counts.get(tensor.dtype.name, 0) + 1
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"{opened.described_as} has parameters of several dtypes ({listed}); say dtype=…")
    return next(iter(counts))


def _fitting(model_class: type, opened: Opened, build: dict[str, Any]) -> tuple[Any, Match]:
    """A model without values that has the parameters of the opened one, and which of those fills which of its own."""
    make: Callable[..., Any] = model_class
    models = [make(opened.config, seed=None, **options, **build) for options in options_of(model_class)]
    counts = [len(model._leaves()) for model in models]
    twin = models[counts.index(len(opened.tensors))] if len(opened.tensors) in counts else models[0]
    found = match(
        [*twin._leaves()],
        opened.tensors,
        family=within(described(model_class)[1], opened.config),
        known=list,
        where=opened.described_as,
        class_name=opened.architecture,
    )
    return twin, found
