"""The rules of generation that change scores, in numpy: cases that a reader can check."""

import itertools
from types import SimpleNamespace

import array_api_compat.numpy as xp
import numpy as np
import pytest

from diptych.core.semantics import logits

INF = np.inf


def steps(count, like):
    return np.arange(count)


def top_k(values, k):
    places = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, places, axis=1), places


def membership_mask(ids, chosen, size):
    return np.array([[place in row[which] for place in range(size)] for row, which in zip(ids, chosen, strict=True)])


def scatter_add(values, ids, amounts):
    sums = values.copy()
    for row, ids_, amounts_ in zip(sums, ids, amounts, strict=True):
        np.add.at(row, ids_, amounts_)
    return sums


ops = SimpleNamespace(xp=xp, steps=steps, top_k=top_k, membership_mask=membership_mask, scatter_add=scatter_add)

EVERYTHING = {
    "sequence_bias": (((1,), 2.0), ((0, 2), 1.0)),
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": ((3,),),
    "min_length": 9,
    "min_new_tokens": 9,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 1,
    "max_length": 20,
    "exponential_decay_length_penalty": (0, 1.1),
    "suppress_tokens": (5,),
    "begin_suppress_tokens": (6,),
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "renormalize_logits": True,
}
SOURCE = np.array([[1, 2, 3]])
NEUTRAL = dict.fromkeys([*EVERYTHING, "num_beams"])


@pytest.fixture(autouse=True)
def strict():
    """Nothing may overflow or be no number unseen."""
    with np.errstate(all="raise", under="ignore"):
        yield


def built(*, prompt_length=1, eos=(), source=None, source_length=None, first=None, constrained=False, **options):
    extra = {"eos": eos, "source": source, "source_length": source_length, "first": first, "constrained": constrained}
    return logits.build_processors(SimpleNamespace(**{**NEUTRAL, **options}), prompt_length=prompt_length, **extra)


def applied(text, scores, **options):
    """The scores after the rules; what stands behind the text would be tokens, were it read."""
    before, after = built(**options)
    text, scores = np.atleast_2d(text), np.atleast_2d(np.array(scores, float))
    behind = np.arange(5)[None].repeat(len(text), axis=0)
    rules, numbers = zip(*before, *after, strict=True)
    return logits.apply_processors(ops, rules, numbers, np.concatenate([text, behind], axis=1), scores, text.shape[1])


def forbidden(text, size, **options):
    """The tokens whose scores of 0 become -inf, by row; no other changes."""
    scores = applied(text, np.zeros((len(np.atleast_2d(text)), size)), **options)
    assert np.isin(scores, (0.0, -INF)).all()
    return [np.flatnonzero(row == -INF).tolist() for row in scores]


def logarithms(*probabilities):
    return np.log(np.array(probabilities))


def kept(probabilities, **options):
    """The tokens that a text drawn from so many may have."""
    scores = logarithms(*probabilities)
    (row,) = applied([0], scores, do_sample=True, **options)
    found = np.flatnonzero(row > -INF)
    np.testing.assert_array_equal(row[found], scores[found])
    return found.tolist()


# What came before


def test_sequences_are_biased_where_their_beginning_just_came():
    biases = (((3,), 1.5), ((2, 4), 2.0), ((1, 2, 4), -0.5), ((2, 1, 5), 9.0), ((1, 5), 9.0), ((1, 1, 2, 5), 9.0))
    found = applied([1, 2], [0, 1, -INF, 3, 4, 5], sequence_bias=biases)
    np.testing.assert_array_equal(found, [[0, 1, -INF, 4.5, 5.5, 5]])
    np.testing.assert_array_equal(applied([[1, 2], [2, 1]], np.zeros((2, 6)), sequence_bias=biases)[1, 5], 18.0)


def test_a_bias_that_comes_twice_is_the_last():
    np.testing.assert_array_equal(applied([0], [0, 0], sequence_bias=(((1,), 3.0), ((1,), 2.0))), [[0, 2]])


def test_bad_words_are_not_completed():
    words = ((4,), (1, 3), (2, 1, 0), (0, 2, 1, 2))
    assert forbidden([[2, 1], [1, 1], [1, 2]], 5, bad_words_ids=words) == [[0, 3, 4], [3, 4], [4]]


def test_an_end_of_text_is_no_bad_word_but_may_be_part_of_one():
    words = ((4,), (3,), (2,), (1, 3), (3, 1))
    assert forbidden([[1], [3]], 5, bad_words_ids=words, eos=(3, 2)) == [[3, 4], [1, 4]]
    assert built(bad_words_ids=((3,),), eos=(3,)) == ((), ())


