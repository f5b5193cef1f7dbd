"""The two backends by name, and the one rule by which one of them is chosen.

This module imports nothing but the standard library, so that `import diptych` stays light.
"""

import importlib.util
import os
import sys
from typing import Literal

from diptych.core.errors import InputError

BackendName = Literal["torch", "jax"]
"""In the order in which they are tried where either would do."""

PACKAGES: dict[BackendName, tuple[str, ...]] = {"torch": ("torch",), "jax": ("jax", "flax")}
"""The packages that must be installed for a backend; the first is the framework."""

Purpose = Literal["model", "result", "names"]
"""What a backend is chosen for.

"model": the caller is handed a model, so where both are installed the caller must choose.
"result": the caller is handed tokens or numbers that are the same from both, so the first that is installed serves.
"names": only parameters' names and shapes are looked at, so one that is imported already is preferred.
"""

ENVIRONMENT_VARIABLE = "DIPTYCH_BACKEND"

_default: BackendName | None = None


def installed() -> tuple[BackendName, ...]:
    """The backends whose packages are all installed, in the order of `BackendName`."""
    return tuple(
        name
        for name, packages in PACKAGES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    )


def set_default(name: str | None) -> None:
    """Sets the backend that `choose` returns where a call names none; None takes the choice back.

    Raises:
        InputError: the name is not that of a backend.
    """
    global _default
    _default = None if name is None else validate_name(name, "backend")


def validate_name(name: str, argument: str) -> BackendName:
    """The name, if it is that of a backend.

    Raises:
        InputError: it is not; the message begins with the argument and lists the names.
    """
    for known in PACKAGES:
        if name == known:
            return known
    raise InputError(f"{argument}={name!r} is not known; known: {', '.join(sorted(PACKAGES))}")


def choose(purpose: Purpose, name: str | None = None, *, argument: str = "backend") -> BackendName:
    """The backend to use: the one named, else that of `diptych.use`, of DIPTYCH_BACKEND, or the only one installed.

    Args:
        purpose: settles what happens where none of these decides because both are installed.
        name: the caller's choice, if there is one.
        argument: what an error calls `name`.

    Raises:
        InputError: `name` or DIPTYCH_BACKEND is not the name of a backend.
        ImportError: neither backend is installed, or both are and the caller must choose.
    """
    if name is not None:
        return validate_name(name, argument)
    if _default is not None:
        return _default
    if variable := os.environ.get(ENVIRONMENT_VARIABLE):
        return validate_name(variable, ENVIRONMENT_VARIABLE)
    available = installed()
    if not available:
        raise ImportError(
            "neither JAX with Flax nor PyTorch is installed; pip install 'diptych[jax]' or 'diptych[torch]'"
        )
    if len(available) == 1 or purpose == "result":
        return available[0]
    if purpose == "names":
        imported: list[BackendName] = [backend for backend in available if PACKAGES[backend][0] in sys.modules]
        return (imported or available)[0]
    raise ImportError("JAX and PyTorch are both installed: choose with DIPTYCH_BACKEND or diptych.use('jax' | 'torch')")
