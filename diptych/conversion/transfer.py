"""Copying live models from one framework to the other in memory, tensor by tensor."""

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from diptych.conversion.published_names import published_names
from diptych.conversion.slots import options_of
from diptych.core.backends import BackendName
from diptych.core.checkpoint.matching import Match, NamedTensors, Target, match
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.generation.options import OwnOptions
from diptych.core.pretrained import PreTrained
from diptych.core.registry import architectures, classes_of, config_classes, describe_class, families, within

Framework = BackendName | Literal["transformers"]
"""The library of a live model."""


def to_jax(model: Any, *, dtype: Any = None, sharding: Any = None) -> Any:
    """A JAX model with a live one's weights, configs, dtype and train mode; the two share no memory.

    Parameters that are frozen in a model of diptych are frozen in its copy.

    Args:
        model: of either backend, or of `transformers` if its class is known here. The copy of a JAX model has
            the same `compute_dtype`; that of any other computes in the parameters' dtype.
        dtype: of the parameters; by default the model's.
        sharding: of the parameters: a device, a Sharding, or a function of published path and stored shape; by default
            JAX's default device.

    Raises:
        InputError: the class is not known, the parameters have several dtypes and none is requested, or float64 is
            requested without 64-bit mode.
        CheckpointError: the model has no values, or parameters that its class does not have.
        ImportError: JAX or Flax is not installed.
    """
    from diptych.backends import jax as backend

    compute_dtype = getattr(model, "_compute_dtype", None) if isinstance(model, PreTrained) else None
    build = {} if compute_dtype is None else {"compute_dtype": compute_dtype}
    return _twin(inspect_live_model(model), backend, dtype, sharding, build)


