"""Inputs of a model that are read from image files, for parity checks."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import numpy as np

from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.checkpoint.matching import names_of
from diptych.core.errors import InputError
from diptych.core.processing.image_processor import ImageProcessor
from diptych.core.random import generator
from diptych.core.registry import architectures, families, read_config


def image_inputs(
    name_or_path: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[Any],
    *,
    seed: int = 0,
    ignore_config: Iterable[str] = (),
    **options: Unpack[HubOptions],
) -> dict[str, Any]:
    """The inputs of a checkpoint's model with pixels from images; other inputs are random, as in `parity`.

    Args:
        name_or_path: the checkpoint's directory, with its preprocessor_config.json, or its name on the hub.
        images: one or more, as an `ImageProcessor` takes them; each is a row of the batch. If the model reads several
            for each text, they are distributed in order, and the first ones are repeated for the last text.
        seed: keys the random inputs.
        ignore_config: unknown fields of the two configs to skip.
        options: see `HubOptions`.

    Raises:
        InputError: the model reads no images, or an image cannot be read.
        CheckpointError, ConfigError: the checkpoint does not say how images are processed, or a config is invalid.
        ImportError: Pillow is not installed.
    """
    directory, ignore = locate(name_or_path, only=CONFIGS, **options), names_of("ignore_config", ignore_config)
    name = architecture_of(directory, ignore)
    config = read_config(directory, ignore=ignore)
    family = families()[architectures()[name]]
    part = config.part(family.classes[name])
    inputs = family.example(config if part is None else part, name, generator(seed, "inputs"))
    if "pixel_values" not in inputs:
        raise InputError(f"{directory}: {name} reads no images; it reads {', '.join(inputs)}")
    pixels = ImageProcessor.from_pretrained(directory, ignore_config=ignore).preprocess(images)["pixel_values"]
    shape = np.shape(inputs["pixel_values"])
    if len(shape) > pixels.ndim:  # (batch, images, channels, height, width)
        texts = -(-len(pixels) // shape[1])
        pixels = pixels[np.arange(texts * shape[1]) % len(pixels)].reshape(texts, shape[1], *pixels.shape[1:])
    rows = np.arange(len(pixels))
    return {
        name: pixels if name == "pixel_values" else value[rows % len(value)] if np.ndim(value) else value
        for name, value in inputs.items()
    }
