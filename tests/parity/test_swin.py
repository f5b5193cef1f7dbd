"""What Swin does where transformers 5.23 fails or remembers an earlier call: compared with a model in which it doesn't.

Such a model has the same parameters, but for those that are computed here: tables of biases cut to a smaller window,
and positions resampled by PyTorch.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from torch import Tensor, nn

import diptych.backends.jax
import diptych.backends.torch
from diptych.core.errors import InputError
from diptych.core.models.vision_encoder_decoder import VisionEncoderDecoderConfig
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity import oracle
from tests.parity.tiny import made
from tests.parity.writers import array

FIELDS: dict[str, Any] = {
    "embed_dim": 12,
    "depths": [2],
    "num_heads": [3],
    "patch_size": 2,
    "window_size": 3,
    "num_channels": 1,
}


def theirs(**fields: Any) -> Any:
    """A model of transformers with random weights."""
    return oracle.built("SwinModel", transformers.SwinConfig(**{**FIELDS, **fields}))


def alike(model: Any, changed: dict[str, Tensor], **fields: Any) -> Any:
    """Another one with the same weights, but for the changed ones."""
    other = theirs(**{**model.config.to_dict(), **fields})
    other.load_state_dict({**model.state_dict(), **changed})
    return other


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((2, 1, height, width))


def assert_states(backend: str, directory: Path, expected: Any, images: np.ndarray, **switches: Any) -> None:
    """Our model of a directory returns what theirs does."""
    with jax.enable_x64(True):
        model = BACKENDS[backend].SwinModel.from_pretrained(directory)
        found = array(model(images, **switches).last_hidden_state)
    assert_close(found, expected.last_hidden_state.detach().numpy(), name="last_hidden_state")


@each_backend
def test_a_grid_smaller_than_the_window_is_one_row_of_smaller_windows(backend: str, tmp_path: Path) -> None:
    """5.23 fails, since its bias is that of the whole window: the smaller window's table is the middle of it."""
    model = theirs(window_size=4)
    middle = {
        name: table.unflatten(0, (7, 7))[1:-1, 1:-1].flatten(0, 1)
        for name, table in model.state_dict().items()
        if name.endswith("relative_position_bias_table")
    }
    smaller = alike(model, middle, window_size=3)
    images = pixels(6, 10)  # 3 x 5 patches
    with pytest.raises(RuntimeError, match="must match the size"):
        model(torch.from_numpy(images))
    assert_states(backend, oracle.saved(model, tmp_path), smaller(torch.from_numpy(images)), images)


def test_an_image_does_not_change_what_the_next_one_gives(tmp_path: Path) -> None:
    """5.23 keeps it in the model that a grid was no larger than a window, and never shifts windows again."""
    model, images = theirs(), torch.from_numpy(pixels(9, 13))
    expected = model(images)
    model(torch.from_numpy(pixels(6, 6)))
    assert not torch.allclose(model(images).last_hidden_state, expected.last_hidden_state)
    ours = diptych.backends.torch.SwinModel.from_pretrained(oracle.saved(model, tmp_path))
    ours(pixels(6, 6))
    assert_close(array(ours(images).last_hidden_state), array(expected.last_hidden_state), name="last_hidden_state")


@pytest.mark.parametrize(
    ("backend", "image_size", "table", "images", "grid"),
    [
        ("torch", [12, 8], (6, 4), (12, 8), None),  # its own size
        ("torch", [12, 8], (6, 4), (8, 18), (4, 9)),  # which 5.23 takes for a square
        ("torch", 12, (6, 6), (11, 15), (6, 8)),
        ("torch", 13, (6, 6), (13, 13), (7, 7)),  # an incomplete patch has no position of its own
        ("jax", 13, (6, 6), (13, 13), (7, 7)),
    ],
)
def test_positions_of_any_grid(
    backend: str, image_size: Any, table: tuple[int, int], images: Any, grid: tuple[int, int] | None, tmp_path: Path
) -> None:
    model = theirs(image_size=image_size, use_absolute_embeddings=True)
    positions = model.embeddings.position_embeddings.detach().unflatten(1, table).permute(0, 3, 1, 2)
    rows, columns = grid or table
    if grid is not None:
        positions = nn.functional.interpolate(positions, grid, mode="bicubic", align_corners=False)
    other = alike(
        model,
        {"embeddings.position_embeddings": positions.flatten(2).mT},
        image_size=[2 * rows, 2 * columns],
    )
    given = pixels(*images)
    padded = np.pad(given, [(0, 0), (0, 0), (0, 2 * rows - images[0]), (0, 2 * columns - images[1])])
    switches = {} if images == tuple(np.broadcast_to(image_size, 2)) else {"interpolate_pos_encoding": True}
    assert_states(backend, oracle.saved(model, tmp_path), other(torch.from_numpy(padded)), given, **switches)


