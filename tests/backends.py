"""Both backends by name, and the mark of a test that is the same for each of them."""

from types import ModuleType

import pytest

import diptych.backends.jax
import diptych.backends.torch

BACKENDS: dict[str, ModuleType] = {"jax": diptych.backends.jax, "torch": diptych.backends.torch}
each_backend = pytest.mark.parametrize("backend", BACKENDS)
"""Runs a test with the name of each backend."""
