"""`generate(inputs_embeds=…)` of decoders alone: token for token what transformers 5.23 gives."""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from diptych.backends.jax import generation
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.parity.writers import (
    ALONE,
    BACKENDS,
    VOCABULARY,
    array,
    assert_same,
    expected,
    models,
    small,
)

pytestmark = pytest.mark.usefixtures("without_type_checks", "x64")


def prompts(name: str, rows: int = 3, length: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, a mask with padding on the left, and the model's own embeddings of the ids, a little changed."""
    random = np.random.default_rng(seed)
    ids = random.integers(4, VOCABULARY, (rows, length))
    mask = (np.arange(length)[None] >= np.array([0, 3, 1])[:rows, None]).astype(np.int64)
    ids[mask == 0] = 3
    with torch.no_grad():
        embeds = models(name).theirs.get_input_embeddings()(torch.from_numpy(ids)).numpy()
    return ids, mask, embeds + random.normal(size=embeds.shape) * 0.2 * embeds.std()


CALLS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 7},
    "beams": {"max_new_tokens": 7, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": [5, 9]},
    "lengths": {"max_length": 11, "min_length": 9, "eos_token_id": list(range(20))},
    "processors": {
        "max_new_tokens": 6,
        "min_new_tokens": 4,
        "eos_token_id": list(range(15)),
        "repetition_penalty": 1.7,
        "forced_bos_token_id": 8,
        "forced_eos_token_id": 7,
        "begin_suppress_tokens": list(range(16, 24)),
        "no_repeat_ngram_size": 2,
        "exponential_decay_length_penalty": (1, 1.3),
    },
}


@pytest.mark.filterwarnings("ignore:Passing `:UserWarning")
@pytest.mark.parametrize("name", [name for name in ALONE if name != "TrOCRForCausalLM"])  # which crashes there
@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_are_those_of_transformers(backend: str, name: str) -> None:
    asked = CALLS if name == "GPT2LMHeadModel" or backend == "torch" else {"beams": CALLS["beams"]}
    ids, mask, embeds = prompts(name)
    for kind, options in asked.items():
        call = {"inputs_embeds": embeds, "attention_mask": mask, "pad_token_id": 3, **options}
        for given in ({}, {"input_ids": ids}):
            wanted = expected(models(name).theirs, {**call, **given})
            found = getattr(models(name), backend).generate(**call, **given, output_logits=True, output_scores=True)
            assert wanted.sequences.shape[1] > (6 if given else 0), kind
            assert_same(found, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_may_be_fewer_than_the_embeddings(backend: str) -> None:
    ids, mask, embeds = prompts("GPT2LMHeadModel")
    ids = ids[:, -2:]
    for options in ({"max_new_tokens": 5}, {"max_length": 14}, {"max_new_tokens": 5, "num_beams": 2}):
        call = {"input_ids": ids, "inputs_embeds": embeds, "attention_mask": mask, "pad_token_id": 3, **options}
        found = getattr(models("GPT2LMHeadModel"), backend).generate(**call, output_logits=True, output_scores=True)
        assert_same(found, expected(models("GPT2LMHeadModel").theirs, call))
        np.testing.assert_array_equal(array(found.sequences)[:, :2], ids)


@pytest.mark.parametrize("backend", BACKENDS)
def test_own_embeddings_are_the_prompts(backend: str) -> None:
    """Without a change to the embeddings the new tokens are those that follow the ids."""
    model = small(backend)
    ids = np.random.default_rng(3).integers(1, 13, (2, 5))
    embeds = array(model.transformer.wte.weight if backend == "torch" else model.transformer.wte.embedding[...])[ids]
    asked = {"max_new_tokens": 6, "pad_token_id": 0}
    whole = array(model.generate(ids, **asked).sequences)
    for options in ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2, "seed": 5}):
        whole = array(model.generate(ids, **asked, **options).sequences)
        new = model.generate(inputs_embeds=embeds, **asked, **options).sequences
        np.testing.assert_array_equal(array(new), whole[:, 5:])
        both = model.generate(ids, inputs_embeds=embeds, **asked, **options).sequences
        np.testing.assert_array_equal(array(both), whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_are_cut_and_streams_begin_without_prompts(backend: str) -> None:
    model = small(backend)
    ids = np.random.default_rng(3).integers(1, 13, (2, 5))
    embeds = array(model.transformer.wte.weight if backend == "torch" else model.transformer.wte.embedding[...])[ids]
    asked = {"max_new_tokens": 3, "pad_token_id": 0, "output_attentions": True, "output_hidden_states": True}
    found, wanted = model.generate(inputs_embeds=embeds, **asked), model.generate(ids, **asked)
    for name in ("attentions", "hidden_states"):
        for one, other in zip(getattr(found, name), getattr(wanted, name), strict=True):
            for ours, others in zip(one, other, strict=True):
                assert_close(array(ours), array(others), name=name)
    given: list[np.ndarray] = []

    class Streamer:
        def put(self, value: Any) -> None:
            given.append(value)

        def end(self) -> None:
            pass

    found = model.generate(inputs_embeds=embeds, max_new_tokens=3, pad_token_id=0, streamer=Streamer()).sequences
    assert given[0].shape == (2, 0)
    np.testing.assert_array_equal(np.stack(given[1:], axis=1), array(found))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache_holds_the_first_embeddings(backend: str) -> None:
    model = small(backend)
    ids = np.random.default_rng(3).integers(1, 13, (2, 5))
    embeds = array(model.transformer.wte.weight if backend == "torch" else model.transformer.wte.embedding[...])[ids]
    wanted = array(model.generate(inputs_embeds=embeds, max_new_tokens=4).sequences)
    cache = model(inputs_embeds=embeds[:, :3], past_key_values=model.init_cache(2, 9)).past_key_values
    found = model.generate(inputs_embeds=embeds, past_key_values=cache, max_new_tokens=4).sequences
    np.testing.assert_array_equal(array(found), wanted)


def test_near_lengths_share_a_program() -> None:
    model, program = small("jax"), generation._all_steps
    random, counts = np.random.default_rng(4), set()
    for length in (9, 12, 16):
        for mask in (None, np.arange(length)[None].repeat(2, 0) >= np.array([[0], [2]])):
            embeds = random.normal(size=(2, length, 12))
            model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4, pad_token_id=0)
            counts.add(program._cache_size())
    assert len(counts) == 1


