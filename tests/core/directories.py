"""Checkpoints of four tensors, and what a directory holds."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from diptych.core.checkpoint.tensors import digest, from_array


def tensors(value=1):
    """Four tensors of 40, 24, 4 and 16 bytes."""
    return {
        "encoder.layers.0.weight": from_array(np.arange(10, dtype=np.float32) + value),
        "encoder.layers.0.bias": from_array(np.full((2, 3), value, np.int32)),
        "logit_scale": from_array(np.asarray(value, np.float32)),
        "decoder.weight": from_array(np.full((2, 4), value, ml_dtypes.bfloat16)),
    }


def digests(checkpoint):
    """Shape, dtype and digest of each tensor."""
    return {name: (source.shape, source.dtype, digest(source)) for name, source in checkpoint.items()}


def names(directory):
    """The names of the files, in order."""
    return sorted(path.name for path in directory.iterdir())


def contents(directory):
    """The bytes of each file."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def write_shards(directory, shards, weight_map=None, index="model.safetensors.index.json"):
    """Make a sharded safetensors checkpoint by hand: file name -> names of its tensors."""
    directory.mkdir(exist_ok=True)
    for file, keys in shards.items():
        save_file({key: np.arange(3.0) for key in keys}, directory / file, metadata={"format": "pt"})
    whole = {key: file for file, keys in shards.items() for key in keys}
    (directory / index).write_text(json.dumps({"weight_map": whole if weight_map is None else weight_map}))
    return directory
