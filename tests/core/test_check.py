from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from diptych.core import check
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, ConfigError, InputError


@dataclass
class Sizes:
    width: float | tuple[int, int] = 12
    heads: float = 4
    rate: float | None = None


def raises(error, message):
    return pytest.raises(error, match=f"^{message}$")


def test_errors_are_value_errors():
    assert all(issubclass(error, ValueError) for error in (ConfigError, CheckpointError, InputError))


def test_sizes_must_be_positive_and_not_enormous():
    check.positive(Sizes(), "width", "heads")
    with raises(ConfigError, "Sizes: width=0, heads=-1 must be 1 or more"):
        check.positive(Sizes(0, -1), "width", "heads")
    check.positive(Sizes((2, 3)), "width")
    with raises(ConfigError, r"Sizes: width=\(2, 0\) must be 1 or more"):
        check.positive(Sizes((2, 0)), "width")
    with raises(ConfigError, r"Sizes: width=\(3, 16777217\) must be 16777216 at most"):
        check.positive(Sizes((3, 2**24 + 1)), "width")
    check.not_negative(Sizes(0), "width")
    with raises(ConfigError, "Sizes: heads=-0.5 must be 0 or more"):
        check.not_negative(Sizes(heads=-0.5), "width", "heads")
    check.positive(Sizes((512, 10), (1,)), "width", "heads")
    check.not_negative(Sizes((0, 1)), "width")
    with raises(ConfigError, r"Sizes: width=\(5, 0\), heads=\(\) must be 1 or more"):
        check.positive(Sizes((5, 0), ()), "width", "heads")
    with raises(ConfigError, r"Sizes: width=\(5, 16777217\) must be 16777216 at most"):
        check.positive(Sizes((5, 2**24 + 1)), "width")
    with raises(ConfigError, r"Sizes: width=\(0, -1\) must be 0 or more"):
        check.not_negative(Sizes((0, -1)), "width")
    with raises(ConfigError, r"Sizes: width has 101 entries, but at most 100 are allowed"):
        check.positive(Sizes((1,) * 101), "width")
    with raises(ConfigError, r"Sizes: width=16777217 must be 16777216 at most"):
        check.not_negative(Sizes(2**24 + 1), "width")
    check.divides(Sizes(), "heads", "width")
    for width, heads in ((12, 5), (0, 4), (-12, 4), (12, 0), (12, -4), (3, 4)):
        with raises(ConfigError, f"Sizes: width={width} must be a positive multiple of heads={heads}"):
            check.divides(Sizes(width, heads), "heads", "width")


def test_probabilities_lie_between_0_and_1():
    for rate in (None, 0, 0.0, 0.5, 1.0):
        check.probability(Sizes(rate=rate), "rate")
    for rate in (-0.1, 1.1, float("nan")):
        with raises(ConfigError, f"Sizes: rate={rate} must lie between 0 and 1"):
            check.probability(Sizes(rate=rate), "rate")


def test_one_of_two_arguments():
    check.exactly_one("M", ids=[0], embeds=None)
    check.exactly_one("M", ids=None, embeds=0)
    with raises(InputError, "M: exactly one of ids and embeds is needed, got none"):
        check.exactly_one("M", ids=None, embeds=None)
    with raises(InputError, "M: exactly one of ids and embeds is needed, got ids and embeds"):
        check.exactly_one("M", ids=1, embeds=2)
    assert isinstance(check.missing_argument("M", "ids"), InputError)
    assert str(check.missing_argument("M", "ids")) == "M: ids is needed, got None"


def test_sizes_beyond_a_limit_name_both():
    check.at_least("M", "the side", 4, 4, "patch_size")
    with raises(InputError, "M: the side is 3, but patch_size=4"):
        check.at_least("M", "the side", 3, 4, "patch_size")
    check.at_most("M", "the number of tokens", 4, 4, "limit")
    with raises(InputError, "M: the number of tokens is 5, but limit=4"):
        check.at_most("M", "the number of tokens", 5, 4, "limit")


