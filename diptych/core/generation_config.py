"""The options of text generation, with the names that transformers gives them, and the files that carry them."""

import difflib
import json
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from diptych.core.checkpoint.files import writing
from diptych.core.config import FrozenMap, ModelConfig, fits, parse_json_object, read_text, spelled, thawed
from diptych.core.errors import ConfigError, InputError

GENERATION_FILE = "generation_config.json"

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,), "diversity_penalty": (0,), "penalty_alpha": (0,), "dola_layers": (),
    "constraints": (), "force_words_ids": (), "guidance_scale": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "top_h": (), "encoder_repetition_penalty": (1,), "remove_invalid_values": (False,), "watermarking_config": (),
    "stop_strings": (), "max_time": (), "token_healing": (False,), "use_mtp": (False,), "speculation_type": (),
    "prompt_lookup_num_tokens": (), "max_matching_ngram_size": (), "is_assistant": (False,),
    # 5.23's default and, where it differs, the one that older versions wrote
    "num_assistant_tokens": (20, 5), "num_assistant_tokens_schedule": ("constant", "heuristic"),
    "assistant_confidence_threshold": (0.4,), "assistant_lookbehind": (10,), "target_lookbehind": (10,),
    "assistant_early_exit": (), "assistant_ensemble_weight": (), "cache_config": (), "max_cache_len": (),
    "compile_config": (), "disable_compile": (False,), "continuous_batching_config": (), "low_memory": (False,),
    "prefill_chunk_size": (),
}  # fmt: skip
"""Options that transformers has and diptych has not -> the values, besides None, with which they ask for nothing."""

_DEFAULTS: dict[str, Any] = {
    "min_length": 0, "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "early_stopping": False,
    "length_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False, "output_scores": False,
    "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "return_dict_in_generate": False, "use_cache": True,
}  # fmt: skip
"""What an option is that nobody sets."""

_LARGEST = 2**30
"""Of whole numbers; the sum of two has 32 bits."""


_LEAST = {
    "max_length": 0, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "num_beams": 1,
    "num_return_sequences": 1, "top_k": 0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
}  # fmt: skip
_METADATA = ("transformers_version", "_from_model_config", "_commit_hash")


