"""Checks shared by configs and calls; their errors name the field or argument, what was found and what is needed."""

import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args, get_origin

import numpy as np

from diptych.core.dtypes import FLOATS
from diptych.core.errors import ConfigError, InputError


def _name(config: object) -> str:
    return type(config).__name__


_LAYERS = ("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers", "depths", "resampler_depth")
LARGEST: dict[str, int] = dict.fromkeys((*_LAYERS, "num_adapter_layers"), 10_000)
"""The largest sizes that a config may have; 2**24 for any other. No published config comes close to them."""

_MOST_ENTRIES = 100


def positive(config: object, *fields: str) -> None:
    """The fields, or the entries of each, must be 1 or more, and at most what `LARGEST` allows."""
    values = {name: getattr(config, name) for name in fields}
    wrong = [f"{name}={value}" for name, value in values.items() if min(_entries(value), default=0) < 1]
    if wrong:
        raise ConfigError(f"{_name(config)}: {', '.join(wrong)} must be 1 or more")
    _at_most_largest(config, values)


def _at_most_largest(config: object, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if max(_entries(value), default=0) > (largest := LARGEST.get(name, 2**24)):
            raise ConfigError(f"{_name(config)}: {name}={value} must be {largest} at most")
        if len(_entries(value)) > _MOST_ENTRIES:
            raise ConfigError(
                f"{_name(config)}: {name} has {len(value)} entries, but at most {_MOST_ENTRIES} are allowed"
            )


def _entries(value: Any) -> tuple[Any, ...]:
    """The entries of a field that holds a tuple, or its only value."""
    return value if isinstance(value, tuple) else (value,)  # pyright: ignore[reportUnknownVariableType]


def not_negative(config: object, *fields: str) -> None:
    """The fields, or the entries of each, must be 0 or more, and at most what `LARGEST` allows."""
    values = {name: getattr(config, name) for name in fields}
    wrong = [f"{name}={value}" for name, value in values.items() if any(entry < 0 for entry in _entries(value))]
    if wrong:
        raise ConfigError(f"{_name(config)}: {', '.join(wrong)} must be 0 or more")
    _at_most_largest(config, values)


def probability(config: object, *fields: str) -> None:
    """The fields must lie in [0, 1]; None is left alone."""
    wrong = [
        f"{name}={value}" for name in fields if (value := getattr(config, name)) is not None and not 0.0 <= value <= 1.0
    ]
    if wrong:
        raise ConfigError(f"{_name(config)}: {', '.join(wrong)} must lie between 0 and 1")


def divides(config: object, divisor: str, dividend: str) -> None:
    """The dividend must be a positive multiple of the divisor."""
    small, large = getattr(config, divisor), getattr(config, dividend)
    if small < 1 or large < 1 or large % small:
        raise ConfigError(f"{_name(config)}: {dividend}={large} must be a positive multiple of {divisor}={small}")
    positive(config, dividend)


def exactly_one(caller: str, **arguments: Any) -> None:
    """Exactly one of the arguments must be given."""
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            f"{caller}: exactly one of {' and '.join(arguments)} is needed, got {' and '.join(given) or 'none'}"
        )


def numbers(caller: str, name: str, value: Any) -> np.ndarray:
    """Any value but an array of the framework as a numpy array of numbers or booleans in native byte order.

    Raises:
        InputError: it holds something else, or its rows have different lengths.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{caller}: {name} has rows of different lengths; pad them to one") from None
    if array.dtype.kind not in "biufc" and array.dtype.name not in FLOATS:
        raise InputError(f"{caller}: {name} must hold numbers, but numpy reads it as {array.dtype.name}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def missing_argument(caller: str, name: str) -> InputError:
    """The error for an argument that is missing."""
    return InputError(f"{caller}: {name} is needed, got None")


def switch(caller: str, name: str, value: Any) -> None:
    """A switch must be True or False, or None where it is left open."""
    if value is not None and not isinstance(value, bool | np.bool_):
        raise InputError(f"{caller}: {name}={value!r}, but True or False is needed")


def at_least(caller: str, what: str, found: int, limit: int, field: str) -> None:
    """A size must not be below the config's."""
    if found < limit:
        raise InputError(f"{caller}: {what} is {found}, but {field}={limit}")


