"""Directories and files that get their names once they are complete, whatever ends the run.

What is incomplete is hidden beside its final name, as `.NAME.partial-` and 16 digits, 8 of the host and 8 at random; a
long NAME is shortened. Its run holds a lock on it. The next run to the same place removes what is not locked: a killed
run left it behind. A hidden directory holds

    lock     the file that is locked
    new/     what is being written, under the final names
    old/     what the new replaces, during the exchange
    moving/  the rest of new/, from the moment when all of the old is in old/

so that an exchange that was cut short can be undone (while there is new/) or finished (once there is moving/).
"""

import errno
import filecmp
import hashlib
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from diptych.core.errors import CheckpointError

logger = logging.getLogger("diptych")

_CONFIG = "config.json"
_SMALL = 1 << 20  # bytes; smaller files are compared with those that they would replace
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


def check_destination(destination: str | PathLike[str], overwrite: bool) -> bool:
    """Whether there is a checkpoint to replace; see `new_directory` for the arguments and errors."""
    given_path, destination = Path(destination), Path(destination).resolve()
    recover(destination)
    if destination.exists() and not destination.is_dir():
        raise CheckpointError(f"{given_path}: is a file; give the name of a directory")
    above = next(parent for parent in destination.parents if parent.exists())
    if not above.is_dir():
        raise CheckpointError(f"{given_path}: {above} is a file, not a directory; give a place in a directory")
    if not destination.is_dir() or not any(destination.iterdir()):
        return False
    if not overwrite:
        raise CheckpointError(
            f"{given_path}: is there already and not empty; give another directory, or replace it with "
            "overwrite=True (--overwrite)"
        )
    if not (destination / _CONFIG).is_file():
        raise CheckpointError(
            f"{given_path}: holds files but no config.json, so it is not a checkpoint and is not overwritten; "
            "give another directory"
        )
    return True


