"""One side of bench_size.py: inspects, converts or loads an IDEFICS once, and measures its memory."""

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loading_worker
import peers


def action(side: str) -> Callable[[str], Any]:
    """What a side does with a directory."""
    if side == "inspect":
        from diptych.conversion import inspect_checkpoint

        return inspect_checkpoint
    if side.startswith("convert to "):
        return functools.partial(converted, side.removeprefix("convert to "))
    if side == "load, torch":
        from diptych.backends.torch import IdeficsForVisionText2Text as Model

        return functools.partial(Model.from_pretrained, device="cpu")
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    from diptych.backends.jax import IdeficsForVisionText2Text as Model

    sharding = jax.devices()[1] if side == "load, JAX" else halves
    return lambda directory: jax.block_until_ready(Model.from_pretrained(directory, sharding=sharding))


def halves(path: str, shape: tuple[int, ...]) -> Any:
    """The sharding of a parameter over two devices: halves, unless its first axis is odd."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2,), ("all",), axis_types=(AxisType.Auto,))
    even = shape[:1] and shape[0] % 2 == 0
    return NamedSharding(mesh, PartitionSpec("all") if even else PartitionSpec())


def converted(format: str, directory: str) -> None:
    """Converts beside the directory, and deletes the result."""
    from diptych.conversion import convert

    with tempfile.TemporaryDirectory(dir=Path(directory).parent) as scratch:
        convert(directory, Path(scratch, "out"), format=format, progress=False)


if __name__ == "__main__":
    measure = functools.partial(loading_worker.measure, action(sys.argv[1]), watch=True)
    peers.serve({"measure": measure, "versions": peers.versions})
