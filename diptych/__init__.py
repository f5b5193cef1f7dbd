"""diptych: the same transformer models in Flax NNX and in PyTorch, from one config, with converted weights and proof.

Model and config classes are attributes of this module. Models come from the chosen backend: the one set with
`use("jax")` or `use("torch")`, or by the environment variable DIPTYCH_BACKEND, or else the only one installed. Configs
need neither. Importing diptych imports neither framework.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diptych.core import backends as _backends

if TYPE_CHECKING:
    from diptych.backends.torch import load as load
    from diptych.core.generation.options import GenerationConfig as GenerationConfig
    from diptych.processing import load_processor as load_processor

__version__ = "0.1.0"
__all__ = ["GenerationConfig", "__version__", "backend", "load", "load_processor", "use"]
_PACKAGES = ("backends", "classification", "conversion", "core", "cli", "demo", "images", "processing", "sound", "text")


def use(name: str) -> ModuleType:
    """Chooses the backend of diptych's classes from now on, and returns it.

    Raises:
        InputError: the name is neither "jax" nor "torch".
        ImportError: the backend's framework is not installed; the message names the extra to install.
    """
    module = importlib.import_module(f"diptych.backends.{_backends.validate_name(name, 'backend')}")
    _backends.set_default(name)
    return module


def backend() -> ModuleType:
    """The chosen backend; after the first call, only `use` changes it.

    Raises:
        ImportError: none is chosen, and neither or both are installed.
        InputError: DIPTYCH_BACKEND names no backend.
    """
    return use(_backends.choose("model"))


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name in _PACKAGES:
        raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    if name == "GenerationConfig":
        from diptych.core.generation.options import GenerationConfig

        return GenerationConfig
    if name == "load_processor":
        from diptych.processing import load_processor

        return load_processor
    if name != "load":
        from diptych.core import registry

        if (config_class := registry.config_names().get(name)) is not None:
            return config_class
        if name not in registry.architectures():
            raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    return getattr(backend(), name)


def __dir__() -> list[str]:
    from diptych.core import registry

    return sorted([*__all__, *registry.architectures(), *registry.config_names()])
