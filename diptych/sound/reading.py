"""Sound files read in groups that a model can process at once."""

import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from diptych.core.errors import InputError
from diptych.core.processing.recordings import Recording, read_recording
from diptych.sound.recognition import Listener
from diptych.sound.windows import Window
from diptych.text.files import OnError, read_stdin


class OpenedRecording(NamedTuple):
    """A recording that was read, with its path and its windows."""

    path: str
    recording: Recording
    windows: list[Window]


def read_groups(listener: Listener, paths: Iterable[str], on_error: OnError | None) -> Iterator[list[OpenedRecording]]:
    """Reads the recordings, in groups that have the windows for a batch, or more if a recording has.

    Args:
        listener: the model that reads them.
        paths: of the recordings.
        on_error: receives the errors of those that cannot be read, which are left out; None raises the first.

    Raises:
        InputError: a recording cannot be read, or is too short.
    """
    group: list[OpenedRecording] = []
    for path in paths:
        try:
            recording = read_recording(path, listener.rate, read_stdin(path))
            listener.check_length(path, recording.samples)
        except InputError as error:
            if on_error is None:
                raise
            with tqdm.external_write_mode():
                on_error(error)
            continue
        group.append(OpenedRecording(path, recording, listener.windows(recording.samples)))
        if sum(len(one.windows) for one in group) >= listener.batch_size:
            yield group
            group = []
    if group:
        yield group


def report_damage(opened: OpenedRecording, on_error: OnError | None) -> None:
    """Reports that the end of a recording is missing: to `on_error`, or else as a warning."""
    if opened.recording.damage is None:
        return
    message = f"{opened.path}: {opened.recording.damage}; what is there is read"
    if on_error is None:
        warnings.warn(message, stacklevel=3)
    else:
        with tqdm.external_write_mode():
            on_error(InputError(message))
