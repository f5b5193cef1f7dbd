"""The shared semantics in numpy: loops and tables that a reader can check, in float64."""

import array_api_compat.numpy as xp
import ml_dtypes
import numpy as np
import pytest

from diptych.core.errors import InputError
from diptych.core.semantics import labels, losses, masks, overflow, patches, positions, resize


@pytest.fixture(autouse=True)
def strict():
    """Nothing may overflow or be divided by zero unseen."""
    with np.errstate(all="raise", under="ignore"):
        yield


def table(text):
    """Rows of 0 and 1 as a boolean matrix."""
    return np.array([[int(entry) for entry in row.split()] for row in text.strip().splitlines()], bool)


def drawn(*shape, seed=0, scale=3.0):
    return np.random.default_rng(seed).standard_normal(shape) * scale


def log_softmax(row):
    return row - np.log(np.sum(np.exp(row)))


# Masks


def test_padding_is_seen_by_nobody():
    mask = masks.padding(xp, np.array([[1, 1, 0], [0, 1, 1]]))
    assert mask.shape == (2, 1, 1, 3) and mask.dtype == bool
    np.testing.assert_array_equal(
        mask[:, 0, 0],
        table("""
        1 1 0
        0 1 1
        """),
    )


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint8, np.float32])
def test_whatever_is_not_zero_attends(dtype):
    given = np.array([[2, 0, 1]]).astype(dtype)
    np.testing.assert_array_equal(masks.padding(xp, given)[0, 0, 0], [True, False, True])


def test_a_query_sees_itself_and_what_came_before():
    mask = masks.causal(xp, xp.arange(4))
    assert mask.shape == (1, 1, 4, 4) and mask.dtype == bool
    np.testing.assert_array_equal(
        mask[0, 0],
        table("""
        1 0 0 0
        1 1 0 0
        1 1 1 0
        1 1 1 1
        """),
    )


def test_causal_and_padding_together():
    mask = masks.causal_padding(xp, xp.arange(4), np.array([[1, 1, 1, 0], [0, 0, 1, 1]]))
    assert mask.shape == (2, 1, 4, 4)
    np.testing.assert_array_equal(
        mask[0, 0],
        table("""
        1 0 0 0
        1 1 0 0
        1 1 1 0
        1 1 1 0
        """),
    )
    np.testing.assert_array_equal(
        mask[1, 0],
        table("""
        0 0 0 0
        0 0 0 0
        0 0 1 0
        0 0 1 1
        """),
    )


def test_new_tokens_see_what_the_cache_holds_and_themselves():
    mask = masks.causal_cache(xp, xp.arange(2) + 3, xp.arange(6), np.array([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]))
    assert mask.shape == (2, 1, 2, 6)
    np.testing.assert_array_equal(
        mask[:, 0].reshape(4, 6),
        table("""
        1 1 1 1 0 0
        1 1 1 1 1 0
        0 1 1 1 0 0
        0 1 1 1 1 0
        """),
    )


# Positions


def test_positions_are_counted_alike_in_every_row():
    np.testing.assert_array_equal(positions.sequential(xp, xp.arange(3)), [[0, 1, 2]])


@pytest.mark.parametrize(
    ("ids", "eos", "end"),
    [
        ([5, 9, 3, 1], 9, 1),
        ([5, 9, 3, 9], 9, 1),  # the first one
        ([5, 3, 1, 9], 9, 3),
        ([9, 3, 1, 9], 9, 0),
        ([5, 3, 1, 4], 9, 0),  # none at all
        ([5, 3, 1, 4], None, 0),
        ([5, 8, 3, 2], 2, 1),  # an old config: the largest id, not token 2
        ([5, 8, 3, 8], 2, 1),  # the first of the largest
        ([2, 1, 0, 0], 2, 0),
        ([0, 0, 0, 0], 0, 0),
    ],
)
def test_where_a_text_ends(ids, eos, end):
    other = [9, 9, 9, 9] if eos != 2 else [0, 0, 0, 1]
    found = positions.end_of_text(xp, np.array([ids, other]), eos)
    assert found.shape == (2,)
    assert found[0] == end
    assert found[1] == (3 if eos == 2 else 0)


# Decoder inputs


def test_labels_move_a_place_behind_the_start():
    given = np.array([[5, 6, 7, 8], [5, 6, -100, -100]])
    np.testing.assert_array_equal(labels.shift_tokens_right(xp, given, 1, 2), [[2, 5, 6, 7], [2, 5, 6, 1]])


