"""diptych: the same transformer models in Flax NNX and in PyTorch, from one config, with converted weights and proof.

Model and config classes are found here by name and come from the chosen backend: the one named by `use("jax")` or
`use("torch")`, or by the environment variable DIPTYCH_BACKEND, or else the one that is installed. Importing diptych
imports neither.
"""

import importlib
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.backends.torch import load as load
    from diptych.core.generation.options import GenerationConfig as GenerationConfig

__version__ = "0.1.0"
__all__ = ["GenerationConfig", "__version__", "backend", "load", "use"]

_PACKAGES = {"jax": "JAX", "torch": "PyTorch"}
_chosen: str | None = None


def use(name: str) -> ModuleType:
    """Chooses the backend whose classes diptych gives from now on, and returns it.

    Raises:
        ValueError: the name is neither "jax" nor "torch".
        ImportError: the backend's framework is not installed; the message names the extra to install.
    """
    global _chosen
    if name not in _PACKAGES:
        raise ValueError(f"backend={name!r} is not known; known: {', '.join(_PACKAGES)}")
    module = importlib.import_module(f"diptych.backends.{name}")
    _chosen = name
    return module


def backend() -> ModuleType:
    """The chosen backend.

    Raises:
        ImportError: none is chosen, and none or both frameworks are installed.
        ValueError: DIPTYCH_BACKEND names no backend.
    """
    if _chosen is not None:
        return importlib.import_module(f"diptych.backends.{_chosen}")
    name = os.environ.get("DIPTYCH_BACKEND")
    if name:
        if name not in _PACKAGES:
            raise ValueError(f"DIPTYCH_BACKEND={name!r} is not known; known: {', '.join(_PACKAGES)}")
        return use(name)
    installed = [name for name in _PACKAGES if importlib.util.find_spec(name) is not None]
    if len(installed) == 1:
        return use(installed[0])
    if installed:
        raise ImportError(
            "JAX and PyTorch are both installed: choose with DIPTYCH_BACKEND or diptych.use('jax' | 'torch')"
        )
    raise ImportError("neither JAX nor PyTorch is installed; pip install 'diptych[jax]' or 'diptych[torch]'")


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name in ("backends", "conversion", "core", "cli", "demo", "text"):
        raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    if name == "GenerationConfig":
        from diptych.core.generation.options import GenerationConfig

        return GenerationConfig
    if name != "load":
        from diptych.core import registry

        if name not in registry.architectures() and name not in registry.config_names():
            raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    return getattr(backend(), name)


def __dir__() -> list[str]:
    from diptych.core import registry

    return sorted([*__all__, *registry.architectures(), *registry.config_names()])
