"""Speed of text generation with GPT-2, bert2gpt2 (bert-base -> gpt2), bart-base and vit-gpt2 (captions of images),
greedy and with 4 beams: diptych in torch and in JAX against transformers 5 (with its dynamic and its static cache) and
the last Flax release, both as called and under jax.jit. Prompts have 32 tokens, texts for encoders 128 and images 224
pixels; no sequence ends early.

Every contestant is a process of its own; they take turns, call by call. Greedy generation with batch size 1 is also
compared with a bound: the time in which the same framework reads the decoder's weights once per token, in products of a
vector with matrices.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import peers
from generation_worker import BEAMS
from rich.console import Console
from rich.table import Table

CONTESTANTS = {
    "diptych torch": ("here", "torch"),
    "diptych jax": ("here", "jax"),
    "transformers": ("here", "torch"),
    "transformers static": ("here", "torch"),
    "transformers flax": ("flax", "flax's jax"),
    "transformers flax jit": ("flax", "flax's jax"),
}
"""Name -> its environment, and the framework whose matrix products are its bound."""

OURS = ("diptych torch", "diptych jax")
TRANSFORMERS = ("transformers", "transformers static")
RECOMPILES = "transformers flax"
"""Compiles in every call, so the difference between two calls says nothing about the time per token."""

UNREAD = (
    "wte",
    "wpe",
    "embed_positions",
    "embed_tokens",
    "crossattention.c_attn",
    "encoder_attn.k_proj",
    "encoder_attn.v_proj",
    "cross_attn.k_proj",
    "cross_attn.v_proj",
    "vision_model",
    "perceiver_resampler",
)
"""Tensors that a step doesn't read as a whole: embeddings, projections of an encoder's states, and encoders."""

UNITS = 16.0
"""As in parity checks: a side's scores may differ from float64 by this multiple of what the reference's own do, and its
token may fall short of the best in float64 by this multiple of what the side's scores differ."""


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and the tensors that each step reads.

    Attributes:
        architecture: class name, the same in transformers and in diptych.
        generation: the whole generation config; it has no eos_token_id.
        length: tokens of the prompts, or of the encoder's input; the side of an image.
        decoder: prefix of the decoder's tensors.
        vocabulary: the matrix that maps the last hidden state to logits.
    """

    architecture: str
    checkpoint: Callable[..., Path]
    generation: dict[str, int]
    length: int
    decoder: str
    vocabulary: str

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch as a tokenizer returns it, without padding, or an image processor."""
        if self.architecture == "VisionEncoderDecoderModel":
            pixels = np.random.default_rng(batch).standard_normal((batch, 3, self.length, self.length), np.float32)
            return {"pixel_values": pixels}
        ids = np.random.default_rng(batch).integers(1000, 30_000, (batch, self.length))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def begun(self) -> int:
        """Tokens in the output before the first new one."""
        return 1 if "decoder_start_token_id" in self.generation else self.length

    def weights(self, directory: Path) -> int:
        """Bytes of the weights that each step reads."""

        def read(name: str) -> bool:
            looked_up = any(part in name for part in UNREAD)
            return name == self.vocabulary or (name.startswith(self.decoder) and not looked_up)

        return checkpoints.size(directory / "model.safetensors", read)


CASES = {
    "gpt2": Case(
        "GPT2LMHeadModel", checkpoints.gpt2, {"pad_token_id": 0}, 32, "transformer.", "transformer.wte.weight"
    ),
    "bert2gpt2": Case(
        "EncoderDecoderModel",
        partial(checkpoints.bert2gpt2, deviation=checkpoints.VARIED),
        {"pad_token_id": 0, "decoder_start_token_id": 50_256},
        128,
        "decoder.",
        "decoder.transformer.wte.weight",
    ),
    "bart-base": Case(
        "BartForConditionalGeneration",
        checkpoints.bart_base,
        {"pad_token_id": 1, "decoder_start_token_id": 2},
        128,
        "model.decoder.",
        "model.shared.weight",
    ),
    "vit-gpt2": Case(
        "VisionEncoderDecoderModel",
        checkpoints.vit_gpt2,
        {"pad_token_id": 0, "decoder_start_token_id": 50_256},
        224,
        "decoder.",
        "decoder.transformer.wte.weight",
    ),
}
PRODUCTS = ((768, 3072, 20), (768, 50_256, 1))
"""Width, inner width and number of pairs of matrices: 377 MB and 309 MB, larger than any CPU cache."""
QUICK_PRODUCTS = ((96, 384, 20), (96, 50_256, 2))