def counts(caller: str, **values: int | None) -> None:
    """Numbers that are given, such as batch_size, must be 1 or more."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise InputError(f"{caller}: {name}={value} must be 1 or more")


def has_tokens(caller: str, length: int) -> None:
    """Sequences must not be empty."""
    if length < 1:
        raise InputError(f"{caller}: the sequences have no tokens, but at least 1 is needed")


def has_pixels(caller: str, name: str, shape: Sequence[int]) -> None:
    """There must be images (…, C, Y, X), and they must not be empty."""
    *leading, _, height, width = shape
    if height < 1 or width < 1:
        raise InputError(f"{caller}: {name}' images have {height} x {width} pixels, but at least 1 x 1 is needed")
    if 0 in leading:
        raise InputError(f"{caller}: {name} has shape {tuple(shape)}, but at least one image is needed")


def no_frame(caller: str, name: str, samples: int, row: int) -> InputError:
    """The error for a row of a mask that leaves too few samples for a frame."""
    return InputError(f"{caller}: {name} leaves {samples} samples of row {row}, which make no frame; drop it")


def has_rows(caller: str, name: str, shape: Sequence[int]) -> None:
    """A batch must not be empty."""
    if shape[0] < 1:
        raise InputError(f"{caller}: {name} has shape {tuple(shape)}, but at least one row is needed")


def integer_dtype(caller: str, name: str, dtype: str) -> None:
    """Ids must be integers; the dtype is given by its name."""
    if not dtype.startswith(("int", "uint")):
        raise InputError(f"{caller}: {name} has dtype {dtype}, but ids must be integers")


def rank(caller: str, name: str, shape: Sequence[int], axes: str) -> None:
    """An array must have as many axes as the names in `axes`."""
    if len(shape) != len(axes.split(", ")):
        raise InputError(f"{caller}: {name} has shape {tuple(shape)}, but ({axes}) is needed")


def shape(caller: str, name: str, found: Sequence[int], wanted: Sequence[int], why: str = "") -> None:
    """An array must have exactly this shape."""
    if tuple(found) != tuple(wanted):
        raise InputError(f"{caller}: {name} has shape {tuple(found)}, but {tuple(wanted)} is needed{why}")


def targets(caller: str, name: str, found: Sequence[int], logits: Sequence[int], problem: str) -> None:
    """Multi-label and regression targets must have the logits' shape; a regression's may lack a last axis of 1."""
    flat = problem == "regression" and logits[-1] == 1 and tuple(found) == tuple(logits[:-1])
    if not flat and tuple(found) != tuple(logits):
        raise InputError(f"{caller}: {name} has shape {tuple(found)}, but {tuple(logits)} is needed for a {problem}")


def at_most(caller: str, what: str, found: int, limit: int, field: str) -> None:
    """A size must not exceed the config's."""
    if found > limit:
        raise InputError(f"{caller}: {what} is {found}, but {field}={limit}")


def ids_in_range(caller: str, name: str, bounds: tuple[int, int] | None, size: int, table: str) -> None:
    """Ids must be at least 0 and below `size`.

    Args:
        caller: the prefix of the error, such as "BertModel".
        name: the argument.
        bounds: the smallest and largest id, or None if they are not known (under jit).
        size: number of rows in the table.
        table: the config's name for the size.
    """
    for value in bounds or ():
        if not 0 <= value < size:
            raise InputError(f"{caller}: {name} holds {value}, but {table} allows 0 to {size - 1}")


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value has an annotation's type; booleans don't count as numbers, and floats must be finite."""
    origin = get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        return any(has_type(value, choice) for choice in get_args(hint))
    if origin is Literal:
        return value in get_args(hint) and not isinstance(value, bool)
    if origin is tuple:
        items = get_args(hint)
        if not isinstance(value, tuple):
            return False
        members = cast(tuple[Any, ...], value)
        if items[-1] is Ellipsis:
            return all(has_type(item, items[0]) for item in members)
        return len(members) == len(items) and all(has_type(*pair) for pair in zip(members, items, strict=True))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """The description of an annotation in error messages."""
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is types.UnionType or origin is typing.Union:
        return " or ".join(describe_type(choice) for choice in get_args(hint))
    if hint is type(None):
        return "null"
    if hint is float:
        return "finite float"
    return hint.__name__ if isinstance(hint, type) else str(hint)
