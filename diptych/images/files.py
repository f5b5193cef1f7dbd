"""Image files: found by name, in directories and by patterns, and read in batches."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diptych.core.errors import InputError
from diptych.core.processing.image_processor import ImageProcessor
from diptych.core.processing.pictures import pillow, read_image
from diptych.processing import Processor, load_processor
from diptych.text.files import OnError, Paths, find_files, read_stdin
from diptych.text.idefics import IdeficsProcessor
from diptych.text.speech import SpeechProcessor

_UNREAD = (".heic", ".heif")
"""Endings of photos that Pillow alone cannot read; in a directory, too, they are refused, not skipped."""


def load_image_processor(directory: Path, ignore_config: Iterable[str] = ()) -> Processor | IdeficsProcessor:
    """The processor of a checkpoint that reads images.

    Raises:
        InputError: the checkpoint reads sound.
        CheckpointError, ConfigError, ImportError: as in `load_processor`.
    """
    processor = load_processor(directory, ignore_config=ignore_config)
    if isinstance(processor, SpeechProcessor):
        raise InputError(f"{directory}: its processor reads sound, not images")
    return processor


def find_images(paths: Paths) -> list[str]:
    """The paths of images, in order.

    A directory stands for the files in it that have an ending of images, a pattern for the files that it matches; both
    are sorted. Other names are kept, whether such a file exists or not.

    Raises:
        InputError: nothing is given, or something else than a path; or a directory or pattern has no images.
        ImportError: Pillow is not installed.
    """
    return find_files(paths, "image", _has_image_ending, "load_processor(directory)(images)")


def _has_image_ending(name: str) -> bool:
    image_module, ending = pillow(), Path(name).suffix.lower()
    kind = image_module.registered_extensions().get(ending)
    return ending in _UNREAD or kind in image_module.OPEN  # others can be written alone


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
            contents = read_stdin(path)
            return processor(path if contents is None else read_image(path, contents)).pixel_values
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
