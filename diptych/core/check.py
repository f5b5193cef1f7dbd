"""Checks that configs and calls share; each raises one error that names the field or argument, found and wanted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core.dtypes import FLOATS
from diptych.core.errors import ConfigError, InputError


def _name(config: object) -> str:
    return type(config).__name__


LARGEST: dict[str, int] = dict.fromkeys(["num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers"], 10_000)
"""The largest values that a config may give, 2**24 for other sizes; no published one comes near."""


def positive(config: object, *fields: str) -> None:
    """The fields must be 1 or more, and no more than a model can have."""
    values = {name: getattr(config, name) for name in fields}
    wrong = [f"{name}={value}" for name, value in values.items() if value < 1]
    if wrong:
        raise ConfigError(f"{_name(config)}: {', '.join(wrong)} must be 1 or more")
    for name, value in values.items():
        if value > (largest := LARGEST.get(name, 2**24)):
            raise ConfigError(f"{_name(config)}: {name}={value} must be {largest} at most")


def not_negative(config: object, *fields: str) -> None:
    """The fields must be 0 or more."""
    wrong = [f"{name}={getattr(config, name)}" for name in fields if getattr(config, name) < 0]
    if wrong:
        raise ConfigError(f"{_name(config)}: {', '.join(wrong)} must be 0 or more")


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


def exactly_one(where: str, **arguments: Any) -> None:
    """Exactly one of the arguments must be given."""
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            f"{where}: exactly one of {' and '.join(arguments)} is needed, got {' and '.join(given) or 'none'}"
        )


def numbers(where: str, name: str, value: Any) -> np.ndarray:
    """What isn't an array of the framework, as a numpy array of numbers or booleans in the machine's byte order.

    Raises:
        InputError: it holds something else, or its rows differ in length.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{where}: {name} has rows of different lengths; pad them to one") from None
    if array.dtype.kind not in "biufc" and array.dtype.name not in FLOATS:
        raise InputError(f"{where}: {name} must hold numbers, but numpy reads it as {array.dtype.name}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def needed(where: str, name: str) -> InputError:
    """The error for an argument that is missing."""
    return InputError(f"{where}: {name} is needed, got None")


def at_least(where: str, what: str, found: int, limit: int, field: str) -> None:
    """A size must reach what the config says."""
    if found < limit:
        raise InputError(f"{where}: {what} is {found}, but {field}={limit}")


def has_tokens(where: str, length: int) -> None:
    """A text must have a token."""
    if length < 1:
        raise InputError(f"{where}: the texts have no tokens, but 1 at least is needed")


def integer_dtype(where: str, name: str, dtype: str) -> None:
    """Ids must be integers; the dtype is given by its name."""
    if not dtype.startswith(("int", "uint")):
        raise InputError(f"{where}: {name} has dtype {dtype}, but ids must be integers")


def rank(where: str, name: str, shape: Sequence[int], axes: str) -> None:
    """An array must have as many axes as the names in `axes`."""
    if len(shape) != len(axes.split(", ")):
        raise InputError(f"{where}: {name} has shape {tuple(shape)}, but ({axes}) is needed")


def shape(where: str, name: str, found: Sequence[int], wanted: Sequence[int], why: str = "") -> None:
    """An array must have exactly this shape."""
    if tuple(found) != tuple(wanted):
        raise InputError(f"{where}: {name} has shape {tuple(found)}, but {tuple(wanted)} is needed{why}")


def targets(where: str, name: str, found: Sequence[int], logits: Sequence[int], problem: str) -> None:
    """Labels of several classes at once have the logits' shape; those of a regression may lack a last axis of 1."""
    flat = problem == "regression" and logits[-1] == 1 and tuple(found) == tuple(logits[:-1])
    if not flat and tuple(found) != tuple(logits):
        raise InputError(f"{where}: {name} has shape {tuple(found)}, but {tuple(logits)} is needed for a {problem}")


def at_most(where: str, what: str, found: int, limit: int, field: str) -> None:
    """A count must not exceed what the config provides for."""
    if found > limit:
        raise InputError(f"{where}: {what} is {found}, but {field}={limit}")


def ids_in_range(where: str, name: str, bounds: tuple[int, int] | None, size: int, table: str) -> None:
    """Ids must be at least 0 and below `size`.

    Args:
        where: what the error names first.
        name: the argument.
        bounds: smallest and largest id, or None where the values cannot be seen (under jit).
        size: number of rows in the table.
        table: what sets the size.
    """
    for value in bounds or ():
        if not 0 <= value < size:
            raise InputError(f"{where}: {name} holds {value}, but {table} allows 0 to {size - 1}")
