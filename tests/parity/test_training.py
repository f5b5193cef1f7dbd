"""Training: the same steps from the same weights lead to the same weights in both backends."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

import diptych.backends.jax
import diptych.backends.torch
from diptych.core.sound_config import SoundEncoderConfig
from tests.assertions import assert_close
from tests.parity.tiny import changed, inputs

STEPS = 20
# optax and torch disagree in their defaults (weight_decay 1e-4 and 1e-2), so each is said. The epsilon is large on
# purpose: where a gradient is zero but for rounding, as a key bias's, Adam would turn the rounding into steps.
RATE, BETAS, EPSILON, DECAY = 1e-2, (0.9, 0.98), 1e-3, 0.05

SUBJECTS = changed("trained")


def batches(name: str) -> list[dict[str, np.ndarray]]:
    """A batch for every step, of few words, padded, with labels of which some do not count; or of recordings."""
    random = np.random.default_rng(2)
    found = []
    if isinstance(SUBJECTS[name], SoundEncoderConfig):
        return [recordings(name, random) for _ in range(STEPS)]
    for _ in range(STEPS):
        ids, mask = random.integers(2, 6, (3, 6)), np.ones((3, 6), int)
        mask[1, 4:] = 0
        ids[1, 4:] = SUBJECTS[name].pad_token_id or 0
        found.append({"input_ids": ids, "attention_mask": mask, "labels": np.where(mask == 1, ids, -100)})
    return found


def recordings(name: str, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Recordings of few tones, the second one padded, with masked frames and features, and a text for each."""
    batch, tones = inputs(name), random.integers(1, 4, (2, 2))
    pitch = np.repeat(tones, 20, axis=1) * 0.7
    samples = np.sin(np.arange(40) * pitch) * batch["attention_mask"]
    masked = {"mask_time_indices": random.random((2, 6)) < 0.2, "mask_feature_indices": random.random((2, 12)) < 0.2}
    return {"input_values": samples, "attention_mask": batch["attention_mask"], "labels": tones, **masked}


def trained_in_torch(name: str) -> tuple[dict[str, np.ndarray], list[float]]:
    model = getattr(diptych.backends.torch, name)(SUBJECTS[name], seed=4, dtype="float64")
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    losses = []
    for batch in batches(name):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        for parameter in model.parameters():  # torch would leave alone what has no gradient, which optax decays
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
        losses.append(loss.item())
    return {path: source.read() for path, source in model._sources().items()}, losses


def trained_in_jax(name: str) -> tuple[dict[str, np.ndarray], list[float]]:
    with jax.enable_x64(True):
        model = getattr(diptych.backends.jax, name)(SUBJECTS[name], seed=4, dtype="float64")
        optimizer = optax.adamw(RATE, *BETAS, eps=EPSILON, weight_decay=DECAY)

        def step(model: Any, state: Any, batch: Any) -> Any:
            loss, gradients = jax.value_and_grad(lambda model: model(**batch).loss)(model)
            updates, state = optimizer.update(gradients, state, model)
            return optax.apply_updates(model, updates), state, loss

        compiled, state, losses = jax.jit(step), optimizer.init(model), []
        for batch in batches(name):
            model, state, loss = compiled(model, state, batch)
            losses.append(float(loss))
        return {path: source.read() for path, source in model._sources().items()}, losses


@pytest.mark.parametrize("name", SUBJECTS)
def test_twenty_steps_lead_to_the_same_weights(name: str) -> None:
    weights, losses = trained_in_torch(name)
    twins, found = trained_in_jax(name)
    assert_close(found, losses, name="losses")
    assert losses[-1] < losses[0]
    assert twins.keys() == weights.keys()
    before = getattr(diptych.backends.torch, name)(SUBJECTS[name], seed=4, dtype="float64")._sources()
    largest = max(np.abs(values).max() for values in weights.values())
    for path, values in weights.items():
        assert_close(twins[path], values, largest=largest, name=path)
    moved = [path for path, values in weights.items() if np.abs(values - before[path].read()).max() > 1e-3]
    assert len(moved) > 0.6 * len(weights)
