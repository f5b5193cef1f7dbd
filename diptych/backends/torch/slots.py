"""The slots of a torch model: its parameters by published name, which are its own."""

from torch import Tensor, nn

from diptych.core.checkpoint.slots import Kind, Slot

KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Embedding: "embedding",
    nn.LayerNorm: "norm",
}
"""Type of layer -> what its `weight` is; looked up along the type's bases."""


def leaves(model: nn.Module) -> dict[Slot, tuple[nn.Module, str]]:
    """Every parameter's slot, with the module that owns it and its name there, in order of definition."""
    found: dict[Slot, tuple[nn.Module, str]] = {}
    for owner, module in model.named_modules():
        kind = next((KINDS[base] for base in type(module).__mro__ if base in KINDS), "plain")
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{owner}.{name}" if owner else name
            found[Slot(path, tuple(parameter.shape), kind if name == "weight" else "plain")] = (module, name)
    return found


def tensors(model: nn.Module) -> dict[Slot, Tensor]:
    """Every parameter's slot, with its tensor."""
    return {slot: getattr(module, name) for slot, (module, name) in leaves(model).items()}