def test_repetition_is_penalised_once():
    found = applied([1, 2, 1, 4, 6], [8, 0.5, -8, 8, 0, 8, -INF], repetition_penalty=4.0)
    np.testing.assert_array_equal(found, [[8, 0.125, -32, 8, 0, 8, -INF]])


def test_padding_is_not_repeated():
    text, first = [[0, 0, 1, 2], [0, 1, 2, 3]], np.array([2, 0])
    found = applied(text, np.full((2, 5), 8.0), repetition_penalty=2.0, first=first)
    np.testing.assert_array_equal(found, [[8, 4, 4, 8, 8], [4, 4, 4, 4, 8]])


def test_no_ngram_comes_twice():
    text = [[1, 2, 3, 1, 2], [1, 2, 1, 2, 2], [2, 2, 2, 2, 2]]
    assert forbidden(text, 5, no_repeat_ngram_size=3) == [[3], [], [2]]
    assert forbidden(text, 5, no_repeat_ngram_size=2) == [[3], [1, 2], [2]]
    assert forbidden(text, 5, no_repeat_ngram_size=1) == [[1, 2, 3], [1, 2], [2]]


def test_an_ngram_needs_its_tokens():
    assert forbidden([1, 1], 5, no_repeat_ngram_size=2) == [[1]]
    assert forbidden([1, 1], 5, no_repeat_ngram_size=3) == [[]]
    assert forbidden([1, 1], 5, no_repeat_ngram_size=9) == [[]]


def test_no_ngram_is_the_encoders():
    source = np.array([[1, 2, 3, 4, 1, 2, 0, 1, 2, 4]])
    options = {"source": source, "source_length": 7}
    assert forbidden([1, 2], 5, encoder_no_repeat_ngram_size=3, **options) == [[0, 3]]
    assert forbidden([3, 4], 5, encoder_no_repeat_ngram_size=3, **options) == [[1]]
    assert forbidden([2], 5, encoder_no_repeat_ngram_size=2, **options) == [[0, 3]]
    assert forbidden([2], 5, encoder_no_repeat_ngram_size=3, **options) == [[]]
    assert forbidden([2], 5, encoder_no_repeat_ngram_size=3, source=np.array([[2, 2, 4]])) == [[]]
    assert forbidden([3], 5, encoder_no_repeat_ngram_size=1, **options) == [[0, 1, 2, 3, 4]]
    assert forbidden([1, 2], 5, encoder_no_repeat_ngram_size=3, source=source) == [[0, 3, 4]]
    assert forbidden([1, 2], 5, encoder_no_repeat_ngram_size=9, source=source[:, :8]) == [[]]


def test_rows_side_by_side_share_a_source():
    source = np.array([[1, 2], [1, 3]])
    text = [[1], [2], [1], [1]]
    assert forbidden(text, 5, encoder_no_repeat_ngram_size=2, source=source) == [[2], [], [3], [3]]


# How long the text is


def test_a_text_does_not_end_too_early():
    assert forbidden([1, 1], 5, min_length=3, eos=(2, 4)) == [[2, 4]]
    assert forbidden([1, 1, 1], 5, min_length=3, eos=(2, 4)) == [[]]
    assert forbidden([1, 1, 1], 5, min_new_tokens=2, eos=(2,), prompt_length=2) == [[2]]
    assert forbidden([1, 1, 1, 1], 5, min_new_tokens=2, eos=(2,), prompt_length=2) == [[]]
    assert built(min_length=3, min_new_tokens=2) == ((), ())


def test_a_first_and_a_last_token_are_forced():
    options = {"forced_bos_token_id": 1, "forced_eos_token_id": 2, "max_length": 4}
    scores = [5.0, -INF, 3.0]
    np.testing.assert_array_equal(applied([0], scores, **options), [[-INF, 0, -INF]])
    np.testing.assert_array_equal(applied([0, 0], scores, **options), [scores])
    np.testing.assert_array_equal(applied([0, 0, 0], scores, **options), [[-INF, -INF, 0]])
    np.testing.assert_array_equal(applied([0, 0, 0, 0], scores, **options), [scores])
    found = applied([0, 0, 0], scores, forced_eos_token_id=(0, 1), max_length=4)
    np.testing.assert_array_equal(found, [[0, 0, -INF]])


def test_an_end_of_text_gets_likelier():
    options = {"exponential_decay_length_penalty": (1, 1.5), "prompt_length": 2, "eos": (0, 1, 2, 0)}
    scores = [2.0, -2.0, -INF, 2.0]
    np.testing.assert_array_equal(applied([[0] * 3], scores, **options), [scores])
    np.testing.assert_array_equal(applied([[0] * 4], scores, **options), [[3.0, -1.0, -INF, 2.0]])
    np.testing.assert_array_equal(applied([[0] * 5], scores, **options), [[4.5, 0.5, -INF, 2.0]])
    assert built(exponential_decay_length_penalty=(1, 1.5)) == ((), ())


