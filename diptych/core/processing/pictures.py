"""Images of every kind as Pillow images in colour or grey: files, Pillow images, and arrays of any framework."""

import os
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal, cast

import numpy as np

from diptych.core.errors import InputError
from diptych.core.processing.paths import check_is_file

ChannelAxis = Literal["channels_first", "channels_last"]

_SMALL = 1 << 22
"""Pixels; a file of any size may declare so many."""
_MOST_PIXELS_PER_BYTE = 10_000
"""A zip stream, as in PNG, is at most 1032 times as large unpacked, and a pixel at least a bit."""
_CHANNELS = (1, 3, 4)
"""The numbers of channels that an array may have: grey, colour, colour with alpha."""


def pillow() -> Any:
    """The module `PIL.Image`.

    Raises:
        ImportError: Pillow is not installed; the message names the extra to install.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(
            "image processing needs Pillow, which is not installed; pip install 'diptych[image]'"
        ) from None
    return Image


def read_image(path: str | os.PathLike[str]) -> Any:
    """The image of a file, turned upright as its EXIF orientation says; of an animation the first frame.

    Raises:
        InputError: there is no such file, or it is no image, is damaged, or is too large.
        ImportError: Pillow is not installed.
    """
    image_module = pillow()
    from PIL import ImageOps, UnidentifiedImageError

    check_is_file(path, "an image")
    try:
        # from bytes, since Pillow asks a file for as many as the image declares, for which memory is reserved
        with open(path, "rb") as file, image_module.open(BytesIO(file.read()), formats=_formats()) as image:
            _refuse_empty_promise(path, image.size)
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise InputError(f"{path}: is no image that Pillow can read") from None
    except image_module.DecompressionBombError as error:
        raise InputError(
            f"{path}: too large an image ({error}); if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except (InputError, MemoryError, Warning):
        raise
    except Exception as error:  # the decoders raise errors of many classes
        raise InputError(f"{path}: a damaged image ({error})") from None


def _formats() -> list[str]:
    """The formats that Pillow reads, but for EPS: its files are programs, which Pillow has Ghostscript run."""
    image_module = pillow()
    image_module.init()
    return [name for name in image_module.ID if name != "EPS"]


def _refuse_empty_promise(path: str | os.PathLike[str], size: tuple[int, int]) -> None:
    """Raises an InputError if a file is too small for its image, whose memory would be reserved all the same."""
    nbytes = os.path.getsize(path)
    if size[0] * size[1] > max(_SMALL, _MOST_PIXELS_PER_BYTE * nbytes):
        raise InputError(f"{path}: a damaged image ({size[0]} x {size[1]} pixels cannot come from {nbytes} bytes)")


def flat(images: Any) -> Iterator[tuple[str, Any]]:
    """The images of a call, each with its name in error messages: one image, a batch, or lists of them.

    Raises:
        InputError: there is none.
    """
    found = list(_flat("images", images))
    if not found:
        raise InputError("images: none are given, but at least one is needed")
    yield from found


def _flat(name: str, images: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(images, list | tuple):
        for index, image in enumerate(images):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            yield from _flat(f"{name}[{index}]", image)
    elif isinstance(images, str | os.PathLike):
        yield os.fspath(cast(str, images)), images
    elif not hasattr(images, "ndim") or images.ndim != 4:
        yield name, images
    else:
        for index in range(images.shape[0]):
            yield f"{name}[{index}]", images[index]


def to_picture(name: str, image: Any, channels: int, axis: ChannelAxis | None = None) -> Any:
    """A Pillow image of mode RGB, or L for one channel.

    Transparent images are put on white. 16 bits become 8. A Pillow image is taken as it is, whatever its EXIF
    orientation; a file is turned upright.

    Args:
        name: what errors call the image.
        image: a path, a Pillow image, or an array (Y, X), (Y, X, C) or (C, Y, X) of bytes, of whole numbers up to 255,
            or of floats from 0 to 1.
        channels: 3, or 1 for grey.
        axis: where an array has its channels; by default first if that axis has length 1, 3 or 4, else last.

    Raises:
        InputError: it is none of these, is empty, or holds other numbers; or the file cannot be read.
    """
    image_module = pillow()
    if isinstance(image, str | os.PathLike):
        picture = read_image(cast(str, image))
    elif isinstance(image, image_module.Image):
        picture = image
    else:
        picture = image_module.fromarray(_pixels(name, image, axis))
    if 0 in picture.size:
        raise InputError(f"{name}: the image has width {picture.width} and height {picture.height}, so no pixels")
    try:
        picture = _to_colour(picture)
        return picture.convert("L") if channels == 1 else picture
    except (OSError, ValueError) as error:  # a damaged file that was opened but not read, or a mode such as LAB
        raise InputError(f"{name}: the image, of Pillow's mode {picture.mode}, cannot become RGB ({error})") from None


def _to_colour(picture: Any) -> Any:
    """A Pillow image as RGB."""
    image_module = pillow()
    if picture.mode.startswith("I"):  # 16 bits, of which "I" has room for more
        values = np.asarray(picture)
        narrow = values.min() >= 0 and values.max() <= 255
        if not 0 <= values.min() <= values.max() <= 65_535:
            raise ValueError(f"its values lie between {values.min()} and {values.max()}, but 16 bits are known at most")
        picture = image_module.fromarray((values if narrow and picture.mode == "I" else values >> 8).astype(np.uint8))
    elif picture.mode == "F":
        picture = image_module.fromarray(_bytes("the image", np.asarray(picture)))
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        white = image_module.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = image_module.alpha_composite(white, picture)
    return picture.convert("RGB")


def _pixels(name: str, image: Any, axis: ChannelAxis | None) -> np.ndarray:
    """An array of the caller's as bytes (Y, X) or (Y, X, 3)."""
    try:
        values = image.detach().cpu() if hasattr(image, "detach") else image
        array = np.asarray(values.float() if str(getattr(values, "dtype", "")) == "torch.bfloat16" else values)
    except (TypeError, ValueError):
        array = np.asarray(None)
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3):
        what = f"array of shape {array.shape} and dtype {array.dtype}" if array.ndim else type(image).__name__
        raise InputError(
            f"{name}: is {'an' if what[0] in 'aeiou' else 'a'} {what}, but an image is needed: a path, a Pillow image, "
            "or an array of numbers (height, width), (height, width, channels) or (channels, height, width)"
        )
    if array.size == 0:
        raise InputError(f"{name}: the array has shape {array.shape}, so no pixels")
    if array.ndim == 3:
        if axis == "channels_first" or (axis is None and array.shape[0] in _CHANNELS):
            array = np.moveaxis(array, 0, -1)
        if array.shape[2] not in _CHANNELS:
            raise InputError(f"{name}: the array has shape {np.shape(image)}, but 1, 3 or 4 channels are needed")
    pixels = _bytes(name, array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        return pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] == 4:  # rounded as in transformers, which differs from Pillow's rounding
        alpha = pixels[..., 3:] / 255
        return np.round(alpha * pixels[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _bytes(name: str, values: np.ndarray) -> np.ndarray:
    """Pixels as bytes."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        return (values.astype(np.float64) * 255).astype(np.float32).astype(np.uint8)  # cut off as in transformers
    if not (low >= 0 and high <= 255) or (values.dtype.kind == "f" and bool(np.any(values != np.floor(values)))):
        raise InputError(
            f"{name}: the array of {values.dtype} holds values between {low} and {high}, but bytes, whole numbers from "
            "0 to 255 or floats from 0 to 1 are needed"
        )
    return values.astype(np.uint8)
