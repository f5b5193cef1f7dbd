"""What most comparisons need: float64 in JAX."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX has float64 during the test."""
    with jax.enable_x64(True):
        yield
