"""The rules of generation in torch and JAX against transformers' processors, one by one and in whole chains.

transformers makes its own list of processors of the same options. All is computed in float64; the biases of sequences,
which transformers rounds to float32, are eighths. No scores but -inf are equal, since transformers leaves open which
of equal ones it keeps.
"""

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import diptych.backends.jax.ops as jax_ops
import diptych.backends.torch.ops as torch_ops
from diptych.core.semantics import logits

SHAPES = [(1, 30, 3), (2, 37, 6), (4, 60, 12), (6, 45, 9)]
"""Rows, vocabulary, places: few, so that JAX compiles little."""

SEEDS = st.integers(0, 2**32 - 1)


class Case(NamedTuple):
    """A step of a generation."""

    options: dict[str, Any]
    ids: np.ndarray
    scores: np.ndarray
    length: int
    prompt_length: int
    eos: tuple[int, ...]
    source: np.ndarray
    """With two columns of filler in the end."""
    first: np.ndarray


def sequences(random: np.random.Generator, case: Case) -> list[tuple[int, ...]]:
    """Four, the longest of four tokens, whose beginnings the first row often ends with; or one of one token."""
    text, size = [int(token) for token in case.ids[0, : case.length]], case.scores.shape[1]
    found = []
    for length in (0, 1, 2, 3):
        prefix = text[-length:] if length else []
        if len(prefix) < length or random.random() < 0.3:
            prefix = [int(token) for token in random.integers(0, size, length)]
        found.append((*prefix, int(random.integers(size))))
    return found if random.random() < 0.8 else found[:1]


def some(random: np.random.Generator, case: Case) -> tuple[int, ...]:
    """Three, or two: transformers suppresses no token that is forced."""
    forced = [case.options.get(name) for name in ("forced_bos_token_id", "forced_eos_token_id")]
    return tuple(int(token) for token in random.integers(0, case.scores.shape[1], 3) if token not in forced)


def near_length(random: np.random.Generator, case: Case) -> int:
    return max(1, case.length + int(random.integers(-1, 2)))


OPTIONS: dict[str, Callable[[np.random.Generator, Case], Any]] = {
    "sequence_bias": lambda random, case: tuple(
        (sequence, float(random.integers(-80, 80)) / 8 if random.random() < 0.8 else -np.inf)
        for sequence in sequences(random, case)
    ),
    "repetition_penalty": lambda random, case: float(random.uniform(0.3, 3.0)),
    "no_repeat_ngram_size": lambda random, case: int(random.integers(1, 4)),
    "encoder_no_repeat_ngram_size": lambda random, case: int(random.integers(1, 4)),
    "bad_words_ids": lambda random, case: (*sequences(random, case), case.eos[:1]),
    "min_length": near_length,
    "min_new_tokens": lambda random, case: max(1, near_length(random, case) - case.prompt_length),
    "forced_bos_token_id": lambda random, case: int(random.integers(case.scores.shape[1])),
    "forced_eos_token_id": lambda random, case: int(random.integers(case.scores.shape[1])),
    "exponential_decay_length_penalty": lambda random, case: (
        int(random.integers(-2, 3)) + case.length - case.prompt_length,
        float(random.uniform(0.9, 1.6)),
    ),
    "suppress_tokens": some,
    "begin_suppress_tokens": some,
    "temperature": lambda random, case: float(random.uniform(0.2, 3.0)),
    "top_k": lambda random, case: int(random.choice([1, 2, 8, 100])),
    "top_p": lambda random, case: float(random.uniform(0.0, 1.0)),
    "min_p": lambda random, case: float(random.uniform(0.0, 0.5)),
    "typical_p": lambda random, case: float(random.uniform(0.05, 1.0)),
    "renormalize_logits": lambda random, case: True,
}
"""A value of each option that asks for a rule."""

WARPERS = ("temperature", "top_k", "top_p", "min_p", "typical_p")
NEUTRAL = {**dict.fromkeys(OPTIONS), "do_sample": False, "num_beams": 1, "max_length": None}


