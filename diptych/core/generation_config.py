"""The options of text generation, with the names that transformers gives them, and the files that carry them."""

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from diptych.core.checkpoint.files import writing
from diptych.core.config import FrozenMap, ModelConfig, parse_json_object, read_text, thawed
from diptych.core.errors import ConfigError, InputError

FILE = "generation_config.json"

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

_DEFAULTS: Mapping[str, Any] = {
    "min_length": 0, "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "early_stopping": False,
    "length_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False, "output_scores": False,
    "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "return_dict_in_generate": False, "use_cache": True,
}  # fmt: skip
"""What an option is that nobody sets."""

_LARGEST = 2**30
"""Of whole numbers; the sum of two has 32 bits."""


def _option(read: Callable[[Any], Any], wanted: str) -> Any:
    """A field that is not set at first.

    Args:
        read: gives the value in its final form, or raises a TypeError or ValueError.
        wanted: what a value must be.
    """
    return field(default=None, metadata={"read": read, "wanted": wanted})


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _whole(least: int) -> Any:
    def read(value: Any) -> int:
        if not least <= (number := _integer(value)) <= _LARGEST:
            raise ValueError
        return number

    return _option(read, f"a whole number from {least} to 2**30")


def _number(wanted: str = "a finite number", holds: Callable[[float], bool] = lambda number: True) -> Any:
    def read(value: Any) -> float:
        if not holds(number := _float(value)):
            raise ValueError
        return number

    return _option(read, wanted)


def _flag() -> Any:
    return _option(_boolean, "True or False")


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(cast(Any, value))


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple | np.ndarray):
        raise TypeError
    return cast(Sequence[Any], value)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_integer(item) for item in _items(value))


def _some_ids(value: Any) -> tuple[int, ...]:
    if not (ids := _ids(value)):
        raise ValueError
    return ids


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = cast(Mapping[Any, Any], value).items() if isinstance(value, Mapping) else map(_items, _items(value))
    return tuple((_some_ids(ids), _float(bias)) for ids, bias in pairs)


def _decay(value: Any) -> tuple[int, float]:
    start, factor = _items(value)
    if not 0 <= (start := _integer(start)) <= _LARGEST:
        raise ValueError
    return start, _float(factor)


def _stops(value: Any) -> bool | str:
    return value if isinstance(value, str) and value == "never" else _boolean(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _id() -> Any:
    return _option(_integer, "a token's id, a whole number")


def _id_or_ids() -> Any:
    return _option(lambda value: _integer(value) if isinstance(value, Integral) else _ids(value), "an id or ids")


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

    max_length: int | None = _whole(0)
    max_new_tokens: int | None = _whole(1)
    min_length: int | None = _whole(0)
    min_new_tokens: int | None = _whole(0)
    do_sample: bool | None = _flag()
    num_beams: int | None = _whole(1)
    num_return_sequences: int | None = _whole(1)
    early_stopping: bool | Literal["never"] | None = _option(_stops, 'True, False or "never"')
    length_penalty: float | None = _number()
    bos_token_id: int | None = _id()
    eos_token_id: int | tuple[int, ...] | None = _id_or_ids()
    pad_token_id: int | None = _id()
    decoder_start_token_id: int | None = _id()
    forced_bos_token_id: int | None = _id()
    forced_eos_token_id: int | tuple[int, ...] | None = _id_or_ids()
    temperature: float | None = _number(
        "a number above 0 (the best token each time is do_sample=False)", lambda n: n > 0
    )
    top_k: int | None = _whole(0)
    top_p: float | None = _number("a number above 0 and up to 1", lambda n: 0 < n <= 1)
    min_p: float | None = _number("a number from 0 to 1", lambda n: 0 <= n <= 1)
    typical_p: float | None = _number("a number above 0 and up to 1", lambda n: 0 < n <= 1)
    repetition_penalty: float | None = _number("a number above 0", lambda n: n > 0)
    no_repeat_ngram_size: int | None = _whole(0)
    encoder_no_repeat_ngram_size: int | None = _whole(0)
    bad_words_ids: tuple[tuple[int, ...], ...] | None = _option(
        lambda value: tuple(map(_some_ids, _items(value))), "words, each of one id or more"
    )
    suppress_tokens: tuple[int, ...] | None = _option(_ids, "ids")
    begin_suppress_tokens: tuple[int, ...] | None = _option(_ids, "ids")
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] | None = _option(
        _biases, "pairs of one id or more and a finite number"
    )
    exponential_decay_length_penalty: tuple[int, float] | None = _option(
        _decay, "a pair of a whole number from 0 to 2**30 and a finite one"
    )
    renormalize_logits: bool | None = _flag()
    output_scores: bool | None = _flag()
    output_logits: bool | None = _flag()
    output_attentions: bool | None = _flag()
    output_hidden_states: bool | None = _flag()
    return_dict_in_generate: bool | None = _flag()
    use_cache: bool | None = _flag()
    cache_implementation: str | None = _option(_text, "a name")
    carried: FrozenMap = field(default=FrozenMap())

    if not TYPE_CHECKING:  # a checker of types knows each option by name

        def __init__(self, *, carried: Mapping[str, Any] = FrozenMap(), **options: Any) -> None:
            _refuse(options)
            wrong: list[str] = []
            for option in _OPTIONS.values():
                value = options.get(option.name)
                try:
                    value = None if value is None else option.metadata["read"](value)
                except (TypeError, ValueError, OverflowError):
                    wrong.append(f"{option.name}={value!r} must be {option.metadata['wanted']}")
                object.__setattr__(self, option.name, value)
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
        carried = {name: _plain(value) for name, value in data.items() if name not in _OPTIONS}
        try:
            return cls(**known, carried=FrozenMap(carried))
        except InputError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, text: str, *, where: str = FILE) -> Self:
        """The options of JSON text; see `from_dict`."""
        return cls.from_dict(parse_json_object(text, where), where=where)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """The options of the `generation_config.json` of a directory; see `from_dict`."""
        path = Path(directory) / FILE
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
            return cls(**cast(Mapping[str, Any], value))
        if callable(getattr(value, "to_dict", None)):
            try:
                return cls.from_dict(value.to_dict(), where=f"a {type(value).__name__}")
            except ConfigError as error:
                raise InputError(str(error)) from None
        raise InputError(
            f"generation_config is a {type(value).__name__}, but a GenerationConfig or a mapping of options is needed"
        )

    def to_dict(self) -> dict[str, Any]:
        """The options that are set and what is carried along, as plain JSON data."""
        data = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None} | dict(self.carried)
        return {name: thawed(data[name]) for name in sorted(data)}

    def to_json(self) -> str:
        """The text of a `generation_config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes `generation_config.json` into a directory, which is made if it is missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        with writing(Path(directory) / FILE) as handle:
            handle.write(self.to_json().encode())

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

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
            raise InputError(f"GenerationConfig: {'; '.join(wrong)}. An option that is None is left out")
        return asked


_OPTIONS = {f.name: f for f in dataclasses.fields(GenerationConfig) if f.name != "carried"}


def _refuse_assignment(config: object, name: str, value: object) -> None:
    raise InputError(
        f"GenerationConfig is frozen, so {name} cannot be assigned; write "
        f"model.generation_config = model.generation_config.replace({name}={value!r})"
    )


GenerationConfig.__setattr__ = _refuse_assignment  # pyright: ignore[reportAttributeAccessIssue]


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
        if value is not None and not (np.ndim(value) == 0 and value in _UNSUPPORTED[name])
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
