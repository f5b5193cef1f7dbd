"""Trains a small bert2gpt2 from scratch to reverse strings of digits, in JAX or in PyTorch.

    python examples/train_seq2seq.py --backend jax
    python examples/train_seq2seq.py --backend torch

Both runs start from the same weights and use the same batches, so their loss curves in OUT/losses.png coincide until
rounding errors add up. Training stops when 99% of the strings in a test set are reversed correctly, which takes less
than a minute on two cores.
Needs `pip install -e '.[examples]'`.
"""

import json
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from tqdm import tqdm

from diptych.core.models.bert import BertConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config

PAD, START, END, ZERO = 0, 1, 2, 3
VOCABULARY = ZERO + 10
LONGEST = 8

BATCH = 64
RATE, WARM_UP = 1e-3, 200
ADAMW: dict[str, Any] = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.01}

CONFIG = EncoderDecoderConfig.from_encoder_decoder_configs(
    # no dropout: the two frameworks draw different masks
    BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=LONGEST + 1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=START,
        eos_token_id=END,
    ),
    pad_token_id=PAD,
    decoder_start_token_id=START,
)

Batch = dict[str, np.ndarray]


class Backend(StrEnum):
    """The framework to train in."""

    jax = "jax"
    torch = "torch"


def strings(random: np.random.Generator, count: int) -> Batch:
    """Random strings of 1 to LONGEST digits, padded; the labels are the reversed strings, followed by END."""
    ids = np.full((count, LONGEST), PAD)
    labels = np.full((count, LONGEST + 1), -100)
    for row, length in enumerate(random.integers(1, LONGEST + 1, count)):
        digits = ZERO + random.integers(0, 10, length)
        ids[row, :length] = digits
        labels[row, : length + 1] = [*digits[::-1], END]
    return {"input_ids": ids, "attention_mask": (ids != PAD).astype(int), "labels": labels}


def batches(seed: int) -> Iterator[Batch]:
    """An infinite sequence of batches, determined by the seed."""
    random = np.random.default_rng(seed)
    while True:
        yield strings(random, BATCH)


class Torch:
    """Training in PyTorch with torch.optim.AdamW."""

    def __init__(self, seed: int) -> None:
        import torch

        from diptych.backends.torch import EncoderDecoderModel

        self.model = EncoderDecoderModel(CONFIG, seed=seed).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            RATE,
            betas=(ADAMW["b1"], ADAMW["b2"]),
            eps=ADAMW["eps"],
            weight_decay=ADAMW["weight_decay"],
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min(1.0, (step + 1) / WARM_UP))

    def step(self, batch: Batch) -> float:
        """One training step on a batch; returns its loss."""
        self.optimizer.zero_grad()
        loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.item()


class Jax:
    """Training in JAX with optax.adamw; a step is one compiled function of model and optimizer state."""

    def __init__(self, seed: int) -> None:
        import jax
        import optax

        from diptych.backends.jax import EncoderDecoderModel

        self.model = EncoderDecoderModel(CONFIG, seed=seed).train()
        optimizer = optax.adamw(optax.linear_schedule(RATE / WARM_UP, RATE, WARM_UP - 1), **ADAMW)
        self.state = optimizer.init(self.model)

        def step(model: Any, state: Any, batch: Any) -> Any:
            loss, gradients = jax.value_and_grad(lambda model: model(**batch).loss)(model)
            updates, state = optimizer.update(gradients, state, model)
            return optax.apply_updates(model, updates), state, loss

        self._step = jax.jit(step, donate_argnums=(0, 1))

    def step(self, batch: Batch) -> float:
        """One training step on a batch; returns its loss."""
        self.model, self.state, loss = self._step(self.model, self.state, batch)
        return float(loss)


def generated(model: Any, batch: Batch) -> np.ndarray:
    """The generated tokens for each string, padded after END to LONGEST + 1."""
    output = model.eval().generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=LONGEST + 1
    )
    model.train()
    tokens = np.asarray(output.sequences)[:, 1:]  # without START
    return np.pad(tokens, ((0, 0), (0, LONGEST + 1 - tokens.shape[1])), constant_values=PAD)


def accuracy(tokens: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of rows in which all tokens up to END are correct."""
    return float(np.mean(np.all((tokens == labels) | (labels == -100), axis=1)))


def draw(out: Path) -> Path:
    """Plots the loss curves of all backends in the folder; returns the path of the image."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for file, style in zip(sorted(out.glob("losses-*.json")), ("-", "--"), strict=False):
        losses = json.loads(file.read_text())
        axes.plot(losses, style, label=f"{file.stem.removeprefix('losses-')}, {len(losses)} steps", linewidth=1)
    axes.set(xlabel="step", ylabel="cross-entropy", yscale="log", title="bert2gpt2 learns to reverse digits")
    axes.legend()
    axes.grid(alpha=0.3)
    picture = out / "losses.png"
    figure.savefig(picture, dpi=150)
    return picture


def main(
    backend: Annotated[Backend, typer.Option(help="The framework to train in.")] = Backend.jax,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of the batches.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Maximum number of steps.")] = 6000,
    target: Annotated[float, typer.Option(min=0.0, max=1.0, help="Accuracy at which to stop.")] = 0.99,
    every: Annotated[int, typer.Option(min=1, help="Steps between evaluations on the test set.")] = 250,
    out: Annotated[Path, typer.Option(help="Folder for the losses and their plot.")] = Path("train_seq2seq"),
) -> None:
    """Trains a small bert2gpt2 to reverse strings of digits; fails if it doesn't reach the target accuracy."""
    out.mkdir(parents=True, exist_ok=True)
    training = (Jax if backend is Backend.jax else Torch)(seed)
    test_set = strings(np.random.default_rng(seed + 1), 1000)
    losses: list[float] = []
    start, reached = time.perf_counter(), 0.0
    with tqdm(zip(range(steps), batches(seed), strict=False), total=steps, disable=None) as bar:
        for step, batch in bar:
            losses.append(training.step(batch))
            if (step + 1) % every == 0 or step + 1 == steps:
                reached = accuracy(generated(training.model, test_set), test_set["labels"])
                bar.set_postfix(loss=f"{losses[-1]:.4f}", accuracy=f"{reached:.1%}")
                if reached >= target:
                    break
    Path(out, f"losses-{backend}.json").write_text(json.dumps(losses))
    seconds = time.perf_counter() - start
    print(f"{backend}: {reached:.1%} of 1000 test strings correct after {len(losses)} steps and {seconds:.0f} s")
    print(f"loss {losses[0]:.4f} at the start, {losses[-1]:.4f} at the end; curves in {draw(out)}")
    if reached < target:
        raise SystemExit(f"the target of {target:.1%} was not reached")


if __name__ == "__main__":
    typer.run(main)
