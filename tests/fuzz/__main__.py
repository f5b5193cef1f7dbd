"""Gives hostile files to the readers: `python -m tests.fuzz --reader torch --count 1000000 --seed 0`."""

import argparse
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from tqdm import tqdm

from diptych.core.errors import CheckpointError, ConfigError, InputError
from tests.fuzz.guard import guarded, limit_memory
from tests.fuzz.readers import READERS, Files, Reader

NAMED = (CheckpointError, ConfigError, InputError)
SECONDS = 2.0
MEMORY = 1 << 31


def write(directory: Path, files: Files) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def attempt(reader: Reader, directory: Path, draw: random.Random) -> BaseException | None:
    """Lets a reader read hostile files; returns the error that breaks a guarantee."""
    write(directory, reader.hostile(draw))
    try:
        with guarded(directory, SECONDS):
            reader.read(directory)
    except NAMED:
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def warm_up(reader: Reader, directory: Path) -> None:
    """Reads files that are as they should be, so that everything is imported."""
    for files in (*reader.seeds, {}):
        write(directory, files)
        try:
            reader.read(directory)
        except (*NAMED, OSError):
            traceback.format_exc()


def run(name: str, count: int, seed: int, most: int) -> int:
    """The number of broken guarantees; each is shown with the seed that makes it again."""
    reader, shown = READERS[name], dict[str, int]()
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))
    try:
        warm_up(reader, directory)
        limit_memory(MEMORY)
        for number in tqdm(range(seed, seed + count), desc=name, unit="file", mininterval=1):
            error = attempt(reader, directory, random.Random(number))
            if error is not None:
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{type(error).__name__} {last.filename}:{last.lineno}"
                shown[place] = shown.get(place, 0) + 1
                if shown[place] == 1:
                    tqdm.write(f"{type(error).__name__}: {str(error)[:300]}")
                    tqdm.write(f"again with --reader {name} --count 1 --seed {number}")
                    tqdm.write("".join(traceback.format_exception(error)[-6:]))
                if len(shown) > most:
                    break
    finally:
        shutil.rmtree(directory)
    print(f"{name}: {count} files from seed {seed}: {sum(shown.values())} broken guarantees at {len(shown)} places")
    for place, times in shown.items():
        print(f"  {times} x {place}")
    return len(shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, help="by default all of them, in turn")
    parser.add_argument("--count", type=int, default=20_000, help="files for each reader (20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first file; the next has the next number")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [options.reader] if options.reader else list(READERS)
    broken = [run(name, options.count, options.seed, most=20) for name in names]
    sys.exit(any(broken))
