"""The operations on models that differ between frameworks; the rest is written once, in terms of these."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.tensors import TensorSource


class Hooks:
    """The methods that each backend's models implement."""

    @abstractmethod
    def _submodules(self) -> Iterable[tuple[str, Any]]:
        """Every module in the model with its path, the model itself included."""

    @abstractmethod
    def _leaves(self) -> dict[Slot, Any]:
        """The slots of all parameters and buffers, each with the object that holds its values."""

    @staticmethod
    @abstractmethod
    def _is_module(value: Any) -> bool:
        """Whether a value is a module of this backend's framework."""

    @staticmethod
    @abstractmethod
    def _slots_of(module: Any) -> list[Slot]:
        """The slots of any module, by path inside it."""

    @staticmethod
    @abstractmethod
    def _stored_axes(slot: Slot) -> tuple[int, ...]:
        """The axes of the published tensor in the order in which the backend stores them."""

    @staticmethod
    @abstractmethod
    def _put(slot: Slot, leaf: Any, values: np.ndarray, placement: Any) -> None:
        """Sets a parameter to an array in the stored layout; nothing else may refer to the array."""

    @staticmethod
    @abstractmethod
    def _placement(leaf: Any) -> Any:
        """A parameter's device or sharding, as `_put` takes it."""

    @staticmethod
    @abstractmethod
    def _dtype_name(leaf: Any) -> str:
        """The name of a parameter's dtype."""

    @staticmethod
    @abstractmethod
    def _is_frozen(leaf: Any) -> bool:
        """Whether a parameter is frozen."""

    @staticmethod
    @abstractmethod
    def _set_frozen(leaf: Any, frozen: bool) -> None:
        """Freezes a parameter, or makes it trainable again."""

    @abstractmethod
    def _record_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Records the new shapes of resized parameters."""

    @abstractmethod
    def _source(self, slot: Slot, leaf: Any) -> TensorSource:
        """A parameter as a tensor that can be read in the published layout.

        Raises:
            CheckpointError: it has no values.
        """

    @classmethod
    @abstractmethod
    def _siblings(cls) -> Callable[[str], Any]:
        """Finds a model class of this backend by name."""

    @abstractmethod
    def _like(self) -> Any:
        """An array or tensor with the dtype, and in torch the device, of the model's inputs."""

    def _sources(self) -> dict[str, TensorSource]:
        """Every parameter by published name, as a tensor that can be read in the published layout."""
        return {slot.path: self._source(slot, leaf) for slot, leaf in self._leaves().items()}
