"""Speed of a bert2gpt2 (bert-base -> gpt2) with 128 source and 128 target tokens: a forward pass with labels, and a
training step with dropout and AdamW; diptych in torch and in JAX against transformers 5 (sdpa) and the last Flax
release.

The two sides of a framework take turns, call by call, so that each ratio compares calls that are adjacent in time. The
frameworks run one after the other, because four models with their optimizers need more memory than a small machine has.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import peers
from bench_forward import ratio
from rich.console import Console
from rich.table import Table

PAIRS = {
    "torch": {"diptych torch": "here", "transformers": "here"},
    "jax": {"diptych jax": "here", "transformers flax": "flax"},
}
"""The sides of each framework, diptych first, and the environments in which they run."""

TOLERANCE = {"forward": 1e-3, "step": 3e-2}
"""How far the sides may differ: by rounding, and in a training step by the effect of different dropout masks."""


def inputs(batch: int, length: int) -> dict[str, np.ndarray]:
    """A batch of source and target ids, without padding."""
    rng = np.random.default_rng(batch)
    ids = rng.integers(1000, 30_000, (batch, length))
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "labels": rng.integers(1000, 50_000, (batch, length)),
    }


def measured(
    directory: Path,
    task: str,
    batch: int,
    length: int,
    rounds: int,
    pair: dict[str, str],
    flax_environment: Path | None,
) -> dict[str, Any]:
    """All measurements of one row and framework, by side."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "inputs.npz")
        np.savez(file, allow_pickle=False, **inputs(batch, length))
        workers = [peers.Worker("seq2seq_worker.py", side, env, flax_environment) for side, env in pair.items()]
        outputs = []
        for worker in workers:
            answer = worker("first", directory=str(directory), task=task, inputs=str(file))
            found[worker.side] = {"first": answer["seconds"], "steady": [], "versions": worker("versions")}
            outputs.append(np.array(answer["output"]))
        difference = np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max()
        if not difference <= TOLERANCE[task]:
            raise RuntimeError(f"{task}: {' and '.join(pair)} differ by {difference:.1e} of the largest entry")
        for worker in workers:  # warm-up: the first calls still initialize things
            worker("steady", calls=1)
        for turn in range(rounds):
            for worker in workers if turn % 2 == 0 else reversed(workers):
                found[worker.side]["steady"] += worker("steady", calls=1)
        for worker in workers:
            worker.__exit__()
    return found


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """The tables of ratios and of times."""
    ratios = Table("task", "batch", title="Ratio of times: below 1, diptych is faster (median, quartiles; fastest)")
    times = Table("task", "batch", title="Milliseconds per call (median, fastest), and seconds of the first call")
    sides = [side for pair in PAIRS.values() for side in pair]
    for ours, peer in (list(pair) for pair in PAIRS.values()):
        ratios.add_column(f"{ours} /\n{peer}")
    for side in sides:
        times.add_column(side)
    for row in rows:
        found, head = row["sides"], (row["task"], str(row["batch"]))
        steady = {side: found[side]["steady"] for side in found}
        pairs = [list(pair) for pair in PAIRS.values()]
        ratios.add_row(*head, *(ratio(steady[a], steady[b]) if a in steady else "" for a, b in pairs))
        times.add_row(*head, *(milliseconds(found[side]) if side in found else "" for side in sides))
    return [ratios, times]


def milliseconds(found: dict[str, Any]) -> str:
    """Median and fastest time of the calls, and seconds of the first call."""
    steady = found["steady"]
    return f"{statistics.median(steady) * 1e3:.0f}, {min(steady) * 1e3:.0f}; {found['first']:.1f} s"


def main() -> None:
    parser = peers.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="calls per side")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tasks", nargs="+", choices=list(TOLERANCE), default=list(TOLERANCE))
    parser.add_argument("--frameworks", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 11)
    directory = checkpoints.bert2gpt2(small=options.quick)
    facts = peers.session()

    console, rows = Console(), []
    for task in options.tasks:
        for batch in options.batch:
            sides: dict[str, Any] = {}
            for framework in options.frameworks:
                pair = PAIRS[framework]
                sides |= measured(directory, task, batch, 128, rounds, pair, options.flax_environment)
            facts |= {f"versions, {side}": values.pop("versions") for side, values in sides.items()}
            rows.append({"task": task, "batch": batch, "sides": sides})
            done = ", ".join(f"{side} {statistics.median(v['steady']) * 1e3:.0f}" for side, v in sides.items())
            console.print(f"{task}, batch {batch}, ms: {done}")
            if options.json:
                options.json.write_text(json.dumps({"session": facts, "rows": rows}, indent=1) + "\n")
    for table in tables(rows):
        console.print(table)
    console.print(peers.described(facts))


if __name__ == "__main__":
    main()
