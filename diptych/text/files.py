"""Files that a command reads: found by name, in directories and by patterns."""

import glob
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diptych.core.errors import InputError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, a directory of files or a pattern such as "scans/*.png", or "-" for standard input; or several of them."""
_STDIN = "-"
OnError = Callable[[InputError], None]
"""Receives the error of a file that cannot be read, which names it."""


def find_files(paths: Paths, what: str, has_ending: Callable[[str], bool], in_memory: str) -> list[str]:
    """The paths of files, in order.

    A directory stands for the files in it that have the right ending and are not hidden, a pattern for the files that
    it matches; both are sorted. Other names are kept, whether such a file exists or not; "-" stands for standard input.

    Args:
        paths: what the caller gave.
        what: a file is, such as "image".
        has_ending: whether a name has the ending of such a file.
        in_memory: the call that takes what was read already.

    Raises:
        InputError: nothing is given, something else than a path, or standard input twice; or a directory or pattern
            has no such files.
    """
    article = "an" if what[0] in "aeiou" else "a"
    found: list[str] = []
    for path in paths if isinstance(paths, Sequence) and not isinstance(paths, str | bytes) else [paths]:
        if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"{what}s: something of type {type(path).__name__} is given; give the paths of {what}s; for those in "
                f"memory, call the model with what {in_memory} returns"
            )
        name = os.fspath(path)
        if not name:
            raise InputError(f"{what}s: an empty path is given; give the paths of {what}s")
        if name == _STDIN:
            inside = [name]
        elif Path(name).is_dir():
            there = [entry for entry in os.scandir(name) if entry.is_file() and not entry.name.startswith(".")]
            inside = [entry.path for entry in there if has_ending(entry.name)]
        elif glob.has_magic(name) and not Path(name).exists():
            inside = [match for match in glob.glob(name, recursive=True) if Path(match).is_file()]
        else:
            inside = [name]
        if not inside:
            none = f"no file in this directory has the ending of {article} {what}"
            raise InputError(f"{name}: {none if Path(name).is_dir() else 'no file matches'}; give the paths of {what}s")
        found += sorted(inside)
    if not found:
        raise InputError(f"{what}s: none are given, but at least one is needed")
    if found.count(_STDIN) > 1:
        raise InputError(f"{what}s: standard input (-) is given more than once, but can be read once")
    return found


def read_stdin(path: str) -> bytes | None:
    """What standard input holds if the path stands for it; None for any other path.

    Raises:
        InputError: standard input is closed.
    """
    if path != _STDIN:
        return None
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise InputError(f"{path}: standard input is closed")
    return sys.stdin.buffer.read()


def beside_bars(show: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
    """The function, with progress bars out of its way while it prints."""
    if show is None:
        return None

    def write(value: Any) -> None:
        with tqdm.external_write_mode():
            show(value)

    return write
