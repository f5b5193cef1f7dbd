"""Sound files: found by name, in directories and by patterns."""

from pathlib import Path

from diptych.core.processing.recordings import soundfile
from diptych.text.files import Paths, find_files

_ENDINGS = {"oga": "OGG", "opus": "OGG", "aif": "AIFF", "wave": "WAV"}
"""Endings whose format has another name."""
_UNREAD = ("aac", "amr", "m4a", "webm", "wma")
"""Endings of recordings that libsndfile cannot read; in a directory, too, they are refused, not skipped."""


def find_recordings(paths: Paths) -> list[str]:
    """The paths of recordings, in order.

    A directory stands for the files in it that have an ending of sound files, a pattern for the files that it matches;
    both are sorted. Other names are kept, whether such a file exists or not.

    Raises:
        InputError: nothing is given, or a directory or pattern has no recordings.
        ImportError: soundfile is not installed.
    """
    known = soundfile().available_formats()

    def has_ending(name: str) -> bool:
        ending = Path(name).suffix.lower().removeprefix(".")
        return ending in _UNREAD or (ending != "raw" and _ENDINGS.get(ending, ending.upper()) in known)

    in_memory = "load_processor(directory)(samples, sampling_rate=…)"
    return find_files(paths, "recording", has_ending, in_memory)
