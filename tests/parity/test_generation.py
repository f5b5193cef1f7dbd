"""`generate` token for token: ours in torch as in transformers, and in JAX as in torch, with options of every kind.

Weights are random and large: in thousands of calls no two scores came within 1e-9 of each other. Only where a search
is to return more texts than it found do some score as nothing does, -1e9, and which of them come back is left open.
Two ends that are forced at once would be equal too, so that one is.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.backends.jax import generation
from tests.parity.writers import (
    ABOUT,
    ALONE,
    NAMES,
    PAIRS,
    VOCABULARY,
    assert_same,
    expected,
    models,
    read,
)

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = ((3, 8), (1, 11))
"""Rows and tokens of the batches."""
NEW = 8
"""New tokens at most."""


@st.composite
def calls(
    draw: Callable[..., Any], name: str, shapes: Any = SHAPES, beams: tuple[int, ...] = (1, 2, 3, 4)
) -> dict[str, Any]:
    """What `generate` is asked of a model; options name tokens that it would write without them."""
    rows, length = draw(st.sampled_from(shapes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    call: dict[str, Any] = {"pad_token_id": draw(st.integers(1, read(name) - 1))}  # of 0, 5.23 makes an end of text
    begun = _texts(draw, random, call, name, rows, length)
    token = st.sampled_from(written(name)[rows]) | st.integers(0, VOCABULARY - 1)

    def several(least: int, most: int) -> Any:
        return st.lists(token, min_size=least, max_size=most)

    new = draw(st.integers(3, NEW))
    call |= draw(st.sampled_from([{"max_new_tokens": new}, {"max_length": begun + new}]))
    count = draw(st.sampled_from(beams))
    if count > 1:
        call["num_beams"] = count
        call |= draw(
            st.fixed_dictionaries(
                {"early_stopping": st.sampled_from([False, True, "never"])},
                optional={
                    "num_return_sequences": st.integers(1, count),
                    "length_penalty": st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
                },
            )
        )
    eos = draw(st.none() | token | several(1, 3))
    if eos is not None:
        call["eos_token_id"] = eos
    ends = [] if eos is None else [eos] if isinstance(eos, int) else eos
    forced = token.filter(lambda one: one not in ends) if count > 1 else token
    rules: dict[str, Any] = {
        "min_length": st.integers(0, begun + new),
        "min_new_tokens": st.integers(0, new),
        "forced_bos_token_id": forced,
        "forced_eos_token_id": token | several(1, 1),
        "repetition_penalty": st.floats(0.5, 2.0),
        "no_repeat_ngram_size": st.integers(1, 3),
        "encoder_no_repeat_ngram_size": st.integers(1, 3),
        "bad_words_ids": st.lists(several(1, 3), min_size=1, max_size=3),
        "sequence_bias": st.lists(
            # eighths, since transformers rounds them
            st.tuples(several(1, 3), st.integers(-80, 80).map(lambda number: number / 8)).map(list),
            min_size=1,
            max_size=3,
        ),
        "suppress_tokens": several(0, 4),
        "begin_suppress_tokens": several(0, 4),
        "renormalize_logits": st.just(True),
    }
    if ends:
        rules["exponential_decay_length_penalty"] = st.tuples(st.integers(0, 4), st.floats(0.9, 1.6))
    for rule in draw(st.lists(st.sampled_from(sorted(rules)), unique=True, max_size=6)):
        call[rule] = draw(rules[rule])
    kept = (call.get("forced_bos_token_id"), *np.atleast_1d(call.get("forced_eos_token_id", -1)))
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if name in call:
            call[name] = [one for one in call[name] if one not in kept]  # else no token is left
    return call


def _texts(draw: Any, random: np.random.Generator, call: dict[str, Any], name: str, rows: int, length: int) -> int:
    """Adds prompts or what is to be read; the number of tokens that are written then."""
    ids = random.integers(0, read(name), (rows, length))
    side = draw(st.sampled_from(["none", "left", "right", "unsaid"]))
    counts = np.array([0, 3, 5])[:rows, None] if side != "none" else np.zeros((1, 1))
    steps = np.arange(length)[None]
    mask = steps < length - counts if side == "right" else steps >= np.broadcast_to(counts, (rows, 1))
    ids[~np.broadcast_to(mask, ids.shape)] = call["pad_token_id"]
    call["input_ids"] = ids
    if side != "unsaid":
        call["attention_mask"] = np.broadcast_to(mask, ids.shape).astype(np.int64)
    if name in ALONE:
        return length
    start = call["decoder_start_token_id"] = draw(st.integers(0, VOCABULARY - 1))
    prefix = draw(st.sampled_from(["none", "without start", "with start", "padded"]))
    if prefix == "none":
        return 1
    ids = random.integers(0, VOCABULARY, (rows, draw(st.integers(1, 4))))
    ids[:, 0] = start if prefix == "with start" else (start + 1) % VOCABULARY
    call["decoder_input_ids"] = ids
    if prefix == "padded":
        call["decoder_attention_mask"] = np.ones_like(ids)
        call["decoder_attention_mask"][rows // 2, :-1] = 0
    return ids.shape[1] + (prefix != "with start")


@functools.cache
def written(name: str) -> dict[int, list[int]]:
    """The tokens that a model writes where nothing else is asked of it, by the rows of the batch."""
    found: dict[int, list[int]] = {}
    for rows, length in SHAPES:
        ids = np.random.default_rng(rows).integers(0, read(name), (rows, length))
        start = {} if name in ALONE else {"decoder_start_token_id": 4}
        output = models(name).torch.generate(ids, max_new_tokens=NEW, pad_token_id=3, num_beams=2, **start)
        found[rows] = np.unique(output.sequences[:, length if name in ALONE else 1 :]).tolist()
    return found


def ours(model: Any, call: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*attention_mask has padding on the right")
        return model.generate(**call, output_logits=True, output_scores=True)


@pytest.mark.parametrize("name", NAMES)
def test_torch_writes_what_transformers_does(name: str) -> None:
    compared, lengths, _ = [], set(), written(name)

    @settings(max_examples=settings().max_examples // 5)
    @given(call=calls(name))
    def compare(call: dict[str, Any]) -> None:
        wanted, found = expected(models(name).theirs, call), ours(models(name).torch, call)
        scores = getattr(wanted, "sequences_scores", None)
        compared.append(scores is None or bool((scores > -1e8).all()))
        lengths.add(wanted.sequences.shape[1])
        if compared[-1]:
            assert_same(found, wanted)

    compare()
    assert len(compared) >= settings().max_examples // 5
    assert sum(compared) >= 0.9 * len(compared)
    assert len(lengths) > 3


@pytest.mark.parametrize("name", [name for name in (*ALONE, *ABOUT) if not name.startswith(("MBart", "TrOCR"))])
def test_jax_writes_what_torch_does(name: str) -> None:
    """Step by step: to compile a program for all these options would take hours.

    MBart and TrOCR generate with BART's code.
    """
    written(name)

    @settings(max_examples=settings().max_examples // 33)
    @given(call=calls(name, SHAPES[:1], (1, 3)))
    def compare(call: dict[str, Any]) -> None:
        with jax.disable_jit():
            assert_same(ours(models(name).jax, call), ours(models(name).torch, call))

    compare()


@settings(max_examples=settings().max_examples // 33)
@given(data=st.data(), name=st.sampled_from(PAIRS))
def test_composites_in_jax_write_what_those_in_torch_do(data: st.DataObject, name: str) -> None:
    for each in PAIRS:
        written(each)
    call = data.draw(calls(name, SHAPES[:1], (1, 3)))
    with jax.disable_jit():
        assert_same(ours(models(name).jax, call), ours(models(name).torch, call))


def everything(name: str, seed: int, beams: int) -> dict[str, Any]:
    """A call with nearly all options at once, of which only the numbers depend on the seed."""
    random = np.random.default_rng(seed)
    (rows, length), words = SHAPES[0], random.permutation(VOCABULARY).tolist()
    mask = np.arange(length)[None] >= np.array([0, *random.integers(1, 5, rows - 1)])[:, None]
    call = {
        "input_ids": random.integers(0, read(name), (rows, length)),
        "attention_mask": mask,
        "pad_token_id": words[0],
        "eos_token_id": words[1:3],
        "max_new_tokens": int(random.integers(4, NEW + 1)),
        "min_new_tokens": int(random.integers(1, 4)),
        "forced_bos_token_id": words[3],
        "forced_eos_token_id": words[4],
        "repetition_penalty": float(random.uniform(0.5, 2.0)),
        "no_repeat_ngram_size": 3,
        "encoder_no_repeat_ngram_size": 3,
        "bad_words_ids": [words[5:6], words[6:8]],
        "sequence_bias": [[words[8:9], 2.0 * random.standard_normal()], [words[9:11], 9.0]],
        "suppress_tokens": words[11:13],
        "begin_suppress_tokens": words[13:15],
        "exponential_decay_length_penalty": (int(random.integers(0, 3)), float(random.uniform(1.0, 2.0))),
        "renormalize_logits": True,
    }
    if beams > 1:
        lengths = {"length_penalty": float(random.uniform(-1.0, 2.0)), "early_stopping": "never"}
        call |= {"num_beams": beams, "num_return_sequences": 2, **lengths}
    return call if name in ALONE else call | {"decoder_start_token_id": words[15]}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", [*ALONE, *ABOUT, "roberta bert"])
def test_a_compiled_program_writes_what_torch_does(name: str, beams: int) -> None:
    """One for all numbers; the prompts' lengths, which are near, among them."""
    program = generation._all_steps
    found, before = [], program._cache_size()
    for seed in range(settings().max_examples // 20):
        call = everything(name, seed, beams)
        found.append(ours(models(name).jax, call))
        assert_same(found[-1], ours(models(name).torch, call))
    assert program._cache_size() == before + 1
    assert len({len(output.scores) for output in found}) > 1


def test_transformers_does_not_round() -> None:
    call = {"input_ids": np.arange(5)[None], "max_new_tokens": 3, "pad_token_id": 3, "num_beams": 2}
    model = models("GPT2LMHeadModel").theirs
    wide = expected(model, call)
    for values in (*wide.logits, *wide.scores, wide.sequences_scores):
        assert values.dtype == torch.float64 and not torch.equal(values, values.float().double())
    asked = {"return_dict_in_generate": True, "output_scores": True}
    assert model.generate(torch.tensor(call.pop("input_ids")), **call, **asked).scores[0].dtype == torch.float32
