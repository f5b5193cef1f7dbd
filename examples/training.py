"""What the training examples share: steps in JAX and in PyTorch, the loop over them, and the plot of the losses."""

import functools
import json
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

IGNORED = -100
"""The label of positions that don't count."""
RATE, WARM_UP = 1e-3, 200
ADAMW: dict[str, Any] = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.01}

Batch = dict[str, np.ndarray]


class Backend(StrEnum):
    """The framework to train in."""

    jax = "jax"
    torch = "torch"


def model_class(backend: Backend, name: str) -> Any:
    """A class of models in a framework, which is imported only now."""
    return getattr(import_module(f"diptych.backends.{backend}"), name)


class Torch:
    """Training in PyTorch with torch.optim.AdamW, of the parameters that are not frozen."""

    def __init__(self, model: Any, steps: int | None = None) -> None:
        import torch

        self.model = model.train()
        self.optimizer = torch.optim.AdamW(
            model.trainable_parameters(),
            RATE,
            betas=(ADAMW["b1"], ADAMW["b2"]),
            eps=ADAMW["eps"],
            weight_decay=ADAMW["weight_decay"],
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _share(step, steps, min))

    def step(self, batch: Batch) -> float:
        """One training step on a batch; returns its loss."""
        self.optimizer.zero_grad()
        loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.item()


class Jax:
    """Training in JAX with optax.adamw, of the parameters that are not frozen.

    A step is one compiled function of model and optimizer state.
    """

    def __init__(self, model: Any, steps: int | None = None) -> None:
        import jax
        import optax

        self.model = model.train()
        optimizer = optax.adamw(lambda step: RATE * _share(step, steps, jax.numpy.minimum), **ADAMW)
        optimizer = optax.masked(optimizer, self.model.trainable_parameters())
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


def _share(step: Any, steps: int | None, minimum: Callable[[Any, Any], Any]) -> Any:
    """The factor of the learning rate in a step: it rises at first, and falls over the last third of the steps."""
    rise = minimum(1.0, (step + 1) / WARM_UP)
    return rise if steps is None else minimum(rise, (steps - step) / max(1, steps // 3))


def begin(backend: Backend, model: Any, steps: int | None = None) -> Torch | Jax:
    """The training of a model of this framework; the learning rate falls in the end if the steps are given."""
    return (Jax if backend is Backend.jax else Torch)(model, steps)


def generated(model: Any, batch: Batch) -> np.ndarray:
    """The new tokens for each row of a batch, padded after the end to the width of the labels."""
    length = batch["labels"].shape[1]
    output = model.eval().generate(**_inputs(batch), max_new_tokens=length)
    model.train()
    prompt = batch["input_ids"].shape[1] if not model.encoder_inputs else 1  # an encoder's decoder has a start token
    tokens = np.asarray(output.sequences)[:, prompt:]
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), constant_values=model.config.pad_token_id)


def predicted(model: Any, batch: Batch) -> np.ndarray:
    """The most probable token at each position of a batch."""
    program = _jax_prediction() if "jax" in type(model).__module__ else _torch_prediction
    tokens = np.asarray(program(model.eval(), _inputs(batch)))
    model.train()
    return tokens


@functools.cache
def _jax_prediction() -> Callable[..., Any]:
    import jax

    return jax.jit(lambda model, inputs: model(**inputs).logits.argmax(-1))


def _torch_prediction(model: Any, inputs: Batch) -> Any:
    import torch

    with torch.inference_mode():
        return model(**inputs).logits.argmax(-1)


def _inputs(batch: Batch) -> Batch:
    return {name: values for name, values in batch.items() if name != "labels"}


def matches(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each row, whether all tokens are correct up to the end."""
    return np.all((tokens == labels) | (labels == IGNORED), axis=1)


class Run(NamedTuple):
    """The results of training."""

    losses: list[float]
    tokens: np.ndarray
    """Those generated for the test set, (B, T)."""
    correct: np.ndarray
    """Whether each row of them is correct, (B,)."""
    seconds: float

    @property
    def accuracy(self) -> float:
        """The fraction of the test set that came out correctly."""
        return float(self.correct.mean())


def train(
    training: Torch | Jax,
    batches: Iterator[Batch],
    test_set: Batch,
    *,
    steps: int,
    target: float,
    every: int,
    write: Callable[[Any, Batch], np.ndarray] = generated,
) -> Run:
    """Trains until the accuracy on the test set, computed every so many steps, reaches the target.

    `write` makes the tokens for a batch that are compared with its labels.
    """
    losses: list[float] = []
    start = time.perf_counter()
    tokens = correct = np.empty(0)
    with tqdm(zip(range(steps), batches, strict=False), total=steps, disable=None) as bar:
        for step, batch in bar:
            losses.append(training.step(batch))
            if (step + 1) % every == 0 or step + 1 == steps:
                tokens = write(training.model, test_set)
                correct = matches(tokens, test_set["labels"])
                bar.set_postfix(loss=f"{losses[-1]:.4f}", accuracy=f"{correct.mean():.1%}")
                if correct.mean() >= target:
                    break
    return Run(losses, tokens, correct, time.perf_counter() - start)


def plot_losses(out: Path, backend: Backend, losses: list[float], title: str) -> Path:
    """Saves a run's losses in the folder and plots those of all backends there; returns the path of the image."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    Path(out, f"losses-{backend}.json").write_text(json.dumps(losses))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for file, style in zip(sorted(out.glob("losses-*.json")), ("-", "--"), strict=False):
        curve = json.loads(file.read_text())
        axes.plot(curve, style, label=f"{file.stem.removeprefix('losses-')}, {len(curve)} steps", linewidth=1)
    axes.set(xlabel="step", ylabel="cross-entropy", yscale="log", title=title)
    axes.legend()
    axes.grid(alpha=0.3)
    picture = out / "losses.png"
    figure.savefig(picture, dpi=150)
    return picture
