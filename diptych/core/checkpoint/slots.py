"""Slots: the parameters of a model, by published name and layout, whichever backend holds them.

The published layout is PyTorch's. How Flax holds a tensor follows from the kind of layer that owns it, in the one table
below: the JAX backend's models and the Flax msgpack files both follow it, but for one kind of layer.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "linear_in_out", "conv", "embedding", "norm", "plain", "buffer"]
"""What a parameter is: a layer's weight by type of layer, plain (biases, free parameters), or what nothing trains.

"linear_in_out" is GPT-2's linear layer (Conv1D in its published code), whose weight is published as (in, out).
"""

FLAX_LEAVES: dict[Kind, str] = {
    "linear": "kernel",
    "linear_in_out": "kernel",
    "conv": "kernel",
    "embedding": "embedding",
    "norm": "scale",
}
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
        """The path in the tree of a Flax msgpack file, joined by dots."""
        owner, _, leaf = self.path.rpartition(".")
        return f"{owner}.{FLAX_LEAVES[self.kind]}" if leaf == "weight" and self.kind in FLAX_LEAVES else self.path

    @property
    def flax_shape(self) -> tuple[int, ...]:
        """The shape in the tree of a Flax msgpack file."""
        return tuple(self.shape[axis] for axis in tree_axes(self.kind, len(self.shape)))


def flax_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The axes of the published tensor in the order in which a layer of Flax, so a JAX model, holds them.

    A "linear_in_out" weight is published as Flax holds a linear layer's.
    """
    if kind == "linear":  # (out, in) -> (in, out)
        return (1, 0)
    if kind == "conv":  # (out, in, spatial…) -> (spatial…, in, out)
        return (*range(2, rank), 1, 0)
    return tuple(range(rank))


def published_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The inverse of `flax_axes`: the axes that a layer of Flax holds, in published order."""
    return inverse(flax_axes(kind, rank))


def tree_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The axes of the published tensor in the order in which the tree of a Flax msgpack file has them."""
    if kind == "linear_in_out":  # (in, out) -> (out, in): the Flax classes of transformers held it the other way round
        return (1, 0)
    return flax_axes(kind, rank)


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order that undoes an order of axes."""
    return tuple(axes.index(axis) for axis in range(len(axes)))
