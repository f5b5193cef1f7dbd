"""The options of text generation, with the names that transformers gives them, and the files that hold them."""

import difflib
import json
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast

import numpy as np

from diptych.core.check import describe_type, has_type
from diptych.core.checkpoint.files import open_atomic
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.config import FrozenMap, ModelConfig, thaw_json
from diptych.core.errors import ConfigError, InputError
from diptych.core.json_text import parse_config, read_text

GENERATION_FILE = "generation_config.json"

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,), "diversity_penalty": (0,), "penalty_alpha": (0,), "dola_layers": (),
    "constraints": (), "force_words_ids": (), "guidance_scale": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "top_h": (), "encoder_repetition_penalty": (1,), "remove_invalid_values": (False,), "watermarking_config": (),
    "token_healing": (False,), "use_mtp": (False,), "speculation_type": (),
    "prompt_lookup_num_tokens": (), "max_matching_ngram_size": (), "is_assistant": (False,),
    # 5.23's default and, if it differs, the one that older versions saved
    "num_assistant_tokens": (20, 5), "num_assistant_tokens_schedule": ("constant", "heuristic"),
    "assistant_confidence_threshold": (0.4,), "assistant_lookbehind": (10,), "target_lookbehind": (10,),
    "assistant_early_exit": (), "assistant_ensemble_weight": (), "cache_config": (), "max_cache_len": (),
    "compile_config": (), "disable_compile": (False,), "continuous_batching_config": (), "low_memory": (False,),
    "prefill_chunk_size": (),
}  # fmt: skip
"""Options of transformers that diptych does not have -> the values, besides None, with which they have no effect."""

_DEFAULTS: dict[str, Any] = {
    "min_length": 0, "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "early_stopping": False,
    "length_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False, "output_scores": False,
    "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "return_dict_in_generate": False, "use_cache": True,
}  # fmt: skip
"""The values of options that are not set."""

_LARGEST = 2**30
"""The largest integer: the sum of two fits into 32 bits."""

_LEAST = {
    "max_length": 0, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "num_beams": 1,
    "num_return_sequences": 1, "top_k": 0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
}  # fmt: skip
_METADATA = ("transformers_version", "_from_model_config", "_commit_hash")