@dataclass(frozen=True)
class Row:
    """A row of the tables."""

    model: str
    tokens: int
    batch: int
    mode: str

    @property
    def head(self) -> tuple[str, ...]:
        return self.model, str(self.tokens), str(self.batch), self.mode

    @property
    def bounded(self) -> bool:
        """Whether it is compared with the bound."""
        return self.batch == 1 and self.mode == "greedy"


def measured(case: Case, row: Row, options: Any) -> dict[str, Any]:
    """All measurements of one row: by contestant and, for matrix products, by framework."""
    rounds = options.rounds
    directory = case.checkpoint(small=options.quick)
    found: dict[str, Any] = {name: {"steady": [], "one": []} for name in options.contestants}
    products: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch, "inputs.npz")
        np.savez(inputs, allow_pickle=False, **case.inputs(row.batch))
        workers, texts = list[peers.Worker](), dict[str, np.ndarray]()
        for name in options.contestants:
            worker = peers.Worker("generation_worker.py", name, CONTESTANTS[name][0], options.flax_environment)
            asked = {"directory": str(directory), "architecture": case.architecture, "generation": case.generation}
            answer = worker("first", **asked, inputs=str(inputs), mode=row.mode, tokens=row.tokens)
            found[name] |= {"versions": worker("versions"), "first": answer.get("seconds")}
            if "failed" in answer:
                worker.__exit__()
                if name in OURS:
                    raise RuntimeError(f"{row}: {name} failed: {answer['failed']}")
                found[name]["failed"] = answer["failed"]
                continue
            workers.append(worker)
            texts[name] = np.array(answer["texts"])
        length = case.begun() + row.tokens
        for name, written in texts.items():
            if written.shape != (row.batch, length):
                raise RuntimeError(
                    f"{row}: {name} returned {written.shape}, but {row.batch} sequences of {length} tokens are expected"
                )
        agree(row, texts, workers, found)
        multiplies: dict[str, peers.Worker] = {}
        if row.bounded:
            for worker in workers:
                multiplies.setdefault(CONTESTANTS[worker.side][1], worker)
            for framework, worker in multiplies.items():
                shapes = QUICK_PRODUCTS if options.quick else PRODUCTS
                products[framework] = {"bytes": worker("prepare_products", shapes=shapes), "seconds": []}
        for turn in range(-1, rounds):  # turn -1 is a warm-up
            for worker in workers if turn % 2 == 0 else reversed(workers):
                if turn < 0 and worker.side == RECOMPILES:
                    continue
                seconds = {"steady": worker("steady", tokens=row.tokens)}
                if worker.side != RECOMPILES:
                    seconds["one"] = worker("steady", tokens=1)
                if turn >= 0:
                    for kind, value in seconds.items():
                        found[worker.side][kind].append(value)
                for framework in (framework for framework, chosen in multiplies.items() if chosen is worker):
                    answer = worker("time_products")
                    if turn >= 0:
                        products[framework]["seconds"].append(answer)
        for worker in workers:
            worker.__exit__()
    return {"contestants": found, "products": products, "weights": case.weights(directory), "begun": case.begun()}


