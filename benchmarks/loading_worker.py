"""One side of bench_loading.py: loads a checkpoint once, and measures time and memory."""

import functools
import importlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers

INTERVAL = 0.002  # seconds between two samples of the memory


def loader(side: str) -> Callable[[str], Any]:
    """The function with which a user of that side loads a CLIPModel from a directory."""
    if side.startswith("diptych torch"):
        import diptych.backends.torch as library

        return functools.partial(library.CLIPModel.from_pretrained, mmap=side.endswith("mmap"))
    if side == "safetensors":
        from safetensors.torch import load_file

        return lambda directory: load_file(Path(directory, "model.safetensors"))
    if side.startswith("diptych jax"):
        import jax

        import diptych.backends.jax as library

        return lambda directory: jax.block_until_ready(library.CLIPModel.from_pretrained(directory))
    if side.startswith("copy"):
        return copied if side == "copy" else copied_transposed
    transformers: Any = importlib.import_module("transformers")
    if side == "transformers":
        return transformers.CLIPModel.from_pretrained
    from jax import block_until_ready

    def load(directory: str) -> Any:
        model = transformers.FlaxCLIPModel.from_pretrained(directory, from_pt=not side.endswith("msgpack"))
        block_until_ready(model.params)
        return model

    return load


def copied(directory: str) -> list[np.ndarray]:
    """Copies of all tensors of the file: the lower bound for loading."""
    from diptych.core.checkpoint.safetensors import read_safetensors

    return [source.read().copy() for source in read_safetensors(Path(directory, "model.safetensors")).values()]


def copied_transposed(directory: str) -> list[np.ndarray]:
    """The same with the matrices of linear layers transposed, in strips: the lower bound for loading into Flax."""
    from diptych.core.checkpoint.safetensors import read_safetensors
    from diptych.core.checkpoint.strips import permute

    tensors = read_safetensors(Path(directory, "model.safetensors"))
    return [
        permute(
            source.read(),
            (1, 0) if len(source.shape) == 2 and "embedding" not in name else (*range(len(source.shape)),),
        )
        for name, source in tensors.items()
    ]


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


class Peak:
    """Peak of the anonymous memory within the context, sampled by a thread."""

    def __enter__(self) -> "Peak":
        self.start = self.value = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self.value = max(self.value, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def touch(size: int) -> None:
    """Uses and frees this much memory: a virtual machine returns idle memory to its host, and the first one to use it
    again waits for it (measured: 1 s for 1.7 GB)."""
    np.ones(size, np.uint8)


def measure(load: Callable[[str], Any], directory: str, warm: str, watch: bool) -> dict[str, float]:
    """Seconds of a load; or its peak memory and the memory in use after it, relative to that before.

    Args:
        load: loads a directory.
        directory: what to load.
        warm: a small checkpoint to load first, so that imports and the start of thread pools are not measured.
        watch: measure memory instead of time.
    """
    load(warm)
    if not watch:
        touch(max(file.stat().st_size for file in Path(directory).iterdir()))
        start = time.perf_counter()
        model = load(directory)
        return {"seconds": time.perf_counter() - start}
    with Peak() as peak:
        model = load(directory)
    kept = anonymous()
    del model
    return {"peak": peak.value - peak.start, "kept": kept - peak.start}


if __name__ == "__main__":
    function = loader(sys.argv[1])
    peers.serve({"measure": lambda **options: measure(function, **options), "versions": peers.versions})
