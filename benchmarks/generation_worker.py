"""One side of bench_generation.py and bench_idefics.py: times generation, and products of a vector with matrices."""

import copy
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import peers

BEAMS = {"greedy": 1, "beams": 4}
"""Number of beams in each mode."""

PARTS = 16
"""Number of blocks into which some methods split a matrix: torch parallelizes a batched product over its batch."""

Ways = dict[str, tuple[bool, Callable[[Any, Any], Any]]]
"""Name -> whether the matrix is stored as (out, in) instead of (in, out), and the product of (1, in) with it."""


class Torch:
    """diptych or transformers in PyTorch."""

    def __init__(self, side: str) -> None:
        import torch

        self.torch, self.ours, self.static = torch, side == "diptych torch", side == "transformers static"

    def load(self, directory: str, architecture: str, generation: dict[str, Any]) -> None:
        self.reads = "decoder_start_token_id" in generation
        if self.ours:
            import diptych.backends.torch as library

            self.model: Any = getattr(library, architecture).from_pretrained(directory)
            self.model.generation_config = generation
        else:
            import transformers

            loaded = getattr(transformers, architecture).from_pretrained(directory, attn_implementation="sdpa")
            self.model = loaded.eval()
            self.model.generation_config = transformers.GenerationConfig(**generation)

    def writer(self, inputs: dict[str, np.ndarray], beams: int) -> Callable[[int], Any]:
        self.inputs = {name: self.torch.from_numpy(values) for name, values in inputs.items()}
        options = {"cache_implementation": "static"} if self.static else {}

        def write(tokens: int) -> Any:
            written = self.model.generate(**self.inputs, max_new_tokens=tokens, num_beams=beams, **options)
            return written.sequences if self.ours else written

        return write

    def scores(self, row: int, beginning: list[int], exact: bool) -> np.ndarray:
        """The logits of the next token after the beginning of a sequence, in float64 if they are to be exact."""
        arrays = continued({name: values.numpy() for name, values in self.inputs.items()}, row, beginning, self.reads)
        model = copy.deepcopy(self.model).double() if exact else self.model
        with self.torch.inference_mode():
            return model(**{name: self.torch.tensor(values) for name, values in arrays.items()}).logits[0, -1].numpy()

    def put(self, values: np.ndarray) -> Any:
        return self.torch.from_numpy(values)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.torch.inference_mode()(function)

    def ways(self) -> Ways:
        torch = self.torch
        return _plain_ways() | {
            "(in, out) in parts": (False, lambda x, w: (x.view(PARTS, 1, -1) @ w.view(PARTS, -1, w.shape[1])).sum(0)),
            "(out, in) in parts": (
                True,
                lambda x, w: torch.bmm(x.expand(PARTS, 1, -1), w.view(PARTS, -1, w.shape[1]).mT).view(1, -1),
            ),
            "(out, in) for two": (True, lambda x, w: (w @ torch.cat((x, x)).T).T[:1].contiguous()),
        }


class Jax:
    """diptych or the last Flax release of transformers."""

    def __init__(self, side: str) -> None:
        import jax

        self.jax, self.ours, self.jit = jax, side == "diptych jax", side == "transformers flax jit"

    def load(self, directory: str, architecture: str, generation: dict[str, Any]) -> None:
        self.composite = architecture == "EncoderDecoderModel"
        self.reads = "decoder_start_token_id" in generation
        if self.ours:
            import diptych.backends.jax as library

            self.model: Any = getattr(library, architecture).from_pretrained(directory)
            self.model.generation_config = generation
        else:
            import transformers

            warnings.filterwarnings("ignore", "None encountered", FutureWarning)  # there is no eos_token_id
            peer: Any = transformers  # not the version that pyright sees
            self.model = getattr(peer, f"Flax{architecture}").from_pretrained(directory, from_pt=True)
            self.model.generation_config = peer.GenerationConfig(**generation)

    def writer(self, inputs: dict[str, np.ndarray], beams: int) -> Callable[[int], Any]:
        arrays = {name: self.jax.device_put(values) for name, values in inputs.items()}
        self.inputs = arrays
        if self.ours:
            return lambda tokens: np.asarray(
                self.model.generate(**arrays, max_new_tokens=tokens, num_beams=beams).sequences
            )
        if self.composite:
            # encode() passes them to BERT as token types, so its default leads to NaN; BERT counts positions itself
            arrays["position_ids"] = self.jax.numpy.zeros_like(arrays["input_ids"])

        def write(weights: Any, arrays: Any, tokens: int) -> Any:
            options = {"max_new_tokens": tokens, "num_beams": beams, "params": weights}
            return self.model.generate(**arrays, **options).sequences

        write = self.jax.jit(write, static_argnums=2) if self.jit else write
        return lambda tokens: np.asarray(write(self.model.params, arrays, tokens))

    def scores(self, row: int, beginning: list[int], exact: bool) -> np.ndarray:
        """The logits of the next token after the beginning of a sequence."""
        arrays = {name: np.asarray(values) for name, values in self.inputs.items()}
        return np.asarray(self.model(**continued(arrays, row, beginning, self.reads)).logits[0, -1])

    def put(self, values: np.ndarray) -> Any:
        return self.jax.device_put(values)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        run = self.jax.jit(function)
        return lambda *arguments: self.jax.block_until_ready(run(*arguments))

    def ways(self) -> Ways:
        return _plain_ways()


