"""The names of the two backends, and the rule that chooses one of them.

This module imports nothing but the standard library, so that `import diptych` stays light.
"""

import importlib.util
import os
import sys
from typing import Literal

from diptych.core.errors import InputError

BackendName = Literal["torch", "jax"]
"""In the order in which they are tried if either would do."""

PACKAGES: dict[BackendName, tuple[str, ...]] = {"torch": ("torch",), "jax": ("jax", "flax")}
"""The packages that must be installed for a backend; the first is the framework."""

Purpose = Literal["model", "result", "names"]
"""What a backend is chosen for.

"model": the caller gets a model, so if both are installed the caller must choose.
"result": the caller gets tokens or numbers that are the same from both, so the first one installed is used.
"names": only parameters' names and shapes are needed, so a framework that is already imported is preferred.
"""

ENVIRONMENT_VARIABLE = "DIPTYCH_BACKEND"

_default: BackendName | None = None


def installed_backends() -> tuple[BackendName, ...]:
    """The backends whose packages are all installed, in the order of `BackendName`."""
    return tuple(
        name
        for name, packages in PACKAGES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    )


def set_default(name: str | None) -> None:
    """Sets the backend that `choose` returns if a call names none; None removes the default.

    Raises:
        InputError: there is no backend of this name.
    """
    global _default
    _default = None if name is None else validate_name(name, "backend")


def validate_name(name: str, argument: str) -> BackendName:
    """Returns the name of a backend, checked.

    Raises:
        InputError: there is no such backend; the message begins with the argument and lists the names.
    """
    for known in PACKAGES:
        if name == known:
            return known
    raise InputError(f"{argument}={name!r} is not known; known: {', '.join(sorted(PACKAGES))}")


def choose(purpose: Purpose, name: str | None = None, *, argument: str = "backend") -> BackendName:
    """The backend to use: the one named, else set by `diptych.use` or DIPTYCH_BACKEND, else the only one installed.

    Args:
        purpose: decides if nothing is named or set and both are installed.
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
    available = installed_backends()
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