def test_tokens_are_suppressed_always_or_in_the_beginning():
    assert forbidden([[1], [2]], 4, suppress_tokens=(0, 3)) == [[0, 3], [0, 3]]
    assert forbidden([1, 1], 4, begin_suppress_tokens=(0,), prompt_length=2) == [[0]]
    assert forbidden([1, 1, 1], 4, begin_suppress_tokens=(0,), prompt_length=2) == [[]]


def test_the_beginning_comes_after_a_forced_token():
    options = {"begin_suppress_tokens": (0,), "forced_bos_token_id": 3}
    assert forbidden([1, 3], 4, **options, prompt_length=1) == [[0]]
    assert forbidden([1, 3], 4, **options, prompt_length=2) == [[0]]
    assert forbidden([1, 3, 1], 4, **options, prompt_length=2) == [[]]


# What samples are drawn from


def test_temperature_divides():
    found = applied([0], [3.0, -1.0, -INF], temperature=2.0, do_sample=True)
    np.testing.assert_array_equal(found, [[1.5, -0.5, -INF]])


def test_the_k_best_are_kept():
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2) == [1, 3]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=9) == [0, 1, 2, 3]
    assert kept([0.1, 0.3, 0.3, 0.3], top_k=2) == [1, 2, 3]


PROBABILITIES = [0.125, 0.5, 0.05, 0.25, 0.075]


@pytest.mark.parametrize("k", [None, 4, 5])
def test_the_best_that_sum_to_p_are_kept(k):
    keeps = {0.0: 1, 0.499: 1, 0.501: 2, 0.749: 2, 0.751: 3, 0.874: 3, 0.876: 4}
    for p, count in keeps.items():
        if k != 4:
            assert kept(PROBABILITIES, top_p=p, top_k=k) == sorted([1, 3, 0, 4][:count]), p
    assert kept(PROBABILITIES, top_p=0.76 / 0.95, top_k=4) == [0, 1, 3]
    assert kept(PROBABILITIES, top_p=0.1, top_k=k, num_beams=2) == [1, 3]
    assert kept(PROBABILITIES, top_p=0.1, top_k=k, num_beams=2, eos=(0, 1)) == [0, 1, 3]


def test_behind_the_k_best_only_those_are_sorted(monkeypatch):
    orders = []
    monkeypatch.setattr(xp, "sort", None)
    monkeypatch.setattr(xp, "argsort", lambda values, axis: orders.append(values.shape) or np.argsort(values, axis))
    assert kept(PROBABILITIES, top_k=3, top_p=0.9, typical_p=0.9) == [0, 1, 3]
    assert orders == [(1, 3)]


def test_equal_ones_are_kept_together():
    assert kept([0.2, 0.4, 0.2, 0.2], top_p=0.5) == [0, 1, 2, 3]
    assert kept([0.2, 0.4, 0.2, 0.2], top_p=0.3) == [1]
    assert kept([0.2, 0.4, 0.2, 0.2], top_p=0.41, top_k=2) == [0, 1, 2, 3]
    assert kept([0.4, 0.4, 0.2], min_p=1.0) == [0, 1]


def test_what_is_as_probable_as_a_share_of_the_best_is_kept():
    assert kept([0.125, 0.5, 0.25, 0.125], min_p=0.5) == [1, 2]
    assert kept([0.125, 0.5, 0.25, 0.125], min_p=0.51) == [1]
    assert kept([0.1, 0.5, 0.3, 0.1], min_p=1.0, num_beams=2) == [1, 2]
    assert built(min_p=0.0, do_sample=True) == ((), ())


def test_typical_ones_are_kept():
    """The entropy is 1.03; -log p is 0.69, 1.20 and 1.61, of which the second is the nearest and the third the last."""
    probabilities = [0.5, 0.3, 0.2]
    assert kept(probabilities, typical_p=0.29) == [1]
    assert kept(probabilities, typical_p=0.31) == [0, 1]
    assert kept(probabilities, typical_p=0.79) == [0, 1]
    assert kept(probabilities, typical_p=0.81) == [0, 1, 2]
    assert kept(probabilities, typical_p=0.29, num_beams=2) == [0, 1]
    assert kept([0.3, 0.05, 0.5, 0.2], typical_p=0.3, top_k=3) == [0]


