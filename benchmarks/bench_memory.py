"""The memory that convert takes besides the mapped files, for each pair of formats: at most the largest tensor and
64 MiB, whatever the size of the checkpoint. The sources are GPT-2s of zeros, of 2 GiB, or of the --gigabytes asked for.

Every conversion runs in a process of its own, which has converted a small checkpoint before. Its anonymous memory is
sampled every 5 ms; pages of mapped files are not part of it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import peers
from rich.console import Console
from rich.table import Table

from diptych.conversion.slots import slots_of
from diptych.core.models.gpt2 import GPT2Config

PAIRS = (
    ("safetensors", "safetensors", None),
    ("safetensors", "safetensors", "bfloat16"),
    ("safetensors", "flax-msgpack", None),
    ("flax-msgpack", "safetensors", None),
    ("torch", "safetensors", None),
)
"""Format of the source, format of the result, dtype of the result."""
SPARE = 64 << 20
WIDTH = 2048

PROGRAM = """
import sys, threading, time
from diptych.conversion import convert

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())

small, source, target, format, dtype = sys.argv[1:]
options = {"format": format, "dtype": dtype or None, "progress": False, "overwrite": True}
convert(small, target, **options)
done, before = threading.Event(), anonymous()
peak, started = before, time.perf_counter()
thread = threading.Thread(target=watch)
thread.start()
convert(source, target, **options)
done.set()
thread.join()
print(peak - before, time.perf_counter() - started)
"""


def write_zeros(directory: Path, layers: int, width: int = WIDTH) -> int:
    """Writes a GPT-2 of zeros, whose file takes no room on the disk; returns the size of its largest tensor."""
    config = GPT2Config(n_embd=width, n_layer=layers, n_head=16, vocab_size=1024, architectures=("GPT2Model",))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for slot in slots_of("GPT2Model", config):
        size = 4
        for length in slot.shape:
            size *= length
        header[slot.path] = {"dtype": "F32", "shape": slot.shape, "data_offsets": (position, position + size)}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir()
    (directory / "config.json").write_text(config.to_json())
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return 4 * 4 * width * width


def write_torch(directory: Path, source: Path) -> None:
    """Writes the same zeros with torch.save."""
    import torch
    from safetensors.torch import load_file

    directory.mkdir()
    shutil.copy(source / "config.json", directory)
    torch.save(load_file(source / "model.safetensors"), directory / "pytorch_model.bin")


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--gigabytes", nargs="+", type=int, default=[2], help="sizes of the checkpoints")
    parser.add_argument("--directory", type=Path, help="where the files are written, several times their size")
    options = parser.parse_args()
    facts, rows = peers.session(), list[dict[str, Any]]()
    table = Table("from", "to", "GB", "MB above the mapped files", "allowed", "seconds")
    for gigabytes in [0] if options.quick else options.gigabytes:
        place = Path(tempfile.mkdtemp(dir=options.directory))
        try:
            largest = write_zeros(place / "safetensors", max(1, gigabytes * 2**30 // (48 * WIDTH**2)))
            write_zeros(place / "small", 1, 64)
            for source, target, dtype in PAIRS:
                if not (place / source).is_dir():
                    if source == "torch":
                        write_torch(place / source, place / "safetensors")
                    else:
                        (place / "result").rename(place / source)
                arguments = [place / "small", place / source, place / "result", target, dtype or ""]
                command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                above, seconds = int(printed[0]), float(printed[1])
                row = {"from": source, "to": f"{target} {dtype or ''}", "gigabytes": gigabytes, "above": above}
                rows.append(row | {"allowed": largest + SPARE, "seconds": seconds})
                if source == "flax-msgpack":
                    shutil.rmtree(place / source)
        finally:
            shutil.rmtree(place)
    for row in rows:
        sizes = (f"{row[name] / 1e6:.0f}" for name in ("above", "allowed"))
        table.add_row(row["from"], row["to"], str(row["gigabytes"]), *sizes, f"{row['seconds']:.1f}")
    console = Console()
    console.print(table)
    console.print(peers.described(facts))
    if options.json:
        options.json.write_text(json.dumps({"session": facts, "rows": rows}, indent=1) + "\n")
    if any(row["above"] > row["allowed"] for row in rows):
        sys.exit("a conversion holds more than its largest tensor and 64 MiB")


if __name__ == "__main__":
    main()
