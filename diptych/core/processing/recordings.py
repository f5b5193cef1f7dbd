"""Recordings of every kind as mono samples at one rate: sound files, and arrays of any framework."""

import importlib
import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from diptych.core.errors import InputError
from diptych.core.processing.arrays import to_numpy
from diptych.core.processing.paths import check_is_file

_BLOCK = 2**13
"""The number of samples of each channel that are read at once; the last of a damaged file are lost."""
_UNKNOWN_LENGTH = 0x7FFF_0000
"""Programs that write a file into a pipe declare this many bytes or more, since they cannot know how many follow."""
_MOST_UPSAMPLING = 100
"""A file that declares a lower rate is refused, since it would become that many times as large."""
_MOST_SAMPLES_PER_BYTE = 64
"""Memory is reserved for so many; the length that a file declares may be any number."""
_MOST_CHANNELS = 16
"""An array of so few columns, and more rows, has its channels last; no recording is so short."""


@dataclass(frozen=True)
class Recording:
    """A recording, in mono.

    Attributes:
        samples: (samples,) in float32, from -1 to 1 where the file holds whole numbers.
        sampling_rate: samples per second.
        damage: why samples are missing at the end; None if the file is whole.
    """

    samples: np.ndarray
    sampling_rate: int
    damage: str | None = None


def soundfile() -> Any:
    """The module `soundfile`.

    Raises:
        ImportError: it is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError):  # an OSError if the library below it is missing
        raise ImportError(
            "reading sound files needs soundfile, which is not installed; pip install 'diptych[audio]'"
        ) from None


def read_recording(path: str | os.PathLike[str], sampling_rate: int, contents: bytes | None = None) -> Recording:
    """The recording of a sound file: its channels averaged, resampled if it has another rate.

    The file is read block by block, so that it takes no more memory than the samples that come out. A file whose end is
    missing gives those that are there.

    Args:
        path: of a file that libsndfile reads: WAV, FLAC, OGG, MP3, AIFF …
        sampling_rate: samples per second of the result.
        contents: of the file, if it need not be opened; the path is its name then.

    Raises:
        InputError: there is no such file, it is not one of sound, or has no samples, or some that are not finite.
        ImportError: soundfile is not installed, or soxr, which another rate needs.
    """
    library = soundfile()
    if contents is None:
        check_is_file(path, "a recording")
    try:
        # a name need not be text outside Windows
        name = os.fspath(path) if os.name == "nt" else os.fsencode(path)
        file = library.SoundFile(name if contents is None else io.BytesIO(contents))
    except (library.LibsndfileError, TypeError) as error:  # a TypeError for names that end with .raw
        name = os.fspath(path)
        raise InputError(
            f"{name}: is no sound file that libsndfile reads ({_reason(error)}); other formats, "
            f"such as M4A and WebM, can be converted: ffmpeg -i '{name}' -ac 1 -ar {sampling_rate} recording.wav"
        ) from None
    with file:
        if sampling_rate > _MOST_UPSAMPLING * file.samplerate:
            least = math.ceil(sampling_rate / _MOST_UPSAMPLING)
            raise InputError(
                f"{path}: declares {file.samplerate} samples per second, but at least {least} are needed to make "
                f"{sampling_rate} of them"
            )
        likely = _MOST_SAMPLES_PER_BYTE * (os.path.getsize(path) if contents is None else len(contents))
        resampler = _Resampler(file.samplerate, sampling_rate, min(file.frames, likely))
        block, count, damage = np.empty((_BLOCK, file.channels), np.float32), 0, _missing_end(file.extra_info)
        while True:
            try:
                read = file.read(out=block)
            except library.LibsndfileError as error:
                damage = f"it is damaged {count / file.samplerate:.2f} s after its start ({_reason(error)})"
                break
            if not len(read):
                break
            count += len(read)
            resampler.put(read.mean(axis=1) if file.channels > 1 else read[:, 0])
        if damage is None and count < file.frames:
            damage = f"its end is missing after {count / file.samplerate:.2f} of {file.frames / file.samplerate:.2f} s"
    samples = resampler.finish()
    if not samples.size:
        raise InputError(f"{path}: has no samples{'' if damage is None else f', since {damage}'}")
    _check_finite(os.fspath(path), samples)
    return Recording(samples, sampling_rate, damage)


def _reason(error: Exception) -> str:
    """The message of an error of libsndfile's."""
    if isinstance(error, TypeError):
        return "samples without a header, which would say their rate"
    text = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    # the file is there: this is what is said of one that is no MP3 file
    return "Format not recognized" if text.startswith("File does not exist") else text


