"""Hostile files of every kind: a reader reads them, or refuses them with an error of ours; `guard.py` watches it."""

import random
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import SECONDS, attempt, warm_up
from tests.fuzz.guard import BrokenGuaranteeError, guarded
from tests.fuzz.readers import READERS

LIMITS = {"image": 1 << 30, "sound": 1 << 26}
"""Bytes of memory: of images and sound those that come out, of all else some for each byte of the file."""


@pytest.mark.filterwarnings("ignore")  # of Pillow, about damaged images
@pytest.mark.parametrize("name", READERS)
def test_hostile_files(tmp_path_factory, name):
    reader, directory = READERS[name], tmp_path_factory.mktemp(name)
    warm_up(reader, directory)

    @settings(max_examples=settings().max_examples // 2)
    @given(seed=st.integers(0, 2**64 - 1))
    def check(seed):
        tracemalloc.start()
        error = attempt(reader, directory, random.Random(seed))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert error is None, f"python -m tests.fuzz --reader {name} --count 1 --seed {seed}"
        size = sum(path.stat().st_size for path in directory.iterdir())
        assert peak < LIMITS.get(name, 64 * size + (1 << 21)), (peak, size)

    check()


def work_on(directory):
    while True:
        pass


def wait_on(directory):
    threading.Event().wait()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda directory: eval("1"), "compile|exec"),
        (lambda directory: Path("/etc/hostname").read_bytes(), "open"),
        (lambda directory: (directory / ".." / "x").read_bytes(), "open"),
        (lambda directory: (directory / "x").write_bytes(b""), "open"),
        (work_on, "takes more than"),
        (wait_on, "takes more than"),
    ],
)
def test_the_guard_sees_what_must_not_happen(tmp_path, break_it, message):
    with pytest.raises(BrokenGuaranteeError, match=message), guarded(tmp_path, SECONDS / 40):
        break_it(tmp_path)