def drawn(seed: int, names: Iterable[str] | None = None, shapes: list[tuple[int, int, int]] = SHAPES) -> Case:
    """A step with the rules of these options, or of about half of all."""
    random = np.random.default_rng(seed)
    rows, size, places = shapes[random.integers(len(shapes))]
    beams = int(random.choice([count for count in (1, 2, 3) if rows % count == 0]))
    length = int(random.integers(1, places + 1))
    prompt_length = int(random.integers(1, length + 1))
    ids = random.integers(0, random.choice([3, 6, size]), (rows, places))  # few different ones: they repeat
    source = random.integers(0, random.choice([3, size]), (rows // beams, 10))
    ids[:, length:] = random.integers(-5, size + 5, (rows, places - length))
    scores = 3.0 * random.standard_normal((rows, size))
    scores[random.random(scores.shape) < random.choice([0.0, 0.1, 0.5])] = -np.inf
    eos = tuple(int(token) for token in random.integers(0, size, random.integers(1, 3)))
    first = random.integers(0, prompt_length, rows) if random.random() < 0.7 else np.zeros(rows, np.int64)
    case = Case({}, ids, scores, length, prompt_length, eos, source, first)
    if names is None:
        names = [name for name in OPTIONS if random.random() < 0.5]
    for name in names:
        case.options[name] = OPTIONS[name](random, case)
    case.options.update(
        do_sample=any(name in WARPERS for name in names),
        num_beams=beams,
        max_length=case.length + int(random.integers(1, 3)),
    )
    return case


@functools.cache
def model() -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=4, n_head=1, vocab_size=9))


def processors(case: Case) -> Any:
    """transformers' list."""
    asked = dict(case.options)
    if "sequence_bias" in asked:
        asked["sequence_bias"] = [[list(sequence), bias] for sequence, bias in asked["sequence_bias"]]
    for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"):
        if name in asked:
            asked[name] = [list(entry) if isinstance(entry, tuple) else entry for entry in asked[name]]
    config = transformers.GenerationConfig(**asked)
    config._eos_token_tensor = torch.tensor(case.eos)
    mask = np.arange(case.prompt_length)[None] >= case.first[:, None]
    return model()._get_logits_processor(
        config,
        input_ids_seq_length=case.prompt_length,
        encoder_input_ids=torch.from_numpy(case.source[:, :-2]),
        model_kwargs={"attention_mask": torch.from_numpy(mask)},
    )


def expected(case: Case) -> np.ndarray:
    ids = torch.from_numpy(case.ids[:, : case.length])
    return processors(case)(ids, torch.from_numpy(case.scores)).numpy()


def built(case: Case) -> tuple[tuple[logits.LogitsProcessor, ...], tuple[dict[str, Any], ...]]:
    before, after = logits.build_processors(
        SimpleNamespace(**{**NEUTRAL, **case.options}),
        prompt_length=case.prompt_length,
        eos=case.eos,
        source=case.source,
        source_length=case.source.shape[1] - 2,
        first=case.first,
    )
    return tuple(rule for rule, _ in before + after), tuple(numbers for _, numbers in before + after)


def in_torch(case: Case) -> np.ndarray:
    rules, numbers = built(case)
    scores = torch.from_numpy(case.scores)
    found = logits.apply_processors(torch_ops, rules, numbers, torch.from_numpy(case.ids), scores, case.length)
    return found.numpy()


def in_jax(case: Case, applied: Callable[..., Any], dtype: Any = np.float64) -> np.ndarray:
    rules, numbers = built(case)
    found = applied(jax_ops, rules, numbers, jnp.asarray(case.ids), jnp.asarray(case.scores.astype(dtype)), case.length)
    return np.asarray(found)


compiled = jax.jit(logits.apply_processors, static_argnums=(0, 1))


