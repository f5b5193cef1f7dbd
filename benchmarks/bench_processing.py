"""Speed of image processing: diptych against the Pillow processors of transformers 5, whose pixels are the same, and
its torchvision processors, if torchvision is installed. Photos are Pillow images in memory, so that decoding does not
count; they are processed in one call. The processors take turns, call by call. Donut gets a tenth of the photos: its
pixels take 59 MB a photo."""

import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import peers
import transformers
from PIL import Image
from rich.console import Console
from rich.table import Table

from diptych.core.processing.image_config import ImageProcessorConfig
from diptych.core.processing.image_processor import ImageProcessor

KINDS = {"CLIP": 1, "ViT": 1, "DeiT": 1, "Beit": 1, "Donut": 10}
"""The processors, each with the number by which that of the photos is divided."""
SIZES = ((480, 640), (640, 480), (600, 800), (427, 640))
"""Height and width of the photos, in turn."""
OURS, PILLOW, TORCHVISION = "diptych", "transformers Pillow", "transformers torchvision"


def photos(count: int) -> list[Image.Image]:
    """Smooth colours with some noise."""
    random = np.random.default_rng(0)
    found: list[Image.Image] = []
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
        noise = random.integers(-8, 9, (height, width, 3))
        found.append(Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)))
    return found


def processors(kind: str) -> dict[str, Callable[[list[Image.Image]], np.ndarray]]:
    """The processors of a kind by side, each from its defaults in transformers."""
    theirs: Any = getattr(transformers, f"{kind}ImageProcessorPil")()
    ours = ImageProcessor(ImageProcessorConfig.from_dict(theirs.to_dict(), ignore=(), source=kind))
    sides = {OURS: lambda images: ours(images).pixel_values}
    sides[PILLOW] = lambda images: np.asarray(theirs(images, return_tensors="np")["pixel_values"])
    if find_spec("torchvision") is not None:
        tensors: Any = getattr(transformers, f"{kind}ImageProcessor")()
        sides[TORCHVISION] = lambda images: tensors(images, return_tensors="pt")["pixel_values"].numpy()
    return sides


def measured(kind: str, images: list[Image.Image], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, by side.

    Raises:
        RuntimeError: our pixels differ from those of the Pillow processor.
    """
    sides = processors(kind)
    if not np.array_equal(sides[OURS](images), sides[PILLOW](images)):
        raise RuntimeError(f"{kind}: the pixels differ")
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, rounds):  # turn -1 is a warm-up
        for name in sides if turn % 2 == 0 else reversed(sides):
            start = time.perf_counter()
            sides[name](images)
            if turn >= 0:
                found[name].append(time.perf_counter() - start)
    return found


def table(results: dict[str, dict[str, list[float]]]) -> Table:
    """Milliseconds of each side, and the ratios of adjacent calls."""
    shown = Table("processor", *(f"{name}, ms" for name in (OURS, PILLOW, TORCHVISION)), f"{OURS} /\n{PILLOW}")
    shown.add_column(f"{OURS} /\n{TORCHVISION}")
    shown.title = "Time per call: median; ratio of times: below 1, diptych is faster (median, quartiles)"
    for kind, found in results.items():
        times = [
            f"{1e3 * statistics.median(found[name]):.0f}" if name in found else ""
            for name in (OURS, PILLOW, TORCHVISION)
        ]
        ratios: list[str] = []
        for peer in (PILLOW, TORCHVISION):
            pairs = [ours / other for ours, other in zip(found[OURS], found.get(peer, ()), strict=False)]
            low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive") if pairs else (0, 0, 0)
            ratios.append(f"{middle:.2f} ({low:.2f}–{high:.2f})" if pairs else "")
        shown.add_row(kind, *times, *ratios)
    return shown


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="calls per side, at least 2")
    parser.add_argument("--photos", type=int, help="by default 100")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    images = photos(options.photos or (4 if options.quick else 100))
    facts = peers.session() | {"versions": peers.versions(), "photos": len(images)}
    results: dict[str, dict[str, list[float]]] = {}
    for kind, fewer in KINDS.items():
        results[kind] = measured(kind, images[: -(-len(images) // fewer)], rounds)
        if options.json:
            options.json.write_text(json.dumps({"session": facts, "rows": results}, indent=1) + "\n")
    console = Console()
    console.print(table(results))
    console.print(peers.described(facts))


if __name__ == "__main__":
    main()
