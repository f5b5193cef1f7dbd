"""Time and memory to load a 1.7 GB checkpoint, CLIP ViT-L/14 in float32, from the page cache: diptych in torch (also
with mmap=True) and in JAX against transformers 5, safetensors itself, the last Flax release (from_pt=True), and a lower
bound: copying every tensor out of the memory-mapped file, for JAX with the matrices of linear layers transposed. JAX
and Flax also load a flax_model.msgpack, whose matrices are transposed already.

Every load runs in a process of its own, which has loaded a small checkpoint before; the sides take turns.
"""

import json
import statistics
from pathlib import Path

import checkpoints
import peers
from rich.console import Console
from rich.table import Table

SIDES = {
    "copy": "here",
    "copy transposed": "here",
    "diptych torch": "here",
    "diptych torch mmap": "here",
    "transformers": "here",
    "safetensors": "here",
    "diptych jax": "here",
    "diptych jax msgpack": "here",
    "transformers flax": "flax",
    "transformers flax msgpack": "flax",
}
"""Name of each side -> the environment in which it runs."""

FLOORS = {
    "diptych torch": "copy",
    "diptych torch mmap": "copy",
    "transformers": "copy",
    "safetensors": "copy",
    "diptych jax": "copy transposed",
    "diptych jax msgpack": "copy",
    "transformers flax": "copy transposed",
    "transformers flax msgpack": "copy",
}


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="loads per side")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 7)
    facts = peers.session()
    small = str(checkpoints.checkpoint("small-clip", "CLIPModel", checkpoints.SMALL_CLIP))
    directory = checkpoints.checkpoint("clip-vit-l14", "CLIPModel", checkpoints.CLIP_L14)
    file = small if options.quick else str(directory)
    weights = next((directory if not options.quick else Path(small)).glob("*.safetensors"))
    size, largest = weights.stat().st_size, checkpoints.largest_tensor(weights)
    weights.read_bytes()  # into the page cache
    msgpack = {path: checkpoints.as_msgpack(Path(path)) for path in (file, small)}

    def measure(side: str, watch: bool) -> dict[str, float]:
        loaded, warm = (str(msgpack[path]) if side.endswith("msgpack") else path for path in (file, small))
        with peers.Worker("loading_worker.py", side, SIDES[side], options.flax_environment) as worker:
            found = worker("measure", directory=loaded, warm=warm, watch=watch)
            facts[f"versions, {side}"] = worker("versions")
        return found

    memory = {side: measure(side, True) for side in options.sides}
    seconds: dict[str, list[float]] = {side: [] for side in options.sides}
    for turn in range(rounds):
        for side in options.sides if turn % 2 == 0 else reversed(options.sides):
            seconds[side].append(measure(side, False)["seconds"])

    table = Table(
        "",
        "seconds (median, fastest)",
        "relative to\nthe plain copy",
        "peak memory\n/ model",
        "above the model,\nin largest tensors",
    )
    for side, times in seconds.items():
        floor = FLOORS.get(side)
        ratios = [a / b for a, b in zip(times, seconds[floor], strict=True)] if floor in seconds else []
        table.add_row(
            side,
            f"{statistics.median(times):.2f}, {min(times):.2f}",
            f"{statistics.median(ratios):.2f}" if ratios else "",
            f"{memory[side]['peak'] / size:.2f}",
            f"{(memory[side]['peak'] - size) / largest:+.2f}",
        )
    console = Console()
    console.print(table)
    console.print(f"the model has {size / 1e9:.2f} GB, its largest tensor {largest / 1e9:.2f} GB")
    console.print(peers.described(facts))
    if options.json:
        found = {"session": facts, "bytes": size, "largest": largest, "memory": memory, "seconds": seconds}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
