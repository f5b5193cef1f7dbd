"""Slots: the parameters of a model by published name and layout, in either backend.

The published layout is PyTorch's. The layout in Flax depends on the kind of layer that owns a tensor, as in the table
below. The JAX backend's models, Orbax checkpoints and Flax msgpack files follow it, the last but for one kind of layer.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "linear_in_out", "conv", "embedding", "norm", "plain", "buffer"]
"""The kind of a parameter: a layer's weight by type of layer, plain (biases, free parameters), or a buffer.

"linear_in_out" is GPT-2's linear layer (Conv1D in its published code), whose weight is published as (in, out).
"""

Layout = Literal["published", "flax", "nnx"]
"""The names and the axes of a checkpoint's tensors: published; a Flax msgpack file's; or a JAX model's of diptych.

The last two differ only in the axes of "linear_in_out".
"""

FLAX_LEAVES: dict[Kind, str] = {
    "linear": "kernel",
    "linear_in_out": "kernel",
    "conv": "kernel",
    "embedding": "embedding",
    "norm": "scale",
}
"""Flax's name of the leaf that is published as "weight"."""


@dataclass(frozen=True)
class Slot:
    """One parameter.

    Attributes:
        path: published name.
        shape: published shape.
        kind: its kind.
    """

    path: str
    shape: tuple[int, ...]
    kind: Kind

    def name_in(self, layout: Layout) -> str:
        """The name in a layout: published, or the path in a tree, joined by dots."""
        return self.path if layout == "published" else self.flax_path

    def shape_in(self, layout: Layout) -> tuple[int, ...]:
        """The shape in a layout."""
        return tuple(self.shape[axis] for axis in axes_in(layout, self.kind, len(self.shape)))

    @property
    def flax_path(self) -> str:
        """The path in a tree of Flax, joined by dots."""
        owner, _, leaf = self.path.rpartition(".")
        return f"{owner}.{FLAX_LEAVES[self.kind]}" if leaf == "weight" and self.kind in FLAX_LEAVES else self.path


def flax_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The axes of the published tensor in the order of Flax layers, and so of JAX models.

    A "linear_in_out" weight is published in Flax's layout.
    """
    if kind == "linear":  # (out, in) -> (in, out)
        return (1, 0)
    if kind == "conv":  # (out, in, spatial…) -> (spatial…, in, out)
        return (*range(2, rank), 1, 0)
    return tuple(range(rank))


def published_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The inverse of `flax_axes`: the axes of a Flax layer, in published order."""
    return inverse(flax_axes(kind, rank))


def tree_axes(kind: Kind, rank: int) -> tuple[int, ...]:
    """The axes of the published tensor in the order of the tree in a Flax msgpack file."""
    if kind == "linear_in_out":  # (in, out) -> (out, in): transposed in the Flax classes of transformers
        return (1, 0)
    return flax_axes(kind, rank)


def axes_in(layout: Layout, kind: Kind, rank: int) -> tuple[int, ...]:
    """The axes of the published tensor in the order of a layout."""
    if layout == "published":
        return tuple(range(rank))
    return tree_axes(kind, rank) if layout == "flax" else flax_axes(kind, rank)


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The inverse permutation of axes."""
    return tuple(axes.index(axis) for axis in range(len(axes)))
