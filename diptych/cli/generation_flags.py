"""The options of `GenerationConfig` as flags of `diptych generate`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

import typer


def parse_ids(flag: str, values: str | Sequence[str]) -> tuple[int, ...]:
    """Ids that are separated by commas or spaces, in one or more values."""
    from diptych.core.errors import InputError

    text = values if isinstance(values, str) else ",".join(values)
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise InputError(f"{flag} {text!r}: whole numbers are needed, between commas or spaces") from None


def _parse_json(flag: str, value: str) -> Any:
    import json

    from diptych.core.errors import InputError

    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{flag} {value!r}: is no JSON ({error})") from None


def _parse_early_stopping(flag: str, value: str) -> bool | str:
    from diptych.core.errors import InputError

    choices = {"true": True, "false": False, "never": "never"}
    if value not in choices:
        raise InputError(f"{flag} {value!r}: is none of {', '.join(choices)}")
    return choices[value]


_KINDS: Mapping[str, tuple[Any, str | None, Callable[[str, Any], Any] | None]] = {
    "whole": (int, None, None),
    "real": (float, None, None),
    "switch": (bool, None, None),
    "texts": (list[str], "TEXT", lambda flag, values: tuple(values)),
    "ids": (list[str], "ID[,ID…]", parse_ids),
    "json": (str, "JSON", _parse_json),
    "early": (str, "true|false|never", _parse_early_stopping),
}
"""Kind of a flag -> its type for typer, the name of its value in help, and its parser, if it needs one."""

FLAGS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Length": {
        "max_new_tokens": ("whole", "The most new tokens; 20 if no option limits them."),
        "min_new_tokens": ("whole", "New tokens before a text may end."),
        "max_length": ("whole", "The most tokens of a text, its prompt included; --max-new-tokens takes precedence."),
        "min_length": ("whole", "Tokens of a text, its prompt included, before it may end."),
        "stop_strings": ("texts", "Ends a text with the token that completes this string; may be repeated."),
        "max_time": ("real", "Seconds after which no further token is generated."),
    },
    "Sampling": {
        "do_sample": ("switch", "Sample each token by its probability instead of taking the most probable."),
        "temperature": ("real", "Above 0: below 1 sharpens the distribution, above 1 flattens it."),
        "top_k": ("whole", "Sample from this many most probable tokens; 0 from all."),
        "top_p": ("real", "Sample from the most probable tokens that together have this probability."),
        "min_p": ("real", "Sample from tokens with at least this share of the most probable one's probability."),
        "typical_p": ("real", "Sample from the most typical tokens that together have this probability."),
    },
    "Beams and several texts": {
        "num_return_sequences": ("whole", "Texts for each prompt: samples, or the best beams."),
        "num_beams": ("whole", "Beams of a search for the most probable text; 1 for none."),
        "length_penalty": ("real", "The power of its length by which a beam's score is divided."),
        "early_stopping": (
            "early",
            "Stop once there are as many texts as beams; never: once no better one is possible.",
        ),
    },
    "Logits processors": {
        "repetition_penalty": ("real", "Above 1: tokens that occurred before become less probable."),
        "no_repeat_ngram_size": ("whole", "No n-gram of this many tokens occurs twice; 0 is off."),
        "encoder_no_repeat_ngram_size": (
            "whole",
            "No n-gram of this many tokens is copied from the encoder's input; 0 is off.",
        ),
        "bad_words_ids": ("json", "Forbidden sequences of ids: [[5, 6], [7]]."),
        "suppress_tokens": ("ids", "Forbidden tokens; may be repeated."),
        "begin_suppress_tokens": ("ids", "Tokens forbidden as the first new one; may be repeated."),
        "sequence_bias": ("json", "Amounts added to the scores of sequences of ids: [[[5, 6], -1.5], [[7], 2.0]]."),
        "exponential_decay_length_penalty": (
            "json",
            "From this many new tokens on, a factor per token in favour of ending: [10, 1.1].",
        ),
        "renormalize_logits": ("switch", "Normalise scores to log-probabilities after all processors."),
    },
    "Special tokens": {
        "bos_token_id": ("whole", "The id that begins a text."),
        "eos_token_id": ("ids", "The ids that end a text; may be repeated."),
        "pad_token_id": ("whole", "The id of padding."),
        "decoder_start_token_id": ("whole", "The id that a decoder with an encoder starts from."),
        "forced_bos_token_id": ("whole", "The id forced as the first new token after the start token."),
        "forced_eos_token_id": (
            "ids",
            "The ids of which one is forced as the last token at the greatest length; may be repeated.",
        ),
    },
}
"""Panel of help -> the options of `GenerationConfig` that are flags, each with its kind and help.

They are listed here, not derived from that class, so that help needs none of its imports.
"""

NO_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(
        ("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
        "arrays, of which the command prints none",
    ),
    "return_dict_in_generate": "the output is always a record",
    "use_cache": "changes nothing",
    "cache_implementation": "changes nothing",
}
"""The options of `GenerationConfig` that are not flags -> the reason."""


def with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each flag in place of its **options."""
    signature = inspect.signature(verb)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    flags: list[inspect.Parameter] = []
    for panel, rows in FLAGS.items():
        for name, (kind, text) in rows.items():
            hint, metavar, _ = _KINDS[kind]
            option = typer.Option(help=text, metavar=metavar, rich_help_panel=panel)
            annotation = Annotated[hint | None, option]
            flags.append(inspect.Parameter(name, own[-1].kind, default=None, annotation=annotation))
    cast(Any, verb).__signature__ = signature.replace(parameters=[*own, *flags])
    return verb


def collect_options(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options whose flags are given, parsed for `GenerationConfig`."""
    kinds = {name: kind for rows in FLAGS.values() for name, (kind, _) in rows.items()}
    chosen: dict[str, Any] = {}
    for name, value in flags.items():
        if value not in (None, []):
            parse = _KINDS[kinds[name]][2]
            chosen[name] = value if parse is None else parse(f"--{name.replace('_', '-')}", value)
    return chosen
