"""Random choices in numpy: the known answers of the generator, and which entry a number falls on."""

from types import SimpleNamespace

import array_api_compat.numpy as xp
import numpy as np
import pytest

from diptych.core.semantics import sampling

ops = SimpleNamespace(xp=xp, steps=lambda count, like: np.arange(count))


@pytest.fixture(autouse=True)
def wrapping():
    """Words of 32 bits overflow on purpose; nothing else may go wrong unseen."""
    with np.errstate(all="raise", under="ignore", over="ignore"):
        yield


def signed(*words):
    return np.array(words, np.uint32).view(np.int32)


def uniform(rows, *, seed=0, step=0, draw=0, dtype=np.float64):
    words, rows = np.array(sampling.seed_words(seed), np.int32), np.array(rows, np.int32)
    return sampling.uniform(xp, words, np.int32(step), rows, draw, np.dtype(dtype))


def chosen(weights, numbers):
    weights = np.atleast_2d(np.array(weights, float))
    return sampling.sample(ops, weights, np.array(numbers, float)).tolist()


def choices(weights, count, *, seed=0, step=0):
    words = np.array(sampling.seed_words(seed), np.int32)
    return sampling.sample_without_replacement(ops, np.array(weights, float), words, np.int32(step), count)


# The bits


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_known_answers_of_random123(key, counter, answer):
    """The file kat_vectors of Salmon et al.: threefry2x32 with 20 rounds."""
    left, right = sampling.threefry2x32(
        tuple(signed(key[i]) for i in (0, 1)), tuple(signed(counter[i]) for i in (0, 1))
    )
    assert left.dtype == right.dtype == np.int32
    assert [left.view(np.uint32)[0], right.view(np.uint32)[0]] == list(answer)


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (0, (0, 0)),
        (1, (1, 0)),
        (2**31 - 1, (2**31 - 1, 0)),
        (2**31, (-(2**31), 0)),
        (2**32 + 5, (5, 1)),
        (2**64 - 1, (-1, -1)),
        (-1, (-1, -1)),
        (-(2**63), (0, -(2**31))),
    ],
)
def test_a_seed_is_two_words(seed, words):
    assert sampling.seed_words(seed) == words
    np.array(words, np.int32)


# The numbers


@pytest.mark.parametrize(("dtype", "bits"), [(np.float64, 53), (np.float32, 24)])
def test_numbers_lie_evenly_and_use_all_their_bits(dtype, bits):
    numbers = uniform(range(20_000), dtype=dtype)
    assert numbers.dtype == dtype
    whole = numbers.astype(np.float64) * 2.0**bits
    assert (whole == np.floor(whole)).all() and (whole % 2 == 1).any()
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    counts = np.histogram(numbers, 20, (0.0, 1.0))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # of chi-square with 19 degrees of freedom: one in a thousand


def test_the_largest_number_is_below_one(monkeypatch):
    monkeypatch.setattr(sampling, "threefry2x32", lambda key, counter: (signed(0xFFFFFFFF), signed(0xFFFFFFFF)))
    assert uniform([0])[0] == 1.0 - 2.0**-53
    assert uniform([0], dtype=np.float32)[0] == np.float32(1.0 - 2.0**-24)


def test_numbers_are_the_generators_bits():
    """The counter of a row is hashed with the key that seed, step and draw make."""
    key = sampling.threefry2x32((signed(7), signed(3)), (signed(5), signed(2)))
    high, low = (int(word.view(np.uint32)[0]) for word in sampling.threefry2x32(key, (signed(4), signed(0))))
    asked = {"seed": 3 * 2**32 + 7, "step": 5, "draw": 2}
    assert uniform([9, 4], **asked)[1] == ((high >> 5) * 2**26 + (low >> 6)) * 2.0**-53
    assert uniform([9, 4], **asked, dtype=np.float32)[1] == (high >> 8) * 2.0**-24


def test_every_seed_step_row_and_draw_has_a_number_of_its_own():
    found = [
        number
        for seed in (0, 1, 2**32, -1)
        for step in range(4)
        for draw in range(4)
        for number in uniform(range(4), seed=seed, step=step, draw=draw).tolist()
    ]
    assert len(set(found)) == 256


def test_a_row_has_the_same_number_whatever_rows_are_beside_it():
    np.testing.assert_array_equal(uniform([5, 1, 3]), uniform(range(6))[[5, 1, 3]])


