"""Memory-mapping files for reading, and writing them atomically."""

import functools
import math
import mmap
import os
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diptych.core.checkpoint.atomic import hidden_file
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.errors import CheckpointError
from diptych.core.json_text import DuplicateNameError, load_json

_LFS_POINTER = b"version https://git-lfs"
_INTERVAL = 0.02  # seconds between two flushes


def map_file(path: Path) -> mmap.mmap:
    """Maps a file into memory; the map lives as long as the arrays that view it.

    It is private: what an array that is made writable receives stays in this process and never reaches the file.

    Raises:
        CheckpointError: The file is empty or a Git LFS pointer.
        OSError: It cannot be opened.
    """
    with path.open("rb") as handle:
        if os.fstat(handle.fileno()).st_size == 0:
            raise CheckpointError(f"{path}: the file is empty. Download or save it again")
        mapped = _map(handle.fileno())
    if mapped[: len(_LFS_POINTER)] == _LFS_POINTER:
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the weights. Run `git lfs pull` in its repository")
    return mapped


def _map(file: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    # without MAP_NORESERVE, a file larger than the memory could not be mapped
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def view(mapped: mmap.mmap, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Views a part of a mapped file as a read-only array, without a copy; the caller has checked the bounds."""
    size = math.prod(shape)
    found = np.frombuffer(mapped, dtype, count=size, offset=start) if size else np.empty(0, dtype)
    found = found.reshape(shape)
    found.flags.writeable = False
    return found


def mapped_tensor(
    mapped: mmap.mmap, start: int, dtype: np.dtype[Any], shape: tuple[int, ...], path: Path
) -> TensorSource:
    """A tensor that lies in a mapped file and shares its bytes with no other; the caller has checked the bounds."""

    def read_rows(first: int, stop: int) -> np.ndarray:
        row = math.prod(shape[1:]) * dtype.itemsize
        return view(mapped, start + first * row, dtype, (stop - first, *shape[1:]))

    read = functools.partial(view, mapped, start, dtype, shape)
    return TensorSource(shape, dtype, read, str(path), mapped=True, read_rows=read_rows)


def parse_json_object(text: bytes, source: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        text: The JSON.
        source: The file, and the part of it, for error messages.

    Raises:
        CheckpointError: It is not valid JSON, not an object, or has duplicate keys.
    """
    try:
        parsed = load_json(text.decode("utf-8"))
    except DuplicateNameError as error:
        raise CheckpointError(f"{source}: {error}. Save it again") from None
    except ValueError as error:  # also for numbers with too many digits
        raise CheckpointError(f"{source}: is not valid JSON ({error}). Download or save the file again") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{source}: must be a JSON object, not {type(parsed).__name__}")
    return parsed  # pyright: ignore[reportUnknownVariableType]


def require_inside(name: str, directory: Path) -> None:
    """Refuses a file outside the directory, unless it is where the cache of the Hugging Face hub keeps its files.

    Raises:
        CheckpointError: The file, or what it links to, is outside.
    """
    root = directory.resolve()
    target = (directory / name).resolve()
    allowed = [root]
    for parent in root.parents:
        # models--owner--name/snapshots/<commit>/<file> -> models--owner--name/blobs, itself a link into the blobs
        # beside models--owner--name if huggingface_hub shares blobs between repositories
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            allowed += [parent.parent / "blobs", parent.parent.parent / "blobs"]
    inside = Path(os.path.abspath(directory / name)).is_relative_to(os.path.abspath(directory))
    if not inside or not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{directory}: the file {name!r} of the checkpoint is {target}, outside of the directory. "
            "Put the file itself into it"
        )


@contextmanager
def path_in_errors(path: Path) -> Generator[None, None, None]:
    """Adds the path to an OSError that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def open_atomic(path: Path) -> Generator[BinaryIO, None, None]:
    """Opens a file for writing that gets its name only after it is complete and on the disk.

    Raises:
        OSError: Writing failed; the error names the file, and nothing new is left on the disk.
    """
    with path_in_errors(path), hidden_file(path) as partial:
        with partial.open("wb") as handle:
            with _flushing(handle.fileno()):
                yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)


@contextmanager
def _flushing(file: int) -> Generator[None, None, None]:
    """Brings what is written to the disk meanwhile, in a thread, so that little is left to wait for at the end."""
    done = threading.Event()

    def flush() -> None:
        while not done.wait(_INTERVAL):
            os.fsync(file)

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(flush)
        try:
            yield
        finally:
            done.set()
    flushing.result()  # of an error, only the first fsync after it learns