def _missing_end(log: str) -> str | None:
    """What libsndfile's log of a file says about a missing end."""
    sizes = re.search(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if sizes and int(sizes[2]) < int(sizes[1]) < _UNKNOWN_LENGTH:
        return f"its end is missing after {sizes[2]} of {sizes[1]} bytes"
    if re.search(r"end-of-stream bit", log, re.IGNORECASE):
        return "its end is missing"
    return None


class _Resampler:
    """Collects the samples of a recording, block by block, at another rate."""

    def __init__(self, source: int, target: int, count: int) -> None:
        self.stream = None if source == target else _soxr().ResampleStream(source, target, 1, dtype="float32")
        self.samples = np.empty(math.ceil(count * target / source) + 1, np.float32)
        self.count = 0

    def put(self, samples: np.ndarray, *, last: bool = False) -> None:
        """Takes the next samples (S,)."""
        found = samples if self.stream is None else self.stream.resample_chunk(samples, last=last)
        if self.count + len(found) > len(self.samples):  # the length that a file declares may be wrong
            more = np.empty(max(len(self.samples), len(found)), np.float32)
            self.samples = np.concatenate([self.samples[: self.count], more])
        self.samples[self.count : self.count + len(found)] = found
        self.count += len(found)

    def finish(self) -> np.ndarray:
        """All samples."""
        if self.stream is not None:
            self.put(np.empty(0, np.float32), last=True)
        return self.samples[: self.count]


def resample(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """Samples (S,) at another rate.

    Raises:
        ImportError: soxr is not installed.
    """
    return samples if source == target else _soxr().resample(samples, source, target)


def _soxr() -> Any:
    try:
        return importlib.import_module("soxr")
    except ImportError:
        raise ImportError("resampling needs soxr, which is not installed; pip install 'diptych[audio]'") from None


def flat(recordings: Any) -> Iterator[tuple[str, Any]]:
    """The recordings of a call, each with its name in error messages: one, a list of them, or an array (B, samples).

    Raises:
        InputError: there is none, or an array has its channels last.
    """
    if isinstance(recordings, str | os.PathLike):
        yield os.fspath(cast(str, recordings)), recordings
        return
    shape = tuple(getattr(recordings, "shape", ()))
    if isinstance(recordings, list | tuple) and not _is_number(recordings[:1]):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        rows: list[Any] = list(recordings)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    elif len(shape) != 2:
        yield "recording", recordings
        return
    elif 0 < shape[1] <= _MOST_CHANNELS < shape[0]:
        raise InputError(
            f"recordings: an array of shape {shape} has its channels last, but (recordings, samples) is needed; "
            "average its channels first: array.mean(axis=1)"
        )
    else:
        rows = [*recordings]
    if not rows:
        raise InputError("recordings: none are given, but at least one is needed")
    for index, row in enumerate(rows):
        yield (os.fspath(row) if isinstance(row, str | os.PathLike) else f"recordings[{index}]"), row


def _is_number(values: Any) -> bool:
    return len(values) == 1 and isinstance(values[0], int | float | np.number)


def to_samples(name: str, recording: Any) -> np.ndarray:
    """The samples (S,) of an array or a list of numbers: floats in float32, whole numbers as they are.

    Raises:
        InputError: it is something else, is empty, has several channels, or holds NaN or infinity.
    """
    array = to_numpy(recording)
    if array.dtype.kind not in "iuf":
        what = f"an array of {array.dtype}" if array.ndim else f"of type {type(recording).__name__}"
        raise InputError(f"{name}: is {what}, but a recording is needed: a path, or an array of samples")
    if array.ndim != 1:
        raise InputError(
            f"{name}: has shape {array.shape}, but samples of one channel (samples,) are needed; average those of a "
            "stereo recording first"
        )
    if not array.size:
        raise InputError(f"{name}: has no samples")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        samples = array if array.dtype.kind in "iu" else array.astype(np.float32, copy=False)
    _check_finite(name, samples)
    return samples


def _check_finite(name: str, samples: np.ndarray) -> None:
    if samples.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        squares = np.dot(samples, samples)  # without a copy
    if not np.isfinite(squares):
        wrong = np.flatnonzero(~np.isfinite(samples))
        if wrong.size:
            raise InputError(f"{name}: sample {wrong[0]} is {samples[wrong[0]]}, but samples must be finite numbers")
        largest = samples[np.argmax(np.abs(samples))]
        raise InputError(f"{name}: has samples as large as {largest:g}, but those of sound lie between -1 and 1")