def assert_equal(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-12) -> None:
    """-inf in the same places, and numbers that are close."""
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIONS)
@given(seed=SEEDS)
@settings(max_examples=settings().max_examples // 2)
def test_a_processor_alone_computes_what_its_rule_says_in_both_backends(name: str, seed: int) -> None:
    case = drawn(seed, [name])
    assert len(processors(case)) == 1
    wanted = expected(case)
    found = in_torch(case)
    assert found.dtype == np.float64
    assert_equal(found, wanted)
    with jax.enable_x64(True):
        found = in_jax(case, compiled)
    assert found.dtype == np.float64
    assert_equal(found, wanted)


@given(seed=SEEDS)
@settings(max_examples=3 * settings().max_examples)
def test_a_chain_in_torch(seed: int) -> None:
    case = drawn(seed)
    assert_equal(in_torch(case), expected(case))


@given(seed=SEEDS)
@settings(max_examples=settings().max_examples // 5)
def test_a_chain_in_jax(seed: int) -> None:
    case = drawn(seed)
    with jax.enable_x64(True):
        assert_equal(in_jax(case, compiled), expected(case))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_rule_eagerly_and_in_single_precision(name: str) -> None:
    """Fixed cases, since rounding may move a border; the rule changes something in three, and nothing in up to one."""
    cases = [(case, expected(case)) for case in (drawn(seed, [name], SHAPES[2:3]) for seed in range(100))]
    changed = [pair for pair in cases if not np.array_equal(pair[0].scores, pair[1])]
    unchanged = [pair for pair in cases if np.array_equal(pair[0].scores, pair[1])]
    assert len(changed) >= 3
    for case, wanted in changed[:3] + unchanged[:1]:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
            found = in_jax(case, logits.apply_processors)
            assert found.dtype == np.float64
            assert_equal(found, wanted)
            found = in_jax(case, compiled, np.float32)
            assert found.dtype == np.float32
            assert_equal(found, wanted, 2e-5)
        with jax.enable_x64(False):
            for applied in (logits.apply_processors, compiled):
                found = in_jax(case, applied, np.float32)
                assert found.dtype == np.float32
                assert_equal(found, wanted, 2e-5)


def test_one_program_serves_all_numbers() -> None:
    """What it depends on is which rules there are, k, sizes of n-grams and how many tokens are kept in any case."""
    traces = 0

    def counted(*arguments: Any) -> Any:
        nonlocal traces
        traces += 1
        return logits.apply_processors(*arguments)

    program = jax.jit(counted, static_argnums=(0, 1))
    found: set[bytes] = set()
    with jax.enable_x64(True):
        for seed in range(40):
            case = drawn(seed, OPTIONS, SHAPES[2:3])
            if len(case.eos) == 1 and case.options["num_beams"] == 2:
                case.options.update(top_k=9, no_repeat_ngram_size=3, encoder_no_repeat_ngram_size=2)
                case.options.update(suppress_tokens=(10 + seed, 7), begin_suppress_tokens=(seed, 9))
                case.options.update(bad_words_ids=((seed, 3, 8), (5, 1)), forced_bos_token_id=4, forced_eos_token_id=6)
                case.options.update(sequence_bias=(((seed,), 1.5), ((seed, 1), -seed / 8)))
                scores = in_jax(case, program)
                assert_equal(scores, expected(case))
                found.add(scores.tobytes())
    assert len(found) > 3
    assert traces == 1


def test_a_program_sorts_no_vocabulary_for_the_k_best() -> None:
    """XLA would, for a slice of them."""
    rule, ids, scores = (
        logits.LogitsProcessor("top_k", (("k", 5),)),
        jnp.zeros((2, 3), jnp.int32),
        jnp.zeros((2, 1_000), jnp.float32),
    )
    program = (
        jax.jit(logits.apply_processors, static_argnums=(0, 1)).lower(jax_ops, (rule,), ({},), ids, scores, 1).compile()
    )
    text = program.as_text()
    assert text is not None and "TopK" in text and " sort(" not in text


# What the backends' own functions do


BACKENDS = {
    "torch": (torch_ops, torch.from_numpy, lambda tensor: tensor.numpy()),
    "jax": (jax_ops, jnp.asarray, np.asarray),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    """Its `ops`, and the ways of an array there and back."""
    with jax.enable_x64(True):
        yield BACKENDS[request.param]


@pytest.mark.parametrize("values", [[0.0, -0.0, 1.0, 2.0, -np.inf], [0.0, 1.0, np.inf, -np.inf, np.nan, -np.nan]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_best_are_taken_in_order(backend: Any, values: list[float], dtype: Any) -> None:
    """Of equal ones the first come first, wherever they stand; what is no number is the largest."""
    ops, there, back = backend
    random = np.random.default_rng(0)
    for size in (1, 2, 5, 40):
        for k in {1, 2, size // 2, size} & set(range(1, size + 1)):
            rows = random.choice(values, (3, size)).astype(dtype)
            rows[0] = random.standard_normal(size)
            order = [sorted(range(size), key=lambda place, row=row: _rank(row[place])) for row in rows]
            found, places = ops.top_k(there(rows), k)
            np.testing.assert_array_equal(back(places), np.array(order)[:, :k])
            np.testing.assert_array_equal(back(found), np.take_along_axis(rows, np.array(order)[:, :k], axis=1))


def _rank(value: float) -> tuple[bool, float]:
    return (False, 0.0) if np.isnan(value) else (True, -value)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_marks_and_sums_at_ids(backend: Any, dtype: Any) -> None:
    ops, there, back = backend
    ids = np.array([[0, 3, 3, 4, -1, 2], [4, 4, 5, -5, 9, 1]], dtype)
    chosen = np.array([[1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]], bool)
    np.testing.assert_array_equal(
        back(ops.membership_mask(there(ids), there(chosen), 5)), [[True, False, False, True, True], [False] * 5]
    )
    values = np.array([[1.0, 2.0, 3.0, -np.inf, 5.0], [-np.inf, 2.0, 3.0, 4.0, 5.0]])
    amounts = np.array([[10.0, 20.0, 30.0, 40.0, np.inf, 60.0], [1.0, 2.0, np.inf, -np.inf, 5.0, -np.inf]])
    np.testing.assert_array_equal(
        back(ops.scatter_add(there(values), there(ids), there(amounts))),
        [[11.0, 2.0, 63.0, -np.inf, 45.0], [-np.inf, -np.inf, 3.0, 4.0, 8.0]],
    )
    np.testing.assert_array_equal(values[0], [1.0, 2.0, 3.0, -np.inf, 5.0])


@pytest.mark.parametrize("name", WARPERS[1:])
def test_equal_scores_share_their_fate(backend: Any, name: str) -> None:
    """Also where a `top_k` before left more than k, of which k are sorted."""
    ops, there, back = backend
    for seed in range(60):
        random = np.random.default_rng(seed)
        scores = random.choice([-np.inf, *random.standard_normal(4)], (4, 30))
        scores[:, 0] = 0.3
        options = {**NEUTRAL, "do_sample": True, name: OPTIONS[name](random, drawn(0, []))}
        found = {}
        for k in (None, 7):
            ((rule, numbers),) = logits.build_processors(SimpleNamespace(**options), prompt_length=1, eos=())[1]
            if "k" in dict(rule.static) and name != "top_k":
                rule = rule._replace(static=(("keep", 1), ("k", k)))
            best = logits.top_k(ops, None, there(scores), 1, k=7)
            found[k] = back(logits.apply_processors(ops, (rule,), (numbers,), there(np.zeros((4, 1), int)), best, 1))
        np.testing.assert_allclose(found[7], found[None])
        for row, given_ in zip(found[7], scores, strict=True):
            assert all(len(set(row[given_ == value])) == 1 for value in set(given_))
