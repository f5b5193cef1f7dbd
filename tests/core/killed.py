"""A program that kills a save before each of its file operations, and looks at what is left: run by test_killed.py.

Each save runs in a fork of this process, which an audit hook kills with SIGKILL: Python announces every operation.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

from diptych.core.checkpoint.atomic import new_directory, new_files, recover
from diptych.core.checkpoint.directory import is_weight_file, open_checkpoint, write_checkpoint
from diptych.core.errors import CheckpointError
from tests.core.directories import digests, names, tensors

OPERATIONS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "fcntl.flock", "open"}
WHOLE = {value: digests(tensors(value)) for value in (1, 2)}


def fill(directory, value, size, progress=None):
    (directory / "config.json").write_text(str(value))
    write_checkpoint(directory, tensors(value), max_shard_size=size, progress=progress)


def in_directory(place, size, progress):
    with new_directory(place, overwrite=True) as new:
        fill(new, 2, size, progress)


def in_files(place, size, progress):
    with new_files(place, is_weight_file) as new:
        fill(new, 2, size, progress)


def before(place, size):
    """Puts an older checkpoint in a place, or nothing, or an empty directory."""
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir()
    if size != "absent":
        place.mkdir()
    if size not in ("absent", "empty"):
        fill(place, 1, size)
        (place / "vocab.txt").touch()


def found(place):
    """The number in the config of the checkpoint in a place, whose tensors must belong to it; None without a config."""
    config = place / "config.json"
    if not config.exists():
        return None
    value = int(config.read_text())
    assert digests(open_checkpoint(place).tensors) == WHOLE[value], f"a mixture: {names(place)}"
    return value


def killed(save, place, size, operation):
    """Whether a save was killed, before the operation of this number."""
    child = os.fork()
    if child == 0:
        operations = count()

        def step(*_):
            if next(operations) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(lambda event, arguments: step() if event in OPERATIONS else None)
        save(place, size, step)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return status != 0


def check(save, place, size_before, size_after):
    """Kills a save before every operation; returns how often."""
    seen = set()
    for operation in count():
        before(place, size_before)
        old = found(place)
        if not killed(save, place, size_after, operation):
            assert found(place) == 2
            assert seen == {old, 2}, seen
            return operation
        assert found(place) in (None, old, 2)
        recover(place)
        seen.add(found(place))
        assert found(place) in (old, 2), f"operation {operation} of {save.__name__}: {names(place)}"
        assert names(place.parent) in ([], ["new"])
        assert not [name for name in names(place) if name.startswith(".")] if place.exists() else True
        with suppress(CheckpointError):  # there may be no weights
            expected = [] if found(place) is None else list(WHOLE[found(place)])
            assert sorted(open_checkpoint(place).tensors) == sorted(expected)


if __name__ == "__main__":
    place = Path(sys.argv[1]) / "beside" / "new"
    for save, *sizes in (
        (in_directory, "absent", None),
        (in_directory, "empty", 44),
        (in_directory, 44, 1),
        (in_files, 44, 1),
        (in_files, 1, None),
    ):
        print(save.__name__, *sizes, check(save, place, *sizes))
