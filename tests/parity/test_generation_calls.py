"""What a caller of `generate` may ask for and give: options, streams and rules of one's own."""

from typing import Any

import numpy as np
import pytest

from diptych.core.generation.options import GenerationConfig
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.writers import SMALL, array, small

pytestmark = pytest.mark.usefixtures("x64")

WRITES = "BartForConditionalGeneration"
PROMPTS = np.random.default_rng(0).integers(1, 13, (2, 5))
ASKED = {"max_new_tokens": 6, "pad_token_id": 0}


def written(model: Any, ids: Any = PROMPTS, **options: Any) -> np.ndarray:
    return array(model.generate(ids, **{**ASKED, **options}).sequences)


# Options

DRAWS = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 12, "top_k": 0}
BEAMS = {"num_beams": 3, "max_new_tokens": 12, "eos_token_id": [2, 5, 7]}
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "max_length": ({"max_new_tokens": None}, 8),
    "max_new_tokens": ({}, 3),
    "min_length": ({"eos_token_id": list(range(12))}, 8),
    "min_new_tokens": ({"eos_token_id": list(range(12))}, 3),
    "do_sample": ({}, True),
    "num_beams": ({}, 6),
    "num_return_sequences": ({"num_beams": 3}, 2),
    "early_stopping": ({**BEAMS, "early_stopping": "never"}, True),
    "length_penalty": (BEAMS, -2.0),
    "bos_token_id": ({"input_ids": None}, 2),
    "eos_token_id": ({}, list(range(12))),
    "pad_token_id": ({"eos_token_id": [2, 3, 4, 5, 6]}, 1),
    "decoder_start_token_id": ({}, 3),
    "forced_bos_token_id": ({}, 3),
    "forced_eos_token_id": ({}, 3),
    "temperature": (DRAWS, 0.1),
    "top_k": (DRAWS, 2),
    "top_p": (DRAWS, 0.2),
    "min_p": (DRAWS, 0.9),
    "typical_p": (DRAWS, 0.2),
    "repetition_penalty": ({}, 5.0),
    "no_repeat_ngram_size": ({}, 1),
    "encoder_no_repeat_ngram_size": ({}, 1),
    "bad_words_ids": ({}, [[token] for token in range(6)]),
    "suppress_tokens": ({}, list(range(6))),
    "begin_suppress_tokens": ({}, list(range(6))),
    "sequence_bias": ({}, [[[3], 50.0]]),
    "exponential_decay_length_penalty": ({"eos_token_id": 12}, (0, 9.0)),
    "renormalize_logits": ({}, True),
    "max_time": ({}, 0.0),
}
"""Option -> what is asked for besides, and a value with which something else is written, or chosen by other scores."""
FOR_OUTPUT = {
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate"),
    *("use_cache", "cache_implementation"),  # which change nothing
}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_what_is_written(option: str) -> None:
    base, value = CHANGES[option]
    reads = option.startswith(("decoder_start", "encoder_no", "forced_bos", "num_beams"))
    base = {"input_ids": PROMPTS, **ASKED, "output_scores": True, **base}
    model = small("torch", WRITES if reads else "GPT2LMHeadModel")
    without, changed = model.generate(**base), model.generate(**{**base, option: value})
    if option == "renormalize_logits":
        np.testing.assert_allclose(np.exp(array(changed.scores[0])).sum(1), 1.0)
        assert not np.allclose(array(without.scores[0]), array(changed.scores[0]))
    else:
        assert not np.array_equal(array(without.sequences), array(changed.sequences))


def test_every_option_is_among_them() -> None:
    others = {"carried", "stop_strings"}  # the latter needs a tokenizer: test_generation_watching.py
    assert set(CHANGES) | FOR_OUTPUT | others == set(GenerationConfig.__dataclass_fields__)
    assert not set(CHANGES) & FOR_OUTPUT


def test_keeping_no_cache_changes_nothing() -> None:
    for options in ({"use_cache": False}, {"cache_implementation": "static"}, {"return_dict_in_generate": True}):
        np.testing.assert_array_equal(written(small("torch"), **options), written(small("torch")))


@each_backend
def test_new_tokens_go_before_the_length(backend: str) -> None:
    """As in transformers, both of the most and of the least."""
    model = small(backend)
    assert written(model, max_length=7).shape == (2, 5 + 6)
    long, short, both = (
        written(model, eos_token_id=list(range(12)), **least)
        for least in ({"min_length": 10}, {"min_new_tokens": 1}, {"min_length": 10, "min_new_tokens": 1})
    )
    np.testing.assert_array_equal(both, short)
    assert long.shape[1] > both.shape[1]


