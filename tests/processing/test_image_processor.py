"""Pixels are bit for bit those of the Pillow processors of transformers 5.23."""

import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil
from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from diptych.core.interfaces import ImageProcessor as Protocol
from diptych.core.processing.image_config import ImageProcessorConfig
from diptych.core.processing.image_processor import ImageProcessor
from tests.processing.drawings import SIZES, page, photo, pixels

THEIRS: dict[str, Any] = {
    "BEiT": BeitImageProcessorPil,
    "CLIP": CLIPImageProcessorPil,
    "DeiT": DeiTImageProcessorPil,
    "Donut": DonutImageProcessorPil,
    "Nougat": NougatImageProcessorPil,
    "ViT": ViTImageProcessorPil,
}
WIDE, TALL = {"height": 64, "width": 97}, {"height": 93, "width": 60}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("BEiT", "CLIP", "DeiT", "ViT")),
    *(("ViT", {"resample": filter, "size": WIDE}) for filter in range(6)),
    ("CLIP", {"size": {"shortest_edge": 51}, "crop_size": {"height": 60, "width": 43}}),
    ("BEiT", {"do_center_crop": True, "size": WIDE, "crop_size": TALL}),
    ("DeiT", {"do_rescale": False, "size": WIDE, "crop_size": WIDE}),
    ("DeiT", {"do_normalize": False, "size": WIDE, "crop_size": WIDE}),
    ("ViT", {"do_rescale": False, "do_normalize": False, "size": TALL}),
    ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [0.3, 0.7, 0.2], "image_std": [0.11, 0.3, 0.7], "size": TALL}),
    *(
        (name, {"size": size, "do_align_long_axis": turns})
        for name in ("Donut", "Nougat")
        for size in (WIDE, TALL)
        for turns in (False, True)
    ),
    ("Donut", {"size": TALL, "do_resize": False}),
    ("Nougat", {"size": WIDE, "do_crop_margin": False, "resample": 1}),
]


def pair(name: str, **fields: Any) -> tuple[Any, ImageProcessor]:
    """transformers' processor, and ours of its config."""
    theirs = THEIRS[name](**fields)
    return theirs, ImageProcessor(ImageProcessorConfig.from_dict({**theirs.to_dict(), **fields}))