@dataclass(frozen=True, kw_only=True, repr=False)
class GenerationConfig:
    """Options of `generate`, each named as in transformers; None is one that is not set.

    Lists become tuples and numpy's numbers Python's. An option of transformers that diptych has not may be given with a
    value that asks for nothing.

    Attributes:
        max_length, min_length: tokens of a text, its prompt included.
        max_new_tokens, min_new_tokens: tokens behind the prompt, from 1 and from 0 on; they go before the other two.
        do_sample: whether tokens are drawn, not taken.
        num_beams, num_return_sequences: from 1 on.
        early_stopping: whether beams end with as many texts as there are beams, or "never" before none can be better.
        length_penalty: power of the length that a text's score is divided by.
        temperature, repetition_penalty: above 0.
        top_k: from 0 on; 0 keeps all.
        top_p, typical_p: in (0, 1].
        min_p: in [0, 1].
        no_repeat_ngram_size, encoder_no_repeat_ngram_size: from 0 on; 0 is off.
        bad_words_ids: words as ids, which are not written.
        sequence_bias: pairs of ids and what is added to their score; a mapping, or a list of pairs, is taken too.
        exponential_decay_length_penalty: tokens behind the prompt, and a factor for each one more.
        use_cache, cache_implementation: taken and kept; the tokens do not depend on them.
        carried: what else a file has: options without a meaning here, and names that transformers hasn't either.

    Raises:
        InputError: options have impossible types or values, or are not supported; all are listed.
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
    renormalize_logits: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict_in_generate: bool | None = None
    use_cache: bool | None = None
    cache_implementation: str | None = None
    carried: FrozenMap = field(default=FrozenMap())

    if not TYPE_CHECKING:  # a checker of types knows each option by name

        def __init__(self, *, carried: Mapping[str, Any] = FrozenMap(), **options: Any) -> None:
            _refuse(options)
            wrong: list[str] = []
            for name in _OPTIONS:
                value = _python(options.get(name))
                if needed := _needed(name, value):
                    wrong.append(f"{name}={value!r} must be {needed}")
                object.__setattr__(self, name, value)
            if wrong:
                raise InputError(f"GenerationConfig: {'; '.join(wrong)}")
            others = {name: value for name, value in options.items() if name in _UNSUPPORTED}
            object.__setattr__(self, "carried", FrozenMap({**carried, **others}))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "generation config") -> Self:
        """The options of a `generation_config.json`; what has no meaning here is carried along.

        Args:
            data: the JSON object.
            where: what error messages call the source.

        Raises:
            ConfigError: options have impossible types or values; all are listed. Ids may be anything whole, and options
                that are not supported anything at all, until `settled`.
        """
        known = {name: value for name, value in data.items() if name in _OPTIONS}
        carried = {name: value for name, value in data.items() if name not in _OPTIONS}
        try:
            return cls(**known, carried=FrozenMap(carried))
        except InputError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, text: str, *, where: str = GENERATION_FILE) -> Self:
        """The options of JSON text; see `from_dict`."""
        return cls.from_dict(parse_json_object(text, where), where=where)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """The options of the `generation_config.json` of a directory; see `from_dict`."""
        path = Path(directory) / GENERATION_FILE
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        return cls.from_json(read_text(path), where=str(path))

    @classmethod
    def of_model(cls, config: ModelConfig) -> Self:
        """The options that a model's config states, as the files of old do, and its special ids.

        Those of a composite's decoder are taken where the whole states none.

        Raises:
            ConfigError: options have impossible types or values; all are listed.
        """
        stated = _stated(config)
        if config.housekeeping.get("force_bos_token_to_be_generated"):
            stated["forced_bos_token_id"] = config.bos_token_id
        decoder = getattr(config, "decoder", None)
        if isinstance(decoder, ModelConfig):
            stated = {**_stated(decoder), **stated}
        return cls.from_dict(stated, where=type(config).__name__)

    @classmethod
    def coerced(cls, value: Any) -> "GenerationConfig":
        """The options that a caller gives as None, a GenerationConfig, a mapping, or what has `to_dict()`.

        Raises:
            InputError: it is something else, or its options have impossible types or values.
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
                return cls.from_dict(given, where=f"a {type(value).__name__}")
            except ConfigError as error:
                raise InputError(str(error)) from None
        raise InputError(
            f"generation_config is a {type(value).__name__}, but a GenerationConfig or a mapping of options is needed"
        )

    def to_dict(self) -> dict[str, Any]:
        """The options that are set and what is carried along, as plain JSON data."""
        return {name: thawed(value) for name, value in sorted(self._given().items())}

    def to_json(self) -> str:
        """The text of a `generation_config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes `generation_config.json` into a directory, which is made if it is missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        with writing(Path(directory) / GENERATION_FILE) as handle:
            handle.write(self.to_json().encode())

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None} | {**self.carried}

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in self._given().items())})"

    def replace(self, **options: Any) -> Self:
        """A copy with other options; None unsets one.

        Raises:
            InputError: options have impossible types or values, or are not supported; all are listed.
            TypeError: options are unknown.
        """
        own: dict[str, Any] = {name: getattr(self, name) for name in (*_OPTIONS, "carried")}
        return type(self)(**{**own, **options})

    def over(self, base: "GenerationConfig") -> Self:
        """These options, and the other's where these are not set."""
        unset = {name: getattr(base, name) for name in _OPTIONS if getattr(self, name) is None}
        carried = {name: value for name, value in self.carried.items() if value is not None}
        return self.replace(**unset, carried=FrozenMap({**base.carried, **carried}))

    def settled(self, **options: Any) -> Self:
        """These options with others before them and transformers' defaults behind, fit to be carried out.

        `max_length` may be unset still: then nobody has limited the texts.

        Args:
            options: in place of these; None unsets one, and leaves the default.

        Raises:
            InputError: options have impossible types or values, do not fit each other, or are not supported; those of
                a kind are listed.
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
        asked = asked.replace(**{name: value for name, value in _DEFAULTS.items() if getattr(asked, name) is None})
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
    """The options that a model has beside those that its config states.

    Any two compare equal, so that they never part compiled programs.

    Attributes:
        options: None if it has none.
    """

    options: GenerationConfig | None = field(default=None, compare=False)

    @classmethod
    def beside(cls, directory: Path, changes: Mapping[str, Any]) -> Self:
        """Those that the files of a checkpoint have beside config.json, with the changes that the caller asks for.

        Args:
            directory: the checkpoint's.
            changes: of the config; those that are no options are passed over.

        Raises:
            ConfigError: the file cannot be read, or holds what is impossible.
            InputError: a change is impossible, or not supported.
        """
        if not os.path.lexists(directory / GENERATION_FILE):
            return cls()
        named = {name: value for name, value in changes.items() if name in _OPTIONS or name in _UNSUPPORTED}
        return cls(GenerationConfig.from_pretrained(directory).replace(**named))

    @classmethod
    def of_live(cls, options: Any, config: ModelConfig) -> Self:
        """Those of a live model of transformers; none, if it has none, or if they say what its config states.

        Raises:
            InputError: options have impossible types or values.
        """
        stated = GenerationConfig.of_model(config)
        given = stated if options is None else GenerationConfig.coerced(options)
        one, other = (_DEFAULTS | found.to_dict() | dict.fromkeys(_METADATA) for found in (given, stated))
        return cls(None if one == other else given)


_OPTIONS = {name: hint for name, hint in typing.get_type_hints(GenerationConfig).items() if name != "carried"}


def _refuse_assignment(config: object, name: str, value: object) -> None:
    raise InputError(
        f"GenerationConfig is frozen, so {name} cannot be assigned; write "
        f"model.generation_config = model.generation_config.replace({name}={value!r})"
    )


GenerationConfig.__setattr__ = _refuse_assignment  # pyright: ignore[reportAttributeAccessIssue]


def _python(value: Any) -> Any:
    """Numbers of numpy as Python's, lists and arrays as tuples, a mapping as pairs."""
    if isinstance(value, np.generic | np.ndarray):
        return _python(cast(Any, value).tolist())
    items = cast(Mapping[Any, Any], value).items() if isinstance(value, Mapping) else value
    return tuple(map(_python, cast(Iterable[Any], items))) if isinstance(value, Mapping | list | tuple) else value


