"""What encoders of images do where transformers 5.23 fails: oblong tables of positions, masked patches of any image."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import diptych.backends.torch
from diptych.conversion import parity
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS, made
from tests.parity.writers import array

SIZES = {"hidden_size": 12, "intermediate_size": 17, "num_hidden_layers": 1, "num_attention_heads": 3}
# class -> the table of positions, and the rows of it that are no patch's
TABLES = {
    "CLIPVisionModel": ("vision_model.embeddings.position_embedding.weight", 1),
    "DeiTModel": ("embeddings.position_embeddings", 2),
    "ViTModel": ("embeddings.position_embeddings", 1),
}
PIXELS = np.random.default_rng(3).standard_normal((2, 3, 23, 12))


@each_backend
@pytest.mark.parametrize("name", TABLES)
def test_oblong_positions_are_resampled_as_such(backend: str, name: str) -> None:
    """Compared with a model of the other size, whose table is PyTorch's interpolation of the first one's."""
    path, special = TABLES[name]
    config = made(name, **SIZES, image_size=[12, 20], patch_size=[4, 5], initializer_range=0.5)
    model = diptych.backends.torch.__getattr__(name)(config, seed=1, dtype="float64")
    table = torch.from_numpy(model._sources()[path].read()).reshape(-1, 12)
    grid = table[special:].reshape(1, 3, 4, 12).permute(0, 3, 1, 2)
    resampled = torch.nn.functional.interpolate(grid, (5, 2), mode="bicubic").flatten(2)[0].mT
    other = diptych.backends.torch.__getattr__(name)(config.replace(image_size=(23, 12)), seed=1, dtype="float64")
    with torch.no_grad():
        parameter = dict(other.named_parameters())[path]
        parameter.copy_(torch.cat([table[:special], resampled]).reshape(parameter.shape))
    expected = other(PIXELS)
    with jax.enable_x64(True):
        ours = BACKENDS[backend].__getattr__(name)(config, seed=1, dtype="float64")
        found = ours(PIXELS, interpolate_pos_encoding=True)
        assert_close(array(found.last_hidden_state), array(expected.last_hidden_state), name=name)


@pytest.mark.parametrize("name", ["ViTForMaskedImageModeling", "DeiTForImageClassificationWithTeacher"])
def test_a_checkpoint_is_compared_with_transformers(name: str, tmp_path: Path) -> None:
    diptych.backends.torch.__getattr__(name)(CONFIGS[name], seed=1).save_pretrained(tmp_path)
    report = parity(tmp_path, against="transformers", backend="torch")
    assert report.passed and report.matched == 1.0, str(report)


@each_backend
def test_masked_patches_of_an_oblong_image(backend: str) -> None:
    """The rest of the image is left out of the loss, and what stands in masked patches is not seen."""
    name, masked = "ViTForMaskedImageModeling", np.array([[0, 1, 0, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 1]])
    config = made(name, **SIZES, image_size=10, patch_size=5, encoder_stride=5, initializer_range=0.5)
    with jax.enable_x64(True):
        model: Any = BACKENDS[backend].__getattr__(name)(config, seed=1, dtype="float64")
        found = model(PIXELS, bool_masked_pos=masked, interpolate_pos_encoding=True)
        made_pixels = array(found.reconstruction)
        assert made_pixels.shape == (2, 3, 20, 10)
        errors = [
            np.abs(PIXELS - np.pad(made_pixels, [(0, 0), (0, 0), (0, 3), (0, 2)]))[
                row, :, 5 * (patch // 2) : 5 * (patch // 2) + 5, 5 * (patch % 2) : 5 * (patch % 2) + 5
            ]
            for row, patch in zip(*np.nonzero(masked), strict=True)
        ]
        assert_close(array(found.loss), np.sum(errors) / (5 * 25 + 1e-5) / 3, name="loss")
        changed = PIXELS.copy()
        changed[0, :, 5:10, :5] += 1.0  # patch 2, which is seen
        again = model(changed, bool_masked_pos=masked, interpolate_pos_encoding=True)
        assert np.abs(array(again.reconstruction) - made_pixels)[0].max() > 1e-3
        changed = PIXELS.copy()
        changed[0, :, :5, 5:10] += 1.0  # patch 1, which is not
        for kind in (bool, np.int32, np.float64):
            given = {"bool_masked_pos": masked.astype(kind), "interpolate_pos_encoding": True}
            assert_close(array(model(changed, **given).reconstruction), made_pixels, name="reconstruction")
