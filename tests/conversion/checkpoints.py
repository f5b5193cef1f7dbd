"""Tiny checkpoints in the published PyTorch layout, the same bytes on every machine.

`record_flax.py` and the tests write them from the descriptions in `tests/families`, each in its own environment; so
only numpy and safetensors may be imported here and there. Every size in a config differs from the
others: a transposed or misplaced tensor cannot fit by chance.
"""

import hashlib
import json
from math import prod, sqrt
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.family import Config, Shapes, families, family_of

NAMES = tuple(sorted(name for family in families().values() for name in family.checkpoints))

# The Flax classes that wrote them.
FLAX_CLASSES = {name: f"Flax{name}" for name in NAMES if family_of(name).in_flax}
FLAX_CLASSES["BertLMHeadModel"] = "FlaxBertForCausalLM"


def config(name: str) -> Config:
    """The config.json of the checkpoint `name`, one of NAMES, with the fields that files on the hub have."""
    common: Config = {"architectures": [name], "torch_dtype": "float32", "transformers_version": "4.57.6"}
    return common | family_of(_known(name)).config(name)


def shapes(name: str) -> Shapes:
    """Every published tensor name of the checkpoint `name`, one of NAMES, with its shape."""
    return family_of(_known(name)).shapes(name)


def _known(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"checkpoints: name={name!r} must be one of {', '.join(NAMES)}.")
    return name


def values(name: str, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Draws the float32 values of one tensor: near normal, with standard deviation 0.05.

    Each is a sum of four 16-bit integers, so that nothing depends on numpy's distributions (which may change between
    versions) or on the machine's mathematics library: numpy promises the raw stream of Philox only.

    Args:
        name: the tensor's published name; with the seed it alone decides the values.
        shape: the tensor's shape.
        seed: draws another checkpoint of the same names.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(prod(shape))
    sums = np.asarray(words).reshape(-1, 1).view(np.uint16).sum(axis=1, dtype=np.int64)
    uniforms = (sums - 2 * 65_535) / 65_536  # a sum of four centred uniforms: variance 4 / 12
    return (0.05 * sqrt(3) * uniforms).astype(np.float32).reshape(shape)


def write(directory: Path, name: str, *, seed: int = 0) -> None:
    """Writes config.json and model.safetensors of the checkpoint `name` into a directory, made if absent."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(name), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {tensor: values(tensor, shape, seed=seed) for tensor, shape in shapes(name).items()}
    tensors |= family_of(name).constants(name)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