@dataclass(frozen=True, kw_only=True, repr=False)
class GenerationConfig:
    """Options of `generate`, each named as in transformers; None means not set.

    Lists become tuples, and numpy numbers Python's. An option of transformers that diptych does not have is accepted
    with a value that has no effect.

    Attributes:
        max_length, min_length: the number of tokens of a sequence, its prompt included.
        max_new_tokens, min_new_tokens: the number of tokens after the prompt, at least 1 and 0; they take precedence
            over the other two.
        do_sample: whether tokens are sampled; otherwise the best is chosen.
        num_beams, num_return_sequences: at least 1.
        early_stopping: whether a beam search ends once it has as many sequences as beams; "never" ends it only when no
            better one is possible.
        length_penalty: the power of a sequence's length by which its score is divided.
        temperature, repetition_penalty: above 0.
        top_k: at least 0; 0 keeps all.
        top_p, typical_p: in (0, 1].
        min_p: in [0, 1].
        no_repeat_ngram_size, encoder_no_repeat_ngram_size: at least 0; 0 is off.
        bad_words_ids: sequences of ids that are not generated.
        sequence_bias: sequences of ids and the amounts added to their scores; a mapping or a list of pairs.
        exponential_decay_length_penalty: a number of tokens after the prompt, and a factor for each further token.
        stop_strings: strings that end a text with the token that completes one of them; a call needs a tokenizer then.
        max_time: seconds after which no further token is generated.
        use_cache, cache_implementation: accepted and kept, but without effect.
        carried: other content of a file: options without effect here, and names unknown to transformers.

    Raises:
        InputError: options have invalid types or values, or are not supported; all are listed.
        TypeError: options are unknown.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    early_stopping: bool | Literal["never"] | None = None
    length_penalty: float | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    stop_strings: str | tuple[str, ...] | None = None
    max_time: float | None = None
    renormalize_logits: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict_in_generate: bool | None = None
    use_cache: bool | None = None
    cache_implementation: str | None = None
    carried: FrozenMap = field(default=FrozenMap())

    if not TYPE_CHECKING:  # type checkers see each option by name

        def __init__(self, *, carried: Mapping[str, Any] = FrozenMap(), **options: Any) -> None:
            values, others = _validate(options)
            vars(self).update({**dict.fromkeys(_OPTIONS), **values, "carried": FrozenMap({**carried, **others})})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "generation config") -> Self:
        """The options of a `generation_config.json`; anything without effect here is carried along.

        Args:
            data: the JSON object.
            source: the origin of the data in error messages.

        Raises:
            ConfigError: options have invalid types or values; all are listed. Negative ids and unsupported options are
                refused only by `resolve`.
        """
        known = {name: value for name, value in data.items() if name in _OPTIONS}
        carried = {name: value for name, value in data.items() if name not in _OPTIONS}
        try:
            return cls(**known, carried=FrozenMap(carried))
        except InputError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_json(cls, text: str, *, source: str = GENERATION_FILE) -> Self:
        """The options of JSON text; see `from_dict`."""
        return cls.from_dict(parse_config(text, source), source=source)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Unpack[HubOptions]) -> Self:
        """The options in `generation_config.json` of a directory or hub checkpoint; see `from_dict`, `HubOptions`."""
        path = locate(name_or_path, only=CONFIGS, **options) / GENERATION_FILE
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        return cls.from_json(read_text(path), source=str(path))

    @classmethod
    def of_model(cls, config: ModelConfig) -> Self:
        """The options in a model's config, as in older files, and its special ids.

        A composite's config takes precedence over its decoder's.

        Raises:
            ConfigError: options have invalid types or values; all are listed.
        """
        stated = _options_of_config(config)
        if config.housekeeping.get("force_bos_token_to_be_generated"):
            stated["forced_bos_token_id"] = config.bos_token_id
        decoder = getattr(config, "decoder", None)
        if isinstance(decoder, ModelConfig):
            stated = {**_options_of_config(decoder), **stated}
        return cls.from_dict(stated, source=type(config).__name__)

    @classmethod
    def from_any(cls, value: Any) -> "GenerationConfig":
        """The options of a GenerationConfig, a mapping, an object with `to_dict()`, or None.

        Raises:
            InputError: the value has another type, or its options have invalid types or values.
            TypeError: a mapping has unknown options.
        """
        if value is None or isinstance(value, GenerationConfig):
            return cls() if value is None else value
        if isinstance(value, Mapping):
            options = dict(cast(Mapping[str, Any], value))
            return cls(carried=FrozenMap({name: options.pop(name) for name in _METADATA if name in options}), **options)
        if callable(getattr(value, "to_dict", None)):
            given = {name: _plain(option) for name, option in value.to_dict().items() if option is not None}
            try:
                return cls.from_dict(given, source=f"a {type(value).__name__}")
            except ConfigError as error:
                raise InputError(str(error)) from None
        raise InputError(
            f"generation_config is a {type(value).__name__}, but a GenerationConfig or a mapping of options is needed"
        )

    def to_dict(self) -> dict[str, Any]:
        """The options that are set, and those carried along, as plain JSON data."""
        return {name: thaw_json(value) for name, value in sorted(self._as_dict().items())}

    def to_json(self) -> str:
        """The text of a `generation_config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes `generation_config.json` into a directory, which is created if it is missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        with open_atomic(Path(directory) / GENERATION_FILE) as handle:
            handle.write(self.to_json().encode())

    def _as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None} | {**self.carried}

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in self._as_dict().items())})"

    def replace(self, **options: Any) -> Self:
        """A copy with changed options; None unsets one.

        Raises:
            InputError: options have invalid types or values, or are not supported; all are listed.
            TypeError: options are unknown.
        """
        carried = options.pop("carried", self.carried)
        values, others = _validate(options)
        return self._with(values, {**carried, **others} if others or carried is not self.carried else None)

    def _with(self, values: Mapping[str, Any], carried: Mapping[str, Any] | None = None) -> Self:
        """A copy with other values, which have been checked, and with other carried options if any are given."""
        copy = object.__new__(type(self))
        vars(copy).update({**vars(self), **values})
        if carried is not None:
            vars(copy)["carried"] = FrozenMap(carried)
        return copy

    def with_fallback(self, base: "GenerationConfig") -> Self:
        """These options, with unset ones taken from the other."""
        unset = {name: getattr(base, name) for name in _OPTIONS if getattr(self, name) is None}
        carried = {name: value for name, value in self.carried.items() if value is not None}
        return self._with(unset, {**base.carried, **carried} if base.carried or self.carried else None)

    def resolve(self, **options: Any) -> Self:
        """The complete options of a call: the given ones, else these, else transformers' defaults.

        `max_length` may still be unset, if no option limits the sequences.

        Args:
            options: take precedence over these; None restores the default.

        Raises:
            InputError: options have invalid types or values, do not fit each other, or are not supported; all problems
                of a kind are listed.
            TypeError: options are unknown.
        """
        asked = self.replace(**options)
        wrong = _not_supported({name: value for name, value in asked.carried.items() if name in _UNSUPPORTED})
        for name in _OPTIONS:
            value = getattr(asked, name)
            if name.endswith(("_token_id", "_ids", "suppress_tokens")) and any(one < 0 for one in _flat(value)):
                wrong.append(f"{name}={value!r} must not be negative")
        if any(one < 0 for ids, _ in asked.sequence_bias or () for one in ids):
            wrong.append(f"sequence_bias={asked.sequence_bias!r} must not have negative ids")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = set(_flat(getattr(asked, name)))
            if forced and forced <= set(asked.suppress_tokens or ()):
                wrong.append(f"{name}={getattr(asked, name)!r} is in suppress_tokens too, so that no token is left")
        asked = asked._with({name: value for name, value in _DEFAULTS.items() if getattr(asked, name) is None})
        beams, returned = cast(int, asked.num_beams), cast(int, asked.num_return_sequences)
        if returned > beams > 1:
            wrong.append(f"num_return_sequences={returned} must be num_beams={beams} at most")
        if returned > 1 and beams == 1 and not asked.do_sample:
            wrong.append(f"num_return_sequences={returned} needs do_sample=True or as many beams, or all texts are one")
        if wrong:
            raise InputError(f"GenerationConfig: {'; '.join(wrong)}. None leaves an option out")
        return asked


@dataclass(frozen=True)
class OwnOptions:
    """A model's own options, which replace those in its config.

    Any two compare equal, so that they never lead to different compiled programs.

    Attributes:
        options: None if it has none.
    """

    options: GenerationConfig | None = field(default=None, compare=False)

    @classmethod
    def of_directory(cls, directory: Path, changes: Mapping[str, Any]) -> Self:
        """The options in a checkpoint's generation_config.json, with the caller's changes.

        Args:
            directory: the checkpoint's.
            changes: of the config; those that are not options are ignored.

        Raises:
            ConfigError: the file cannot be read, or holds invalid values.
            InputError: a change is invalid or not supported.
        """
        if not os.path.lexists(directory / GENERATION_FILE):
            return cls()
        named = {name: value for name, value in changes.items() if name in _OPTIONS or name in _UNSUPPORTED}
        return cls(GenerationConfig.from_pretrained(directory).replace(**named))

    @classmethod
    def of_live(cls, options: Any, config: ModelConfig) -> Self:
        """The options of a live model of transformers; None if it has none, or they equal those in its config.

        Raises:
            InputError: options have invalid types or values.
        """
        stated = GenerationConfig.of_model(config)
        given = stated if options is None else GenerationConfig.from_any(options)
        one, other = (_DEFAULTS | found.to_dict() | dict.fromkeys(_METADATA) for found in (given, stated))
        return cls(None if one == other else given)


_OPTIONS = {name: hint for name, hint in typing.get_type_hints(GenerationConfig).items() if name != "carried"}


def _refuse_assignment(config: object, name: str, value: object) -> None:
    raise InputError(
        f"GenerationConfig is frozen, so {name} cannot be assigned; write "
        f"model.generation_config = model.generation_config.replace({name}={value!r})"
    )


GenerationConfig.__setattr__ = _refuse_assignment  # pyright: ignore[reportAttributeAccessIssue]


def _validate(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of options as plain Python, and the unsupported options without effect.

    Raises:
        InputError: options have invalid types or values, or are not supported; all are listed.
        TypeError: options are unknown.
    """
    _refuse_unsupported(options)
    values = {name: _plain_python(value) for name, value in options.items() if name in _OPTIONS}
    wrong = [
        f"{name}={values[name]!r} must be {needed}"
        for name in _OPTIONS
        if values.get(name) is not None and (needed := _requirement(name, values[name]))
    ]
    if wrong:
        raise InputError(f"GenerationConfig: {'; '.join(wrong)}")
    return values, {name: value for name, value in options.items() if name in _UNSUPPORTED}


def _plain_python(value: Any) -> Any:
    """Converts numpy numbers to Python's, lists and arrays to tuples, and a mapping to pairs."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain_python(cast(Any, value).tolist())
    items = cast(Mapping[Any, Any], value).items() if isinstance(value, Mapping) else value
    return tuple(map(_plain_python, cast(Iterable[Any], items))) if isinstance(value, Mapping | list | tuple) else value


def _requirement(name: str, value: Any) -> str | None:
    """The requirement that a value of an option does not meet; None if it is valid."""
    if not has_type(value, _OPTIONS[name]):
        return describe_type(_OPTIONS[name])
    if name in _LEAST and not _LEAST[name] <= value <= _LARGEST:
        return f"from {_LEAST[name]} to 2**30"
    if name in ("top_p", "typical_p") and not 0 < value <= 1:
        return "above 0, and 1 at most"
    if name == "min_p" and not 0 <= value <= 1:
        return "from 0 to 1"
    if name == "max_time" and value < 0:
        return "0 or more"
    if name == "stop_strings" and not all(_texts(value) or ("",)):
        return "strings with one character at least"
    if name in ("temperature", "repetition_penalty") and value <= 0:
        return "above 0" + ("; do_sample=False takes the best token each time" if name == "temperature" else "")
    if name == "exponential_decay_length_penalty" and not 0 <= value[0] <= _LARGEST:
        return "a start from 0 to 2**30, and a factor"
    if (name == "bad_words_ids" and () in value) or (name == "sequence_bias" and any(not ids for ids, _ in value)):
        return "of words with at least one id"
    return None


def _refuse_unsupported(options: Mapping[str, Any]) -> None:
    """Raises for options that are unknown, or known but not supported."""
    known = [*_OPTIONS, *_UNSUPPORTED]
    unknown: list[str] = []
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, _OPTIONS, 1)
            unknown.append(f"{name} (did you mean {near[0]}?)" if near else name)
    if unknown:
        raise TypeError(f"GenerationConfig has no option {', '.join(unknown)}")
    if wrong := _not_supported({name: value for name, value in options.items() if name in _UNSUPPORTED}):
        raise InputError(f"GenerationConfig: {'; '.join(wrong)}")


def _not_supported(options: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={thaw_json(value)!r} is not supported"
        for name, value in options.items()
        if value is not None and not (np.isscalar(value) and value in _UNSUPPORTED[name])
    ]


def _texts(value: Any) -> tuple[str, ...]:
    """One text or several as a tuple."""
    return (value,) if isinstance(value, str) else value


def _flat(value: Any) -> Iterable[int]:
    """The ids of an option, nested or not."""
    if isinstance(value, tuple):
        return [one for item in cast(tuple[Any, ...], value) for one in _flat(item)]
    return () if value is None else (value,)


def _plain(value: Any) -> Any:
    """A nested config of transformers as a JSON object, as in files."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def _options_of_config(config: ModelConfig) -> dict[str, Any]:
    """The options in a config itself, without its parts."""
    kept = config.housekeeping
    stated = {name: kept[name] for name in (*_OPTIONS, *_UNSUPPORTED) if kept.get(name) is not None}
    for name in _OPTIONS:
        value = getattr(config, name, None)
        if value is not None and value is not False:
            stated[name] = value
    return stated
