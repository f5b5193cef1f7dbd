"""What `generate` draws at random: the same in both backends from one seed, as often as its probability says."""

from typing import Any

import jax
import numpy as np
import pytest

from diptych.backends.jax import generation
from diptych.core.errors import InputError
from tests.parity.writers import VOCABULARY, models

pytestmark = pytest.mark.usefixtures("x64")

SEEDS = 70
"""Of each kind of call: two hundred and ten in all."""
KINDS: dict[str, dict[str, Any]] = {
    "tokens": {"temperature": 2.5, "top_k": 0, "num_return_sequences": 3},
    "tokens by every rule": {"temperature": 4.0, "top_k": 12, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95},
    "beams": {"temperature": 3.0, "top_k": 0, "num_beams": 3, "num_return_sequences": 2},
}
PROMPTS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 5))


def drawn(model: Any, seed: int, **options: Any) -> np.ndarray:
    asked = {"max_new_tokens": 3, "do_sample": True, "pad_token_id": 3} | options
    return np.asarray(model.generate(PROMPTS, seed=seed, **asked).sequences)


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_the_same_tokens_in_both_backends(kind: str) -> None:
    sides, texts = models("GPT2LMHeadModel"), set()
    for seed in range(SEEDS):
        found = drawn(sides.torch, seed, **KINDS[kind])
        np.testing.assert_array_equal(drawn(sides.jax, seed, **KINDS[kind]), found, err_msg=f"seed {seed}")
        texts.add(found.tobytes())
    assert len(texts) > SEEDS // 2  # others give others


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**32, 2**63, 2**64 + 1])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    sides = models("GPT2LMHeadModel")
    np.testing.assert_array_equal(
        drawn(sides.jax, seed, **KINDS["tokens"]), drawn(sides.torch, seed, **KINDS["tokens"])
    )


def test_other_numbers_compile_nothing() -> None:
    model, compiled = models("GPT2LMHeadModel").jax, []
    options = {"repetition_penalty": 1.3, "top_k": 9, "eos_token_id": 7, "min_new_tokens": 2}
    drawn(model, 0, temperature=1.5, **options)

    def listen(event: str, *_: Any, **__: Any) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        drawn(model, 1, temperature=0.7, **options)
        drawn(model, 2, temperature=3.0, **{**options, "repetition_penalty": 2.0, "eos_token_id": 9})
        assert not compiled
        drawn(model, 2, temperature=3.0, **{**options, "top_k": 8})  # another structure
        assert compiled
    finally:
        jax.monitoring.clear_event_listeners()


def test_near_lengths_share_a_program() -> None:
    sides, count = models("GPT2LMHeadModel"), set()
    for length in (5, 6, 8):  # all have room for eight
        prompts = np.random.default_rng(length).integers(0, VOCABULARY, (2, length))
        for new in (5, 7):
            asked = {
                "max_new_tokens": new,
                "do_sample": True,
                "pad_token_id": 3,
                "attention_mask": np.eye(2, length) == 0,
            }
            found, wanted = (np.asarray(one.generate(prompts, **asked).sequences) for one in (sides.jax, sides.torch))
            np.testing.assert_array_equal(found, wanted)
            count.add(generation._all_steps._cache_size())
    assert len(count) == 1


def test_one_rule_of_a_caller_compiles_once() -> None:
    model, program, calls = models("GPT2LMHeadModel").jax, generation._all_steps, []

    def rule(xp: Any, input_ids: Any, scores: Any, length: Any) -> Any:
        calls.append(length)
        return xp.where(xp.arange(scores.shape[1])[None, :] % 2 == 0, scores, -xp.inf)

    found = drawn(model, 0, logits_processors=[rule])
    count, traced = program._cache_size(), len(calls)
    for seed in range(3):
        found = drawn(model, seed, logits_processors=[rule])
        assert (found[:, PROMPTS.shape[1] :] % 2 == 0).all()
        np.testing.assert_array_equal(
            drawn(models("GPT2LMHeadModel").torch, seed, logits_processors=[rule_for_torch]), found
        )
    assert program._cache_size() == count and len(calls) == traced


def rule_for_torch(xp: Any, input_ids: Any, scores: Any, length: Any) -> Any:
    return xp.where(xp.arange(scores.shape[1])[None, :] % 2 == 0, scores, -xp.inf)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_tokens_come_as_often_as_they_are_probable(backend: str) -> None:
    model, rows, calls = getattr(models("GPT2LMHeadModel"), backend), 500, 6
    asked = {"do_sample": True, "top_k": 0, "temperature": 2.0, "max_new_tokens": 1, "pad_token_id": 3}
    logits = model(PROMPTS[:1]).logits[0, -1]
    weights = np.exp(np.asarray(logits.detach() if backend == "torch" else logits) / 2.0)
    counts = np.zeros(VOCABULARY)
    for seed in range(calls):
        found = model.generate(PROMPTS[:1], seed=seed, num_return_sequences=rows, **asked).sequences
        counts += np.bincount(np.asarray(found)[:, -1], minlength=VOCABULARY)
    expected = weights / weights.sum() * rows * calls
    kept = expected >= 5
    observed = np.append(counts[kept], counts[~kept].sum())
    wanted = np.append(expected[kept], expected[~kept].sum() + 1e-9)
    statistic = ((observed - wanted) ** 2 / wanted)[: None if wanted[-1] >= 5 else -1].sum()
    degrees = len(observed) - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)  # five deviations; a wrong temperature is many more
    assert ((counts - rows * calls / VOCABULARY) ** 2 / (rows * calls / VOCABULARY)).sum() > 10 * degrees