def test_the_last_token_wraps_around_to_the_front():
    given = np.array([[5, 6, 2, 9], [5, 2, 9, -100], [2, 9, 1, 1], [-100, -100, 1, 1]])
    expected = [[9, 5, 6, 2], [9, 5, 2, 9], [9, 2, 9, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(labels.wrap_tokens_right(xp, given, 1), expected)


# Losses


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 3, 2)])
def test_cross_entropy(shape):
    logits = drawn(*shape, 7)
    labels = np.random.default_rng(1).integers(0, 7, shape)
    expected = [-log_softmax(logits[index])[labels[index]] for index in np.ndindex(shape)]
    found = losses.cross_entropy(xp, logits, labels)
    assert found.shape == () and found.dtype == np.float64
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-14)


def test_cross_entropy_leaves_out_what_has_no_label():
    logits, labels = drawn(2, 4, 7), np.array([[3, -100, 0, -100], [-100, -100, 6, 1]])
    counted = [(0, 0), (0, 2), (1, 2), (1, 3)]
    expected = np.mean([-log_softmax(logits[index])[labels[index]] for index in counted])
    np.testing.assert_allclose(losses.cross_entropy(xp, logits, labels), expected, rtol=1e-14)
    # their logits do not matter at all
    logits[0, 1] = 1e300
    np.testing.assert_allclose(losses.cross_entropy(xp, logits, labels), expected, rtol=1e-14)


def test_cross_entropy_of_nothing_is_not_a_number():
    """As in PyTorch: the mean of no values; a training step must not take it for a perfect one."""
    with np.errstate(invalid="ignore"):
        assert np.isnan(losses.cross_entropy(xp, drawn(3, 7), np.full(3, -100)))


