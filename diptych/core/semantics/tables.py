"""Tables of numbers that depend on sizes alone: NumPy computes them once, and compilers take them as constants."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import numpy as np

Sizes = ParamSpec("Sizes")
Table = Callable[..., np.ndarray]

_tables: list[Table] = []
_listeners: list[Callable[[Table], object]] = []


def each_table(listener: Callable[[Table], object]) -> None:
    """Calls the listener with every function that `cached_table` decorates, present and future.

    The torch backend tells torch.compile not to trace them, which follows NumPy and ignores caches.
    """
    _listeners.append(listener)
    for look_up in _tables:
        listener(look_up)


def cached_table(make: Callable[Sizes, np.ndarray]) -> Callable[Sizes, np.ndarray]:
    """Decorates a function of sizes, which are integers, so that it computes each table once."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def look_up(*sizes: Sizes.args, **named: Sizes.kwargs) -> np.ndarray:
        return cached(*sizes, **named)

    _tables.append(look_up)
    for listener in _listeners:
        listener(look_up)
    return look_up