@each_backend
def test_options_come_from_the_model_and_then_from_the_call(backend: str) -> None:
    model = BACKENDS[backend].GPT2LMHeadModel(SMALL["GPT2LMHeadModel"], seed=8, dtype="float64")
    model.generation_config = {"max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2, "pad_token_id": 0}
    assert model.generate(PROMPTS).sequences.shape == (4, 8)
    assert model.generate(PROMPTS, num_return_sequences=1).sequences.shape == (2, 8)
    config = GenerationConfig(max_new_tokens=4, num_return_sequences=1)
    assert model.generate(PROMPTS, generation_config=config).sequences.shape == (2, 9)
    assert model.generate(PROMPTS, generation_config=config, max_new_tokens=2).sequences.shape == (2, 7)
    model.generation_config = None
    assert model.generate(PROMPTS[:1]).sequences.shape == (1, 25)  # twenty more where nobody says how many


# Streams


class Streamer:
    def __init__(self) -> None:
        self.given: list[np.ndarray] = []
        self.ended = 0

    def put(self, value: Any) -> None:
        assert isinstance(value, np.ndarray) and not self.ended
        self.given.append(value)

    def end(self) -> None:
        self.ended += 1


@each_backend
@pytest.mark.parametrize(
    "options", [{"eos_token_id": [2, 3, 4]}, {"do_sample": True, "num_return_sequences": 3, "temperature": 4.0}]
)
def test_a_stream_is_the_prompts_and_then_each_token(backend: str, options: dict[str, Any]) -> None:
    streamer = Streamer()
    found = small(backend).generate(PROMPTS, streamer=streamer, **ASKED, **options).sequences
    prompts, *tokens = streamer.given
    copies = options.get("num_return_sequences", 1)
    np.testing.assert_array_equal(prompts, np.repeat(PROMPTS, copies, axis=0))
    assert {token.shape for token in tokens} == {(2 * copies,)}
    np.testing.assert_array_equal(np.concatenate([prompts, np.stack(tokens, axis=1)], axis=1), array(found))
    np.testing.assert_array_equal(array(found), written(small(backend), **options))
    assert streamer.ended == 1


@each_backend
def test_a_stream_behind_an_encoder_starts_with_what_is_begun_with(backend: str) -> None:
    streamer = Streamer()
    begun = np.array([[4, 2, 1], [4, 5, 6]])
    found = small(backend, WRITES).generate(PROMPTS, decoder_input_ids=begun, streamer=streamer, **ASKED).sequences
    np.testing.assert_array_equal(streamer.given[0], begun)
    np.testing.assert_array_equal(np.stack(streamer.given[1:], axis=1), array(found)[:, 3:])


# Rules of a caller's own


def no_neighbour(xp: Any, input_ids: Any, scores: Any, length: Any) -> Any:
    """Forbids the last token and the next higher ids but one."""
    places = xp.arange(scores.shape[1])[None, :]
    last = xp.take(input_ids, xp.asarray([length - 1]), axis=1)
    return xp.where((places >= last) & (places <= last + 2), xp.asarray(-xp.inf, dtype=scores.dtype), scores)


def test_a_rule_of_a_callers_own_is_what_it_is_by_hand() -> None:
    ids = PROMPTS
    for _ in range(ASKED["max_new_tokens"]):
        scores = array(small("torch")(ids).logits)[:, -1]
        scores = no_neighbour(np, ids, scores, ids.shape[1])
        ids = np.concatenate([ids, scores.argmax(1)[:, None]], axis=1)
    for backend in BACKENDS:
        found = written(small(backend), logits_processors=[no_neighbour])
        np.testing.assert_array_equal(found, ids)
    assert not np.array_equal(found, written(small("torch")))


def test_rules_come_one_after_the_other_before_those_of_sampling() -> None:
    def doubled(xp: Any, input_ids: Any, scores: Any, length: Any) -> Any:
        return scores * 2.0

    def raised(xp: Any, input_ids: Any, scores: Any, length: Any) -> Any:
        return scores + 1.0

    for backend in BACKENDS:
        asked = {**ASKED, "max_new_tokens": 1, "output_logits": True, "output_scores": True, "do_sample": True}
        output = small(backend).generate(PROMPTS, logits_processors=[doubled, raised], temperature=0.25, **asked)
        assert_close(array(output.scores[0]), (array(output.logits[0]) * 2.0 + 1.0) * 4.0)