def _needed(name: str, value: Any) -> str | None:
    """What an option must be, if it is not that."""
    if not fits(value, _OPTIONS[name]):
        return spelled(_OPTIONS[name])
    if value is None:
        return None
    if name in _LEAST and not _LEAST[name] <= value <= _LARGEST:
        return f"from {_LEAST[name]} to 2**30"
    if name in ("top_p", "typical_p") and not 0 < value <= 1:
        return "above 0, and 1 at most"
    if name == "min_p" and not 0 <= value <= 1:
        return "from 0 to 1"
    if name in ("temperature", "repetition_penalty") and value <= 0:
        return "above 0" + ("; do_sample=False takes the best token each time" if name == "temperature" else "")
    if name == "exponential_decay_length_penalty" and not 0 <= value[0] <= _LARGEST:
        return "a start from 0 to 2**30, and a factor"
    if (name == "bad_words_ids" and () in value) or (name == "sequence_bias" and any(not ids for ids, _ in value)):
        return "of words with one id at least"
    return None


def _refuse(options: Mapping[str, Any]) -> None:
    """Raises for options that are unknown, or that are known and not supported."""
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
        f"{name}={thawed(value)!r} is not supported"
        for name, value in options.items()
        if value is not None and not (np.isscalar(value) and value in _UNSUPPORTED[name])
    ]


def _flat(value: Any) -> Iterable[int]:
    """The ids of an option, nested or not."""
    if isinstance(value, tuple):
        return [one for item in cast(tuple[Any, ...], value) for one in _flat(item)]
    return () if value is None else (value,)


def _plain(value: Any) -> Any:
    """What a live config of transformers has in a place where files have JSON objects, as such."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def _stated(config: ModelConfig) -> dict[str, Any]:
    """The options that a config states itself."""
    kept = config.housekeeping
    stated = {name: kept[name] for name in (*_OPTIONS, *_UNSUPPORTED) if kept.get(name) is not None}
    for name in _OPTIONS:
        value = getattr(config, name, None)
        if value is not None and value is not False:
            stated[name] = value
    return stated
