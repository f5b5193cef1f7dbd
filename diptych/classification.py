"""Labels with probabilities: what classifiers say about images and recordings."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The labels of an image or a recording.

    Attributes:
        image: the path of the image; None of a recording.
        audio: the path of the recording; None of an image.
        probabilities: each label with its probability, most probable first.
        damage: why samples are missing at the end of the recording; None if it is whole.
    """

    image: str | None = None
    audio: str | None = None
    probabilities: tuple[tuple[str, float], ...]
    damage: str | None = None

    @property
    def path(self) -> str:
        """The path of the image or of the recording."""
        return self.image or self.audio or ""

    def to_json(self) -> str:
        """One JSON object on one line."""
        fields = (("image", self.image), ("audio", self.audio), ("damage", self.damage))
        origin = {name: value for name, value in fields if value is not None}
        labels = [{"label": label, "probability": value} for label, value in self.probabilities]
        return json.dumps({**origin, "labels": labels}, ensure_ascii=False)


def most_probable(labels: Sequence[str], row: np.ndarray, top: int | None) -> tuple[tuple[str, float], ...]:
    """The labels with the probabilities of a row (labels,), most probable first; only the first `top`, if given."""
    order: list[int] = np.argsort(-row, kind="stable")[:top].tolist()
    return tuple((labels[index], float(row[index])) for index in order)


def compile_function(backend: str, model: Any, function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A function of a model's inputs that returns what `function(model, **inputs)` computes, in float32."""
    if backend == "jax":
        import jax

        compiled = jax.jit(function)
        return lambda **inputs: np.asarray(compiled(model, **inputs), np.float32)
    import torch

    def run(**inputs: Any) -> np.ndarray:
        with torch.inference_mode():
            return function(model, **inputs).float().cpu().numpy()

    return run


def label_probabilities(backend: str, model: Any, **switches: bool) -> Callable[..., np.ndarray]:
    """A function from a classifier's inputs to the probability of each label (B, labels).

    Those of a row sum to 1, unless the config's problem_type is multi_label_classification.

    Args:
        backend: jax or torch.
        model: of the backend.
        switches: further keywords of its calls.

    Raises:
        InputError: the model has no labels.
    """
    if model.config.num_labels < 1:
        raise InputError(f"classify: num_labels={model.config.num_labels}, so the model has no classifier")
    run = compile_function(backend, model, lambda model, **inputs: model(**inputs, **switches).logits)
    if model.config.problem_type == "multi_label_classification":
        return lambda **inputs: 1 / (1 + np.exp(-run(**inputs).astype(np.float64)))
    return lambda **inputs: softmax(run(**inputs))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (B, labels) as probabilities that sum to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
