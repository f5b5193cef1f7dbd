"""What is no image, or cannot be processed: one clear error each, for all images of a batch together."""

import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.processing.image_config import ImageProcessorConfig
from diptych.core.processing.image_processor import ImageProcessor
from tests.processing.drawings import photo, pixels

OURS = ImageProcessor(ImageProcessorConfig.of_type("ViTImageProcessor", size=12))


def refused(images: Any, message: str, processor: ImageProcessor = OURS, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        processor(images, **options)
    assert message in str(caught.value)


def test_paths_that_hold_no_image_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "absent.png", f"{tmp_path / 'absent.png'}: no such file, but the path of an image is needed")
    refused(tmp_path, f"{tmp_path}: is a directory, but the path of an image is needed")
    refused("", "the path: is empty, but the path of an image is needed")
    refused(
        "https://example.org/a.png", "https://example.org/a.png: is a URL; download it, and give the path of the file"
    )
    text = tmp_path / "notes.png"
    text.write_text("no image at all")
    refused(text, f"{text}: is no image that Pillow can read")
    for suffix in ("jpg", "png"):
        whole = tmp_path / f"photo.{suffix}"
        photo(60, 90).save(whole)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        refused(cut, f"{cut}: a damaged image (")
    with Image.open(cut) as opened:  # of which Pillow has read the size alone
        refused(opened, "images: the image, of Pillow's mode RGB, cannot become RGB (")
    good = tmp_path / "photo.png"
    refused([good, text, str(cut)], f"{text}: is no image that Pillow can read; {cut}: a damaged image (")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused(good, f"{good}: too large an image (")


def test_a_file_that_is_a_program(tmp_path: Path) -> None:
    program = tmp_path / "drawing.png"
    program.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(out) (w) file\n")
    refused(program, f"{program}: is no image that Pillow can read")


def test_memory_is_not_reserved_for_bytes_that_a_file_only_declares(tmp_path: Path) -> None:
    photo(20, 30).save(tmp_path / "photo.png")
    data = bytearray((tmp_path / "photo.png").read_bytes())
    chunk = data.index(b"IDAT")
    data[chunk - 4 : chunk] = (1 << 30).to_bytes(4, "big")
    (tmp_path / "photo.png").write_bytes(data)
    tracemalloc.start()
    with suppress(InputError):  # all pixels are there
        OURS(tmp_path / "photo.png")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images: none are given, but at least one is needed"),
        (None, "images: is a NoneType, but an image is needed: a path, a Pillow image, or an array of numbers (height"),
        ([photo(5, 5), 7], "images[1]: is an int, but an image is needed"),
        (np.zeros(5), "images: is an array of shape (5,) and dtype float64, but an image is needed"),
        (np.zeros((5, 5), complex), "images: is an array of shape (5, 5) and dtype complex128"),
        (np.zeros((2, 5, 5, 7)), "images[0]: the array has shape (5, 5, 7), but 1, 3 or 4 channels are needed"),
        (np.zeros((3, 0, 5)), "images: the array has shape (3, 0, 5), so no pixels"),
        (Image.new("RGB", (0, 5)), "images: the image has width 0 and height 5, so no pixels"),
        (np.full((5, 5), 256), "images: the array of int64 holds values between 256 and 256, but bytes, whole numbers"),
        (np.full((5, 5), np.nan), "images: the array of float64 holds values between nan and nan"),
        (np.full((5, 5), 1.5), "images: the array of float64 holds values between 1.5 and 1.5"),
        (np.array([[-0.1, 1.0]]), "images: the array of float64 holds values between -0.1 and 1.0"),
        (Image.new("La", (5, 5)), "images: the image, of Pillow's mode La, cannot become RGB"),
        (Image.fromarray(np.full((5, 5), 70_000, np.int32)), "its values lie between 70000 and 70000, but 16 bits"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_images_are_refused(images: Any, message: str) -> None:
    refused(images, message)


def test_sizes_that_differ_or_grow_too_large_are_refused() -> None:
    clip = ImageProcessor(ImageProcessorConfig.of_type("CLIPImageProcessor", size=12, do_center_crop=False))
    refused(
        [photo(20, 30), photo(30, 20)],
        "images: they come out in different sizes (12 x 18, 18 x 12), since the config has size=12 and neither crops",
        clip,
    )
    assert clip([photo(20, 30), photo(40, 60)]).pixel_values.shape == (2, 3, 12, 18)
    refused(
        np.zeros((1, 60_000)), "an image of height 1 and width 60000 would be resized to 336 x 20160000", clip, size=336
    )
    donut = ImageProcessor(ImageProcessorConfig.of_type("DonutImageProcessor", size={"height": 12, "width": 9}))
    refused(
        photo(20, 30),
        "images: is 9 x 13 before it is padded to size=[12, 9]; do_thumbnail=True",
        donut,
        do_thumbnail=False,
    )
    assert donut(np.zeros((1, 60), np.uint8)).pixel_values.shape == (1, 3, 12, 9)


def test_unknown_options_list_the_known_ones() -> None:
    refused(photo(5, 5), "return_tensors='tf' is not known; known: np, pt, jax", return_tensors="tf")
    refused(photo(5, 5), "input_data_format='first' must be channels_first or channels_last", input_data_format="first")
    with pytest.raises(ConfigError, match="ViTImageProcessor has no field colour"):
        OURS(photo(5, 5), colour=3)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"return_tensors='pt' needs torch, .*; pip install 'diptych\[torch\]'"):
        OURS(photo(5, 5), return_tensors="pt")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"needs Pillow, which is not installed; pip install 'diptych\[image\]'"):
        OURS(pixels(5, 5))


def test_a_directory_without_a_processor(tmp_path: Path) -> None:
    message = "has no preprocessor_config.json, nor a processor_config.json with 'image_processor' in it"
    for content in (None, "{}", '{"image_processor": 3}'):
        if content is not None:
            (tmp_path / "processor_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: holds a JSON list"):
        ImageProcessor.from_pretrained(tmp_path)