def continued(inputs: dict[str, np.ndarray], row: int, beginning: list[int], reads: bool) -> dict[str, np.ndarray]:
    """The inputs of a call on one sequence up to a token, from those of `generate`.

    Args:
        inputs: a batch without padding.
        row: of the batch.
        beginning: the ids of the sequence, as `generate` returns them.
        reads: whether they are a decoder's, which reads the states of an encoder.
    """
    one = {name: values[row : row + 1] for name, values in inputs.items()}
    ids = np.array([beginning])
    if reads:
        return one | {"decoder_input_ids": ids}
    seen = one.get("image_attention_mask")
    if seen is not None:  # new tokens see what the last one of the prompt sees
        new = seen[:, -1:].repeat(ids.shape[1] - seen.shape[1], axis=1)
        one["image_attention_mask"] = np.concatenate([seen, new], axis=1)
    return one | {"input_ids": ids, "attention_mask": np.ones_like(ids)}


class Measured:
    """The commands of a worker."""

    def __init__(self, side: str) -> None:
        self.side: Any = (Jax if side in ("diptych jax", "transformers flax", "transformers flax jit") else Torch)(side)
        self.write: Callable[[int], Any] = lambda tokens: None
        self.chains: dict[str, Callable[[], Any]] = {}

    def first(
        self, directory: str, architecture: str, generation: dict[str, Any], inputs: str, mode: str, tokens: int
    ) -> dict[str, Any]:
        """Loads the model and generates once; returns the seconds of that call and the sequences, or the error."""
        self.side.load(directory, architecture, generation)
        self.write = self.side.writer(dict(np.load(inputs)), BEAMS[mode])
        try:
            seconds, texts = _timed(self.write, tokens)
        except Exception as error:  # another library may not support the call
            return {"failed": f"{type(error).__name__}: {error}"}
        return {"seconds": seconds, "texts": np.asarray(texts).tolist()}

    def steady(self, tokens: int) -> float:
        """Seconds of one call."""
        return _timed(self.write, tokens)[0]

    def scores(self, row: int, beginning: list[int], exact: bool) -> list[float]:
        """The logits of the next token after the beginning of a sequence."""
        return self.side.scores(row, beginning, exact).tolist()

    def prepare_products(self, shapes: list[tuple[int, int, int]]) -> dict[str, int]:
        """Creates chains of products from width to inner width and back, with more matrices than fit in the CPU cache.

        Each direction uses the method that is fastest for it.

        Returns:
            Name of each chain -> the bytes that it reads.
        """
        bytes_of = {}
        for width, inner, count in shapes:
            (up, ups), (down, downs) = self._fastest(width, inner, count), self._fastest(inner, width, count)
            name = f"{width} -> {inner} by {up}, back by {down}"
            self.chains[name] = self._chain(width, up, ups, down, downs)
            self.chains[name]()
            bytes_of[name] = 2 * count * width * inner * 4
        return bytes_of

    def _fastest(self, into: int, out: int, count: int) -> tuple[str, list[Any]]:
        """The name of the fastest method, and matrices in the layout that it needs."""
        rng = np.random.default_rng(into)
        values = [(rng.random(into * out, np.float32) - 0.5) * (12 / into) ** 0.5 for _ in range(count)]
        start = self.side.put(np.ones((1, into), np.float32))
        seconds: dict[str, float] = {}
        for name, (transposed, way) in self.side.ways().items():
            matrices = self._laid_out(values, into, out, transposed)
            run = self.side.compiled(way)
            run(start, matrices[0])
            seconds[name] = median(sum(_timed(run, start, matrix)[0] for matrix in matrices) for _ in range(5))
        best = min(seconds, key=lambda name: seconds[name])
        return best, self._laid_out(values, into, out, self.side.ways()[best][0])

    def _laid_out(self, values: list[np.ndarray], into: int, out: int, transposed: bool) -> list[Any]:
        return [self.side.put(numbers.reshape((out, into) if transposed else (into, out))) for numbers in values]

    def _chain(self, width: int, up: str, ups: list[Any], down: str, downs: list[Any]) -> Callable[[], Any]:
        """A chain in which each product takes the result of the previous one, as in a decoding step."""
        (_, rise), (_, fall) = self.side.ways()[up], self.side.ways()[down]

        def through(x: Any, ups: list[Any], downs: list[Any]) -> Any:
            for one, other in zip(ups, downs, strict=True):
                x = fall(rise(x, one), other)
            return x

        run, start = self.side.compiled(through), self.side.put(np.ones((1, width), np.float32))
        return lambda: run(start, ups, downs)

    def time_products(self) -> dict[str, float]:
        """Seconds of each chain."""
        return {name: _timed(chain)[0] for name, chain in self.chains.items()}


def _plain_ways() -> Ways:
    return {
        "(in, out)": (False, lambda x, w: x @ w),
        "(out, in)": (True, lambda x, w: x @ w.T),
        "(in, out) of a vector": (False, lambda x, w: (x[0] @ w)[None]),
        "(out, in) of a vector": (True, lambda x, w: (w @ x[0])[None]),
    }


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    worker = Measured(sys.argv[1])
    peers.serve(
        {
            "first": worker.first,
            "steady": worker.steady,
            "scores": worker.scores,
            "prepare_products": worker.prepare_products,
            "time_products": worker.time_products,
            "versions": peers.versions,
        }
    )
