"""The published names of what a model of transformers has under other names in memory."""

import itertools
import sys
from collections.abc import Mapping
from typing import Any

from diptych.core.checkpoint.dialects import respell


def published_names(model: Any) -> dict[str, str]:
    """Name in memory -> name in files, in its present spelling, of parameters, buffers and modules.

    A module has the name below which files have exactly its parameters. Where modules are grouped in another way than
    in files, some have none, and are left out.
    """
    tensors = _tensor_names(model)
    found = dict(tensors)
    for path, module in model.named_modules():
        names = {tensors[f"{path}.{name}"]: name for name in module.state_dict()} if path else {}
        # the name that is left of a tensor's without its name in the module; or else what all of them begin with
        same = {name.removesuffix(f".{inner}") for name, inner in names.items() if name.endswith(f".{inner}")}
        columns = zip(*(name.split(".") for name in names), strict=False)
        shared = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
        for candidate in (*same, ".".join(column[0] for column in shared)):
            if candidate and names.keys() == {name for name in tensors.values() if name.startswith(f"{candidate}.")}:
                found[path] = candidate
                break
    return found


def _tensor_names(model: Any) -> Mapping[str, str]:
    names = [*model.state_dict()]
    loading = sys.modules.get("transformers.core_model_loading")
    if loading is None:  # before transformers 5, names in memory are those in files
        return {name: respell(name) for name in names}
    import torch

    marks = {name: torch.tensor([index]) for index, name in enumerate(names)}
    saved: dict[str, Any] = loading.revert_weight_conversion(model, marks)
    return {names[int(mark)]: respell(name) for name, mark in saved.items()}