@contextmanager
def new_directory(destination: str | PathLike[str], overwrite: bool = False) -> Generator[Path, None, None]:
    """Yields a hidden directory to fill, which becomes `destination` if the block ends without an error.

    A directory that is empty, the working directory, or a mount point stays, and gets the files, config.json last.

    Args:
        destination: The directory to create, with its parents. It may exist if it is empty.
        overwrite: Replace an existing checkpoint; it is restored if anything fails. Its mode stays.

    Raises:
        CheckpointError: The destination exists and may not be replaced.
        OSError: The disk failed.
    """
    replaces = check_destination(destination, overwrite)
    destination = Path(destination).resolve()
    if destination.is_dir() and (not replaces or _is_in_use(destination)):
        with new_files(destination, lambda _: True) as new:
            yield new
        return
    old = [destination.name] if replaces else []
    missing = [parent for parent in destination.parents if not parent.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _hidden_directory(destination) as hidden:
            new = hidden / "new" / destination.name
            new.mkdir()
            if old:
                new.chmod(stat.S_IMODE(destination.stat().st_mode) | stat.S_IRWXU)  # without these it can't be filled
            yield new
            _exchange(hidden, old, [destination.name])
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def new_files(directory: str | PathLike[str], replaces: Callable[[str], bool]) -> Generator[Path, None, None]:
    """Yields a hidden directory to fill, whose files are moved into `directory` if the block ends without an error.

    A directory that does not exist appears as a whole. In one that does, config.json is the first file that is taken
    away and the last that is put in place, so that no kill leaves a mixture that could be loaded.

    Args:
        directory: The directory; created if it does not exist.
        replaces: Which other files of the directory the new ones replace, by name.

    Raises:
        OSError: The disk failed; the directory is as it was before.
    """
    directory = Path(directory)
    if not directory.exists():
        with new_directory(directory) as new:
            yield new
        return
    recover(directory)
    with _hidden_directory(directory / "checkpoint") as hidden:
        yield hidden / "new"
        written = os.listdir(hidden / "new")
        old = [name for name in os.listdir(directory) if name != hidden.name and (name in written or replaces(name))]
        changed = [name for name in written if not _is_unchanged(hidden / "new" / name, directory / name)]
        if len(changed) == 1 and set(old) <= set(written) and not (directory / changed[0]).is_dir():
            os.replace(hidden / "new" / changed[0], directory / changed[0])  # one atomic step
        elif changed or set(old) != set(written):
            _exchange(hidden, sorted(old, key=_CONFIG.__ne__), sorted(written, key=_CONFIG.__eq__))


@contextmanager
def hidden_file(path: Path) -> Generator[Path, None, None]:
    """Yields the hidden name of an empty file to fill and to rename; it is removed if it is still there at the end."""
    _remove_leftovers(path.parent, path.name)
    partial, lock = _lock_hidden_name(path, lambda partial: partial)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(lock)


def recover(directory: Path) -> None:
    """Removes what killed runs left beside a directory and in it, and puts back what they were about to replace.

    What may belong to a run that is alive is left alone, with a warning if nothing locks it: it was made on another
    host, or the file system has no locks.
    """
    _remove_leftovers(directory.parent, directory.name)
    _remove_leftovers(directory)


def require_space(path: str | PathLike[str], needed: int) -> None:
    """Raises an OSError (ENOSPC) if fewer bytes than needed are free where a path is or will be, or none can be."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    total, _, free = shutil.disk_usage(place)
    if total == 0:  # such as /proc
        problem = f"{place} is part of a file system that has no space for files; give a directory on a disk"
        raise OSError(errno.ENOTSUP, problem, os.fspath(path))
    if free < needed:
        problem = f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes are needed, and {free:,} are free"
        raise OSError(errno.ENOSPC, problem, os.fspath(path))


def _remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Removes what killed runs left in a directory, of one name or of any."""
    names = ".+" if name is None else re.escape(_short(name))
    pattern = re.compile(rf"\.{names}\.partial-([0-9a-f]{{8}})[0-9a-f]{{8}}")
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # creating something says more about it
        for found in filter(None, map(pattern.fullmatch, os.listdir(directory))):
            _remove_leftover(directory / found[0], found[1])


def _remove_leftover(leftover: Path, host: str) -> None:
    try:
        if host != _host():
            raise OSError(errno.EPERM, "it was made on another host")
        if not leftover.is_symlink():
            _remove_if_dead(leftover)
    except FileNotFoundError:  # another run has just removed it, or made and finished it
        return
    except OSError as error:
        logger.warning("%s: left by an earlier run; remove it if none is using it (%s)", leftover, error)


@contextmanager
def _hidden_directory(path: Path) -> Generator[Path, None, None]:
    """Yields a new, locked directory beside a path, with new/ in it."""

    def make(partial: Path) -> Path:
        try:
            partial.mkdir()
        except OSError as error:
            problem = f"{error.strerror}, so nothing can be saved there"
            raise type(error)(error.errno, problem, str(path.parent)) from error
        return partial / "lock"

    hidden, lock = _lock_hidden_name(path, make)
    try:
        (hidden / "new").mkdir()
        yield hidden
    finally:
        with suppress(OSError):  # what stays is left to the next run
            try:
                _settle(hidden)
            except (KeyboardInterrupt, SystemExit):  # which came while it was removed
                _settle(hidden)
                raise
        os.close(lock)


def _lock_hidden_name(path: Path, make: Callable[[Path], Path]) -> tuple[Path, int]:
    """A new hidden name beside a path, and the descriptor of its locked file, which `make` names."""
    while True:
        partial = path.with_name(f".{_short(path.name)}.partial-{_host()}{secrets.token_hex(4)}")
        lock = make(partial)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # a run that removes leftovers took the directory before it was locked
        try:
            ours = _lock(descriptor) and _is_open(lock, descriptor)
        except OSError:  # there are no locks, so no run takes it for a leftover either
            ours = True
        if ours:
            return partial, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Locks a file until it is closed or the process ends; False if another process has locked it.

    Raises:
        OSError: The file system, or the system, has no such locks.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_open(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_dead(leftover: Path) -> None:
    """Removes a hidden file or directory unless a run holds it.

    Raises:
        OSError: It is unknown whether a run holds it, or it can't be removed.
    """
    is_directory = leftover.is_dir()
    lock = leftover / "lock" if is_directory else leftover
    descriptor = os.open(lock, os.O_RDWR | _NO_FOLLOW | (os.O_CREAT if is_directory else 0), 0o666)
    try:
        if not _lock(descriptor) or not _is_open(lock, descriptor):
            return
        if is_directory:
            _settle(leftover)
        else:
            leftover.unlink()
    finally:
        os.close(descriptor)


def _is_in_use(directory: Path) -> bool:
    """Whether a directory can't be exchanged for another one: it is a mount point, or where this process works."""
    return directory.is_mount() or directory.samefile(os.curdir)


def _short(name: str) -> str:
    """A name that leaves room for what a hidden one adds: itself, or if it is long its start and a hash."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 200 else f"{name[:40]}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def _host() -> str:
    """Eight digits that name this host: on some network file systems, a lock is seen only where it was taken."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_unchanged(new: Path, old: Path) -> bool:
    """Whether a small file equals the one that it would replace."""
    small = new.stat().st_size < _SMALL
    return small and old.is_file() and not old.is_symlink() and filecmp.cmp(new, old, shallow=False)


def _exchange(hidden: Path, old: Iterable[str], new: Iterable[str]) -> None:
    """Moves old entries of the parent directory away and new ones into it; undoes everything if a move fails."""
    parent = hidden.parent
    (hidden / "old").mkdir()
    moves = [(parent / name, hidden / "old" / name) for name in old]
    moves += [(hidden / "new", hidden / "moving")]
    moves += [(hidden / "moving" / name, parent / name) for name in new]
    begun: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            begun.append((source, target))
            os.replace(source, target)
    except BaseException:  # such as an interrupt, before or after the last of these moves
        for source, target in reversed(begun):
            if not os.path.lexists(source):
                os.replace(target, source)
        raise


def _settle(hidden: Path) -> None:
    """Undoes or finishes an exchange that was cut short, and removes a hidden directory.

    Raises:
        OSError: The disk failed, or something else has taken a name that the exchange left free; nothing is removed.
    """
    rest = _entries(hidden / "moving") or (_entries(hidden / "old") if (hidden / "new").is_dir() else [])
    for entry in sorted(rest, key=lambda entry: entry.name == _CONFIG):
        target = hidden.parent / entry.name
        empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        if os.path.lexists(target) and not empty:
            raise FileExistsError(errno.EEXIST, f"it holds an older or newer {entry.name}", str(target))
        os.replace(entry, target)
    for name in ("new", "old"):  # the lock comes last, so that whatever is left can be locked
        shutil.rmtree(hidden / name, ignore_errors=True)
    shutil.rmtree(hidden, ignore_errors=True)


def _entries(directory: Path) -> Sequence[Path]:
    """The entries of a directory; none if it doesn't exist or is a link."""
    return list(directory.iterdir()) if directory.is_dir() and not directory.is_symlink() else []
