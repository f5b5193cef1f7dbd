"""Image processing: pixels bit for bit as the Pillow processors of transformers 5.23 make them.

Letters of the shapes: B batch, C channels, Y X images.
"""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from diptych.core.errors import InputError
from diptych.core.processing.config_files import ConfiguredProcessor
from diptych.core.processing.features import Features, Tensors
from diptych.core.processing.image_config import ImageProcessorConfig, Size
from diptych.core.processing.pictures import ChannelAxis, flat, pillow, to_picture

_LARGEST = 2**28
"""The number of pixels that no image may be resized to: a narrow one becomes far longer than it was."""
_BLOCK = 2**16
"""The number of pixels that are looked up at once, so that their indices, which numpy makes of bytes, stay in cache."""
_GREY_THRESHOLD = 200
"""Darker pixels are content: in Nougat, of 255 after the contrast is stretched."""


class ImageProcessor(ConfiguredProcessor):
    """Turns images into `pixel_values` (B, C, Y, X), in float32, as its config says.

    `processor(images)` and `processor.preprocess(images)` are the same. Images of a batch are processed in parallel.

    Args:
        config: what is done.
    """

    config: ImageProcessorConfig
    config_class = ImageProcessorConfig
    section = "image_processor"
    model_input_names = ("pixel_values",)

    def __call__(self, images: Any, **options: Any) -> Features:
        """As `preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: Tensors | None = None,
        input_data_format: ChannelAxis | None = None,
        **options: Any,
    ) -> Features:
        """The pixels of one or more images, as a model takes them.

        Args:
            images: an image or a list of images: paths, whose EXIF orientation is applied, Pillow images, or arrays
                (Y, X), (Y, X, C), (C, Y, X) of bytes, of whole numbers up to 255, or of floats from 0 to 1; or an array
                with an axis of images before these.
            return_tensors: "np", "pt" or "jax"; by default numpy.
            input_data_format: where arrays have their channels, "channels_first" or "channels_last"; by default the
                first axis if its length is 1, 3 or 4, else the last one.
            options: fields of the config, for this call.

        Returns:
            `pixel_values` (B, C, Y, X).

        Raises:
            InputError: images cannot be read (all of them are named), or come out in different sizes.
            ConfigError: an option is unknown or invalid.
            ImportError: Pillow, or the framework of `return_tensors`, is not installed.
        """
        config = self.config.replace(**options)
        if input_data_format not in (None, "channels_first", "channels_last"):
            raise InputError(f"input_data_format={input_data_format!r} must be channels_first or channels_last")
        named = list(flat(images))

        def prepare(name: str, image: Any) -> np.ndarray | InputError:
            try:
                return _arrange(config, name, to_picture(name, image, config.channels, input_data_format))
            except InputError as error:
                return error

        with _Workers(len(named)) as workers:
            found: list[np.ndarray | InputError] = workers.map(prepare, *zip(*named, strict=True))
            errors = [str(one) for one in found if isinstance(one, InputError)]
            if errors:
                raise InputError("; ".join(errors))
            pixels = [one for one in found if not isinstance(one, InputError)]
            sizes = {(one.shape[0], one.shape[1]) for one in pixels}
            if len(sizes) > 1:
                listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
                raise InputError(
                    f"images: they come out in different sizes ({listed}), since the config has size={config.size} and "
                    "neither crops nor pads; process them one by one"
                )
            table = _value_table(config)
            values = np.empty((len(pixels), config.channels, *pixels[0].shape[:2]), table.dtype)
            workers.map(functools.partial(_look_up, table), pixels, values)
        return Features(pixel_values=values).to_tensors(return_tensors)


class _Workers:
    """Threads for the images of a batch; none for a single image. Pillow and numpy release the lock."""

    def __init__(self, count: int) -> None:
        # of the cores that the process may use, where the system says it
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(count, cores, 16)
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def map(self, function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        """The function's results, in order."""
        return list(map(function, *arguments) if self.pool is None else self.pool.map(function, *arguments))


