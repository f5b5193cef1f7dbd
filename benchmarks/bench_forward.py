"""Speed of a forward pass: diptych in torch and in JAX against transformers 5 (sdpa) and the last Flax release, each
as its users run it: torch in inference mode, JAX under jax.jit.

Every side is a process of its own. The sides take turns, call by call, so that each ratio compares calls that are
adjacent in time. Each side is also compared with the time that its framework takes for the model's matrix products.
"""

import json
import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import peers
from rich.console import Console
from rich.table import Table

SIDES = {
    "diptych torch": "here",
    "diptych jax": "here",
    "transformers": "here",
    "transformers flax": "flax",
}
"""Name of each side -> the environment in which it runs."""

COMPARED = (
    ("diptych torch", "transformers"),
    ("diptych jax", "transformers flax"),
    ("diptych jax", "diptych torch"),
    ("diptych jax", "transformers"),
)
"""The pairs of sides for which the table has ratios."""

TOLERANCE = 1e-3  # relative to the largest entry; all sides must compute the same function


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """A row of the table: a model and the form of its inputs.

    Attributes:
        title: in the table.
        name: of the cached checkpoint.
        architecture: the class of the model.
        fields: of its config, apart from the defaults.
        sides: those that have the model.
    """

    title: str
    name: str
    architecture: str
    fields: dict[str, Any]
    sides: Sequence[str] = tuple(SIDES)

    @abstractmethod
    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch as a tokenizer or an image processor returns it."""

    @abstractmethod
    def products(self, batch: int) -> list[dict[str, Any]]:
        """The shapes of the matrix products in a forward pass, and how often each occurs."""


@dataclass(frozen=True, kw_only=True)
class TextCase(Case):
    """A model that reads texts, and perhaps images.

    Attributes:
        vocabulary: the number of token ids, of which the last ends a text.
        length: tokens of each text.
        patch: the number of patches of an image and their width; None if the model reads no images.
        towers: (tokens, width, feed-forward width, heads, layers) of each encoder.
    """

    vocabulary: int
    length: int
    towers: tuple[tuple[int, int, int, int, int], ...]
    patch: tuple[int, int] | None = None

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch as a tokenizer and an image processor return it, without padding."""
        rng = np.random.default_rng(batch)
        ids = rng.integers(1000, self.vocabulary - 2, (batch, self.length))
        ids[:, -1] = self.vocabulary - 1
        arrays: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self.patch is not None:
            arrays["pixel_values"] = rng.standard_normal((batch, 3, 224, 224), np.float32)
        return arrays

    def products(self, batch: int) -> list[dict[str, Any]]:
        """The shapes of the matrix products in a forward pass, and how often each occurs."""
        shapes: list[dict[str, Any]] = []
        for tokens, width, inner, heads, layers in self.towers:
            rows, split = batch * tokens, (batch, heads)
            shapes += [
                {"left": (rows, width), "right": (width, width), "count": 4 * layers},
                {"left": (rows, width), "right": (width, inner), "count": layers},
                {"left": (rows, inner), "right": (inner, width), "count": layers},
                {"left": (*split, tokens, width // heads), "right": (*split, width // heads, tokens), "count": layers},
                {"left": (*split, tokens, tokens), "right": (*split, tokens, width // heads), "count": layers},
            ]
        if self.patch is not None:
            patches, width = self.patch
            shapes.append({"left": (batch * patches, 3 * 32 * 32), "right": (3 * 32 * 32, width), "count": 1})
        return shapes


FULL = (
    TextCase(
        title="BERT-base, 128 tokens",
        name="bert-base",
        architecture="BertModel",
        fields=checkpoints.BERT_BASE,
        vocabulary=30_522,
        length=128,
        towers=((128, 768, 3072, 12, 12),),
    ),
    TextCase(
        title="CLIP ViT-B/32, 77 tokens + image",
        name="clip-vit-b32",
        architecture="CLIPModel",
        fields=checkpoints.CLIP_B32,
        vocabulary=49_408,
        length=77,
        towers=((77, 512, 2048, 8, 12), (50, 768, 3072, 12, 12)),
        patch=(49, 768),
    ),
)
QUICK = (
    TextCase(
        title="small BERT",
        name="small-bert",
        architecture="BertModel",
        fields=checkpoints.SMALL_BERT,
        vocabulary=30_522,
        length=128,
        towers=((128, 96, 384, 4, 2),),
    ),
    TextCase(
        title="small CLIP",
        name="small-clip",
        architecture="CLIPModel",
        fields=checkpoints.SMALL_CLIP,
        vocabulary=49_408,
        length=77,
        towers=((77, 96, 384, 4, 2), (50, 96, 384, 4, 2)),
        patch=(49, 96),
    ),
)


def measured(
    case: Case, batch: int, sides: list[str], rounds: int, *, products: bool, flax_environment: Path | None
) -> dict[str, Any]:
    """All measurements of one row, by side; those of the matrix products only if they are asked for."""
    directory = checkpoints.checkpoint(case.name, case.architecture, case.fields)
    found: dict[str, dict[str, Any]] = {side: {"steady": [], "products": []} for side in sides}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch, "inputs.npz")
        np.savez(inputs, allow_pickle=False, **case.inputs(batch))
        workers = [peers.Worker("forward_worker.py", side, SIDES[side], flax_environment) for side in sides]
        outputs: dict[str, np.ndarray] = {}
        for worker in workers:
            answer = worker("first", directory=str(directory), name=case.architecture, inputs=str(inputs))
            found[worker.side]["first"] = answer["seconds"]
            found[worker.side]["versions"] = worker("versions")
            outputs[worker.side] = np.array(answer["output"])
            worker("prepare_products", shapes=case.products(batch) if products else [])
        _same(case.title, outputs)
        for worker in workers:  # warm-up: the first calls still initialize things
            worker("steady", calls=2)
            worker("time_products")
        for turn in range(rounds):
            for worker in workers if turn % 2 == 0 else reversed(workers):
                found[worker.side]["steady"] += worker("steady", calls=1)
                found[worker.side]["products"].append(worker("time_products"))
        for worker in workers:
            worker.__exit__()
    return found


def _same(title: str, outputs: dict[str, np.ndarray]) -> None:
    """Raises RuntimeError unless the outputs of all sides agree."""
    reference = next(iter(outputs.values()))
    for side, values in outputs.items():
        difference = np.abs(values - reference).max() / np.abs(reference).max()
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{title}: {side} differs from the first side by {difference:.1e} of the largest entry")


def ratio(numerators: list[float], denominators: list[float]) -> str:
    """Median and quartiles of the ratios of calls adjacent in time, and the ratio of the fastest calls."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f}), {min(numerators) / min(denominators):.2f}"


def tables(results: list[dict[str, Any]], sides: list[str]) -> list[Table]:
    """The tables of ratios, of times, and of the share of the matrix products."""
    pairs = [(ours, peer) for ours, peer in COMPARED if ours in sides and peer in sides]
    ratios = Table(
        "model", "batch", title="Ratio of times: below 1, the first side is faster (median, quartiles; fastest)"
    )
    times = Table("model", "batch", title="Milliseconds per call (median, fastest), and seconds of the first call")
    shares = Table("model", "batch", title="Time of the model's matrix products alone, as a share of the whole call")
    for ours, peer in pairs:
        ratios.add_column(f"{ours} /\n{peer}")
    for side in sides:
        times.add_column(side)
        shares.add_column(side)
    for result in results:
        found = result["sides"]
        head = result["model"], str(result["batch"])
        compared = [
            ratio(found[ours]["steady"], found[peer]["steady"]) if {ours, peer} <= found.keys() else ""
            for ours, peer in pairs
        ]
        ratios.add_row(*head, *compared)
        times.add_row(*head, *(milliseconds(found[side]) if side in found else "" for side in sides))
        shares.add_row(
            *head,
            *(share(found[side]["products"], found[side]["steady"]) if side in found else "" for side in sides),
        )
    return [ratios, times, shares]


def milliseconds(measurements: dict[str, Any]) -> str:
    """Milliseconds of a call: median and fastest; and the seconds of the first one."""
    steady = measurements["steady"]
    return f"{statistics.median(steady) * 1e3:.0f}, {min(steady) * 1e3:.0f}; {measurements['first']:.1f} s"


def share(products: list[float], steady: list[float]) -> str:
    """Time of the matrix products over that of the call: by medians, and by the fastest."""
    return f"{statistics.median(products) / statistics.median(steady):.0%}, {min(products) / min(steady):.0%}"


def main(description: str | None = __doc__, full: Sequence[Case] = FULL, quick: Sequence[Case] = QUICK) -> None:
    """Measures the rows that the command line asks for, and prints the tables.

    Args:
        description: of the benchmark.
        full: its rows.
        quick: its rows with --quick.
    """
    parser = peers.arguments(description)
    parser.add_argument("--rounds", type=int, help="calls per side")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--case", help="run only the models whose title contains this")
    parser.add_argument("--no-products", action="store_true", help="without the matrix products alone: half the time")
    options = parser.parse_args()
    cases = quick if options.quick else full
    rounds = options.rounds or (5 if options.quick else 31)
    facts = peers.session()

    console = Console(width=140)
    results = []
    for case in cases:
        if options.case and options.case not in case.title:
            continue
        sides = [side for side in options.sides if side in case.sides]
        for batch in options.batch:
            choices = {"products": not options.no_products, "flax_environment": options.flax_environment}
            found = measured(case, batch, sides, rounds, **choices)
            facts |= {f"versions, {side}": values.pop("versions") for side, values in found.items()}
            results.append({"model": case.title, "batch": batch, "sides": found})
            done = ", ".join(f"{side} {statistics.median(v['steady']) * 1e3:.0f}" for side, v in found.items())
            console.print(f"{case.title}, batch {batch}, ms: {done}")
            if options.json:
                options.json.write_text(json.dumps({"session": facts, "rows": results}, indent=1) + "\n")
    ratios, times, shares = tables(results, options.sides)
    for table in (ratios, times) if options.no_products else (ratios, times, shares):
        console.print(table)
    console.print(peers.described(facts))


if __name__ == "__main__":
    main()
