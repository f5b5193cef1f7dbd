"""Memory above that of the mapped files: to inspect and to convert a checkpoint of the size of idefics-9b, and to load
one of half a gigabyte with device= in torch and sharding= in JAX, onto one device or in halves onto two.

The files hold zeros in bfloat16, in shards of 10 GB (0.3 GB for the smaller one), and take no space; a converted
checkpoint needs 18 GB for a while, beside the cached checkpoints. Every side runs in a process of its own, which has
done the same with a small checkpoint before. Memory is the peak of RssAnon, sampled every 2 ms.
"""

import json
import time
from typing import Any

import checkpoints
import peers
from rich.console import Console
from rich.table import Table

SIDES = (
    "inspect",
    "convert to safetensors",
    "convert to flax-msgpack",
    "load, torch",
    "load, JAX",
    "load, JAX, halves",
)
GIB = 1 << 30


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    options = parser.parse_args()
    facts = peers.session()
    small = checkpoints.sparse_idefics("sparse-small-idefics", checkpoints.SMALL_IDEFICS, 1 << 22)
    half = checkpoints.sparse_idefics("sparse-half-gigabyte", checkpoints.IDEFICS_HALF_GIGABYTE, 300 * 10**6)
    whole = half if options.quick else checkpoints.sparse_idefics("sparse-9b", checkpoints.IDEFICS_9B, 10**10)
    table = Table("", "model, GB", "largest tensor, GB", "seconds", "peak memory, GiB", "/ model")
    rows = dict[str, Any]()
    for side in options.sides:
        directory = half if side.startswith("load") else whole
        files = [*directory.glob("*.safetensors")]
        size, largest = sum(file.stat().st_size for file in files), max(map(checkpoints.largest_tensor, files))
        with peers.Worker("size_worker.py", side, "here") as worker:
            start = time.perf_counter()
            found = worker("measure", directory=str(directory), warm=str(small))
            rows[side] = {"bytes": size, "largest": largest, "seconds": time.perf_counter() - start, **found}
            facts[f"versions, {side}"] = worker("versions")
        peak = found["peak"]
        cells = f"{size / 1e9:.2f}", f"{largest / 1e9:.2f}", f"{rows[side]['seconds']:.0f}", f"{peak / GIB:.2f}"
        table.add_row(side, *cells, f"{peak / size:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(peers.described(facts))
    if options.json:
        options.json.write_text(json.dumps({"session": facts, "sides": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