def _arrange(config: ImageProcessorConfig, name: str, picture: Any) -> np.ndarray:
    """The bytes (Y, X, C) of an image: cropped, turned, resized and padded as the config says."""
    size = config.size
    if config.do_crop_margin:
        picture = _crop_margin(picture)
    if config.do_align_long_axis and not isinstance(size, int):
        height, width = size
        if (width < height and picture.width > picture.height) or (width > height and picture.width < picture.height):
            picture = picture.transpose(pillow().Transpose.ROTATE_270)
    if config.do_resize:
        if isinstance(size, int) or config.image_processor_type in ("DonutImageProcessor", "NougatImageProcessor"):
            target = _shortest_edge(picture, size if isinstance(size, int) else min(size))
        else:
            target = size
        picture = _resize(name, picture, target, config.resample)
    if config.do_thumbnail and not isinstance(size, int):
        picture = _thumbnail(name, picture, size, config)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, config.channels)
    if config.do_pad and not isinstance(size, int):
        if pixels.shape[0] > size[0] or pixels.shape[1] > size[1]:
            raise InputError(
                f"{name}: is {pixels.shape[0]} x {pixels.shape[1]} before it is padded to size={list(size)}; "
                "do_thumbnail=True makes it smaller"
            )
        top, left = ((size[axis] - pixels.shape[axis]) // 2 for axis in range(2))
        pixels = _window(pixels, size, -top, -left)
    if config.do_center_crop:
        top, left = ((pixels.shape[axis] - config.crop_size[axis]) // 2 for axis in range(2))
        pixels = _window(pixels, config.crop_size, top, left)
    return pixels


def _crop_margin(picture: Any) -> Any:
    """The image without the light margins around its content; itself if all of it is one shade."""
    grey = np.asarray(picture.convert("L"))
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return picture
    shades = np.arange(256)
    content = ((shades - low) / (high - low) * 255 < _GREY_THRESHOLD)[grey]
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    return picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def _shortest_edge(picture: Any, edge: int) -> Size:
    """The size with the same proportions whose shorter edge has this length."""
    short, long = sorted(picture.size)
    longer = int(edge * long / short)
    return (longer, edge) if picture.width <= picture.height else (edge, longer)


def _thumbnail(name: str, picture: Any, size: Size, config: ImageProcessorConfig) -> Any:
    """The image shrunk to fit into a size; itself if it does."""
    height, width = min(picture.height, size[0]), min(picture.width, size[1])
    if (height, width) == (picture.height, picture.width):
        return picture
    if picture.height > picture.width:
        width = max(1, int(picture.width * height / picture.height))
    elif picture.width > picture.height:
        height = max(1, int(picture.height * width / picture.width))
    if config.image_processor_type == "NougatImageProcessor":
        return _resize(name, picture, (height, width), pillow().Resampling.BICUBIC, reducing_gap=2.0)
    return _resize(name, picture, (height, width), config.resample)


def _resize(name: str, picture: Any, size: Size, resample: int, reducing_gap: float | None = None) -> Any:
    height, width = size
    if height * width > _LARGEST:
        raise InputError(
            f"{name}: an image of height {picture.height} and width {picture.width} would be resized to {height} x "
            f"{width}, which is more than {_LARGEST} pixels"
        )
    return picture.resize((width, height), resample, reducing_gap=reducing_gap)


def _window(pixels: np.ndarray, size: Size, top: int, left: int) -> np.ndarray:
    """A part (Y, X, C) of an image, from a row and a column on; zeros where it lies outside the image."""
    (height, width), (rows, columns) = size, pixels.shape[:2]
    inside = pixels[max(0, top) : top + height, max(0, left) : left + width]
    if inside.shape[:2] == size:
        return inside
    found = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    found[max(0, -top) : rows - top, max(0, -left) : columns - left] = inside
    return found


def _value_table(config: ImageProcessorConfig) -> np.ndarray:
    """(C, 256): the value of each byte in each channel, rounded at every step as in transformers."""
    values = np.tile(np.arange(256, dtype=np.uint8), (config.channels, 1))
    if config.do_rescale:
        values = (values.astype(np.float64) * config.rescale_factor).astype(np.float32)
    if config.do_normalize:
        mean, std = (np.array(each, np.float32)[:, None] for each in (config.image_mean, config.image_std))
        values = (values.astype(np.float32) - mean) / std
    return values


def _look_up(table: np.ndarray, pixels: np.ndarray, out: np.ndarray) -> None:
    """Writes the values of bytes (Y, X, C) into (C, Y, X)."""
    rows = max(1, _BLOCK // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        block = pixels[top : top + rows]
        for channel in range(table.shape[0]):
            # bytes are in range, and "clip" is faster than "raise"
            np.take(table[channel], block[..., channel], out=out[channel, top : top + rows], mode="clip")