# What they fall on


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 600])
def test_a_number_falls_on_its_share(size, dtype):
    """Equal weights, so that it is the entry's place; and at the borders between them."""
    places = np.arange(size)
    weights = np.ones((size, size), dtype)
    for number, entries in (((places + 0.5) / size, places), (places / size, None)):
        found = sampling.sample(ops, weights, number.astype(dtype))
        expected = np.minimum(np.floor(number.astype(dtype) * dtype(size)), size - 1) if entries is None else entries
        np.testing.assert_array_equal(found, expected)


def test_an_entry_begins_where_the_ones_before_it_end():
    below = np.nextafter(0.5, 0.0)
    weights = [1.0, 0.0, 3.0, 0.0, 4.0]
    for number, entry in {0.0: 0, 0.124: 0, 0.125: 2, below: 2, 0.5: 4, 1.0 - 2.0**-53: 4}.items():
        assert chosen(weights, [number]) == [entry], number


@pytest.mark.parametrize("size", [3, 256, 257, 600])
def test_what_weighs_nothing_is_never_chosen(size):
    random = np.random.default_rng(size)
    weights = np.where(random.random((500, size)) < 0.9, 0.0, random.random((500, size)))
    weights[:, -1] = 0.0
    weights[np.arange(500), random.integers(size - 1, size=500)] = 1e-9
    numbers = np.concatenate([random.random(498), [0.0, 1.0 - 2.0**-53]])
    found = sampling.sample(ops, weights, numbers)
    assert (weights[np.arange(500), found] > 0.0).all()
    assert found[498] == np.flatnonzero(weights[498])[0]
    assert found[499] == np.flatnonzero(weights[499])[-1]


@pytest.mark.parametrize("place", [0, 254, 255, 256, 511, 512, 599])
def test_the_only_one_that_weighs_is_chosen(place):
    weights = np.zeros(600)
    weights[place] = 1e-300
    assert chosen([weights] * 3, [0.0, 0.5, 1.0 - 2.0**-53]) == [place] * 3


def test_rounding_leaves_the_last_that_weighs():
    """A share that rounds up to the whole sum, which no running sum exceeds."""
    weights = np.zeros((1, 300), np.float32)
    weights[0, [3, 270]] = 1.0, 2.0**-25
    assert sampling.sample(ops, weights, np.array([1.0], np.float32)).tolist() == [270]


def test_a_choice_follows_the_weights():
    random = np.random.default_rng(0)
    weights = random.random(600)
    expected = np.searchsorted(np.cumsum(weights), (numbers := random.random(2_000)) * weights.sum(), side="right")
    assert sampling.sample(ops, np.tile(weights, (2_000, 1)), numbers).tolist() == expected.tolist()


# Several


def test_each_is_drawn_once_until_none_is_left():
    weights = np.random.default_rng(0).random((50, 7))
    weights[:, 2] = weights[:25, 5] = 0.0
    found = choices(weights, 9)
    for row, drawn in enumerate(found.tolist()):
        left = sorted(np.flatnonzero(weights[row]).tolist())
        assert sorted(drawn[: len(left)]) == left
        assert drawn[len(left) :] == [-1] * (9 - len(left))


def test_nothing_is_drawn_of_nothing():
    assert choices(np.zeros((2, 3)), 2).tolist() == [[-1, -1], [-1, -1]]


def test_the_first_is_what_one_draw_gives_and_the_next_is_drawn_of_the_others():
    weights = np.random.default_rng(0).random((40, 300))
    found = choices(weights, 3, seed=9, step=4)
    for draw in range(3):
        expected = sampling.sample(ops, weights, uniform(range(40), seed=9, step=4, draw=draw))
        np.testing.assert_array_equal(found[:, draw], expected)
        weights[np.arange(40), expected] = 0.0


def test_pairs_are_as_probable_as_without_replacement():
    """p(i, j) = p_i p_j / (1 - p_i), over many rows of one draw."""
    weights, count = np.array([4.0, 2.0, 1.0, 1.0]), 20_000
    pairs = choices(np.tile(weights, (count, 1)), 2)
    shares = weights / weights.sum()
    expected = shares[:, None] * shares[None, :] / (1.0 - shares[:, None]) * count
    np.fill_diagonal(expected, 0.0)
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(pairs.T), 1)
    assert not counts.diagonal().any()
    apart = (counts - expected) ** 2 / np.where(expected > 0, expected, 1.0)
    assert apart.sum() < 31.3  # of chi-square with 11 degrees of freedom: one in a thousand