def agree(row: Row, texts: dict[str, np.ndarray], workers: list[peers.Worker], found: dict[str, Any]) -> None:
    """Counts the sequences that equal those of transformers or, without it, of the first contestant.

    Where greedy sequences first differ, both sides are judged by their distance from float64.

    Raises:
        RuntimeError: greedy sequences differ by more than the rounding of the two sides.
    """
    reference = next((name for name in TRANSFORMERS if name in texts), next(iter(texts)))
    judge = next((worker for worker in workers if CONTESTANTS[worker.side][1] == "torch"), None)
    by_name = {worker.side: worker for worker in workers}
    for name, written in texts.items():
        differ = (written != texts[reference]).any(axis=1)
        found[name]["equal"] = int((~differ).sum())
        if row.mode != "greedy" or judge is None:
            continue
        for index in np.flatnonzero(differ):
            place = int((written[index] != texts[reference][index]).argmax())
            here = {"row": int(index), "beginning": written[index, :place].tolist()}
            exact = np.array(judge("scores", **here, exact=True))
            apart = {side: distance(by_name[side], here, exact) for side in (name, reference)}
            for side, sequence in ((name, written), (reference, texts[reference])):
                token = int(sequence[index, place])
                short = float(exact.max() - exact[token])
                if apart[side] > UNITS * apart[reference] or short > UNITS * apart[side]:
                    raise RuntimeError(
                        f"{row}: token {place} of sequence {index} is {token} in {side}, whose score in float64 is "
                        f"{short:.1e} below the best; its scores differ from float64 by {apart[side]:.1e}, those of "
                        f"{reference} by {apart[reference]:.1e}"
                    )


def distance(worker: peers.Worker, here: dict[str, Any], exact: np.ndarray) -> float:
    """The largest difference of a side's scores of the next token from those in float64."""
    return float(np.abs(np.array(worker("scores", **here, exact=False)) - exact).max())


def spread(values: list[float], digits: int = 0) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def compared(numerators: list[float], denominators: list[float]) -> str:
    """The ratio of the medians; median and quartiles of the ratios of calls adjacent in time."""
    pairs = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(numerators) / statistics.median(denominators):.2f}; {spread(pairs, 2)}"


def bandwidth(products: dict[str, Any]) -> tuple[float, str]:
    """Bytes per second of the fastest chain of products (by medians), and its name."""
    medians = {name: statistics.median(turn[name] for turn in products["seconds"]) for name in products["bytes"]}
    return max((products["bytes"][name] / seconds, name) for name, seconds in medians.items())


def parts(row: Row, found: dict[str, Any], begun: int) -> dict[str, tuple[list[float], int]]:
    """The parts of a contestant's calls: name -> seconds of each call, and the number of tokens that it handles."""
    whole = {"all": (found["steady"], row.batch * row.tokens)}
    if not found["one"]:
        return whole
    later = [everything - one for everything, one in zip(found["steady"], found["one"], strict=True)]
    return whole | {
        "first token": (found["one"], row.batch * begun),
        "later tokens": (later, row.batch * (row.tokens - 1)),
    }


def tables(results: list[tuple[Row, dict[str, Any]]]) -> list[Table]:
    """The tables of times, of ratios, and of the share of the bound."""
    head = ("model", "tokens", "batch", "mode")
    times = Table(
        *head,
        "contestant",
        "part",
        "ms",
        "tokens/s",
        "first call, s",
        "equal",
        title="Time per call: median (quartiles); the part up to the first token handles the prompt's tokens",
    )
    flax, torch = "transformers flax jit", OURS[0]
    ratios = Table(
        *head,
        "ours",
        "part",
        "/ faster of transformers",
        f"/ {flax}",
        f"/ {torch}",
        title="Ratio of times: below 1, ours is faster (of medians; of adjacent calls: median, quartiles)",
    )
    bounds = Table(
        *head[:2],
        "contestant",
        "MB per token",
        "GB/s of products",
        "bound, ms",
        "ms per token",
        "share",
        title="Greedy, batch 1: the bound by the framework's own products, and the time of each token after the first",
    )
    for row, result in results:
        every = {
            name: {} if "failed" in values else parts(row, values, result["begun"])
            for name, values in result["contestants"].items()
        }
        for name, found in every.items():
            values = result["contestants"][name]
            if not found:
                times.add_row(*row.head, name, "not possible: see above")
            for part, (seconds, tokens) in found.items():
                once = (f"{values['first']:.1f}", f"{values['equal']} of {row.batch}") if part == "all" else ()
                milliseconds = spread([1e3 * second for second in seconds])
                times.add_row(*row.head, name, part, milliseconds, f"{tokens / statistics.median(seconds):.1f}", *once)
        for ours in (name for name in OURS if name in every):
            for part, (seconds, _) in every[ours].items():
                others = {name: found[part][0] for name, found in every.items() if part in found and name != ours}
                theirs = [name for name in TRANSFORMERS if name in others]
                faster = min(theirs, key=lambda name: statistics.median(others[name]), default=None)
                cells = [f"{compared(seconds, others[faster])}, {faster}" if faster else ""]
                cells += [compared(seconds, others[name]) if name in others else "" for name in (flax, torch)]
                ratios.add_row(*row.head, ours, part, *cells)
        for name, found in every.items():
            if not row.bounded or "later tokens" not in found:
                continue
            rate, _ = bandwidth(result["products"][CONTESTANTS[name][1]])
            steps = [1e3 * seconds / (row.tokens - 1) for seconds in found["later tokens"][0]]
            bound = 1e3 * result["weights"] / rate
            bounds.add_row(
                *row.head[:2],
                name,
                f"{result['weights'] / 1e6:.0f}",
                f"{rate / 1e9:.1f}",
                f"{bound:.1f}",
                spread(steps, 1),
                f"{bound / statistics.median(steps):.0%}",
            )
        for table in (times, ratios, bounds):
            table.add_section()
    return [times, ratios, bounds]