def test_beams_are_drawn_without_the_same_one_twice() -> None:
    """Two of all first tokens: the best of the two drawn is the first of the result, whatever order they came in."""
    model, draws = models("GPT2LMHeadModel").torch, 1_500
    asked = {"do_sample": True, "top_k": 4, "temperature": 9.0, "num_beams": 2, "num_return_sequences": 2}
    prompts = np.repeat(PROMPTS[:1], draws, axis=0)
    found = model.generate(prompts, max_new_tokens=1, pad_token_id=3, **asked).sequences[:, -1].numpy().reshape(-1, 2)
    logits = model(PROMPTS[:1]).logits[0, -1].detach().numpy() / 9.0
    best = np.argsort(-logits)[:4]
    weights = np.exp(logits[best]) / np.exp(logits[best]).sum()
    assert (found[:, 0] != found[:, 1]).all()
    for first in range(4):
        for second in range(first + 1, 4):
            pair = np.isin(found, best[[first, second]]).all(axis=1).mean()
            one, other = weights[first], weights[second]
            wanted = one * other / (1 - one) + other * one / (1 - other)
            assert abs(pair - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / draws), (first, second)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_what_is_no_rule_or_streamer_is_refused(backend: str) -> None:
    model = getattr(models("GPT2LMHeadModel"), backend)
    for wrong, message in (
        (
            {"logits_processors": [lambda xp, ids, scores, length: scores[:, :5]]},
            r"logits_processors\[0\] returns .* of shape \(2, 5\)",
        ),
        ({"logits_processors": [lambda xp, ids, scores, length: None]}, r"logits_processors\[0\] returns a NoneType"),
        ({"logits_processors": 3}, "logits_processors=3 must be a list of functions"),
        ({"streamer": 3}, "streamer is a int, but put"),
        ({"compile": "x"}, "compile='x' must be True or False"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(PROMPTS, max_new_tokens=2, pad_token_id=3, **wrong)


class Tape:
    """Keeps what it is given, and writes over it."""

    def __init__(self) -> None:
        self.taken: list[np.ndarray] = []

    def put(self, value: Any) -> None:
        self.taken.append(np.array(value))
        if value.flags.writeable:
            value[...] = 0

    def end(self) -> None:
        self.taken.append(np.zeros(0))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_streamer_is_given_the_prompts_and_then_each_token(backend: str) -> None:
    model = getattr(models("GPT2LMHeadModel"), backend)
    asked = {"max_new_tokens": 4, "pad_token_id": 3, "do_sample": True, "num_return_sequences": 2}
    tape, wanted = Tape(), np.asarray(model.generate(PROMPTS, **asked).sequences)
    found = np.asarray(model.generate(PROMPTS, streamer=tape, **asked).sequences)
    np.testing.assert_array_equal(found, wanted)
    first, *tokens, end = tape.taken
    np.testing.assert_array_equal(first, np.repeat(PROMPTS, 2, axis=0))
    np.testing.assert_array_equal(np.stack(tokens, axis=1), wanted[:, PROMPTS.shape[1] :])
    assert end.size == 0


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_cache_that_has_seen_the_beginning_serves(backend: str) -> None:
    model = getattr(models("GPT2LMHeadModel"), backend)
    cache = model(PROMPTS[:, :3], past_key_values=model.init_cache(2, 9)).past_key_values
    asked = {"max_new_tokens": 5, "pad_token_id": 3, "num_beams": 2}
    wanted = np.asarray(model.generate(PROMPTS, **asked).sequences)
    with pytest.raises(InputError, match=r"past_key_values.capacity is 9, but max_length - 1=10"):
        model.generate(PROMPTS, past_key_values=cache, **{**asked, "max_new_tokens": 6})
    np.testing.assert_array_equal(np.asarray(model.generate(PROMPTS, past_key_values=cache, **asked).sequences), wanted)


def test_generate_may_stand_in_a_program_of_the_callers() -> None:
    model = models("GPT2LMHeadModel").jax
    wanted = np.asarray(model.generate(PROMPTS, max_new_tokens=4, pad_token_id=3, num_beams=2).sequences)
    program = jax.jit(lambda one, ids: one.generate(ids, max_new_tokens=4, pad_token_id=3, num_beams=2).sequences)
    np.testing.assert_array_equal(np.asarray(program(model, PROMPTS)), wanted)
