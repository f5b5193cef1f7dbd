"""What a run leaves that is killed, and what the next run to the same place does with it."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.core.checkpoint import atomic
from diptych.core.checkpoint.atomic import new_directory, new_files, recover
from diptych.core.checkpoint.directory import write_checkpoint
from diptych.core.checkpoint.files import open_atomic
from tests.core.directories import names, tensors

ROOT = Path(__file__).parents[2]
LEFTOVER = f".new.partial-{atomic._host()}01234567"


def test_a_kill_at_any_operation_leaves_the_old_checkpoint_or_the_new_one(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "tests.core.killed", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 5
    assert sum(int(line.split()[-1]) for line in done.stdout.splitlines()) > 200


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    leftover = tmp_path / f".{atomic._short(name)}.partial-{atomic._host()}01234567"
    leftover.mkdir()
    for write in (new_directory(tmp_path / name), new_directory(tmp_path / name, overwrite=True)):
        with write as partial:
            (partial / "config.json").touch()
    with open_atomic(tmp_path / name / name):
        pass
    assert names(tmp_path) == [name]
    assert set(names(tmp_path / name)) == {"config.json", name}


def test_what_belongs_to_a_living_run_stays(tmp_path):
    with new_directory(tmp_path / "new") as partial, new_directory(tmp_path / "new") as other:
        (partial / "config.json").write_text("mine")
        recover(tmp_path / "new")
        assert (partial / "config.json").exists() and other.exists()
        other.rmdir()
        other.mkdir()
    (tmp_path / "new").rename(tmp_path / "done")
    with new_files(tmp_path / "done", lambda name: False) as partial:
        recover(tmp_path / "done")
        assert partial.exists()


def test_an_unfinished_file_is_removed(tmp_path):
    (tmp_path / LEFTOVER).touch()
    (tmp_path / LEFTOVER.replace("new", "other")).touch()
    with open_atomic(tmp_path / "new") as handle:
        handle.write(b"1")
        assert len(names(tmp_path)) == 2
        recover(tmp_path)
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == ["new"]
    assert (tmp_path / "new").read_bytes() == b"1"


@pytest.mark.parametrize("locks", [True, False])
def test_what_may_be_in_use_stays_with_a_warning(tmp_path, monkeypatch, caplog, locks):
    def no_locks(descriptor):
        raise OSError("no locks available")

    (tmp_path / f".new.partial-{'0' * 16}").mkdir()
    if not locks:
        (tmp_path / LEFTOVER).mkdir()
        monkeypatch.setattr(atomic, "_lock", no_locks)
    with caplog.at_level(logging.WARNING, "diptych"), new_directory(tmp_path / "new"):
        pass
    assert len(names(tmp_path)) == (2 if locks else 3)
    assert "left by an earlier run; remove it if none is using it" in caplog.text
    assert ("made on another host" in caplog.text, "no locks available" in caplog.text) == (True, not locks)


def test_an_old_checkpoint_that_cannot_be_put_back_is_kept(tmp_path, caplog):
    hidden = tmp_path / f".new.partial-{atomic._host()}01234567"
    (hidden / "new").mkdir(parents=True)
    (hidden / "old" / "new").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis.txt").touch()
    with caplog.at_level(logging.WARNING, "diptych"):
        recover(tmp_path / "new")
    assert (hidden / "old" / "new").is_dir()
    assert "it holds an older or newer new" in caplog.text


def test_a_hidden_directory_of_links_moves_and_deletes_nothing_elsewhere(tmp_path):
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    for name in ("new", "old", "moving", "lock"):
        place = tmp_path / name
        (place / LEFTOVER).mkdir(parents=True)
        (place / LEFTOVER / name).symlink_to(outside)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / LEFTOVER).symlink_to(outside)
    for name in ("new", "old", "moving", "lock", "link"):
        recover(tmp_path / name)
        assert names(outside) == ["kept"]


def test_where_nothing_can_be_made(tmp_path, monkeypatch):
    def refuse(self, *arguments, **keywords):
        if ".partial-" in self.name:
            raise PermissionError(13, "Permission denied", str(self))
        make(self, *arguments, **keywords)

    make = Path.mkdir
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(Path, "mkdir", refuse)
    for write in (new_directory(tmp_path / "new"), new_files(tmp_path / "there", lambda name: False)):
        with pytest.raises(PermissionError, match="Permission denied, so nothing can be saved there"), write:
            pass


def test_free_space_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=83))
    expected = r"No space left on device: 84 bytes are needed, and 83 are free: '.*a/new'"
    with pytest.raises(OSError, match=expected) as caught:
        write_checkpoint(tmp_path / "a" / "new", tensors())
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=0, free=0))  # such as /proc
    with pytest.raises(OSError, match=r"is part of a file system that has no space for files; give a dir.*: '.*a/new'"):
        write_checkpoint(tmp_path / "a" / "new", tensors())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=84))
    write_checkpoint(tmp_path / "a" / "new", tensors())
