"""The parameters of a class by name, from any installed backend: both have the same."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

from diptych.core import backends
from diptych.core.checkpoint.dialects import resolver, spellings
from diptych.core.checkpoint.matching import FamilyPaths
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import ModelConfig
from diptych.core.registry import Family, relatives


def names_backend() -> ModuleType:
    """The backend whose classes are used only for names and shapes; see `backends.choose`."""
    return importlib.import_module(f"diptych.backends.{backends.choose('names')}")


def slots_of(architecture: str, config: ModelConfig) -> tuple[Slot, ...]:
    """The parameters of a class under a config, found on a model without values."""
    return tuple(getattr(names_backend(), architecture)(config, seed=None)._leaves())


def family_slots(
    architecture: str, config: ModelConfig, whole: ModelConfig, family: Family
) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """The parameters of a class, and those that only other classes of its family have, under any prefix or old name.

    Args:
        architecture: the class.
        config: of the class.
        whole: of the checkpoint, of which the class's may be a part.
        family: with the rules of its parts (see `registry.within`).
    """
    own = slots_of(architecture, config)
    classes = [
        [replace(slot, path=f"{prefix}{slot.path}") for slot in slots_of(name, part)]
        for prefix, name, part in relatives(family, whole)
    ]
    paths = {slot.path for slot in own}
    resolve = resolver(family, paths)
    family_paths = FamilyPaths(family, [{slot.path for slot in slots} for slots in classes])

    def is_own(path: str) -> bool:
        if not paths.isdisjoint(spellings(path, family)):
            return True
        resolved = resolve(path)
        # one tensor here may be two in another class, such as an untied output layer
        return resolved is not None and not family_paths.distinguish(path, resolved[0])

    others: dict[str, Slot] = {}
    for slots in classes:
        for slot in slots:
            if slot.path not in others and not is_own(slot.path):
                others[slot.path] = slot
    return own, tuple(others.values())


def options_of(model_class: type) -> Iterator[dict[str, Any]]:
    """Every combination of a class's boolean keywords, such as add_pooling_layer, the defaults first."""
    parameters = inspect.signature(model_class.__init__).parameters.values()
    switches = {parameter.name: parameter.default for parameter in parameters if isinstance(parameter.default, bool)}
    for values in product(*((default, not default) for default in switches.values())):
        yield dict(zip(switches, values, strict=True))
