"""The classes of images: those that a classifier was trained on, or any that are described to CLIP in words."""

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from diptych.classification import (
    Classification,
    compile_function,
    label_probabilities,
    most_probable,
    softmax,
)  # fmt: skip
from diptych.core import backends, check
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.images.files import find_images, load_image_processor, read_batches
from diptych.text.files import OnError, Paths, beside_bars
from diptych.text.placement import loading_keywords

TEMPLATE = "a photo of {}"
"""What CLIP compares an image with; a label takes the place of the braces."""


def classify_images(
    directory: str | os.PathLike[str],
    images: Paths,
    *,
    labels: Sequence[str] = (),
    template: str | None = None,
    top: int | None = None,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    sharding: str | None = None,
    changes: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    show: Callable[[Classification], None] | None = None,
    on_error: OnError | None = None,
    progress: bool | None = None,
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    **options: Unpack[HubOptions],
) -> list[Classification]:
    """Loads a checkpoint with its processor, and gives each image a probability for each label.

    The labels of a classifier are those of its config. The probabilities of an image sum to 1, unless the config's
    problem_type is multi_label_classification, where each label has a probability of its own.

    Args:
        directory: the checkpoint's, or a name on the Hugging Face hub.
        images: paths of images, directories of images, or patterns such as "photos/*.jpg".
        labels: of a `CLIPModel`: what may be in the images, in words.
        template: of a `CLIPModel`: the text that describes an image, with {} for a label; by default "a photo of {}".
        top: the number of most probable labels that are returned; by default all.
        batch_size: the number of images that are read and classified at once.
        show: receives each result after its batch.
        on_error: receives the errors of images that cannot be read, which are left out; by default the first is raised.
        progress: whether to show a bar on stderr; by default if stderr is a terminal and there are several batches.
        backend, dtype, device, sharding, changes, ignore, ignore_config: as for `generate_text`; unknown fields of
            preprocessor_config.json are skipped by `ignore_config` too.
        options: see `HubOptions`.

    Returns:
        A classification of each image that can be read, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model does not classify images.
        CheckpointError, ConfigError: the checkpoint, its processor or the tokenizer of a `CLIPModel` cannot be loaded.
        ImportError: Pillow is not installed, or tokenizers, which a `CLIPModel` needs.
    """
    chosen = backends.choose("result", backend, argument="classify: backend")
    check.counts("classify", batch_size=batch_size, top=top)
    paths, directory = find_images(images), locate(directory, **options)
    ignore_config = tuple(ignore_config)
    texts = _descriptions(directory, architecture_of(directory, ignore_config), labels, template)
    processor = load_image_processor(directory, ignore_config)
    kept = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    loading = loading_keywords(chosen, options, device, sharding, changes, **kept)
    model = importlib.import_module(f"diptych.backends.{chosen}").load(directory, **loading)
    if texts:
        names, probabilities = list(labels), _zero_shot_classifier(chosen, model, processor(text=texts))
    else:
        names, probabilities = list(model.config.id2label.values()), label_probabilities(chosen, model)
    show, found = beside_bars(show), list[Classification]()
    for batch, pixels in read_batches(
        paths, processor.image_processor, batch_size, on_error=on_error, progress=progress
    ):
        for path, row in zip(batch, probabilities(pixel_values=pixels), strict=True):
            found.append(Classification(image=path, probabilities=most_probable(names, row, top)))
            if show is not None:
                show(found[-1])
    return found


def _descriptions(directory: Path, name: str, labels: Sequence[str], template: str | None) -> list[str]:
    """The texts that a CLIPModel compares an image with; none for a classifier.

    Raises:
        InputError: the class does neither, or labels are missing, given twice, or given to a classifier.
    """
    if "ForImageClassification" in name:
        if labels or template is not None:
            raise InputError(f"{directory}: {name} has labels of its own; only a CLIPModel takes labels and a template")
        return []
    if name != "CLIPModel":
        raise InputError(f"{directory}: {name} does not classify images; a CLIPModel or …ForImageClassification does")
    template = TEMPLATE if template is None else template
    if "{}" not in template:
        raise InputError(f"classify: template={template!r} has no {{}}, which each label replaces")
    if labels and not all(label.strip() for label in labels):
        raise InputError(f"classify: labels: one of {', '.join(labels)} is empty")
    if not labels:
        raise InputError(f"{directory}: a CLIPModel needs labels to choose from, such as 'a cat' and 'a dog'")
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise InputError(f"classify: labels: {', '.join(twice)} is given more than once")
    return [template.replace("{}", label) for label in labels]


def _zero_shot_classifier(backend: str, model: Any, encoded: Mapping[str, np.ndarray]) -> Callable[..., np.ndarray]:
    """The probabilities that encoded texts describe an image; the texts are read once."""
    scale = np.exp(np.float32(model.logit_scale.item()))
    texts = _unit(
        compile_function(backend, model, lambda model, **inputs: model.get_text_features(**inputs))(**encoded)
    )
    run = compile_function(backend, model, lambda model, **inputs: model.get_image_features(**inputs))
    return lambda **inputs: softmax(scale * (_unit(run(**inputs)) @ texts.T))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
