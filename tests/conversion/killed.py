"""Ends `diptych convert` at random moments, and looks at what is left: run by test_convert_refusals.py.

Each conversion runs in a fork of this process, which has imported what it needs.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from diptych import cli
from diptych.core.checkpoint.directory import open_checkpoint
from diptych.core.checkpoint.tensors import digest
from tests.conversion import checkpoints

NAME = "GPT2LMHeadModel"


def whole(directory):
    """The digests of all tensors of a checkpoint, and its config."""
    found = {name: digest(source) for name, source in open_checkpoint(directory).tensors.items()}
    return found, (directory / "config.json").read_bytes()


def run(arguments):
    """The exit code of a conversion."""
    try:
        cli.main(["convert", *map(str, arguments), "--json"])
    except SystemExit as end:
        return int(end.code or 0)


def started(arguments):
    """The process of a conversion."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(run(arguments))
    return child


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(directory, kills, seed):
    draw, codes = random.Random(seed), []
    checkpoints.write(source := directory / "source", NAME)
    checkpoints.write(other := directory / "other", NAME, seed=1)
    place = directory / "beside" / "new"
    place.parent.mkdir()
    arguments = (source, place, "--overwrite", "--max-shard-size", "20kB", "--format")
    longest, wanted = {}, {}
    for form in ("safetensors", "flax-msgpack"):
        run((*arguments, form))  # here too, so that the forks need not import what it does
        begun = time.perf_counter()
        assert code_of(started((*arguments, form))) == 0
        longest[form], wanted[form] = time.perf_counter() - begun, whole(place)
    for _ in range(kills):
        form, old = draw.choice(list(wanted)), draw.choice((None, other))
        shutil.rmtree(place, ignore_errors=True)
        if old is not None:
            shutil.copytree(old, place)
        child = started((*arguments, form))
        time.sleep(draw.uniform(0, longest[form]))
        os.kill(child, number := draw.choice((signal.SIGKILL, signal.SIGTERM)))
        code = code_of(child)
        assert code in (0, -signal.SIGKILL, 143 if number == signal.SIGTERM else 0), code
        codes.append(code)
        if place.exists():
            new, before = [wanted[form]] if code != 143 else [], [whole(other)] if old is not None and code != 0 else []
            assert whole(place) in (*new, *before)
        else:
            assert code != 0 and (old is None or code == -signal.SIGKILL)
        assert code_of(started((*arguments, form))) == 0
        assert os.listdir(place.parent) == ["new"]
        assert whole(place) == wanted[form]
    print(*codes, file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
