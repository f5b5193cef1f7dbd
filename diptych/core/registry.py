"""Finds families by file name: `core/models/<family>.py` describes one, each backend's file of that name models it."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.config import ModelConfig, config_path, parse_json_object, read_text
from diptych.core.errors import ConfigError
from diptych.core.random import Distribution

_MODELS = Path(__file__).with_name("models")


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the files of a family are like.

    Attributes:
        classes: architecture name -> its config class, in the order of the family's model files.
        prefixes: base prefixes that a file may lack or have in excess, such as "bert."
        ignored: patterns of tensors that carry no weights of a model -> the reason.
        renamed: old name -> present name, for tensors that were once stored under another name or twice. A name that
            the model itself has is left alone.
        superseded: old names in `renamed` that no code reads where the file has the present name too.
        optional: patterns of tensors that a file may lack; they then have the constant that they start from.
        initial: the distribution that a parameter starts from, given config, path and layer kind.
        example: small inputs that reach every part of a model, given config, architecture name and random numbers: the
            keywords of a call, as numpy arrays and plain values.
    """

    classes: Mapping[str, type[ModelConfig]]
    initial: Callable[[Any, str, str], Distribution]
    example: Callable[[Any, str, np.random.Generator], dict[str, Any]]
    prefixes: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict[str, str])
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    superseded: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@functools.cache
def families() -> Mapping[str, Family]:
    """Every family by file name."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(_MODELS)]))
    return {name: importlib.import_module(f"diptych.core.models.{name}").FAMILY for name in names}


@functools.cache
def architectures() -> Mapping[str, str]:
    """Architecture name, such as "CLIPModel" -> family."""
    return {name: family for family, described in families().items() for name in described.classes}


@functools.cache
def config_classes() -> Mapping[str, type[ModelConfig]]:
    """`model_type` -> config class."""
    return {
        cls.model_type: cls for described in families().values() for cls in described.classes.values()
    }  # fmt: skip


@functools.cache
def config_names() -> Mapping[str, type[ModelConfig]]:
    """Config class by its name."""
    return {cls.__name__: cls for cls in config_classes().values()}


def read_config(directory: str | Path, *, ignore: tuple[str, ...] = (), assume: str | None = None) -> ModelConfig:
    """The config of a checkpoint directory, whole.

    Args:
        directory: holds config.json.
        ignore: names of unknown fields to keep unread.
        assume: the model_type of a file that names none, as the first BERT files don't.

    Raises:
        ConfigError: no config.json, an unknown model_type (the known ones are listed), or anything `from_dict` refuses.
    """
    path = config_path(directory)
    data = parse_json_object(read_text(path), str(path))
    model_type = data.get("model_type", assume)
    known = config_classes()
    if not isinstance(model_type, str) or model_type not in known:
        raise ConfigError(f"{path}: model_type={model_type!r} is not known; known: {', '.join(sorted(known))}")
    return known[model_type].from_dict(data, ignore=ignore, where=str(path))


def described(cls: type) -> tuple[str, Family, type[ModelConfig]]:
    """A model class's architecture name, family and config class; a user's subclass counts as what it derives from."""
    names = architectures()
    name = next(base.__name__ for base in cls.__mro__ if base.__name__ in names)
    family = families()[names[name]]
    return name, family, family.classes[name]
