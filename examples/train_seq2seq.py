"""Trains a small bert2gpt2 from scratch to reverse strings of digits, in JAX or in PyTorch.

    python examples/train_seq2seq.py --backend jax
    python examples/train_seq2seq.py --backend torch

Both runs start from the same weights and use the same batches, so their loss curves in OUT/losses.png coincide until
rounding errors add up. Training stops when 99% of the strings in a test set are reversed correctly, which takes less
than a minute on two cores.
Needs `pip install -e '.[examples]'`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from training import IGNORED, Backend, Batch, begin, model_class, plot_losses, train

from diptych.core.models.bert import BertConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config

PAD, START, END, ZERO = 0, 1, 2, 3
VOCABULARY = ZERO + 10
LONGEST = 8

BATCH, TEST_STRINGS = 64, 1000

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


def strings(random: np.random.Generator, count: int) -> Batch:
    """Random strings of 1 to LONGEST digits, padded; the labels are the reversed strings, followed by END."""
    ids = np.full((count, LONGEST), PAD)
    labels = np.full((count, LONGEST + 1), IGNORED)
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
    training = begin(backend, model_class(backend, "EncoderDecoderModel")(CONFIG, seed=seed))
    test_set = strings(np.random.default_rng(seed + 1), TEST_STRINGS)
    run = train(training, batches(seed), test_set, steps=steps, target=target, every=every)
    picture = plot_losses(out, backend, run.losses, "bert2gpt2 learns to reverse digits")
    print(
        f"{backend}: {run.accuracy:.1%} of {TEST_STRINGS} test strings correct after {len(run.losses)} steps "
        f"and {run.seconds:.0f} s"
    )
    print(f"loss {run.losses[0]:.4f} at the start, {run.losses[-1]:.4f} at the end; curves in {picture}")
    if run.accuracy < target:
        raise SystemExit(f"the target of {target:.1%} was not reached")


if __name__ == "__main__":
    typer.run(main)
