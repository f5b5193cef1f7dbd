"""The paths of files that a processor reads: images and recordings."""

import os
import re
from pathlib import Path

from diptych.core.errors import InputError


def is_url(text: str) -> bool:
    """Whether all of a text is a URL."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", text) is not None


def check_is_file(path: str | os.PathLike[str], what: str) -> None:
    """Checks that a path is that of a regular file.

    Args:
        path: as the caller gave it.
        what: the file is, such as "an image".

    Raises:
        InputError: it is not.
    """
    name = os.fspath(path)
    if Path(name).is_file():
        return
    if is_url(name):
        raise InputError(f"{name}: is a URL; download it, and give the path of the file")
    if not name:
        found = "is empty"
    elif Path(name).is_dir():
        found = "is a directory"
    elif Path(name).exists():
        found = "is a pipe or device"
    else:
        found = "no such file"
    raise InputError(f"{name or 'the path'}: {found}, but the path of {what} is needed")