def test_ids_must_have_an_integer_dtype():
    for dtype in ("int8", "int32", "int64", "uint8", "uint32"):
        check.integer_dtype("M", "ids", dtype)
    for dtype in ("bool", "float32", "bfloat16", "complex64", "object", "<U3"):
        with raises(InputError, f"M: ids has dtype {dtype}, but ids must be integers"):
            check.integer_dtype("M", "ids", dtype)


def test_ranks_and_shapes_must_be_exact():
    check.rank("M", "ids", (2, 3), "batch, tokens")
    with raises(InputError, r"M: ids has shape \(2,\), but \(batch, tokens\) is needed"):
        check.rank("M", "ids", (2,), "batch, tokens")
    check.shape("M", "mask", (2, 3), [2, 3])
    with raises(InputError, r"M: mask has shape \(3, 2\), but \(2, 3\) is needed, as many as tokens"):
        check.shape("M", "mask", (3, 2), (2, 3), ", as many as tokens")
    with raises(InputError, r"M: mask has shape \(2, 3, 1\), but \(2, 3\) is needed"):
        check.shape("M", "mask", (2, 3, 1), (2, 3))


def test_targets_have_the_shape_of_the_logits():
    several, regression = "multi_label_classification", "regression"
    check.targets("M", "labels", (5, 3), (5, 3), several)
    check.targets("M", "labels", (5, 1), (5, 1), regression)
    check.targets("M", "labels", (5,), (5, 1), regression)
    check.targets("M", "labels", (5, 3), (5, 3), regression)
    for found, logits, problem in (((5,), (5, 3), regression), ((5,), (5, 1), several), ((4,), (5, 1), regression)):
        message = f"M: labels has shape {found}, but {logits} is needed for a {problem}"
        with pytest.raises(InputError) as caught:
            check.targets("M", "labels", found, logits, problem)
        assert str(caught.value) == message


def test_ids_in_range():
    check.ids_in_range("M", "ids", (0, 9), 10, "vocab_size")
    check.ids_in_range("M", "ids", None, 10, "vocab_size")
    for bounds, wrong in (((0, 10), 10), ((-1, 3), -1), ((5, 2**40), 2**40), ((-(2**40), 2**40), -(2**40))):
        with raises(InputError, f"M: ids holds {wrong}, but vocab_size allows 0 to 9"):
            check.ids_in_range("M", "ids", bounds, 10, "vocab_size")


def test_names_of_floating_dtypes():
    for name, dtype in FLOATS.items():
        assert float_name(name) == float_name(dtype) == float_name(dtype.type) == name
        assert float_name(f"torch.{name}") == float_name(f"jnp.{name}") == name
        assert dtype.name == name

    class Torch:
        def __str__(self):
            return "torch.bfloat16"

    assert float_name(Torch()) == "bfloat16"
    for wrong, shown in ((int, "<class 'int'>"), ("fp16", "'fp16'"), (FLOATS["float32"].newbyteorder(), None)):
        with pytest.raises(InputError) as caught:
            float_name(wrong)
        assert str(caught.value) == (
            f"dtype={shown or repr(wrong)} is not supported; supported: float64, float32, float16, bfloat16"
        )


def test_numbers_keep_their_dtype_and_all_else_is_refused():
    for given in ([[1, 2]], [[0.5]], [[True]], 3, np.zeros(2, ml_dtypes.bfloat16), np.zeros(2, np.uint16)):
        found = check.numbers("Model", "ids", given)
        assert found.dtype == np.asarray(given).dtype
        assert np.array_equal(found, given)
    assert check.numbers("Model", "ids", np.array([1, 2], ">i4")).dtype == np.dtype("=i4")
    with raises(InputError, "Model: ids has rows of different lengths; pad them to one"):
        check.numbers("Model", "ids", [[1, 2], [3]])
    for given, name in (("text", "str128"), ([None], "object"), ([2**70], "object"), ([b"a"], "bytes8")):
        with raises(InputError, f"Model: ids must hold numbers, but numpy reads it as {name}"):
            check.numbers("Model", "ids", given)
