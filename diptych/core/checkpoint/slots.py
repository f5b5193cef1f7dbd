"""Slots: the parameters of a model, by published name and layout, whichever backend holds them.

The published layout is PyTorch's. How Flax holds a tensor follows from the kind of layer that owns it, in the one table
below: the JAX backend's models and the Flax msgpack files both follow it.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "conv", "embedding", "norm", "plain"]
"""What a parameter is: a layer's weight by type of layer, or plain (biases, free parameters)."""

FLAX_LEAVES: dict[Kind, str] = {"linear": "kernel", "conv": "kernel", "embedding": "embedding", "norm": "scale"}
"""How Flax calls the leaf that is published as "weight"."""


@dataclass(frozen=True)
class Slot:
    """One parameter.

    Attributes:
        path: published name.
        shape: published shape.
        kind: what owns it.
    """

    path: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def flax_path(self) -> str:
        """The path in a Flax tree, joined by dots."""
        owner, _, leaf = self.path.rpartition(".")
        return f"{owner}.{FLAX_LEAVES[self.kind]}" if leaf == "weight" and self.kind in FLAX_LEAVES else self.path

    @property
    def flax_shape(self) -> tuple[int, ...]:
        """The shape in a Flax tree."""
        return tuple(self.shape[axis] for axis in flax_axes(self.kind, len(self.shape)))


def flax_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The axes of the published tensor in the order in which Flax has them."""
    if kind == "linear":  # (out, in) -> (in, out)
        return (1, 0)
    if kind == "conv":  # (out, in, spatial…) -> (spatial…, in, out)
        return (*range(2, rank), 1, 0)
    return tuple(range(rank))


def published_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The inverse of `flax_axes`: the axes of the Flax tensor in published order."""
    forward = flax_axes(kind, rank)
    return tuple(forward.index(axis) for axis in range(rank))