def test_under_a_trace_they_are_read_too() -> None:
    model = small("jax")
    embeds = np.random.default_rng(5).normal(size=(2, 5, 12))
    call = {"max_new_tokens": 4, "pad_token_id": 0}
    traced = jax.jit(lambda embeds: model.generate(inputs_embeds=embeds, **call).sequences)(embeds)
    np.testing.assert_array_equal(traced, model.generate(inputs_embeds=embeds, **call).sequences)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"inputs_embeds": np.zeros((2, 5))},
            r"inputs_embeds has shape \(2, 5\), but \(batch, tokens, hidden_size\) is",
        ),
        ({"inputs_embeds": np.zeros((2, 5, 12), int)}, "inputs_embeds has dtype int64, but floats are needed"),
        ({"inputs_embeds": np.zeros((2, 0, 12))}, "the sequences have no tokens, but at least 1 is needed"),
        ({"inputs_embeds": np.zeros((2, 41, 12))}, "the prompt has 41 tokens, but the decoder has positions for 40"),
        ({"inputs_embeds": np.zeros((2, 5, 12)), "max_length": 5}, "the prompt has 5 tokens, but max_length=5"),
        (
            {"inputs_embeds": np.zeros((2, 5, 12)), "max_new_tokens": 37},
            "max_length=42 means reading 41 tokens, but the decoder has positions for 40",
        ),
        (
            {"inputs_embeds": np.zeros((2, 5, 12)), "input_ids": np.ones((1, 5), int)},
            r"inputs_embeds has shape \(2, 5, 12\), but \(1, 5, 12\) is needed, as many rows as the other inputs have",
        ),
        (
            {"inputs_embeds": np.zeros((2, 5, 12)), "attention_mask": np.ones((2, 4))},
            r"attention_mask has shape \(2, 4\), but \(2, 5\) is needed",
        ),
        (
            {"inputs_embeds": np.zeros((2, 5, 12)), "encoder_no_repeat_ngram_size": 2},
            "encoder_no_repeat_ngram_size needs input_ids",
        ),
    ],
)
def test_what_does_not_fit_is_refused(backend: str, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^GPT2LMHeadModel\.generate: {message}"):
        small(backend).generate(**call)
