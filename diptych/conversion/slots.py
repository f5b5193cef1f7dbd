"""The parameters of a class by name, from any installed backend: both have the same."""

import importlib
import inspect
from collections.abc import Iterator
from itertools import product
from types import ModuleType
from typing import Any

from diptych.core import backends
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import ModelConfig


def names_backend() -> ModuleType:
    """The backend whose classes are used only for names and shapes; see `backends.choose`."""
    return importlib.import_module(f"diptych.backends.{backends.choose('names')}")


def slots_of(architecture: str, config: ModelConfig) -> tuple[Slot, ...]:
    """The parameters of a class under a config, found on a model without values."""
    return tuple(getattr(names_backend(), architecture)(config, seed=None)._leaves())


def options_of(model_class: type) -> Iterator[dict[str, Any]]:
    """Every combination of a class's boolean keywords, such as add_pooling_layer, the defaults first."""
    parameters = inspect.signature(model_class.__init__).parameters.values()
    switches = {parameter.name: parameter.default for parameter in parameters if isinstance(parameter.default, bool)}
    for values in product(*((default, not default) for default in switches.values())):
        yield dict(zip(switches, values, strict=True))
