"""Model configs: frozen, validated records that read and write every field of a published `config.json`.

Each field of a file falls into one of three groups. A *declared* field changes what the model computes, so the config
class has it. A *housekeeping* field does not; it is carried along and written back (`core/ledger.py` lists them). Any
other field is refused by name.
"""

import dataclasses
import functools
import json
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, Unpack, cast, dataclass_transform, get_args

from diptych.core import check
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.errors import ConfigError
from diptych.core.json_text import parse_config, read_text
from diptych.core.ledger import ABSENT, HOUSEKEEPING

Activation = Literal[
    "gelu", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "linear", "mish", "quick_gelu",
    "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip
"""The values of `hidden_act`; each backend's `ops.ACTIVATIONS` has exactly these."""

Config = TypeVar("Config")

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


class FrozenMap(Mapping[str, Any]):
    """A hashable mapping: a JSON object inside a config."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self._items: dict[str, Any] = {key: freeze_json(value) for key, value in dict(items).items()}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"


def freeze_json(value: Any) -> Any:
    """JSON data with lists as tuples and objects as FrozenMaps."""
    if isinstance(value, Mapping):
        return FrozenMap(cast(Mapping[str, Any], value))
    if isinstance(value, list | tuple):
        return tuple(freeze_json(item) for item in cast(list[Any], value))
    return value


def thaw_json(value: Any) -> Any:
    """The inverse of `freeze_json`: plain JSON data."""
    if isinstance(value, ModelConfig):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: thaw_json(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, tuple):
        return [thaw_json(item) for item in cast(tuple[Any, ...], value)]
    return value


def _refuse_assignment(config: object, name: str, value: object) -> None:
    raise ConfigError(
        f"{type(config).__name__} is frozen, so {name} cannot be assigned; "
        f"write model.config = model.config.replace({name}={value!r})"
    )


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def config_class(cls: type[Config]) -> type[Config]:
    """Makes a frozen, keyword-only dataclass, whose assignment errors say how to change the config."""
    made = dataclass(frozen=True, kw_only=True)(cls)
    made.__setattr__ = _refuse_assignment  # pyright: ignore[reportAttributeAccessIssue]
    construct = made.__init__

    @functools.wraps(construct)
    def constructor(self: Config, **values: Any) -> None:
        construct(self, **_foreign_defaults(made, values), **values)

    made.__init__ = constructor  # pyright: ignore[reportAttributeAccessIssue]
    return made


def _foreign_defaults(cls: type[Any], values: Mapping[str, Any]) -> dict[str, None]:
    """None for each default of a text model's token ids that lies outside of the vocabulary.

    The defaults are those of one published checkpoint, and say nothing about a model with fewer tokens.
    """
    size = values.get("vocab_size", getattr(cls, "vocab_size", None))
    if not isinstance(size, int) or not cls.generates_text:
        return {}
    unstated = {"bos_token_id", "eos_token_id", "decoder_start_token_id"} - values.keys()
    defaults = {name: getattr(cls, name, None) for name in unstated}
    return {name: None for name, value in defaults.items() if isinstance(value, int) and value >= size}


@dataclass(frozen=True)
class CacheShape:
    """The shape of a decoder's cache, for each row of a batch."""

    layers: int
    heads: int
    head_width: int
    positions: int
    """The number of positions of the decoder: the default capacity of a cache."""


@config_class
class ModelConfig:
    """The base of all families' configs; subclasses declare the fields that change what the model computes.

    Configs compare and hash by the declared fields alone, so two of them that differ in housekeeping share one
    compiled program. `replace` makes a changed copy.

    Raises:
        ConfigError: a field's type or value is invalid, or it names an unsupported feature.
    """

    model_type: ClassVar[str] = ""
    architecture: ClassVar[str] = ""
    """What config classes share whose models differ in nothing but the name; "" if there are no others."""
    generates_text: ClassVar[bool] = False
    """Whether its special token ids serve text generation alone; CLIP's find the end of a text."""
    accepted: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Undeclared fields of this family's files -> the values that have no effect; () means any value."""
    live: ClassVar[frozenset[str]] = frozenset({
        "output_attentions", "output_hidden_states", "return_dict", "problem_type", "bos_token_id", "eos_token_id",
    })  # fmt: skip
    """Fields that are read at call time, so that they may change in a built model's config; all others are fixed."""

    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    num_labels: int = 2
    problem_type: ProblemType | None = None
    tie_word_embeddings: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    architectures: tuple[str, ...] | None = field(default=None, compare=False)
    housekeeping: FrozenMap = field(default=FrozenMap(), compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_types(self)
        check.not_negative(self, "num_labels")
        _class_names(type(self), self.housekeeping.get("id2label"))

    @property
    def id2label(self) -> dict[int, str]:
        """The names of the classes, by default "LABEL_k"."""
        named = _class_names(type(self), self.housekeeping.get("id2label"))
        return named if len(named) == self.num_labels else {index: f"LABEL_{index}" for index in range(self.num_labels)}

    @property
    def cache_shape(self) -> CacheShape | None:
        """The shape of the model's cache; None if it is not a decoder."""
        return None

    @property
    def states_width(self) -> int:
        """The width of the states that the model returns as an encoder."""
        return cast(Any, self).hidden_size

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, housekeeping fields included.

        Raises:
            ConfigError: a name is unknown, or a value is invalid.
        """
        cls = type(self)
        known = cls._declared_fields() | {"housekeeping"}
        others = {name: value for name, value in changes.items() if name not in known}
        unsupported = [
            _unsupported_message(cls, name, value) for name, value in others.items() if _is_refused(cls, name, value)
        ]
        if unsupported:
            raise ConfigError(f"{cls.__name__}: {'; '.join(unsupported)}")
        unknown = sorted(name for name, value in others.items() if not _is_accepted(cls, name, value))
        if unknown:
            raise ConfigError(f"{cls.__name__} has no field {', '.join(unknown)}; {cls._listed_fields()}")
        if others.get("id2label") is not None:
            names = _class_names(cls, others["id2label"])
            others.setdefault("label2id", {name: index for index, name in names.items()})
            changes.setdefault("num_labels", len(names))
        values = {name: freeze_json(value) for name, value in changes.items() if name in known}
        if others:
            values["housekeeping"] = FrozenMap({**values.get("housekeeping", self.housekeeping), **others})
        return dataclasses.replace(self, **values)

    def with_vocabulary(self, size: int) -> Self:
        """A copy with `size` token ids."""
        return self.replace(vocab_size=size)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, ignore: Iterable[str] = (), source: str = "config") -> Self:
        """A config from the fields of a `config.json`.

        Args:
            data: the JSON object.
            ignore: names of unknown fields to carry along instead of refusing them.
            source: the origin of the data in error messages, such as a path.

        Raises:
            ConfigError: fields are unknown (all are listed), of the wrong type, or ask for unsupported features.
        """
        refused = cls._field_problems(data, source, set(ignore))
        if refused:
            unknown = list(dict.fromkeys(name for *_, names in refused for name in names))
            message = "; ".join(message for message, _ in refused)
            if unknown:
                message += f". If they change nothing, pass ignore_config=({', '.join(map(repr, unknown))},)"
            raise ConfigError(message)
        return cls._read(data, source, set(ignore))

    @classmethod
    def _field_problems(cls, data: Mapping[str, Any], source: str, ignore: set[str]) -> list[tuple[str, list[str]]]:
        """Problems with the fields of a file and its parts: messages, each with the unknown names."""
        refused: list[tuple[str, list[str]]] = []
        unknown: list[str] = []
        data = cls._normalize(dict(data), source)
        parts = cls._parts(data, source)
        for name, value in data.items():
            if name == "model_type":
                if value not in (None, cls.model_type):
                    message = f"{source}: model_type={value!r}, but {cls.__name__} reads {cls.model_type!r}"
                    refused.append((message, []))
            elif name in parts and isinstance(value, Mapping):
                refused += parts[name]._field_problems(cast(Mapping[str, Any], value), f"{source}: {name}", ignore)
            elif name in cls._declared_fields() or name in ignore or _is_accepted(cls, name, value):
                continue
            elif _is_refused(cls, name, value):
                refused.append((f"{source}: {_unsupported_message(cls, name, value)}", []))
            else:
                unknown.append(name)
        if unknown:
            message = f"{source}: {cls.__name__} does not know {', '.join(unknown)}; {cls._listed_fields()}"
            refused.append((message, unknown))
        return refused

    @classmethod
    def _read(cls, data: Mapping[str, Any], source: str, ignore: set[str]) -> Self:
        """A config from fields that have all been checked."""
        values: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        data = cls._normalize(dict(data), source)
        parts, fields = cls._parts(data, source), cls._declared_fields()
        for name, value in data.items():
            if name in parts and isinstance(value, Mapping):
                values[name] = parts[name]._read(cast(Mapping[str, Any], value), f"{source}: {name}", ignore)
            elif name in fields:
                values[name] = freeze_json(value)
            elif name != "model_type":
                kept[name] = value
        try:
            return cls(**values, housekeeping=FrozenMap(kept))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def _declared_fields(cls) -> set[str]:
        """The fields that a file may have."""
        return {f.name for f in dataclasses.fields(cls)} - {"housekeeping"}

    @classmethod
    def _listed_fields(cls) -> str:
        return f"it knows {', '.join(sorted(cls._declared_fields()))}"

    @classmethod
    def _parts(cls, data: Mapping[str, Any], source: str) -> dict[str, type["ModelConfig"]]:
        """The fields of a file that are themselves configs, each with its class."""
        found = {f.name: _config_class(_hints(cls)[f.name]) for f in dataclasses.fields(cls)}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def loaded_config(self) -> Self:
        """The config of a model loaded from a file with this config."""
        return self

    def part(self, wanted: type["ModelConfig"]) -> "ModelConfig | None":
        """The config itself or its part as one of the wanted class; None if there is none.

        A config of another class with the same `architecture` becomes one of the wanted class.
        """
        for part in (self, *vars(self).values()):
            if isinstance(part, ModelConfig) and part.serves_as(wanted):
                if part.model_type == wanted.model_type:
                    return part
                return wanted(**{f.name: getattr(part, f.name) for f in dataclasses.fields(wanted)})
        return None

    def builds(self, architecture: str) -> bool:
        """Whether a class of the family can be built from the config: fields that only it uses may be invalid."""
        return True

    def serves_as(self, wanted: type["ModelConfig"]) -> bool:
        """Whether models of the wanted class can be built from this config: it is one, or has its `architecture`."""
        if self.model_type == wanted.model_type:
            return isinstance(self, wanted)
        return self.architecture != "" and self.architecture == wanted.architecture

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        """Converts old forms of shared fields to the present ones; families extend it."""
        labels = data.get("id2label")
        if isinstance(labels, Mapping):
            count = len(cast(Mapping[str, Any], labels))
            if data.get("num_labels", count) != count:
                raise ConfigError(f"{source}: num_labels={data['num_labels']}, but id2label names {count} classes")
            data["num_labels"] = count
        return data

    @classmethod
    def from_json(cls, text: str, *, ignore: Iterable[str] = (), source: str = "config.json") -> Self:
        """A config from JSON text; see `from_dict`."""
        return cls.from_dict(parse_config(text, source), ignore=ignore, source=source)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, ignore: Iterable[str] = (), **options: Unpack[HubOptions]
    ) -> Self:
        """A config from a directory's or a hub checkpoint's `config.json`; see `from_dict` and `HubOptions`."""
        path = config_path(locate(name_or_path, only=CONFIGS, **options))
        return cls.from_json(read_text(path), ignore=ignore, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Every field, housekeeping included, as plain JSON data."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("housekeeping", "num_labels")]
        data: dict[str, Any] = {name: getattr(self, name) for name in names}
        data |= {**self.housekeeping, "model_type": self.model_type}
        named = data.get("id2label")
        # without names, the number of classes is the default, which BART overrides
        if self.num_labels != (type(self).num_labels if named is None else len(named)):
            data["id2label"] = {str(index): name for index, name in self.id2label.items()}
            data["label2id"] = {name: index for index, name in self.id2label.items()}
        return {name: thaw_json(data[name]) for name in sorted(data)}

    def to_json(self) -> str:
        """The text of a `config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def token_ids_outside(self) -> dict[str, Any]:
        """Special token ids that lie outside the vocabulary; common in published configs, an error only when used."""
        size = getattr(self, "total_vocab_size", getattr(self, "vocab_size", None))
        outside: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, ModelConfig):
                outside |= {f"{f.name}.{name}": found for name, found in value.token_ids_outside().items()}
            elif size is not None and f.name.endswith("_token_id") and value is not None:
                ids = cast(tuple[int, ...], value if isinstance(value, tuple) else (value,))
                if any(not 0 <= index < size for index in ids):
                    outside[f.name] = value
        return outside


@config_class
class DecoderConfig(ModelConfig):
    """The base of the configs of models that can generate text, alone or as the decoder of a composite.

    Raises:
        ConfigError: add_cross_attention needs a decoder.
    """

    generates_text: ClassVar[bool] = True
    always_decodes: ClassVar[bool] = False
    """Whether the models are causal even if `is_decoder` is False."""
    live: ClassVar[frozenset[str]] = ModelConfig.live | {"decoder_start_token_id"}

    is_decoder: bool = False
    add_cross_attention: bool = False
    cross_attention_hidden_size: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.add_cross_attention and not (self.is_decoder or self.always_decodes):
            raise ConfigError(f"{type(self).__name__}: add_cross_attention=True needs is_decoder=True")

    @property
    def has_cross_attention(self) -> bool:
        """Whether the models are decoders with cross-attention."""
        return self.add_cross_attention

    @property
    def cross_attention_width(self) -> int:
        """The width of the states that cross-attention takes."""
        return cast(Any, self).hidden_size


def config_path(directory: str | os.PathLike[str]) -> Path:
    """The path of a directory's `config.json`.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a checkpoint directory holds config.json beside its weights")
    return path


def _class_names(cls: type[ModelConfig], value: Any) -> dict[int, str]:
    """An `id2label` by number; empty for None."""
    names = cast(Mapping[Any, str], {} if value is None else value)
    if not isinstance(value, Mapping | None) or not all(str(key).isdecimal() and len(str(key)) < 10 for key in names):
        raise ConfigError(f"{cls.__name__}: id2label={thaw_json(value)!r} must map class numbers to names")
    return {int(key): name for key, name in names.items()}


def _is_accepted(cls: type[ModelConfig], name: str, value: Any) -> bool:
    """Whether an undeclared field with this value may be carried along."""
    if name in cls.accepted:
        return cls.accepted[name] == () or value in cls.accepted[name]
    return name in HOUSEKEEPING or (name in ABSENT and value in ABSENT[name])


def _is_refused(cls: type[ModelConfig], name: str, value: Any) -> bool:
    """Whether an undeclared field is known but may not have this value."""
    return (name in cls.accepted or name in ABSENT) and not _is_accepted(cls, name, value)


def _unsupported_message(cls: type[ModelConfig], name: str, value: Any) -> str:
    wanted = ", ".join(map(repr, cls.accepted.get(name) or ABSENT[name]))
    return f"{name}={value!r} is not supported by {cls.__name__}; supported: {wanted}"


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _config_class(hint: Any) -> type[ModelConfig] | None:
    """The config class that a field's annotation names, if any."""
    for choice in get_args(hint) or (hint,):
        if isinstance(choice, type) and issubclass(choice, ModelConfig):
            return choice
    return None


def _check_types(config: ModelConfig) -> None:
    wrong: list[str] = []
    hints = _hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not check.has_type(value, hints[f.name]):
            wrong.append(f"{f.name}={value!r} ({type(value).__name__}) must be {check.describe_type(hints[f.name])}")
    if wrong:
        raise ConfigError(f"{type(config).__name__}: {'; '.join(wrong)}")