def to_torch(model: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """A torch model with a live one's weights, configs, dtype and train mode; the two share no memory.

    Parameters that are frozen in a model of diptych are frozen in its copy.

    Args:
        model: of either backend, or of `transformers` if its class is known here. A JAX model's `compute_dtype` is not
            carried over: torch has autocast for that.
        dtype: of the parameters; by default the model's.
        device: of the parameters; by default torch's default device.

    Raises:
        InputError: the class is not known, or the parameters have several dtypes and none is requested.
        CheckpointError: the model has no values, or parameters that its class does not have.
        ImportError: PyTorch is not installed.
    """
    from diptych.backends import torch as backend

    return _twin(inspect_live_model(model), backend, dtype, device, {})


@dataclass(frozen=True)
class LiveModel:
    """A model in memory, as the source of a copy.

    Attributes:
        framework: its library.
        label: its name in error messages.
        architecture: its published class name.
        config: its config, as a config of diptych.
        tensors: its parameters, by their names there.
        training: whether it is in train mode.
        own_options: its own options of `generate`.
        frozen: the paths of its frozen parameters.
    """

    framework: Framework
    label: str
    architecture: str
    config: ModelConfig
    tensors: dict[str, TensorSource]
    training: bool
    own_options: OwnOptions
    frozen: tuple[str, ...] = ()


def inspect_live_model(model: Any) -> LiveModel:
    """A live model's class, config and tensors.

    Raises:
        InputError: its class is not known.
    """
    if isinstance(model, PreTrained):
        architecture = describe_class(type(model))[0]
        framework = (
            "jax" if "diptych.backends.jax.pretrained" in {base.__module__ for base in type(model).__mro__} else "torch"
        )
        training: bool = model.training  # pyright: ignore[reportAttributeAccessIssue]
        named, own = f"the {architecture}", model._own_options
        return LiveModel(
            framework, named, architecture, model.config, model._sources(), training, own, model.frozen_parameters
        )
    transformers, known = sys.modules.get("transformers"), architectures()
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        for base in type(model).__mro__:
            if base.__module__.startswith("transformers.") and base.__name__ in known:
                return _inspect_transformers(model, base.__name__)
    raise InputError(
        f"{type(model).__module__}.{type(model).__name__} is not a known model class; {_what_instead(model)}"
    )


def _what_instead(thing: Any) -> str:
    """What to give in place of something that is no known model."""
    if isinstance(thing, str | os.PathLike):
        return "load the model first, with diptych.load(path) or from_pretrained of its class"
    if isinstance(thing, type):
        return "give a model of this class, not the class"
    if isinstance(thing, Mapping):
        return (
            "tensors alone have no config: put them into a model of their class, with Model(config).load_state_dict(…) "
            "in torch, nnx.update(Model(config), …) in JAX"
        )
    for attribute in ("_orig_mod", "module"):  # of torch.compile; of DataParallel and DistributedDataParallel
        inner = getattr(thing, attribute, None)
        if inner is not None:
            return f"it wraps a {type(inner).__name__}: give its .{attribute}"
    config_class = config_classes().get(str(getattr(getattr(thing, "config", None), "model_type", None)))
    if config_class is not None:
        return f"known classes of this model_type, in diptych and transformers: {', '.join(classes_of(config_class))}"
    return f"models of diptych and transformers of these types are known: {', '.join(sorted(config_classes()))}"


def _inspect_transformers(model: Any, architecture: str) -> LiveModel:
    from diptych.backends.torch.pretrained import as_array

    named = f"the {architecture} of transformers"
    config_class = families()[architectures()[architecture]].classes[architecture]
    config = config_class.from_json(model.config.to_json_string(use_diff=False), source=f"the config of {named}")
    tensors: dict[str, TensorSource] = {}
    saved = model.state_dict()
    # named_parameters lists tied parameters once; buffers that are not in state_dict are in no checkpoint
    buffers = [pair for pair in model.named_buffers() if pair[0] in saved and pair[1].is_floating_point()]
    published = published_names(model)
    for name, parameter in [*model.named_parameters(), *buffers]:
        if parameter.is_meta:
            raise CheckpointError(f"{named}: {name} has no values (it is on the meta device)")
        read = functools.partial(as_array, parameter)
        tensors[published[name]] = TensorSource(
            tuple(parameter.shape), FLOATS[float_name(parameter.dtype)], read, named
        )
    own = OwnOptions.of_live(getattr(model, "generation_config", None), config)
    return LiveModel("transformers", named, architecture, config, tensors, model.training, own)


def _twin(source: LiveModel, backend: ModuleType, dtype: Any, placement: Any, build: dict[str, Any]) -> Any:
    found_dtype = float_name(dtype) if dtype is not None else _only_dtype(source)
    model_class = getattr(backend, source.architecture)
    twin, found = match_twin(model_class, source, {"dtype": found_dtype, **build})
    leaves = twin._leaves()
    for filling in found.fillings:
        slot = filling.slot
        values = filling.read(twin._stored_axes(slot), FLOATS[found_dtype])
        twin._put(slot, leaves[slot], values, placement)
    twin._draw({slot: leaves[slot] for slot in found.constant}, 0, placement)
    twin._own_options = source.own_options
    if source.framework != "transformers":  # whose models are frozen as the config says
        twin.unfreeze()
    if source.frozen:
        twin.freeze(*source.frozen)
    return twin.train(source.training)


def _only_dtype(source: LiveModel) -> str:
    counts: dict[str, int] = {}
    for tensor in source.tensors.values():
        counts[tensor.dtype.name] = counts.get(tensor.dtype.name, 0) + 1
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"{source.label} has parameters of several dtypes ({listed}); say dtype=…")
    return next(iter(counts))


def match_twin(model_class: type, source: LiveModel, build: dict[str, Any]) -> tuple[Any, Match]:
    """A model without values that has the source's parameters, and the match that fills them."""
    make: Callable[..., Any] = model_class
    models = [make(source.config, seed=None, **options, **build) for options in options_of(model_class)]
    counts = [len(model._leaves()) for model in models]
    twin = models[counts.index(len(source.tensors))] if len(source.tensors) in counts else models[0]
    family = within(describe_class(model_class)[1], source.config)
    target = Target(source.architecture, [*twin._leaves()], family)
    found = match(NamedTensors(source.label, source.tensors), target)
    return twin, found
