"""Finds families by file name: `core/models/<family>.py` describes one; its namesake in each backend has the models."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from diptych.core.checkpoint.slots import Slot
from diptych.core.config import ModelConfig, config_path
from diptych.core.errors import ConfigError
from diptych.core.json_text import parse_config, read_text
from diptych.core.random import Distribution

_MODELS = Path(__file__).with_name("models")


InputKind = Literal["text", "image", "sound"]
"""The kinds of an encoder's input: token ids, pixels or audio samples."""

Parts = Mapping[str, tuple[str, ModelConfig]]
"""Path of a part of a model -> its architecture and config."""


@dataclass(frozen=True, kw_only=True)
class WordEmbeddings:
    """The word embeddings of a class, by published paths of modules.

    Attributes:
        inputs: the embedding tables of token ids, some of which exist only with some configs; or the part of a
            composite that has them.
        output: the layer that computes the logits; it does not exist if they are tied to the first of `inputs`. None if
            the class predicts no tokens.
        config: the field of the model's config whose config has `vocab_size`; None for the config itself.
    """

    inputs: tuple[str, ...]
    output: str | None = None
    config: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """The description of a family: its classes and its files.

    Attributes:
        classes: architecture name -> its config class, in the order of the family's model files.
        prefixes: base-model prefixes that a file may lack or have in excess, such as "bert.".
        ignored: patterns of tensors that are not parameters -> the reason.
        renamed: old name -> present name, for tensors that were once stored under another name or twice. A name that
            the model itself has is not renamed.
        superseded: old names in `renamed` that are ignored if the file has the present name too.
        optional: patterns of tensors that a file may lack; they then keep their initial constant.
        unsupported: patterns of tensors that only a published class outside of `classes` has -> that class; they are
            left out, as those of other classes are.
        initial: returns the initial distribution of a parameter, given config and slot.
        example: returns small inputs that reach every part of a model, given config, architecture name and random
            generator: the keywords of a call, as numpy arrays and plain values.
        encoders: kind of input -> the classes that encode it in a composite, one for each config class.
        decoders: the classes that decode in a composite, one for each config class.
        grown: patterns of parameters that a checkpoint may lack when it becomes a part of a composite: cross-attention,
            heads and poolers.
        parts: returns the parts of a composite's config: path -> architecture and config.
        part_prefixes: path of a composite's part -> the base-model prefixes of its family; `within` fills it in.
        constants: given the shapes of the parameters by path, returns the tables of integers that other libraries
            expect in a file besides them; they are written, and ignored when a file is read.
        frozen: given a config and the slots of a model, returns the paths of the parameters that the config excludes
            from training; a new or loaded model has them frozen. None if no field of the config says so.
        copied: given a composite's config and paths, returns path -> path of the parameter with its stored values.
        embeddings: architecture name -> its word embeddings; classes that take no token ids are left out.
    """

    classes: Mapping[str, type[ModelConfig]]
    initial: Callable[[Any, Slot], Distribution]
    example: Callable[[Any, str, np.random.Generator], dict[str, Any]]
    prefixes: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict[str, str])
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    superseded: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    unsupported: Mapping[str, str] = field(default_factory=dict[str, str])
    encoders: Mapping[InputKind, tuple[str, ...]] = field(default_factory=dict[InputKind, tuple[str, ...]])
    decoders: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()
    parts: Callable[[Any], "Parts"] = lambda config: {}
    part_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    constants: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, np.ndarray]] = lambda shapes: {}
    frozen: Callable[[Any, Collection[Slot]], Collection[str]] | None = None
    copied: Callable[[Any, Collection[str]], Mapping[str, str]] = lambda config, paths: {}
    embeddings: Mapping[str, WordEmbeddings] = field(default_factory=dict[str, WordEmbeddings])


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
    return {cls.model_type: cls for described in families().values() for cls in described.classes.values()}


@functools.cache
def config_names() -> Mapping[str, type[ModelConfig]]:
    """Config class by its name."""
    return {cls.__name__: cls for cls in config_classes().values()}


def classes_of(wanted: type[ModelConfig]) -> list[str]:
    """The architectures whose config is of a class."""
    return [name for described in families().values() for name, cls in described.classes.items() if cls is wanted]


