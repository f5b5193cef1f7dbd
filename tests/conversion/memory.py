"""Loads and converts checkpoints, and prints the anonymous memory that each action takes; test_memory.py runs it.

    python -m tests.conversion.memory LARGE SMALL TARGET

It is a process of its own, since what earlier tests have freed would serve as memory that is not counted, or stay.
"""

import gc
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert

ACTIONS: dict[str, Callable[[Path, Path], Any]] = {
    "torch": lambda source, _: in_torch.IdeficsForVisionText2Text.from_pretrained(source, device="cpu"),
    "jax": lambda source, _: in_jax.IdeficsForVisionText2Text.from_pretrained(source, sharding=jax.devices()[0]),
    "safetensors": lambda source, target: convert(source, target, dtype="float32", progress=False),
    "flax-msgpack": lambda source, target: convert(source, target, format="flax-msgpack", progress=False),
}


def main(large: Path, small: Path, target: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    measure_peak = importlib.import_module("loading_worker").Peak
    taken: dict[str, int] = {}
    for name, action in ACTIONS.items():
        action(small, target / f"{name}-small")  # whatever is imported or started
        gc.collect()
        with measure_peak() as peak:
            action(large, target / name)
        taken[name] = peak.value - peak.start
    print(json.dumps(taken))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