def test_cross_entropy_does_not_overflow():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    np.testing.assert_allclose(losses.cross_entropy(xp, logits, np.array([0, 0])), 1e4, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_losses_are_computed_in_float32_or_wider(dtype, index):
    logits = drawn(4, 7).astype(dtype)
    wide = logits.astype(np.float64)
    labels = np.array([1, 2, -100, 6], index)
    found = losses.cross_entropy(xp, logits, labels)
    assert found.dtype == (np.float64 if dtype is np.float64 else np.float32)
    np.testing.assert_allclose(found, losses.cross_entropy(xp, wide, labels), rtol=1e-6)
    found = losses.mean_squared_error(xp, logits, logits + 1)
    assert found.dtype == (np.float64 if dtype is np.float64 else np.float32)
    found = losses.binary_cross_entropy(xp, logits, (logits > 0).astype(dtype))
    assert found.dtype == (np.float64 if dtype is np.float64 else np.float32)


def test_binary_cross_entropy():
    logits, labels = drawn(5, 3), np.random.default_rng(1).uniform(size=(5, 3))
    sigmoid = 1 / (1 + np.exp(-logits))
    expected = np.mean(-labels * np.log(sigmoid) - (1 - labels) * np.log(1 - sigmoid))
    np.testing.assert_allclose(losses.binary_cross_entropy(xp, logits, labels), expected, rtol=1e-13)


def test_binary_cross_entropy_does_not_overflow():
    logits, labels = np.array([[1e4, -1e4, 1e4, -1e4]]), np.array([[1.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(losses.binary_cross_entropy(xp, logits, labels), 1e4 / 2, rtol=1e-14)


def test_mean_squared_error():
    predictions, labels = drawn(5, 3), drawn(5, 3, seed=1)
    expected = sum((p - t) ** 2 for p, t in zip(predictions.flat, labels.flat, strict=True)) / 15
    np.testing.assert_allclose(losses.mean_squared_error(xp, predictions, labels), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("classes", "floating", "given", "found"),
    [
        (1, True, None, "regression"),
        (1, False, None, "regression"),
        (3, False, None, "single_label_classification"),
        (3, True, None, "multi_label_classification"),
        (3, True, "regression", "regression"),
        (1, False, "single_label_classification", "single_label_classification"),
        (3, False, "multi_label_classification", "multi_label_classification"),
    ],
)
def test_what_a_classifier_is_asked(classes, floating, given, found):
    assert losses.problem(classes, floating, given) == found


@pytest.mark.parametrize(
    ("logits", "labels", "given", "reference"),
    [
        (drawn(5, 3), np.array([0, 2, -100, 1, 1]), None, losses.cross_entropy),
        (drawn(5, 3), np.eye(3)[[0, 1, 2, 0, 1]], None, losses.binary_cross_entropy),
        (drawn(5, 3), drawn(5, 3, seed=2), "regression", losses.mean_squared_error),
        (drawn(5, 1), drawn(5, 1, seed=2), None, losses.mean_squared_error),
        (drawn(5, 3), np.eye(3, dtype=np.int64)[[0, 1, 2, 0, 1]], "multi_label_classification",
         losses.binary_cross_entropy),
    ],
)  # fmt: skip
def test_the_loss_of_a_classifier(logits, labels, given, reference):
    np.testing.assert_array_equal(losses.classification(xp, logits, labels, given), reference(xp, logits, labels))


def test_targets_of_a_regression_without_the_last_axis():
    """(5,) against (5, 1) must not become (5, 5)."""
    logits, labels = drawn(5, 1), drawn(5, seed=2)
    expected = np.mean([(logits[i, 0] - labels[i]) ** 2 for i in range(5)])
    np.testing.assert_allclose(losses.classification(xp, logits, labels, None), expected, rtol=1e-14)
    np.testing.assert_allclose(losses.classification(xp, logits, np.arange(5), None),
                               np.mean((logits[:, 0] - np.arange(5)) ** 2), rtol=1e-14)  # fmt: skip


def test_the_contrastive_loss_asks_both_ways():
    scores = drawn(4, 4)
    texts = np.mean([-log_softmax(scores[i])[i] for i in range(4)])
    images = np.mean([-log_softmax(scores[:, i])[i] for i in range(4)])
    assert abs(texts - images) > 0.1
    found = losses.contrastive(xp, scores, xp.arange(4))
    np.testing.assert_allclose(found, (texts + images) / 2, rtol=1e-14)
    np.testing.assert_allclose(losses.contrastive(xp, scores.T, xp.arange(4)), found, rtol=1e-14)


def test_only_masked_patches_are_reconstructed():
    pixels, made = drawn(2, 3, 7, 9), drawn(2, 3, 6, 8, seed=1)  # incomplete patches are not read
    masked = np.array([[[1, 0], [0, 0], [0, 1]], [[0, 0], [1, 0], [0, 0]]], bool)
    found = losses.masked_reconstruction(xp, pixels, made, masked, (2, 4))
    errors = [
        np.abs(pixels[b, :, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4] - made[b, :, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4])
        for b, y, x in zip(*np.nonzero(masked), strict=True)
    ]
    np.testing.assert_allclose(found, np.sum(errors) / (3 * 2 * 4 + 1e-5) / 3, rtol=1e-14)
    assert losses.masked_reconstruction(xp, pixels, made, np.zeros_like(masked), (2, 4)) == 0.0


# Patches


def test_the_labels_of_masked_patches_go_where_these_are():
    masked = np.array([[0, 1, 0, 1], [0, 0, 1, 0]], bool)
    found = labels.of_patches(xp, np.array([5, -100, 7]), masked)
    np.testing.assert_array_equal(found, [[-100, 5, -100, -100], [-100, -100, 7, -100]])
    for wrong in ([5, 6], [5, 6, 7, 8], []):  # a loss of these labels is NaN
        found = labels.of_patches(xp, np.array(wrong, int), masked)
        np.testing.assert_array_equal(found, np.where(masked, -1, -100))
    nothing = labels.of_patches(xp, np.array([], int), np.zeros((2, 4), bool))
    np.testing.assert_array_equal(nothing, np.full((2, 4), -100))


def test_a_sequence_of_patches_becomes_an_image():
    sequence = drawn(2, 6, 5)
    image = patches.as_image(xp, sequence, (3, 2))
    assert image.shape == (2, 5, 3, 2)
    np.testing.assert_array_equal(image[1, :, 2, 1], sequence[1, 5])
    np.testing.assert_array_equal(image[1, :, 1, 0], sequence[1, 2])


def test_pixels_of_patches_are_joined():
    sequence = drawn(2, 6, 3 * 2 * 2)
    joined = patches.join_pixels(xp, sequence, (3, 2), 2)
    assert joined.shape == (2, 3, 6, 4)
    for y, x in np.ndindex(3, 2):
        np.testing.assert_array_equal(
            joined[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2], sequence[:, 2 * y + x].reshape(2, 3, 2, 2)
        )


def test_the_distances_between_patches():
    rows, columns = 3, 2
    numbers = positions.patch_distances(rows, columns)
    places = list(np.ndindex(rows, columns))
    every = [(y, x) for y in range(1 - rows, rows) for x in range(1 - columns, columns)]
    assert len(every) == positions.distance_count(rows, columns)
    for query, key in np.ndindex(6, 6):
        (y, x), (other_y, other_x) = places[query], places[key]
        assert every[numbers[query, key]] == (y - other_y, x - other_x)


def test_the_distances_of_a_class_token_come_last():
    numbers = positions.patch_distances_with_class_token(3, 2)
    np.testing.assert_array_equal(numbers[1:, 1:], positions.patch_distances(3, 2))
    assert numbers[0].tolist() == [17, *6 * [15]] and numbers[1:, 0].tolist() == 6 * [16]
    assert positions.CLASS_TOKEN_DISTANCES == 3 and numbers.max() + 1 == positions.distance_count(3, 2) + 3


# Resampling


def test_the_weights_of_one_cubic():
    """Halfway between two samples, by hand: Keys' cubic with a = -3/4 at distances 1.5, 0.5, 0.5, 1.5."""
    near = (2 - 0.75) * 0.5**3 - (3 - 0.75) * 0.5**2 + 1
    far = -0.75 * (1.5**3 - 5 * 1.5**2 + 8 * 1.5 - 4)
    assert (near, far) == (0.59375, -0.09375)
    np.testing.assert_allclose(resize.bicubic(6, 3)[1], [0, far, near, near, far, 0], rtol=0, atol=1e-15)
    # at the border, what lies outside is the border itself
    np.testing.assert_allclose(resize.bicubic(6, 3)[0], [near + far, near, far, 0, 0, 0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("resample", [resize.bicubic, resize.bilinear])
@pytest.mark.parametrize("source", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("target", [1, 2, 5, 7, 24])
def test_resampling_matrices(resample, source, target):
    matrix = resample(source, target)
    assert matrix.shape == (target, source) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, rtol=1e-14)  # a constant stays
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-14)  # no side is preferred
    assert (np.count_nonzero(matrix, axis=1) <= 4).all()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_same_size_changes_nothing(size):
    np.testing.assert_array_equal(resize.bicubic(size, size), np.eye(size))
    np.testing.assert_array_equal(resize.bilinear(size, size), np.eye(size))


def test_a_causal_model_predicts_the_label_that_follows():
    logits, given = drawn(2, 4, 5), np.array([[0, 1, 2, 3], [4, 3, -100, 2]])
    expected = losses.cross_entropy(xp, logits[:, :-1], given[:, 1:])
    assert losses.causal(xp, logits, given) == pytest.approx(expected, rel=1e-14)
    assert losses.causal(xp, logits, given) != pytest.approx(losses.cross_entropy(xp, logits, given))


def test_where_a_classifier_of_bart_reads():
    ids = np.array([[2, 5, 2, 7], [5, 2, 7, 7], [5, 5, 5, 5], [2, 2, 2, 2]])
    index, count = positions.last_end(xp, ids, 2)
    assert count.tolist() == [2, 1, 0, 4]
    assert index[[0, 1, 3]].tolist() == [2, 1, 3]


def test_ids_that_labels_are_shifted_with_must_be_there():
    assert labels.required_ids("Model", pad_token_id=0, decoder_start_token_id=2) == [0, 2]
    with pytest.raises(InputError) as caught:
        labels.required_ids("Model", pad_token_id=None, decoder_start_token_id=None)
    assert str(caught.value) == (
        "Model: the decoder's inputs are made from labels with pad_token_id and decoder_start_token_id, but the config "
        "has pad_token_id=None and decoder_start_token_id=None; model.config = model.config.replace(…) sets them"
    )


@pytest.mark.parametrize("always", [True, False])
def test_half_precision_states_are_kept_finite(always):
    finite = np.array([1.0, -65_000.0, 65_000.0], np.float16)
    overflown = np.array([np.inf, -np.inf, 65_000.0, 3.0], np.float16)
    found = overflow.clip_float16(xp, finite, always=always)
    assert found.dtype == np.float16
    assert found.tolist() == ([1.0, -64_512.0, 64_512.0] if always else finite.tolist())  # float16 has no 64,504
    assert overflow.clip_float16(xp, overflown, always=always).tolist() == [64_512.0, -64_512.0, 64_512.0, 3.0]
    wide = np.array([np.inf, 70_000.0], np.float32)
    assert overflow.clip_float16(xp, wide, always=always) is wide
