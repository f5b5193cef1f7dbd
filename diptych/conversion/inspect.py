"""The contents of a checkpoint directory, from its headers alone."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Unpack

from diptych.core.checkpoint.dialects import matches, respell
from diptych.core.checkpoint.directory import open_checkpoint
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.matching import names_of
from diptych.core.registry import architectures, families, read_config, within


@dataclass(frozen=True)
class Tensor:
    """One tensor as it is stored.

    Attributes:
        name: as in the file; for a Flax tree, the path joined by dots.
        shape: as in the file; kernels are transposed in Flax.
        nbytes: its size in bytes.
        role: "parameter", or "buffer" if it is not a parameter.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    role: str


@dataclass(frozen=True)
class Inspection:
    """The contents of a checkpoint directory.

    Attributes:
        format: "safetensors", "torch", "flax-msgpack" or "orbax".
        architecture: the class that config.json names, if it is known here.
        named: every class that config.json names.
        config_class: the class that reads config.json.
        files: the weight files, with their sizes in bytes.
        tensors: all tensors, in the order of the files.
    """

    directory: str
    format: str
    architecture: str | None
    named: tuple[str, ...]
    config_class: str
    files: dict[str, int]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        """The number of entries in all stored parameters."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors if tensor.role == "parameter")

    @property
    def nbytes(self) -> int:
        """The size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """Each dtype with the number of tensors that have it."""
        names = [tensor.dtype for tensor in self.tensors]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return {**asdict(self), "parameters": self.parameters, "nbytes": self.nbytes, "dtypes": self.dtypes}

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2)


def inspect_checkpoint(
    name_or_path: str | os.PathLike[str], *, ignore_config: Iterable[str] = (), **options: Unpack[HubOptions]
) -> Inspection:
    """The contents of a checkpoint directory; only headers are read, and no framework is needed.

    Args:
        name_or_path: a directory, or a name on the Hugging Face hub.
        ignore_config: unknown fields of config.json to skip.
        options: see `HubOptions`.

    Raises:
        CheckpointError: the weights are missing or damaged.
        ConfigError: config.json is missing or asks for an unsupported feature.
    """
    directory = locate(name_or_path, **options)
    config = read_config(directory, ignore=names_of("ignore_config", ignore_config))
    checkpoint = open_checkpoint(directory, variant=options.get("variant"))
    named = config.architectures or ()
    architecture = next((name for name in named if name in architectures()), None)
    buffers = {
        pattern
        for family in families().values()
        if any(config.part(wanted) is not None for wanted in family.classes.values())
        for pattern in within(family, config).ignored
    }
    tensors = tuple(
        Tensor(
            name=name,
            shape=tensor.shape,
            dtype=tensor.dtype.name,
            nbytes=tensor.nbytes,
            role="buffer" if matches(respell(name, flax=checkpoint.layout != "published"), buffers) else "parameter",
        )
        for name, tensor in checkpoint.tensors.items()
    )
    return Inspection(
        directory=str(directory),
        format=checkpoint.format,
        architecture=architecture,
        named=named,
        config_class=type(config).__name__,
        files={str(file.relative_to(directory)): file.stat().st_size for file in checkpoint.files},
        tensors=tensors,
    )
