"""Tiny models of every class that is known, and what their parameters hold, bit for bit."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from diptych.core import registry
from diptych.core.checkpoint.dialects import respell
from diptych.core.checkpoint.directory import open_checkpoint
from diptych.core.checkpoint.tensors import digest, from_array
from diptych.core.config import ModelConfig
from tests.conversion import checkpoints
from tests.family import family_of

ARCHITECTURES = tuple(registry.architectures())
CONSTANT = "relative_position_index"
"""What Swin's files hold besides parameters."""
PREFIXES = {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}  # 5.23 writes these files flat


def config_class(architecture: str) -> type[ModelConfig]:
    return registry.families()[registry.architectures()[architecture]].classes[architecture]


def config_fields(architecture: str) -> dict[str, Any]:
    """The fields of a config.json, without architectures."""
    fields = checkpoints.config(family_of(architecture).configs[config_class(architecture).__name__])
    if architecture.endswith(("LMHeadModel", "ForCausalLM", "GenerationDecoder")):
        fields |= {"is_decoder": True}
        fields |= {"is_encoder_decoder": False} if "is_encoder_decoder" in fields else {"add_cross_attention": True}
    return {name: value for name, value in fields.items() if name not in ("architectures", "torch_dtype")}


def config_of(architecture: str) -> ModelConfig:
    return config_class(architecture).from_dict(config_fields(architecture))


def theirs(architecture: str, **options: Any) -> Any:
    """A model of transformers with random weights."""
    fields = config_fields(architecture)
    fields.pop("transformers_version")
    config = transformers.AutoConfig.for_model(**fields)
    return getattr(transformers, architecture)(config, **options)


def example_of(architecture: str) -> dict[str, Any]:
    """Small inputs that reach every part of a model."""
    family = registry.families()[registry.architectures()[architecture]]
    return family.example(config_of(architecture), architecture, np.random.default_rng(0))


def inputs_of(model: Any) -> dict[str, Any]:
    """The same for a model of transformers, in its dtype."""
    architecture = type(model).__name__
    given = example_of(architecture)
    if architecture.endswith("EncoderDecoderModel"):
        del given["labels"]  # given them, transformers warns of how it once took its loss
    tensors = {name: torch.as_tensor(value) for name, value in given.items()}
    inputs = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    # where BART's decoder stands alone, transformers makes a cache for as many layers as the encoder has
    return inputs | {"use_cache": False} if architecture.endswith("BartForCausalLM") else inputs


def digests(model: Any) -> dict[str, str]:
    """The digest of every parameter of one of our models, by published name and in the published layout."""
    return {name: digest(source) for name, source in model._sources().items()}


def files_of(directory: Path) -> dict[str, str]:
    """Every file below a directory, with its digest."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def edit_config(directory: Path, **fields: Any) -> None:
    """Changes fields of a config.json; None removes one."""
    path = directory / "config.json"
    data = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def holds(outer: Any, inner: Any) -> bool:
    """Whether a config has all that another has, and so have its parts."""
    if isinstance(outer, dict) and isinstance(inner, dict):
        return all(name in outer and holds(outer[name], value) for name, value in inner.items())
    return outer == inner


def bits(array: np.ndarray) -> np.ndarray:
    """The bits of floating numbers, for which every NaN is equal to itself only."""
    return array.view(f"u{array.dtype.itemsize}")


def stored(directory: Path, architecture: str = "") -> dict[str, str]:
    """The digests of a file's tensors by published name."""
    prefix = PREFIXES.get(architecture, "")
    tensors = load_file(directory / "model.safetensors")
    tensors = {respell(name): array for name, array in tensors.items()}  # the present names of weight norm
    return {
        name if name.startswith(("text_proj", "visual_proj", prefix)) else prefix + name: digest(from_array(array))
        for name, array in tensors.items()
        if not name.endswith(CONSTANT)
    }


def rewrite(directory: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Replaces the tensors of a directory's only file by what `change` makes of them, in place or as it returns."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors = change(tensors) or tensors
    save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, metadata={"format": "pt"})


def arrays(directory: Path) -> dict[str, np.ndarray]:
    """The tensors of a directory's files, of any format."""
    return {name: source.read() for name, source in open_checkpoint(directory).tensors.items()}
