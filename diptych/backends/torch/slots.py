"""The slots of a torch model; its parameter names are the published ones."""

from torch import nn

from diptych.backends.torch import layers
from diptych.core.checkpoint.slots import Kind, Slot

KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    layers.LinearInOut: "linear_in_out",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Embedding: "embedding",
    nn.LayerNorm: "norm",
    nn.GroupNorm: "norm",
    nn.RMSNorm: "norm",
    layers.BatchNorm: "norm",
}
"""Type of layer -> the kind of its `weight`; subclasses are looked up by their bases."""


def kind_of(module: nn.Module) -> Kind:
    """The kind of a module's weight."""
    for base in type(module).__mro__:
        if base in KINDS:
            return KINDS[base]
    return "plain"


def leaves(model: nn.Module) -> dict[Slot, tuple[nn.Module, str]]:
    """Every parameter's slot, with the module that owns it and its name there, in order of definition."""
    found: dict[Slot, tuple[nn.Module, str]] = {}
    for owner, module in model.named_modules():
        kind = kind_of(module)
        prefix = f"{owner}." if owner else ""
        for name, parameter in module.named_parameters(recurse=False):
            own = kind if name == "weight" else "plain"
            found[Slot(f"{prefix}{name}", tuple(parameter.shape), own)] = (module, name)
        for name, buffer in module.named_buffers(recurse=False):
            found[Slot(f"{prefix}{name}", tuple(buffer.shape), "buffer")] = (module, name)
    return found
