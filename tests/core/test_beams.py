"""Beam search in numpy: searches that a reader can follow, and any others against the same in plain Python.

Texts are of the letters a and b, and a full stop ends them. A tree says what each next letter costs; all else costs so
much that it is not chosen while there is anything better.
"""

import itertools
from types import SimpleNamespace
from typing import NamedTuple

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.semantics import beams, sampling

LETTERS = ".ab!^"
"""The prompt is ^, which is never written again, and ! seldom is."""
PROMPT = LETTERS.index("^")
NEVER = -1e9


def top_k(values, k):
    places = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, places, axis=1), places


ops = SimpleNamespace(xp=xp, steps=lambda count, like: np.arange(count), top_k=top_k)

# text -> what ".", "a" and "b" cost behind it
TREE = {
    "": (4.0, 1.0, 2.0),
    "a": (3.0, 2.5, 1.0),
    "b": (1.75, 2.75, 5.0),
    "ab": (1.5, 3.0, 4.0),
    "aa": (4.0, 2.25, 0.5),
    "aab": (2.0, 0.25, 20.0),
    "aaba": (0.5, 20.0, 20.0),
}
BARREN = TREE | {"aab": (2.0, 2.5, 20.0), "aaba": (20.0, 20.0, 0.25), "aabab": (0.5, 20.0, 20.0)}
"""Behind "aab" everything costs much, and little again later."""


class Step(NamedTuple):
    """Where a search stands, in letters."""

    going: list
    """Texts and their scores."""
    finished: list
    """The same of those that are finished, best first."""


@pytest.fixture(autouse=True)
def strict():
    with np.errstate(all="raise", under="ignore", over="ignore"):  # over: words of random numbers
        yield


