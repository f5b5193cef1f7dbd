"""Long recordings in windows: overlapping ones for CTC models, equal ones for classifiers, others that end quietly."""

import itertools
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import InputError

_QUIET_SECONDS = 0.1
"""The length of the stretch whose energy says how quiet a place is."""


@dataclass(frozen=True)
class Window:
    """A part of a recording, in samples.

    Attributes:
        start, stop: where it lies.
        left, right: what the neighbouring windows say about its first and last samples, so that they are context only.
    """

    start: int
    stop: int
    left: int = 0
    right: int = 0

    def frames(self, samples_per_frame: int) -> tuple[int, int]:
        """The first of the frames that count, and the one after the last."""
        length = self.stop - self.start
        count = round(length / samples_per_frame)
        left, right = (round(side / length * count) for side in (self.left, self.right))
        return left, count - right


def overlapping_windows(length: int, seconds: float, overlap: float, rate: int, samples_per_frame: int) -> list[Window]:
    """The windows of a recording for a CTC model, as the pipeline of transformers divides it.

    Args:
        length: of the recording, in samples.
        seconds: the length of a window, rounded to whole frames.
        overlap: the seconds at each end of a window that are context only, rounded likewise.
        rate: samples per second.
        samples_per_frame: from one frame to the next.

    Raises:
        InputError: the overlap leaves nothing of a window.
    """
    size, side = (round(part * rate / samples_per_frame) * samples_per_frame for part in (seconds, overlap))
    if size <= 2 * side:
        raise InputError(
            f"generate: overlap={overlap:g} leaves nothing of window={seconds:g} seconds; less than half is needed"
        )
    found: list[Window] = []
    for start in range(0, length, size - 2 * side):
        last = start + size >= length
        found.append(Window(start, min(start + size, length), side if start else 0, 0 if last else side))
        if last:
            break
    return found


def quiet_windows(samples: np.ndarray, seconds: float, rate: int) -> list[Window]:
    """The windows of a recording for a model that writes freely: each ends at the quietest place of its second half.

    Args:
        samples: (samples,) of the recording.
        seconds: the most that a window may last.
        rate: samples per second.
    """
    size, start = max(1, round(seconds * rate)), 0
    found: list[Window] = []
    while len(samples) - start > size:
        # what is left for the last window shall not be too short to be understood
        low, high = start + size // 2, min(start + size, len(samples) - size // 4)
        stop = low + _quietest(samples[low:high], round(_QUIET_SECONDS * rate))
        found.append(Window(start, stop))
        start = stop
    return [*found, Window(start, len(samples))]


def equal_windows(length: int, seconds: float, rate: int) -> list[Window]:
    """The fewest windows of a recording that last so many seconds at most, of equal length but for a few samples.

    Args:
        length: of the recording, in samples.
        seconds: the most that a window may last.
        rate: samples per second.
    """
    count = -(-length // max(1, int(seconds * rate)))
    ends = [length * number // count for number in range(count + 1)]
    return [Window(start, stop) for start, stop in itertools.pairwise(ends)]


def _quietest(samples: np.ndarray, width: int) -> int:
    """The middle of the quietest stretch of samples."""
    width = min(width, len(samples))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    return int(np.argmin(energy[width:] - energy[:-width])) + width // 2