def read_config(directory: str | Path, *, ignore: tuple[str, ...] = (), assume: str | None = None) -> ModelConfig:
    """The whole config of a checkpoint directory.

    Args:
        directory: holds config.json.
        ignore: names of unknown fields to skip.
        assume: the model_type of a file that names none, such as the first BERT files.

    Raises:
        ConfigError: no config.json, an unknown model_type (the known ones are listed), or anything `from_dict` refuses.
    """
    path = config_path(directory)
    data = parse_config(read_text(path), str(path))
    model_type = data.get("model_type", assume)
    known = config_classes()
    if not isinstance(model_type, str) or model_type not in known:
        raise ConfigError(f"{path}: model_type={model_type!r} is not known; known: {', '.join(sorted(known))}")
    return known[model_type].from_dict(data, ignore=ignore, source=str(path))


def describe_class(cls: type) -> tuple[str, Family, type[ModelConfig]]:
    """The architecture name, family and config class of a model class; a user's subclass has those of its base."""
    names = architectures()
    name = next(base.__name__ for base in cls.__mro__ if base.__name__ in names)
    family = families()[names[name]]
    return name, family, family.classes[name]


def word_embeddings(cls: type) -> WordEmbeddings | None:
    """The word embeddings of a model class; None if it takes no token ids."""
    name, family, _ = describe_class(cls)
    return family.embeddings.get(name)


def part_architectures(role: Literal["encoder", "decoder"], kind: InputKind) -> Mapping[type[ModelConfig], str]:
    """The architectures that serve as a composite's encoder of a kind of input, or as its decoder, by config class."""
    return {
        family.classes[name]: name
        for family in families().values()
        for name in (family.decoders if role == "decoder" else family.encoders.get(kind, ()))
    }


def part_architecture(role: Literal["encoder", "decoder"], config: ModelConfig, kind: InputKind) -> str:
    """The architecture that serves as a composite's encoder of a kind of input, or as its decoder, under a config.

    Raises:
        ConfigError: the config's family has none; the families that do are listed.
    """
    known = part_architectures(role, kind)
    if type(config) in known:
        return known[type(config)]
    listed = ", ".join(sorted(cls.model_type for cls in known)) or "none"
    what = "the decoder" if role == "decoder" else f"the {kind} encoder"
    kinds = {other for other in get_args(InputKind) if type(config) in part_architectures("encoder", other)}
    reads = f", since it encodes {' and '.join(sorted(kinds))}" if role == "encoder" and kinds else ""
    raise ConfigError(f"{config.model_type!r} cannot be {what} of a composite{reads}; model_types that can: {listed}")


def within(family: Family, config: ModelConfig) -> Family:
    """The family with its parts' rules added, under the parts' paths; the family itself if it has no parts."""
    for path, (name, part) in family.parts(config).items():
        inner = within(families()[architectures()[name]], part)
        family = replace(
            family,
            ignored={**family.ignored, **{f"{path}.{pattern}": why for pattern, why in inner.ignored.items()}},
            renamed={**family.renamed, **{f"{path}.{old}": f"{path}.{new}" for old, new in inner.renamed.items()}},
            superseded=(*family.superseded, *(f"{path}.{name}" for name in inner.superseded)),
            optional=(*family.optional, *(f"{path}.{pattern}" for pattern in inner.optional)),
            unsupported={
                **family.unsupported,
                **{f"{path}.{pattern}": name for pattern, name in inner.unsupported.items()},
            },
            constants=functools.partial(_constants_of_both, family, inner, path),
            part_prefixes={
                **family.part_prefixes,
                path: inner.prefixes,
                **{f"{path}.{deeper}": prefixes for deeper, prefixes in inner.part_prefixes.items()},
            },
        )
    return family


def _constants_of_both(
    family: Family, part: Family, path: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The constants of a family and those of its part at a path."""
    prefix = f"{path}."
    inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    found = {f"{prefix}{name}": values for name, values in part.constants(inside).items()}
    return {**family.constants(shapes), **found}


def relatives(family: Family, config: ModelConfig) -> Iterator[tuple[str, str, ModelConfig]]:
    """Every class of the family, and of its parts' families, whose parameters a checkpoint of the config may hold.

    Yields:
        The prefix of its parameters, its name and its config.
    """
    for name, wanted in family.classes.items():
        part = config.part(wanted)
        if part is not None and part.builds(name):
            yield "", name, part.loaded_config
    for path, (name, part) in family.parts(config).items():
        for inner, relative, its_config in relatives(families()[architectures()[name]], part):
            yield f"{path}.{inner}", relative, its_config