@each_backend
def test_donut_has_positions_too(backend: str, tmp_path: Path) -> None:
    """5.23 fails, since its table has a row for a class token, which is no patch."""
    fields = {**FIELDS, "image_size": 12, "use_absolute_embeddings": True}
    model = oracle.built("DonutSwinModel", transformers.DonutSwinConfig(**fields))
    images = torch.from_numpy(pixels(12, 12))
    with pytest.raises(RuntimeError, match="must match the size"):
        model(images)
    oracle.saved(model, tmp_path)
    model.embeddings.position_embeddings = nn.Parameter(model.embeddings.position_embeddings[:, 1:])
    with jax.enable_x64(True):
        ours = BACKENDS[backend].DonutSwinModel.from_pretrained(tmp_path)
        for switches in ({}, {"interpolate_pos_encoding": True}):
            found = array(ours(images.numpy(), **switches).last_hidden_state)
            assert_close(found, array(model(images).last_hidden_state), name="last_hidden_state")


def test_an_oblong_image_is_reconstructed() -> None:
    """5.23 takes the last grid for a square. Pixels beyond the image don't count, and all of a stage's patches do."""
    name, images, masked = "SwinForMaskedImageModeling", pixels(11, 14), np.random.default_rng(0).random((2, 42)) < 0.5
    config = made(name, **FIELDS | {"depths": [1, 1], "num_heads": [3, 2]}, encoder_stride=4)
    model = diptych.backends.torch.SwinForMaskedImageModeling(config, seed=1, dtype="float64")
    found = model(images, bool_masked_pos=masked)
    states = model.swin(images, bool_masked_pos=masked).last_hidden_state
    blocks = states @ model.decoder[0].weight[:, :, 0, 0].mT + model.decoder[0].bias
    expected = array(blocks).reshape(2, 3, 4, 4, 4).swapaxes(2, 3).reshape(2, 1, 12, 16)
    assert_close(array(found.reconstruction), expected, name="reconstruction")
    counted = masked.reshape(2, 1, 6, 7).repeat(2, 2).repeat(2, 3)[:, :, :11]
    errors = np.abs(images - expected[:, :, :11, :14])[counted]
    assert_close(array(found.loss), errors.sum() / (counted.sum() + 1e-5), name="loss")
    with jax.enable_x64(True):
        twin = diptych.backends.jax.SwinForMaskedImageModeling(config, seed=1, dtype="float64")
        call = jax.jit(lambda model: model(images, bool_masked_pos=masked))
        for field, value in call(twin).items():
            assert_close(array(value), array(found[field]), name=field)
    coarse = diptych.backends.torch.SwinForMaskedImageModeling(config.replace(encoder_stride=8))
    with pytest.raises(
        InputError, match=r"cover \(12, 14\) pixels, but .* encoder_stride \(24, 32\) are reconstructed"
    ):
        coarse(images, masked)


def test_the_encoder_of_a_composite(tmp_path: Path) -> None:
    """Its file has what transformers reads besides parameters, too."""
    decoder = made("GPT2Model", n_embd=8, n_layer=1, n_head=2, vocab_size=11, is_decoder=True, add_cross_attention=True)
    config = VisionEncoderDecoderConfig(encoder=made("DonutSwinModel", **FIELDS), decoder=decoder)
    model = diptych.backends.torch.VisionEncoderDecoderModel(config)
    model.save_pretrained(tmp_path)
    call = {"pixel_values": pixels(9, 13), "decoder_input_ids": np.array([[1, 2], [3, 4]])}
    assert torch.equal(type(model).from_pretrained(tmp_path)(**call).logits, model(**call).logits)
    tables = {
        name: table for name, table in load_file(tmp_path / "model.safetensors").items() if table.dtype.kind == "i"
    }
    layer = "encoder.encoder.layers.0.blocks"
    assert set(tables) == {f"{layer}.{index}.attention.self.relative_position_index" for index in range(2)}


def test_images_that_have_no_pixels_or_need_resampling() -> None:
    model = diptych.backends.torch.SwinModel(made("SwinModel", **FIELDS, image_size=12, use_absolute_embeddings=True))
    with pytest.raises(
        InputError, match=r"^SwinModel: pixel_values has shape \(2, 1, 14, 12\), but \(2, 1, 12, 12\) is"
    ):
        model(pixels(14, 12))
    with pytest.raises(
        InputError, match=r"^SwinModel: pixel_values' images have 0 x 12 pixels, but at least 1 x 1 is needed$"
    ):
        model(pixels(0, 12), interpolate_pos_encoding=True)
