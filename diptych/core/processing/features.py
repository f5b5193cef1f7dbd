"""What a processor returns: a model's inputs by name, as arrays of numpy or of a framework."""

import importlib
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np

from diptych.core.errors import InputError

Tensors = Literal["np", "pt", "jax"]
"""Arrays of numpy, PyTorch or JAX."""

_KINDS: dict[str, tuple[str, str, str]] = {
    "np": ("numpy", "asarray", "numpy"),
    "pt": ("torch", "from_numpy", "torch"),
    "jax": ("jax.numpy", "asarray", "jax"),
}
"""Kind -> the module, its function of a numpy array, and the extra that installs it."""


class Features(dict[str, Any]):
    """A model's inputs by name; `features.pixel_values` is `features["pixel_values"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} here; there is {', '.join(self) or 'nothing'}") from None

    def to_tensors(self, kind: Tensors | None) -> Self:
        """The same values as arrays of the kind; None leaves them as they are.

        Raises:
            InputError: the kind is unknown.
            ImportError: the framework is not installed.
        """
        convert = _converter(kind)
        return type(self)({name: convert(value) for name, value in self.items()})


def _converter(kind: Any) -> Callable[[np.ndarray], Any]:
    if kind is None:
        return lambda values: values
    if kind not in _KINDS:
        raise InputError(f"return_tensors={kind!r} is not known; known: {', '.join(_KINDS)}")
    module, function, extra = _KINDS[kind]
    try:
        return getattr(importlib.import_module(module), function)
    except ImportError:
        raise ImportError(
            f"return_tensors={kind!r} needs {module.partition('.')[0]}, which is not installed; "
            f"pip install 'diptych[{extra}]'"
        ) from None
