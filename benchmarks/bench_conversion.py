"""Speed of conversions against a copy of the same bytes by cp, each until everything is on the disk: to safetensors
in one file and in shards, and to a Flax msgpack, whose matrices are transposed. A conversion also reads everything back
and compares it with its source; the time of that is shown apart. The source is in the page cache; the two take turns.
"""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import checkpoints
import peers
from rich.console import Console
from rich.table import Table

from diptych.conversion import convert

LARGE: dict[str, Any] = {
    **checkpoints.CLIP_L14,
    "vision_config": {**checkpoints.CLIP_L14["vision_config"], "num_hidden_layers": 150},
}
"""CLIP ViT-L/14 with a vision tower of 150 layers, 8.1 GB."""
WAYS: dict[str, dict[str, Any]] = {
    "safetensors": {"max_shard_size": None},
    "safetensors, shards of 500 MB": {"max_shard_size": "500MB"},
    "flax-msgpack": {"max_shard_size": None, "format": "flax-msgpack"},
}


def copied(file: Path, directory: Path) -> float:
    """Seconds of cp until the copy is on the disk."""
    directory.mkdir()
    start = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", str(file), str(directory)], check=True)
    with (directory / file.name).open("r+b") as handle:
        os.fsync(handle.fileno())
    return time.perf_counter() - start


def converted(source: Path, directory: Path, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a conversion until all is on the disk, and those of reading it back and comparing it."""
    moments: list[float] = []
    start = time.perf_counter()
    report = convert(source, directory, progress=lambda _: moments.append(time.perf_counter()), **options)
    end = time.perf_counter()
    # the function is called for each tensor written, and after the files are on the disk for each that was verified
    verified = len(report.tensors)
    first, last = moments[-verified], moments[-1]
    return first - start + end - last, last - first


def measured(source: Path, ways: list[str], rounds: int, scratch: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of each call by way of conversion: of cp, of writing, and of verifying."""
    file = source / "model.safetensors"
    found: dict[str, dict[str, list[float]]] = {way: {"cp": [], "write": [], "verify": []} for way in ways}
    for turn in range(-1, rounds):  # turn -1 is a warm-up
        for way in ways:
            for side in ("cp", "convert") if turn % 2 == 0 else ("convert", "cp"):
                file.read_bytes()  # into the page cache
                target = scratch / "target"
                if side == "cp":
                    seconds = {"cp": copied(file, target)}
                else:
                    seconds = dict(zip(("write", "verify"), converted(source, target, WAYS[way]), strict=True))
                shutil.rmtree(target)
                os.sync()
                for name, value in seconds.items() if turn >= 0 else ():
                    found[way][name].append(value)
    return found


def table(title: str, results: dict[str, dict[str, list[float]]], size: int) -> Table:
    """Seconds of each part, and cp's time relative to that of writing."""
    shown = Table("to", "cp, s", "convert, s", "verify, s", "speed of convert\n/ speed of cp", "the same\nwith verify")
    shown.title = f"{title}, {size / 1e9:.2f} GB: median; above 1, the conversion is faster (median, lowest–highest)"
    for way, found in results.items():
        pairs = list(zip(found["cp"], found["write"], found["verify"], strict=True))
        ratios = [[cp / write for cp, write, _ in pairs], [cp / (write + verify) for cp, write, verify in pairs]]
        shown.add_row(
            way,
            *(f"{statistics.median(found[name]):.2f}" for name in ("cp", "write", "verify")),
            *(f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" for values in ratios),
        )
    return shown


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="conversions of each way")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--large", action="store_true", help="also a checkpoint of 8.1 GB; needs 25 GB on the disk")
    parser.add_argument("--scratch", type=Path, help="the directory to write to; by default a temporary one")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    cases = {"small CLIP": ("small-clip", checkpoints.SMALL_CLIP)}
    if not options.quick:
        cases = {"CLIP ViT-L/14": ("clip-vit-l14", checkpoints.CLIP_L14)}
        cases |= {"CLIP of 150 layers": ("clip-large", LARGE)} if options.large else {}
    facts = peers.session() | {"versions": peers.versions()}
    console, rows = Console(), {}
    for title, (name, fields) in cases.items():
        source = checkpoints.checkpoint(name, "CLIPModel", fields)
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            rows[title] = measured(source, options.ways, rounds, Path(scratch))
        console.print(table(title, rows[title], (source / "model.safetensors").stat().st_size))
    console.print(peers.described(facts))
    if options.json:
        options.json.write_text(json.dumps({"session": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