def search(*trees, count=2, ends=".", early=False, penalty=1.0, longest=8, seed=None):
    """The states of a search for each of the trees, until it ends."""
    words = None if seed is None else np.array(sampling.seed_words(seed), np.int32)
    eos = np.array([LETTERS.index(end) for end in ends], int)
    rules = beams.BeamOptions(early, seed is not None, penalty, 1, 1 + longest, eos, words)
    ids = np.full((len(trees), 1 + longest), PROMPT)
    state, states = beams.start(ops, ids, 1, np.zeros(1), count), []
    while state.running:
        texts = [written(row, state.length) for row in state.ids.reshape(-1, ids.shape[1])]
        costs = [trees[row // count].get(text, (30.0, 31.0, 32.0)) for row, text in enumerate(texts)]
        costs = [(*(*found, 40.0)[:4], 1000.0) for found in costs]
        state = beams.advance(ops, rules, state, -np.array(costs))
        states.append(state)
    return states


def written(ids, length):
    return "".join(LETTERS[index] for index in ids[1:length])


def steps(*trees, text=0, **options):
    """The search for one of the trees in letters, step by step."""
    return [
        Step(
            [
                (written(ids, state.length), score)
                for ids, score in zip(state.ids[text], state.scores[text], strict=True)
            ],
            [
                (written(ids, state.length).split("^")[0], round(float(score), 3))
                for ids, score, finished in zip(
                    state.finished_ids[text], state.finished_scores[text], state.finished[text], strict=True
                )
                if finished
            ],
        )
        for state in search(*trees, **options)
    ]


def found(*trees, **options):
    return [text for text, _ in steps(*trees, **options)[-1].finished]


def test_the_best_go_on_and_finish():
    """Of four candidates the best two may finish, and the best two that do not end go on."""
    one, two, three, four, *_ = steps(TREE)
    assert one == ([("a", -1.0), ("b", -2.0)], [])
    # also "b." for 3.75, which is the third, and "a." for 4
    assert two == ([("ab", -2.0), ("aa", -3.5)], [])
    # the best is "ab." for 3.5
    assert three == ([("aab", -4.0), ("aba", -5.0)], [("ab.", round(-3.5 / 3, 3))])
    # "aaba" for 4.25, "aab." for 6
    assert four == ([("aaba", -4.25), ("aabb", -24.0)], [("ab.", -1.167), ("aab.", -1.5)])


def test_stopping_early_is_stopping_with_as_many_as_there_are_beams():
    early, late, never = (steps(TREE, early=choice) for choice in (True, False, "never"))
    assert early == late[:4] == never[:4]
    assert [len(early[3].finished), len(early[2].finished)] == [2, 1]
    # "aaba" may still become better than the second, -1.5, and does; then -24.25 is worse, however long it gets
    assert late[4].finished == never[4].finished == [("aaba.", -0.95), ("ab.", -1.167)]
    assert [len(early), len(late), len(never)] == [4, 5, 5]


def test_without_stopping_early_the_length_so_far_decides():
    """At "aaba", -6.5 / 4 is worse than the -1.5 of "aab."; -6.5 / 8 is not, and "aabab." becomes the second."""
    late, never = (steps(BARREN, early=choice) for choice in (False, "never"))
    assert late[3] == never[3] == ([("aaba", -6.5), ("aabb", -24.0)], [("ab.", -1.167), ("aab.", -1.5)])
    assert len(late) == 4
    assert never[5].finished == [("ab.", -1.167), ("aabab.", round(-7.25 / 6, 3))]
    assert len(never) == 6


def test_what_may_become_as_good_is_not_better():
    tree = TREE | {"aab": (2.0, 2.0, 20.0)}
    assert steps(tree)[-1] == ([("aaba", -6.0), ("aabb", -24.0)], [("ab.", -1.167), ("aab.", -1.5)])


@pytest.mark.parametrize("early", [False, "never"])
def test_without_a_penalty_no_length_helps(early):
    assert [len(steps(BARREN, early=early, penalty=penalty)) for penalty in (0.0, -1.0)] == [4, 4]


@pytest.mark.parametrize(
    ("penalty", "texts", "scores"),
    [
        (0.0, ["ab.", "aaba."], [-3.5, -4.75]),
        (1.0, ["aaba.", "ab."], [-4.75 / 5, -3.5 / 3]),
        (3.0, ["aaba.", "aab."], [-4.75 / 125, -6.0 / 64]),
        (-1.0, ["ab.", "aaba."], [-3.5 * 3, -4.75 * 5]),
    ],
)
def test_scores_are_divided_by_a_power_of_the_length(penalty, texts, scores):
    last = steps(TREE, penalty=penalty)[-1].finished
    assert [text for text, _ in last] == texts
    np.testing.assert_allclose([score for _, score in last], scores, atol=6e-4)


def test_texts_end_at_the_greatest_length():
    """Whatever the best are then; those that do not fit among the beams are lost."""
    assert steps(TREE, longest=2)[-1].finished == [("ab", -1.0), ("aa", -1.75)]
    assert steps(TREE, longest=3)[-1].finished == [("ab.", -1.167), ("aab", -1.333)]
    assert steps(TREE, longest=1)[-1].finished == [("a", -1.0), ("b", -2.0)]
    assert len(steps(TREE, longest=1)) == 1


def test_where_all_the_best_end_others_go_on():
    """With two ends there are three candidates for each beam."""
    tree = {"": (9.0, 1.0, 2.0), "a": (1.0, 5.0, 6.0, 1.5), "b": (1.0, 7.0, 8.0, 1.5)}
    _, two, *_ = steps(tree, ends=".!")
    assert two == ([("aa", -6.0), ("ab", -7.0)], [("a.", -1.0), ("a!", -1.25)])


def test_without_an_end_all_are_as_long_as_can_be():
    assert {len(text) for text in found(TREE, ends="", longest=5)} == {5}
    assert found(TREE, ends="", longest=4) == ["aaba", "aab."]


class Endless(dict):
    """A tree whose texts have no end."""

    def get(self, text, default=None):
        return 20.0, 1.0, 2.0


@pytest.mark.parametrize(("tree", "early"), [(TREE, True), (BARREN, False)])
def test_a_text_that_is_complete_is_left_alone_while_others_are_written(tree, early):
    """It has what it has alone after four steps; its beams go on, and the better ones that they find do not count."""
    alone, both = (steps(*trees, early=early) for trees in ((tree,), (tree, Endless())))
    assert [len(alone), len(both)] == [4, 8]
    assert both[:4] == alone
    better = found(tree, early="never")
    assert better not in (found(tree, early=early), []) and len(better[-1]) <= 6
    assert all(step.finished == alone[-1].finished for step in both[4:])
    assert found(tree, Endless(), early=early, text=1) == found(Endless(), early=early)


def test_rows_of_the_batch_are_told_apart():
    """Each new token knows the row that it was chosen in, from which the scores can be added up again."""
    states = search(BARREN, TREE)
    assert [state.source_rows.tolist() for state in states] == [
        [0, 0, 2, 2],  # "a" and "b" behind the first
        [0, 0, 2, 2],  # "ab" and "aa", both of "a"
        [1, 0, 3, 2],  # "aab" and "aba"
        [0, 0, 2, 2],
        [0, 0, 2, 2],
    ]
    last = states[-1]
    # "ab." is of the first row always, "aab." of the second once
    assert last.finished_origins[0, :, :4].tolist() == [[0, 0, 0, -1], [0, 0, 1, 0]]
    assert last.finished_origins[1, :, :5].tolist() == [[2, 2, 3, 2, 2], [2, 2, 2, -1, -1]]
    assert (last.finished_origins[:, :, 5:] == -1).all()
    for before, after in itertools.pairwise(states):
        texts = before.ids.reshape(4, -1)[after.source_rows]
        np.testing.assert_array_equal(after.ids.reshape(4, -1)[:, : before.length], texts[:, : before.length])
        np.testing.assert_array_equal(after.ids.reshape(4, -1)[:, before.length], after.last_tokens)


# Drawn


def test_drawn_texts_differ_and_keep_their_scores():
    """What is drawn is not in order, and what goes on is: the best of it."""
    first = [steps(TREE, seed=seed)[0].going for seed in range(200)]
    assert {tuple(text for text, _ in going) for going in first} == {("a", "b")}
    later = {tuple(text for text, _ in steps(TREE, seed=seed, longest=6)[2].going) for seed in range(60)}
    assert len(later) > 3 and all(one != other for one, other in later)
    for seed in range(20):
        for text, score in steps(TREE, seed=seed)[3].going:
            costs = [TREE.get(text[:place], (30.0, 31.0, 32.0)) for place in range(4)]
            assert score == -sum(cost[LETTERS.index(letter)] for cost, letter in zip(costs, text, strict=True))


def test_where_too_few_can_be_drawn_the_others_are_never_chosen():
    """Four are to be drawn, but all weights but two are zero."""
    only = {"": (0.0, 1.0, 1e4, 1e4), ".": (1e4,) * 4, "a": (1e4, 1e4, 1.0, 1e4)}
    one, two, *_ = steps(only, seed=0, longest=3)
    assert one.going == [("a", -1.0), (".", NEVER)]
    assert one.finished == [(".", 0.0)]  # one of the two that are drawn first
    assert two.going[0] == ("ab", -2.0) and two.going[1][1] <= NEVER


# Any search


def in_python(tree, count, ends, early, penalty, longest):
    """The finished texts and their scores, and how many steps it took."""
    going, finished = [(0.0, "")], []
    for length in range(1, longest + 1):
        candidates = [
            (score - tree[text][place], text + LETTERS[place]) for score, text in going for place in (0, 1, 2)
        ]
        candidates = sorted(candidates, reverse=True)[: max(2, 1 + len(ends)) * count]
        ended = [text[-1] in ends or length == longest for _, text in candidates]
        for (score, text), end in list(zip(candidates, ended, strict=True))[:count]:
            if end:
                finished.append((score / length**penalty, text))
        finished = sorted(finished, reverse=True)[:count]
        going = [candidate for candidate, end in zip(candidates, ended, strict=True) if not end][:count]
        if not going or (early is True and len(finished) == count):
            break
        possible = going[0][0] / (longest if early == "never" and penalty > 0 else length) ** penalty
        if len(finished) == count and possible <= finished[-1][0]:
            break
    return finished, length


class Random(dict):
    """A tree without an end: what letters cost behind a text is drawn when it is asked for."""

    def __init__(self, seed):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def get(self, text, default=None):
        return self[text]

    def __missing__(self, text):
        self[text] = tuple(self.random.uniform(0.0, 3.0, 3).tolist())
        return self[text]


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 3),
    ends=st.sampled_from([".", ".a", ""]),
    early=st.sampled_from([True, False, "never"]),
    penalty=st.sampled_from([1.0, 0.0, -0.5, 2.0]),
    longest=st.integers(1, 7),
)
def test_any_search_is_the_one_in_python(seed, count, ends, early, penalty, longest):
    tree = Random(seed)
    states = search(tree, count=count, ends=ends, early=early, penalty=penalty, longest=longest)
    finished, length = in_python(tree, count, ends, early, penalty, longest)
    assert len(states) == length
    last = states[-1]
    assert last.finished[0].tolist() == [place < len(finished) for place in range(count)]
    for place, (score, text) in enumerate(finished):
        assert written(last.finished_ids[0, place], last.length).split("^")[0] == text
        np.testing.assert_allclose(last.finished_scores[0, place], score)
