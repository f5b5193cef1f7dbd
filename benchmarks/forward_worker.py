"""One side of bench_forward.py and its relatives: loads a model, and times its calls and their matrix products."""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import peers


class Torch:
    """diptych or transformers in PyTorch."""

    def __init__(self, side: str) -> None:
        import torch

        self.torch, self.ours = torch, side == "diptych torch"

    def load(self, directory: str, name: str) -> Any:
        if self.ours:
            import diptych.backends.torch as library

            return getattr(library, name).from_pretrained(directory)
        import transformers

        model_class = getattr(transformers, name)
        attention = "sdpa" if model_class._supports_sdpa else "eager"
        return model_class.from_pretrained(directory, attn_implementation=attention).eval()

    def call(self, model: Any, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        tensors = {name: self.torch.from_numpy(values) for name, values in inputs.items()}

        def call() -> Any:
            with self.torch.inference_mode():
                return model(**tensors)

        return call

    def product(self, left: np.ndarray, right: np.ndarray, transposed: bool) -> Callable[[], Any]:
        a, b = self.torch.from_numpy(left), self.torch.from_numpy(right)
        b = b.mT.contiguous().mT if transposed else b  # the layout of torch's linear layers
        return lambda: self.torch.matmul(a, b)


class Jax:
    """diptych or the last Flax release of transformers, under plain jax.jit."""

    def __init__(self, side: str) -> None:
        import jax

        self.jax, self.ours = jax, side == "diptych jax"
        self.matmul = jax.jit(jax.numpy.matmul)

    def load(self, directory: str, name: str) -> Any:
        if self.ours:
            import diptych.backends.jax as library

            return getattr(library, name).from_pretrained(directory)
        import transformers

        return getattr(transformers, f"Flax{name}").from_pretrained(directory, from_pt=True)

    def call(self, model: Any, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        arrays = {name: self.jax.device_put(values) for name, values in inputs.items()}
        if self.ours:
            forward = self.jax.jit(lambda model, arrays: model(**arrays))
            weights = model
        else:
            if "pixel_values" in arrays and arrays["pixel_values"].shape[1] != 3:
                raise ValueError("pixel_values must be (batch, 3, height, width)")
            forward = self.jax.jit(lambda weights, arrays: model(**arrays, params=weights))
            weights = model.params
        return lambda: self.jax.block_until_ready(forward(weights, arrays))

    def product(self, left: np.ndarray, right: np.ndarray, transposed: bool) -> Callable[[], Any]:
        a, b = self.jax.device_put(left), self.jax.device_put(right)
        return lambda: self.jax.block_until_ready(self.matmul(a, b))


class Measured:
    """The commands of a worker."""

    def __init__(self, side: str) -> None:
        self.side = Torch(side) if side in ("diptych torch", "transformers") else Jax(side)
        self.call: Callable[[], Any] = lambda: None
        self.products: list[Callable[[], Any]] = []

    def first(self, directory: str, name: str, inputs: str) -> dict[str, Any]:
        """Loads the model and calls it once; returns the seconds of that call and some of its output."""
        arrays = dict(np.load(inputs))
        self.call = self.side.call(self.side.load(directory, name), arrays)
        seconds, output = _timed(self.call)
        states = output["logits_per_image" if "logits_per_image" in output else "last_hidden_state"]
        return {"seconds": seconds, "output": np.asarray(states, np.float64).ravel()[:2000].tolist()}

    def steady(self, calls: int) -> list[float]:
        """Seconds of each call."""
        return [_timed(self.call)[0] for _ in range(calls)]

    def prepare_products(self, shapes: list[dict[str, Any]]) -> dict[str, Any]:
        """Creates matrices of the model's shapes, as many as the model has, too many to stay in the CPU cache."""
        rng = np.random.default_rng(0)
        draw = partial(rng.random, dtype=np.float32)
        self.products = [
            self.side.product(draw(shape["left"]), draw(shape["right"]), len(shape["right"]) == 2)
            for shape in shapes
            for _ in range(shape["count"])
        ]
        return {}

    def time_products(self) -> float:
        """Seconds for computing all products once."""
        return sum(_timed(product)[0] for product in self.products)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    worker = Measured(sys.argv[1])
    peers.serve(
        {
            "first": worker.first,
            "steady": worker.steady,
            "prepare_products": worker.prepare_products,
            "time_products": worker.time_products,
            "versions": peers.versions,
        }
    )