def test_equal_ones_weigh_together_behind_the_k_best():
    """Four are left of which three are sorted: 0.4 is the least typical, so it is kept where 0.6 is not enough."""
    for p, tokens in {0.59: [1, 2, 3], 0.61: [0, 1, 2, 3]}.items():
        assert kept([0.4, 0.2, 0.2, 0.2], typical_p=p) == kept([0.4, 0.2, 0.2, 0.2], typical_p=p, top_k=3) == tokens


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical_p", "top_k"])
def test_what_is_forbidden_stays_so(name):
    """Nor does it become no number, or count."""
    scores = np.array([[0.0, -INF, -INF, 1.0], [-INF, -INF, 2.0, -INF]])
    for beams, value in itertools.product((1, 2), [1] if name == "top_k" else [0.01, 0.99]):
        found = applied([[0], [0]], scores, do_sample=True, num_beams=beams, **{name: value})
        assert (found[scores == -INF] == -INF).all()
        np.testing.assert_array_equal(found[:, [3, 2]].diagonal(), [1.0, 2.0])


def test_what_is_left_has_probabilities_that_sum_to_one():
    found = applied([0], [7.0, 7.0 + np.log(3.0), -INF], renormalize_logits=True)
    np.testing.assert_allclose(np.exp(found), [[0.25, 0.75, 0.0]])


# All together


def test_rules_stand_in_order():
    before, after = built(**EVERYTHING, eos=(7,), source=SOURCE, constrained=True)
    assert [rule.name for rule, _ in before] == [
        "sequence_bias",
        "repetition_penalty",
        "no_repeat_ngram",
        "encoder_no_repeat_ngram",
        "sequence_bias",
        "min_length",
        "min_length",
        "allowed_tokens",
        "force_tokens",
        "force_tokens",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    ]
    assert [rule for rule, _ in after] == [
        ("temperature", ()),
        ("top_k", (("k", 5),)),
        ("top_p", (("keep", 1), ("k", 5))),
        ("min_p", (("keep", 1),)),
        ("typical_p", (("keep", 1), ("k", 5))),
        ("renormalize", ()),
    ]
    assert {rule.name for rule, _ in before + after} == logits.PROCESSORS.keys()
    hash(tuple(rule for rule, _ in before + after))


def test_without_samples_nothing_is_cut():
    assert [rule.name for rule, _ in built(**{**EVERYTHING, "do_sample": False})[1]] == ["renormalize"]


def test_neutral_options_ask_for_nothing():
    assert built(eos=(1,), source=SOURCE) == ((), ())
    zeros = {"no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0}
    ones = {"repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "typical_p": 1.0, "top_k": 0}
    empty = {"suppress_tokens": (), "begin_suppress_tokens": (), "sequence_bias": (), "bad_words_ids": ()}
    assert built(**zeros, **ones, **empty, do_sample=True, renormalize_logits=False, eos=(1,)) == ((), ())
    assert built(encoder_no_repeat_ngram_size=2) == ((), ())


@pytest.mark.parametrize(("beams", "eos", "keep"), [(1, (1, 2), 1), (2, (), 2), (2, (1,), 2), (3, (1, 2), 3)])
def test_beams_keep_more(beams, eos, keep):
    _, after = built(do_sample=True, num_beams=beams, eos=eos, top_k=1, min_p=0.5, top_p=0.5, typical_p=0.5)
    fixed = {rule.name: dict(rule.static) for rule, _ in after}
    chosen = {"keep": keep, "k": keep}
    assert fixed == {"top_k": {"k": keep}, "min_p": {"keep": keep}, "top_p": chosen, "typical_p": chosen}


def test_numbers_do_not_widen_scores():
    scores = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    for rule, numbers in sum(built(**EVERYTHING, eos=(7,), source=SOURCE), ()):
        wide = {name: np.float64(value) if isinstance(value, float) else value for name, value in numbers.items()}
        for length in (1, 2, 19):
            found = logits.apply_processors(ops, (rule,), (wide,), np.zeros((2, 20), int), scores, length)
            assert found.dtype == np.float32, rule


def test_ids_outside_the_vocabulary_are_found():
    options = {**NEUTRAL, **EVERYTHING}
    assert logits.out_of_vocabulary(SimpleNamespace(**options), 7) == {}
    options.update(
        sequence_bias=(((9, 1, 7), 1.0), ((-1, 9), 2.0)),
        bad_words_ids=((6, 7), (8,)),
        forced_bos_token_id=7,
        forced_eos_token_id=(6, -1),
        suppress_tokens=(-1, 6),
        begin_suppress_tokens=(7,),
    )
    assert logits.out_of_vocabulary(SimpleNamespace(**options), 7) == {
        "sequence_bias": (9, 7, -1),
        "bad_words_ids": (7, 8),
        "forced_bos_token_id": (7,),
        "forced_eos_token_id": (-1,),
        "suppress_tokens": (-1,),
        "begin_suppress_tokens": (7,),
    }
    assert logits.out_of_vocabulary(SimpleNamespace(**NEUTRAL), 7) == {}
