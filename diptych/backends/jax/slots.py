"""The slots of a JAX model: its parameters by published name and layout.

The layout of a leaf follows only from the type of the layer that owns it; `core.checkpoint.slots` has the layouts, this
file the types.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from flax import nnx

from diptych.backends.jax import layers
from diptych.core.checkpoint.slots import FLAX_LEAVES, Kind, Slot, published_axes

KINDS: dict[type[nnx.Module], Kind] = {
    nnx.Linear: "linear",
    layers.LinearInOut: "linear_in_out",
    nnx.Conv: "conv",
    nnx.Embed: "embedding",
    nnx.LayerNorm: "norm",
    nnx.GroupNorm: "norm",
    nnx.RMSNorm: "norm",
    layers.BatchNorm: "norm",
}
"""Type of layer -> the kind of its kernel, embedding or scale; subclasses are looked up by their bases."""


def kind_of(module: nnx.Module) -> Kind:
    """The kind of a module's weight."""
    for base in type(module).__mro__:
        if base in KINDS:
            return KINDS[base]
    return "plain"


def modules(root: nnx.Module) -> Iterator[tuple[tuple[str | int, ...], nnx.Module]]:
    """Yields the path of every module and the module: parts in order of their names, and after them their owner.

    The same as `nnx.iter_modules`, which is several times slower because it visits every value too.
    """
    visited = set[int]()

    def visit(path: tuple[str | int, ...], node: Any) -> Iterator[tuple[tuple[str | int, ...], nnx.Module]]:
        if id(node) in visited:
            return
        visited.add(id(node))
        if isinstance(node, nnx.List | list | tuple):
            parts: Iterable[tuple[str | int, Any]] = enumerate(node)
        else:
            parts = sorted(node.items() if isinstance(node, dict) else vars(node).items())
        for name, part in parts:
            if isinstance(part, nnx.Module | list | tuple | dict):
                yield from visit((*path, name), part)
        if isinstance(node, nnx.Module):
            yield path, node

    yield from visit((), root)


def leaves(model: nnx.Module) -> dict[Slot, nnx.Variable[Any]]:
    """Every parameter's slot, with its variable, in order of path."""
    return dict(iterate(model))


def iterate(model: nnx.Module) -> Iterator[tuple[Slot, nnx.Variable[Any]]]:
    """Yields every parameter's slot and variable."""
    for owner, module in modules(model):
        kind = kind_of(module)
        for name, variable in vars(module).items():
            if not isinstance(variable, nnx.Param | layers.Buffer):
                continue
            own = kind if FLAX_LEAVES.get(kind) == name else "plain"
            if isinstance(variable, layers.Buffer):
                own = "buffer"
            path = ".".join(map(str, (*owner, "weight" if own in FLAX_LEAVES else name)))
            stored = variable.get_value().shape
            yield Slot(path, tuple(stored[axis] for axis in published_axes(own, len(stored))), own), variable
