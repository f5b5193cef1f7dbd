"""The parameters of a class by name, from whichever backend there is: both have the same."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from itertools import product
from types import ModuleType
from typing import Any

from diptych.core.checkpoint.slots import Slot
from diptych.core.config import ModelConfig

_FRAMEWORKS = ("torch", "jax")


def any_backend() -> ModuleType:
    """A backend that is installed, the one whose framework is loaded already if there is one.

    Raises:
        ImportError: neither JAX nor PyTorch is installed.
    """
    loaded = [name for name in _FRAMEWORKS if name in sys.modules]
    for name in (*loaded, *_FRAMEWORKS):
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(f"diptych.backends.{name}")
    raise ImportError(
        "JAX or PyTorch is needed, and neither is installed; pip install 'diptych[torch]' or 'diptych[jax]'"
    )


def slots_of(architecture: str, config: ModelConfig) -> tuple[Slot, ...]:
    """The parameters of a class under a config, found on a model without values."""
    return tuple(getattr(any_backend(), architecture)(config, seed=None)._leaves())


def options_of(model_class: type) -> Iterator[dict[str, Any]]:
    """Every combination of a class's own switches, such as add_pooling_layer, the defaults first."""
    parameters = inspect.signature(model_class.__init__).parameters.values()
    switches = {parameter.name: parameter.default for parameter in parameters if isinstance(parameter.default, bool)}
    for values in product(*((default, not default) for default in switches.values())):
        yield dict(zip(switches, values, strict=True))