def expected(theirs: Any, images: Any, **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.stack([np.asarray(image) for image in theirs(images, **options)["pixel_values"]])


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_pixels_are_those_of_transformers(name: str, fields: dict[str, Any]) -> None:
    theirs, ours = pair(name, **fields)
    images = [photo(*size) for size in SIZES if name != "Donut" or size != (7, 130)]
    images += [page(70, 120), page(90, 43), Image.new("RGB", (31, 40), (90, 90, 90))]
    assert isinstance(ours, Protocol)
    assert_same(ours(images).pixel_values, expected(theirs, images))


def test_arrays_of_every_layout_are_the_image() -> None:
    theirs, ours = pair("CLIP")
    bytes_ = pixels(40, 57)
    wanted = expected(theirs, bytes_)
    floats = (bytes_ / 255).astype(np.float32)
    layouts: list[Any] = [bytes_, bytes_.astype(np.int64), bytes_.astype(np.float32), torch.tensor(bytes_), floats]
    layouts += [bytes_.transpose(2, 0, 1), torch.tensor(bytes_).permute(2, 0, 1), bytes_[None], [[bytes_]]]
    for layout in layouts:
        assert_same(ours(layout).pixel_values, wanted)
    assert_same(ours(np.stack([bytes_] * 2)).pixel_values, np.concatenate([wanted] * 2))
    # floats between 0 and 1 are not rescaled again
    assert_same(ours(floats).pixel_values, expected(theirs, floats, do_rescale=False))
    small = pixels(3, 4)  # whose axes do not say where the channels are
    assert_same(ours(small).pixel_values, expected(theirs, small))
    last = {"input_data_format": "channels_last"}
    assert_same(ours(small, **last).pixel_values, expected(theirs, small, **last))


def test_alpha_and_grey_and_palettes_are_put_into_colour() -> None:
    theirs, ours = pair("CLIP")
    clear = Image.fromarray(pixels(40, 57, 4), "RGBA")
    images = [
        clear,
        clear.convert("LA"),
        clear.convert("L"),
        clear.convert("1"),
        clear.convert("CMYK"),
        clear.convert("P"),
    ]
    images += [clear.convert("RGB").quantize(16), clear.convert("YCbCr"), clear.convert("HSV")]
    palette = clear.convert("RGB").quantize(16)
    palette.info["transparency"] = 3
    for image in [*images, palette]:
        assert_same(ours(image).pixel_values, expected(theirs, image))
    for array in (pixels(40, 57, 4), pixels(40, 57, 1)):
        assert_same(ours(array).pixel_values, expected(theirs, array))
    assert_same(ours(pixels(40, 57, 1)[..., 0]).pixel_values, ours(pixels(40, 57, 1)).pixel_values)
    # transformers' ViT crashes there
    _, vit = pair("ViT", size=WIDE)
    assert_same(vit(clear.convert("L")).pixel_values, vit(clear.convert("L").convert("RGB")).pixel_values)


def test_one_mean_makes_grey_images() -> None:
    theirs, ours = pair("ViT", image_mean=[0.4], image_std=[0.3], size=WIDE)
    grey = photo(40, 57).convert("L")
    assert_same(ours(photo(40, 57)).pixel_values, expected(theirs, grey))
    assert ours(grey).pixel_values.shape == (1, 1, 64, 97)


def test_a_file_is_turned_upright_and_a_pillow_image_is_not(tmp_path: Path) -> None:
    _, ours = pair("ViT", size=WIDE)
    upright = photo(40, 57)
    exif = Image.Exif()
    for orientation, turned in (
        (3, upright.transpose(Image.Transpose.ROTATE_180)),
        (6, upright.transpose(Image.Transpose.ROTATE_90)),
        (8, upright.transpose(Image.Transpose.ROTATE_270)),
    ):
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        turned.save(path, exif=exif)
        assert_same(ours(path).pixel_values, ours(upright).pixel_values)
        assert_same(ours(str(path)).pixel_values, ours(upright).pixel_values)
        with Image.open(path) as opened:
            assert_same(ours(opened).pixel_values, ours(turned).pixel_values)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    _, ours = pair("ViT", size=WIDE)
    grey = pixels(40, 57, 1)[..., 0]
    path = tmp_path / "deep.png"
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(path)
    assert_same(ours(path).pixel_values, ours(grey).pixel_values)
    for wide in (grey.astype(np.int32), grey.astype(np.int32) * 256 + 7, (grey / 255).astype(np.float32)):
        assert_same(ours(Image.fromarray(wide)).pixel_values, ours(grey).pixel_values)


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    _, ours = pair("ViT", size=WIDE)
    frames = [photo(40, 57, seed=seed).quantize(32) for seed in range(3)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert_same(ours(path).pixel_values, ours(frames[0].convert("RGB")).pixel_values)


def test_tensors_of_every_kind() -> None:
    _, ours = pair("ViT", size=WIDE)
    wanted = ours(photo(40, 57)).pixel_values
    assert type(wanted) is np.ndarray
    for kind, name in (("np", "numpy"), ("pt", "torch"), ("jax", "jax")):
        found = ours(photo(40, 57), return_tensors=kind)
        assert list(found) == ["pixel_values"] and found.pixel_values is found["pixel_values"]
        assert type(found.pixel_values).__module__.split(".")[0] in (name, "jaxlib")
        assert_same(np.asarray(found.pixel_values), wanted)
    with pytest.raises(AttributeError, match=r"^there is no 'labels' here; there is pixel_values$"):
        _ = found.labels


def test_images_in_bfloat16() -> None:
    processor = ImageProcessor(ImageProcessorConfig.of_type("ViTImageProcessor", size=4))
    values = np.linspace(0, 1, 48).reshape(4, 4, 3).astype(ml_dtypes.bfloat16)
    tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    wanted = processor(values.astype(np.float32)).pixel_values
    for image in (values, tensor):
        np.testing.assert_array_equal(processor(image).pixel_values, wanted)
