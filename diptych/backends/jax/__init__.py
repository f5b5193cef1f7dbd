"""The models in Flax NNX: `from diptych.backends.jax import CLIPModel`, or `load(directory)` for any checkpoint."""

import importlib
import os
from typing import Any

from diptych.core import backends

if "jax" not in backends.installed_backends():
    raise ImportError("diptych.backends.jax needs JAX and Flax, which are not installed; pip install 'diptych[jax]'")

from diptych.core import registry
from diptych.core.generation.options import GenerationConfig as GenerationConfig

NAME = "jax"


def __getattr__(name: str) -> Any:
    families, configs = registry.architectures(), registry.config_names()
    if name in families:
        return getattr(importlib.import_module(f"{__name__}.models.{families[name]}"), name)
    if name in configs:
        return configs[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*registry.architectures(), *registry.config_names(), "GenerationConfig", "load"])


def load(name_or_path: str | os.PathLike[str], **options: Any) -> Any:
    """Loads a checkpoint as the class that its config.json names; see `from_pretrained`."""
    from diptych.core.checkpoint.hub import split_options
    from diptych.core.checkpoint.loading import architecture_of
    from diptych.core.checkpoint.locate import locate

    hub, options = split_options(options)
    directory = locate(name_or_path, **hub)
    name = architecture_of(directory, options.get("ignore_config", ()))
    return __getattr__(name).from_pretrained(directory, variant=hub.get("variant"), **options)
