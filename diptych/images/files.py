"""Image files: found by name, in directories and by patterns, and read in batches."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diptych.core.errors import InputError
from diptych.core.processing.image_processor import ImageProcessor
from diptych.core.processing.pictures import pillow
from diptych.processing import Processor, load_processor
from diptych.text.idefics import IdeficsProcessor
from diptych.text.speech import SpeechProcessor

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""An image, a directory of images or a pattern such as "scans/*.png"; or several of them."""
OnError = Callable[[InputError], None]
"""Receives the error of an image that cannot be read, which names it."""


def load_image_processor(directory: Path, ignore_config: Iterable[str] = ()) -> Processor | IdeficsProcessor:
    """The processor of a checkpoint that reads images.

    Raises:
        InputError: the checkpoint reads sound.
        CheckpointError, ConfigError, ImportError: as in `load_processor`.
    """
    processor = load_processor(directory, ignore_config=ignore_config)
    if isinstance(processor, SpeechProcessor):
        raise InputError(f"{directory}: this checkpoint reads sound, but images are given")
    return processor


def find_images(paths: Paths) -> list[str]:
    """The paths of images, in order.

    A directory stands for the files in it that have an ending of images, a pattern for the files that it matches; both
    are sorted. Other names are kept, whether such a file exists or not.

    Raises:
        InputError: nothing is given, or something else than a path; or a directory or pattern has no images.
        ImportError: Pillow is not installed.
    """
    found: list[str] = []
    for path in paths if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):  # pyright: ignore[reportUnnecessaryIsInstance]
            what = "an empty path" if path == "" else f"something of type {type(path).__name__}"
            raise InputError(f"images: {what} is given; give the paths of images")
        name = os.fspath(path)
        if Path(name).is_dir():
            inside = [entry.path for entry in os.scandir(name) if entry.is_file() and _has_image_ending(entry.name)]
        elif glob.has_magic(name) and not Path(name).exists():
            inside = [match for match in glob.glob(name, recursive=True) if Path(match).is_file()]
        else:
            inside = [name]
        if not inside:
            what = "no file in this directory has the ending of an image" if Path(name).is_dir() else "no file matches"
            raise InputError(f"{name}: {what}; give the paths of images")
        found += sorted(inside)
    if not found:
        raise InputError("images: none are given, but at least one is needed")
    return found


def _has_image_ending(name: str) -> bool:
    image_module = pillow()
    kind = image_module.registered_extensions().get(Path(name).suffix.lower())
    return kind in image_module.OPEN  # others can be written alone


def read_batches(
    paths: Sequence[str], processor: ImageProcessor, size: int, *, on_error: OnError | None, progress: bool | None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Batches of images: their paths, and their pixels (B, C, Y, X) from the processor.

    Images that come out in different sizes are in different batches.

    Args:
        paths: of the images.
        processor: the checkpoint's, for images.
        size: the most images of a batch.
        on_error: receives the errors of images that cannot be read, which are left out; None raises the first.
        progress: whether to show a bar on stderr; None shows it if stderr is a terminal and there are several batches.

    Raises:
        InputError: an image cannot be read.
    """

    def read(path: str) -> np.ndarray | InputError:
        try:
            return processor(path).pixel_values
        except InputError as error:
            return error

    hidden = (None if len(paths) > size else True) if progress is None else not progress
    with tqdm(total=len(paths), unit="image", disable=hidden, leave=False) as bar, ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), size):
            chosen = paths[start : start + size]
            good: list[tuple[str, np.ndarray]] = []
            for path, pixels in zip(chosen, pool.map(read, chosen), strict=True):
                if not isinstance(pixels, InputError):
                    good.append((path, pixels))
                elif on_error is None:
                    raise pixels
                else:
                    with tqdm.external_write_mode():
                        on_error(pixels)
            for _, group in groupby(good, key=lambda one: one[1].shape):
                names, rows = zip(*group, strict=True)
                yield list(names), np.concatenate(rows)
            bar.update(len(chosen))


def beside_bars(show: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
    """The function, with progress bars out of its way while it prints."""
    if show is None:
        return None

    def write(value: Any) -> None:
        with tqdm.external_write_mode():
            show(value)

    return write
