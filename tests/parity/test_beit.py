"""BEiT where transformers 5.23 fails or is no reference: oblong grids of patches, and calls that it doesn't check."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers.models.beit import modeling_beit

import diptych.backends.jax
import diptych.backends.torch
from diptych.conversion import parity
from diptych.core.errors import InputError
from diptych.core.models.beit import BeitConfig
from tests.family import Case
from tests.parity.test_models import compare_in_both, compare_in_torch

RANDOM = np.random.default_rng(3)


def bias_of_each_pair(self: Any, window_size: tuple[int, int], *_: Any, **__: Any) -> Tensor:
    """In place of 5.23's, which takes the rows of an oblong table for columns: the bias looked up pair by pair."""
    (rows, columns), table = self.window_size, self.relative_position_bias_table
    image = table[:-3].unflatten(0, (2 * rows - 1, 2 * columns - 1)).permute(2, 0, 1)
    rows, columns = window_size
    image = F.interpolate(image[None], (2 * rows - 1, 2 * columns - 1), mode="bilinear")[0]
    places = [None, *itertools.product(range(rows), range(columns))]  # the class token has no place

    def bias(query: Any, key: Any) -> Tensor:
        if query is None or key is None:
            return table[-3] if key is not None else table[-2] if query is not None else table[-1]
        return image[:, query[0] - key[0] + rows - 1, query[1] - key[1] + columns - 1]

    return torch.stack([torch.stack([bias(query, key) for key in places]) for query in places]).permute(2, 0, 1)[None]


def resampled_positions(self: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
    """In place of 5.23's, which takes the table for a square."""
    rows, columns = (size // self.patch_size for size in self.patch_embeddings.image_size)
    image = self.position_embeddings[0, 1:].unflatten(0, (rows, columns)).permute(2, 0, 1)[None]
    image = F.interpolate(image, (height // self.patch_size, width // self.patch_size), mode="bicubic")
    return torch.cat((self.position_embeddings[:, :1], image.flatten(2).mT), 1)


@pytest.mark.parametrize("size", [(13, 24), (17, 9)])
def test_an_oblong_grid(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of the config's own grid of 3 x 6 patches, whose last row of pixels belongs to none, and of another."""
    monkeypatch.setattr(modeling_beit.BeitRelativePositionBias, "forward", bias_of_each_pair)
    monkeypatch.setattr(modeling_beit.BeitEmbeddings, "interpolate_pos_encoding", resampled_positions)
    config = transformers.AutoConfig.for_model(
        "beit", image_size=(13, 24), patch_size=4, num_channels=2, hidden_size=15, num_attention_heads=3,
        intermediate_size=14, num_hidden_layers=2, vocab_size=5, use_relative_position_bias=True,
        use_shared_relative_position_bias=True, use_absolute_position_embeddings=True,
    )  # fmt: skip
    case = Case("BeitModel", config, {"pixel_values": RANDOM.standard_normal((2, 2, *size))})
    compare_in_torch(case, tmp_path)
    if size != config.image_size:
        compare_in_both(case, tmp_path)


def test_parity_compares_every_module() -> None:
    """Also the biases, which 5.23 has elsewhere in memory than in files."""
    config: Any = transformers.AutoConfig.for_model(
        "beit", image_size=8, patch_size=4, num_channels=2, hidden_size=15, num_attention_heads=3, intermediate_size=14,
        num_hidden_layers=1, vocab_size=5, use_relative_position_bias=True, use_shared_relative_position_bias=True,
        use_mask_token=True,
    )  # fmt: skip
    report = parity(transformers.BeitForMaskedImageModeling(config))
    assert report.passed, str(report)
    assert report.matched == 1.0
    bias, compared = "relative_position_bias", {point.name for point in report.points if point.kind == "module"}
    assert {f"beit.encoder.{bias}", f"beit.encoder.layer.0.attention.attention.{bias}", "layernorm"} <= compared


CONFIG = BeitConfig(
    image_size=(8, 12), patch_size=(4, 3), num_channels=2, hidden_size=15, num_attention_heads=3, intermediate_size=14,
    num_hidden_layers=1, vocab_size=9, use_mask_token=True,
)  # fmt: skip
IMAGES = np.zeros((2, 2, 8, 12), np.float32)
each_backend = pytest.mark.parametrize("backend", [diptych.backends.jax, diptych.backends.torch])


@each_backend
def test_calls_that_are_refused(backend: Any) -> None:
    model = backend.BeitModel(CONFIG, seed=None)
    other = backend.BeitForImageClassification(CONFIG.replace(use_mask_token=False), seed=None)
    calls: list[tuple[Any, dict[str, Any], str]] = [
        (model, {}, "BeitModel: pixel_values is needed, got None"),
        (model, {"pixel_values": IMAGES[:, :1]},
         r"BeitModel: pixel_values has shape \(2, 1, 8, 12\), but \(2, 2, 8, 12\) is needed"),
        (model, {"pixel_values": IMAGES[:, :, :3]}, "BeitModel: pixel_values' height is 3, but patch_size=4"),
        (model, {"pixel_values": IMAGES, "bool_masked_pos": np.zeros((2, 9), bool)},
         r"BeitModel: bool_masked_pos has shape \(2, 9\), but \(2, 8\) is needed, a number for each patch"),
        (other.beit, {"pixel_values": IMAGES, "bool_masked_pos": np.zeros((2, 8), bool)},
         r"BeitModel: bool_masked_pos is given, but the model has no mask token; .*use_mask_token=True"),
    ]  # fmt: skip
    for called, call, message in calls:
        with pytest.raises(InputError, match=f"^{message}"):
            called(**call)
    with pytest.raises(TypeError, match="BeitForImageClassification's call has no keyword bool_masked_pos; it takes"):
        other(pixel_values=IMAGES, bool_masked_pos=np.zeros((2, 8), bool))


@each_backend
def test_labels_of_masked_patches_that_are_refused(backend: Any) -> None:
    boundary = backend.BeitForMaskedImageModeling(CONFIG)._boundary()
    masked = np.zeros((2, 8), bool)
    masked[0, 3] = masked[1, 2:4] = True
    for labels, message in (
        ([3, 4], r"labels has shape \(2,\), but \(3,\) is needed, one for each masked patch"),
        ([[3, 4, 5]], r"labels has shape \(1, 3\), but \(masked patches\) is needed"),
        ([3.0, 4.0, 5.0], "labels has dtype float64, but ids must be integers"),
        ([3, 4, 9], "labels holds 9, but the output allows 0 to 8"),
    ):
        with pytest.raises(InputError, match=f"^BeitForMaskedImageModeling: {message}"):
            boundary.patch_labels("labels", labels, np.zeros((2, 8, 9)), boundary.xp.asarray(masked))


def test_labels_need_masked_patches() -> None:
    model = diptych.backends.torch.BeitForMaskedImageModeling(CONFIG)
    with pytest.raises(InputError, match=r"^BeitForMaskedImageModeling: bool_masked_pos is needed, got None"):
        model(IMAGES, labels=[3])