def main(
    description: str | None,
    cases: dict[str, Case],
    *,
    models: list[str],
    batches: list[int],
    contestants: list[str],
) -> None:
    """Measures the cases and prints the tables; the lists are what is measured unless the user asks for other rows."""
    parser = peers.arguments(description)
    parser.add_argument("--rounds", type=int, help="calls per contestant, at least 2")
    parser.add_argument("--all", action="store_true", help="every row that is not named otherwise; takes hours")
    parser.add_argument("--models", nargs="+", choices=list(cases), help=f"by default {' '.join(models)}")
    parser.add_argument("--tokens", type=int, nargs="+", help="number of new tokens, at least 2; by default 32")
    parser.add_argument("--batches", type=int, nargs="+", help=f"by default {' '.join(map(str, batches))}")
    parser.add_argument("--modes", nargs="+", choices=list(BEAMS), help="by default greedy")
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), help=f"by default {', '.join(contestants)}"
    )
    parser.add_argument("--threads", type=int, help="number of cores that each contestant may use")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.models = options.models or (list(cases) if options.all else models)
    options.modes = options.modes or (list(BEAMS) if options.all else ["greedy"])
    options.contestants = options.contestants or (list(CONTESTANTS) if options.all else contestants)
    if options.threads:  # workers inherit it, and both frameworks take their thread count from it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    facts = peers.session() | {"cores used": len(os.sched_getaffinity(0))}

    console = Console(width=180)
    results = list[tuple[Row, dict[str, Any]]]()
    tokens = options.tokens or ([4] if options.quick else [32, 128] if options.all else [32])
    for row in (Row(*keys) for keys in product(options.models, tokens, options.batches or batches, options.modes)):
        result = measured(cases[row.model], row, options)
        results.append((row, result))
        found = result["contestants"]
        facts |= {f"versions, {name}": values.pop("versions") for name, values in found.items()}
        for framework, chains in result["products"].items():
            rate, chain = bandwidth(chains)
            facts[f"products, {framework}"] = f"{rate / 1e9:.1f} GB/s, {chain}"
        done = {
            name: f"{1e3 * statistics.median(found[name]['steady']):.0f}" for name in found if found[name]["steady"]
        }
        console.print(f"{', '.join(row.head)}, ms: {', '.join(f'{name} {time}' for name, time in done.items())}")
        for name in (name for name in found if "failed" in found[name]):
            console.print(f"{', '.join(row.head)}: without {name}: {found[name]['failed']}", markup=False)
        if options.json:
            rows = [vars(row) | result for row, result in results]
            options.json.write_text(json.dumps({"session": facts, "rows": rows}, indent=1) + "\n")
    for table in (table for table in tables(results) if table.row_count):
        console.print(table)
    console.print(peers.described(facts))


if __name__ == "__main__":
    main(
        __doc__,
        CASES,
        models=["gpt2"],
        batches=[1, 8],
        contestants=[name for name in CONTESTANTS if name != RECOMPILES],  # which takes long
    )
