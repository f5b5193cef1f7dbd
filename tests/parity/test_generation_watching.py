"""A caller's own Python between the steps of `generate`: what it ends and allows is as in transformers 5.23."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from diptych.core.errors import InputError
from diptych.core.generation import watching
from tests.backends import each_backend
from tests.parity.writers import VOCABULARY, array, assert_same, expected, models, small

pytestmark = pytest.mark.usefixtures("x64")

PROMPTS = np.random.default_rng(0).integers(3, VOCABULARY, (2, 5))


def tokenizer() -> tokenizers.Tokenizer:
    """Tokens of one to three letters, without spaces between them."""
    words = [*"abcdefghijklmnopqrstuv", "ab", "bc", "abc", "cab", "zz", "<pad>", "<end>", "xy", "?"]
    assert len(words) == VOCABULARY
    vocabulary = {word: id for id, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return made


TOKENIZER = tokenizer()
THEIRS = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, unk_token="?")


def ends_in_thirds(ids: Any, scores: Any) -> Any:
    assert scores is None or len(scores) == ids.shape[1] - PROMPTS.shape[1]
    return ids[:, -1] % 3 == 0


def few(number: int, ids: Any) -> list[int]:
    """Tokens that depend on the prompt and on the text so far; more than one, so that beams differ."""
    return [(int(ids[-1]) + number + step) % VOCABULARY for step in (1, 2, 7, 11)]


BEAMS = {"num_beams": 3, "length_penalty": 0.7}
CASES = [
    {"stopping_criteria": [ends_in_thirds]},
    {"stopping_criteria": [ends_in_thirds], "eos_token_id": 4, "pad_token_id": 27},
    {"stopping_criteria": [ends_in_thirds], "eos_token_id": 4, "pad_token_id": 27, **BEAMS},
    {"stop_strings": ["ca", "q", "bab"], "eos_token_id": 28, "pad_token_id": 27},
    {"stop_strings": "b", "eos_token_id": 28, "pad_token_id": 27, **BEAMS},
    {"max_time": 0.0},
    {"prefix_allowed_tokens_fn": few, "forced_eos_token_id": 28, "eos_token_id": 28, "pad_token_id": 27},
    {"prefix_allowed_tokens_fn": few, **BEAMS},
]


@pytest.mark.parametrize("options", CASES, ids=lambda options: " ".join(options))
def test_tokens_are_those_of_transformers(options: dict[str, Any]) -> None:
    theirs, *ours = models("GPT2LMHeadModel")
    call = {"input_ids": PROMPTS, "attention_mask": np.ones_like(PROMPTS), "max_new_tokens": 9, **options}
    reads = {"tokenizer": THEIRS} if "stop_strings" in options else {}
    wanted = expected(theirs, call | reads)
    for model in ours:
        found = model.generate(**call, output_scores=True, output_logits=True, **dict.fromkeys(reads, TOKENIZER))
        assert_same(found, wanted)
    if "prefix_allowed_tokens_fn" not in options:
        free = ours[0].generate(PROMPTS, max_new_tokens=9, **{name: options[name] for name in BEAMS if name in options})
        assert free.sequences.tolist() != wanted.sequences.tolist()


@each_backend
def test_the_time_is_that_of_the_call(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert small(backend).generate(PROMPTS % 13, max_new_tokens=9, max_time=2.5).sequences.shape == (2, 8)


@each_backend
def test_draws_are_watched_too(backend: str) -> None:
    """Each of the samples of a prompt is a row, and a criterion may answer for all rows at once."""
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 6, "seed": 3}
    seen: list[tuple[int, int]] = []

    def one(number: int, ids: Any) -> list[int]:
        seen.append((number, len(ids)))
        return [number]

    prompts = PROMPTS[:1] % 13
    options |= {"prefix_allowed_tokens_fn": one, "stopping_criteria": [lambda ids, _: np.bool_(ids.shape[1] == 7)]}
    found = small(backend).generate(prompts, **options)
    assert array(found.sequences)[:, 5:].tolist() == [[0, 0], [1, 1]]
    assert seen == [(0, 5), (1, 5), (0, 6), (1, 6)]
    assert found.scores is None


def stops(value: Any) -> dict[str, Any]:
    return {"stopping_criteria": [lambda ids, scores: value]}


def allows(value: Any) -> dict[str, Any]:
    return {"prefix_allowed_tokens_fn": lambda number, ids: value}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"stopping_criteria": ends_in_thirds}, "must be a list of functions"),
    (stops(0.5), r"stopping_criteria\[0\] returns float64 of shape \(\), but a boolean"),
    (stops(np.zeros(3, bool)), r"returns bool of shape \(3,\), but a boolean for each of the 2 rows is needed"),
    ({"prefix_allowed_tokens_fn": 3}, "prefix_allowed_tokens_fn=3 must be a function"),
    (allows([]), r"prefix_allowed_tokens_fn\(0, …\) returns \[\], but a list of at least one id is needed"),
    (allows([1, 99]), r"returns \[99\], but ids are from 0 to 12"),
    ({"stop_strings": ["a"]}, r"stop_strings=\('a',\) needs the model's tokenizer=…"),
    ({"stop_strings": "a", "tokenizer": "gpt2"}, "tokenizer is a str, but a Tokenizer of the tokenizers library"),
    ({"stop_strings": [""]}, "stop_strings=.* must be strings with one character at least"),
    ({"max_time": -1}, "max_time=-1 must be 0 or more"),
]


@each_backend
@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_does_not_fit_is_refused(backend: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(backend).generate(PROMPTS % 13, max_new_tokens=3, **options)


def test_tokens_are_not_known_in_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # programs with options of their own cannot be part of another

    def write(model: Any, ids: Any) -> Any:
        return model.generate(ids, max_new_tokens=2, stopping_criteria=[ends_in_thirds]).sequences

    with pytest.raises(InputError, match=r"look at tokens, which are not known inside of jax\.jit; call generate"):
        jax.jit(write)(small("jax"), PROMPTS % 13)


@each_backend
def test_other_names_of_transformers_lead_to_ours(backend: str) -> None:
    for name, message in (
        ("logits_processor", r"logits_processors=\[…\]"),
        ("prng_key", "seed=…"),
        ("params", "holds"),
    ):
        with pytest.raises(TypeError, match=rf"GPT2LMHeadModel\.generate has no keyword {name} \(.*{message}"):
            small(backend).generate(PROMPTS % 13, **{name: None})
