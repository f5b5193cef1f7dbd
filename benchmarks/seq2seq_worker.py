"""One side of bench_seq2seq.py: times forward passes or training steps of a bert2gpt2."""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peers

RATE, DECAY = 1e-4, 1e-2


class Torch:
    """diptych or transformers in PyTorch."""

    def __init__(self, side: str) -> None:
        import torch

        self.torch, self.ours = torch, side == "diptych torch"

    def load(self, directory: str) -> None:
        if self.ours:
            from diptych.backends.torch import EncoderDecoderModel

            self.model: Any = EncoderDecoderModel.from_pretrained(directory)
        else:
            from transformers import EncoderDecoderModel as Theirs

            self.model = Theirs.from_pretrained(directory, attn_implementation="sdpa").eval()

    def forward(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        tensors = {name: self.torch.from_numpy(values) for name, values in inputs.items()}
        silent = {} if self.ours else {"use_cache": False}

        def call() -> Any:
            with self.torch.inference_mode():
                return self.model(**tensors, **silent)

        return call

    def step(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        call = {name: self.torch.from_numpy(values) for name, values in inputs.items()}
        optimizer = self.torch.optim.AdamW(self.model.parameters(), RATE, weight_decay=DECAY)
        self.model.train()

        def step() -> Any:
            optimizer.zero_grad()
            loss = self.model(**call).loss
            loss.backward()
            optimizer.step()
            return loss.item()

        return step


class Jax:
    """diptych or the last Flax release of transformers, each call one program under jax.jit."""

    def __init__(self, side: str) -> None:
        import jax

        self.jax, self.ours = jax, side == "diptych jax"

    def load(self, directory: str) -> None:
        if self.ours:
            from diptych.backends.jax import EncoderDecoderModel

            self.model: Any = EncoderDecoderModel.from_pretrained(directory)
        else:
            import transformers

            peer: Any = transformers  # not the version that pyright sees
            self.model = peer.FlaxEncoderDecoderModel.from_pretrained(directory, from_pt=True)

    def forward(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        arrays = {name: self.jax.device_put(values) for name, values in inputs.items()}
        if self.ours:
            run, weights = self.jax.jit(lambda model, arrays: model(**arrays)), self.model
        else:
            labels = arrays.pop("labels")
            arrays["decoder_input_ids"] = self._shifted(labels)
            run = self.jax.jit(lambda weights, arrays: self.model(**arrays, params=weights))
            weights = self.model.params
        return lambda: self.jax.block_until_ready(run(weights, arrays))

    def step(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        import optax

        jax = self.jax
        arrays = {name: jax.device_put(values) for name, values in inputs.items()}
        optimizer = optax.adamw(RATE, weight_decay=DECAY)
        labels = arrays["labels"]
        shifted = self._shifted(labels)

        def loss_of(weights: Any, key: Any) -> Any:
            if self.ours:
                return weights(**arrays, rngs=key).loss
            call = {name: value for name, value in arrays.items() if name != "labels"}
            output = self.model(**call, decoder_input_ids=shifted, params=weights, dropout_rng=key, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(output.logits, labels).mean()

        def step(weights: Any, state: Any, key: Any) -> Any:
            key, used = jax.random.split(key)
            loss, gradients = jax.value_and_grad(loss_of)(weights, used)
            updates, state = optimizer.update(gradients, state, weights)
            return optax.apply_updates(weights, updates), state, key, loss

        compiled = jax.jit(step, donate_argnums=(0, 1))
        weights = self.model.train() if self.ours else self.model.params
        held = [weights, optimizer.init(weights), jax.random.key(0)]

        def run() -> Any:
            *held[:], loss = compiled(*held)
            return float(loss)

        return run

    def _shifted(self, labels: Any) -> Any:
        start = self.model.config.decoder_start_token_id
        return self.jax.numpy.concatenate([self.jax.numpy.full_like(labels[:, :1], start), labels[:, :-1]], axis=1)


class Measured:
    """The commands of a worker."""

    def __init__(self, side: str) -> None:
        self.side = (Torch if side in ("diptych torch", "transformers") else Jax)(side)
        self.call: Callable[[], Any] = lambda: None

    def first(self, directory: str, task: str, inputs: str) -> dict[str, Any]:
        """Loads the model and calls it once; returns the seconds of that call, and some logits or the loss."""
        arrays = dict(np.load(inputs))
        self.side.load(directory)
        self.call = getattr(self.side, task)(arrays)
        seconds, output = _timed(self.call)
        found = [output] if task == "step" else np.asarray(output["logits"], np.float64).ravel()[:2000].tolist()
        return {"seconds": seconds, "output": found}

    def steady(self, calls: int) -> list[float]:
        """Seconds of each call."""
        return [_timed(self.call)[0] for _ in range(calls)]


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    worker = Measured(sys.argv[1])
    peers.serve({"first": worker.first, "steady": worker.steady, "versions": peers.versions})
