"""Speed and memory of feature extraction: an hour of sound at 16 kHz, normalized, in one recording and in 360 of 10 s,
half of which are padded. diptych against the feature extractor of transformers 5, whose values are the same. They take
turns, call by call."""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import peers
import transformers
from loading_worker import Peak
from rich.console import Console
from rich.table import Table

from diptych.core.processing.audio_config import AudioProcessorConfig
from diptych.core.processing.audio_processor import AudioProcessor

RATE = 16_000
OURS, THEIRS = "diptych", "transformers"


def recordings(seconds: int, parts: int) -> list[np.ndarray]:
    """Noise of this length, in equal parts, of which every second one lacks a tenth of its end."""
    samples = np.random.default_rng(0).standard_normal((parts, seconds * RATE // parts), np.float32)
    return [row[: len(row) * 9 // 10] if number % 2 else row for number, row in enumerate(samples)]


def sides() -> dict[str, Callable[[list[np.ndarray]], np.ndarray]]:
    """Both processors, with a mask, as layer-norm models need it."""
    theirs = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    ours = AudioProcessor(AudioProcessorConfig(sampling_rate=RATE, return_attention_mask=True))
    return {
        OURS: lambda given: ours(given, padding=True).input_values,
        THEIRS: lambda given: theirs(given, sampling_rate=RATE, padding=True, return_tensors="np")["input_values"],
    }


def measured(given: list[np.ndarray], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and bytes of memory of each call, by side.

    Raises:
        RuntimeError: the values differ.
    """
    both = sides()
    if not np.array_equal(both[OURS](given), both[THEIRS](given)):
        raise RuntimeError("the values differ")
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "memory": []} for name in both}
    for turn in range(rounds):
        for name in both if turn % 2 == 0 else reversed(both):
            start = time.perf_counter()
            both[name](given)
            found[name]["seconds"].append(time.perf_counter() - start)
            with Peak() as peak:
                both[name](given)
            found[name]["memory"].append(peak.value - peak.start)
    return found


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="calls of each side")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = 60 if options.quick else 3600
    facts = peers.session() | {"versions": peers.versions()}
    shown, rows = Table("recordings", f"{OURS}, s", f"{THEIRS}, s", "ratio of times", "peak memory / samples"), {}
    for parts in (1, seconds // 10):
        found = rows[parts] = measured(recordings(seconds, parts), rounds)
        one, other = (found[side]["seconds"] for side in (OURS, THEIRS))
        peaks = (max(found[side]["memory"]) / (4 * seconds * RATE) for side in (OURS, THEIRS))
        shown.add_row(
            f"{parts} of {seconds // parts} s",
            f"{statistics.median(one):.3f}",
            f"{statistics.median(other):.3f}",
            f"{statistics.median(a / b for a, b in zip(one, other, strict=True)):.2f}",
            " and ".join(f"{peak:.1f}" for peak in peaks),
        )
    console = Console()
    console.print(shown)
    console.print(peers.described(facts))
    if options.json:
        options.json.write_text(json.dumps({"session": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
