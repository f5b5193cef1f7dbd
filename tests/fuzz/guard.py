"""Limits while a hostile file is read: what may be opened and may never happen, how long it takes, how much memory."""

import encodings.cp437
import encodings.raw_unicode_escape  # noqa: F401 - of old pickles
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.ImageCms  # noqa: F401 - of images in LAB colours

FORBIDDEN = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
             "subprocess.Popen", "socket.", "ctypes.", "pickle.find_class", "marshal.", "code.__new__", "os.remove",
             "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "shutil.")  # fmt: skip
"""The beginnings of audit events that no reader may cause."""


class BrokenGuaranteeError(BaseException):
    """A reader did what it must never do; no reader catches it."""


class _Guard:
    directory: str | None = None
    broken: str | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _Guard.directory is None:
        return
    if event == "open":
        path, mode, flags = (*arguments, None, None)[:3]
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or bool(set(mode or "") & set("wax+"))
        inside = isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(_Guard.directory)
        broken = writes or not inside
    else:
        broken = event.startswith(FORBIDDEN)
    if broken:
        directory, _Guard.directory = _Guard.directory, None
        _Guard.broken = f"{event} {arguments!r:.200}"
        _Guard.directory = directory
        raise BrokenGuaranteeError(_Guard.broken)


_installed: list[bool] = []


@contextmanager
def guarded(directory: Path, seconds: float) -> Iterator[None]:
    """Within the block, only files of a directory are opened, nothing is imported or executed, and time is limited.

    Args:
        directory: The files that may be opened are inside of it.
        seconds: Of CPU time, which a busy machine does not shorten; whoever waits instead has 30 times as long.
    """

    def too_long(*_: Any) -> None:
        raise BrokenGuaranteeError(f"takes more than {seconds} s")

    if not _installed:
        sys.addaudithook(_audit)
        _installed.append(True)
    before = {number: signal.signal(number, too_long) for number in (signal.SIGPROF, signal.SIGALRM)}
    _Guard.broken, _Guard.directory = None, os.path.realpath(directory)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * 30)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _Guard.directory = None
        for number, handler in before.items():
            signal.signal(number, handler)
        if _Guard.broken is not None and sys.exc_info()[0] is not BrokenGuaranteeError:
            raise BrokenGuaranteeError(_Guard.broken)


def limit_memory(more: int) -> None:
    """Lets the process have so many bytes more than it has now: what asks for more gets a MemoryError."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
