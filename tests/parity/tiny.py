"""Small models of every class, with dropout everywhere, for tests of what surrounds the mathematics."""

from typing import Any

import numpy as np
import transformers

from diptych.core import registry
from diptych.core.config import ModelConfig
from tests.family import Config, families, family_of


def made(name: str, **fields: Any) -> ModelConfig:
    """The config of a class of these fields."""
    return registry.families()[registry.architectures()[name]].classes[name].from_dict(fields)


CONFIGS: dict[str, ModelConfig] = {
    name: made(name, **fields)
    for family in families().values()
    if not family.twin
    for name, fields in family.tiny.items()
}
"""Every class that has something of its own, and a config for it."""
RENAMED: dict[str, ModelConfig] = {
    name: made(name, **fields) for family in families().values() if family.twin for name, fields in family.tiny.items()
}
"""The classes that are another one's under another name, and a config for each."""
WHOLE = tuple(name for family in families().values() for name in family.whole)
"""Classes that have every layer between them, for tests that take long."""
RATES = {name: rate for family in families().values() for name, rate in family.rates.items()}
"""Class -> a step of gradient descent that lowers the loss of a new model."""


def changed(field: str) -> dict[str, Any]:
    """The configs of the classes that a field of the families names, with the changes that it says."""
    changes: dict[str, Config] = {}
    for family in families().values():
        changes |= getattr(family, field)
    return {name: CONFIGS[name].replace(**fields) for name, fields in changes.items()}


def writes(name: str) -> bool:
    """Whether a class reads one text and writes another."""
    return family_of(name).encodes_and_decodes(name)


def inputs(name: str, *, seed: int = 0) -> dict[str, Any]:
    """A batch of two, the second text padded."""
    return family_of(name).inputs(name, (CONFIGS | RENAMED)[name], np.random.default_rng(seed))


def labels_for(name: str) -> dict[str, Any]:
    """What gives the class a loss."""
    return family_of(name).labels(name, np.random.default_rng(1))


def wide(call: dict[str, Any]) -> dict[str, Any]:
    """The call in float64, as a model in float64 of transformers needs it."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value
        for name, value in call.items()
    }


def theirs(config: ModelConfig) -> Any:
    """The same config of transformers, whose models keep no cache."""
    data = config.to_dict() | {"use_cache": False}
    for part in ("encoder", "decoder"):
        if isinstance(data.get(part), dict):
            data[part] = data[part] | {"use_cache": False}
    return transformers.AutoConfig.for_model(**data)
