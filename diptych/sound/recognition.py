"""What models hear in a recording: CTC models a token in each frame, others a text for each window."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.core.errors import InputError
from diptych.sound.windows import Window, batches_of_one_length, overlapping_windows, quiet_windows
from diptych.text.speech import SpeechProcessor
from diptych.text.writing import Writer

_BUCKETS = 8
"""JAX compiles a program for each length; this many lengths are padded to, up to that of a window."""


@dataclass(frozen=True)
class Heard:
    """What was heard in a part of a recording.

    Attributes:
        text: a word of a CTC model, or what another model wrote about a window.
        start, end: seconds.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Listener:
    """A model that reads sound, with its processor.

    Attributes:
        backend: jax or torch.
        model: of the backend.
        processor: of its checkpoint.
        window: the longest part of a recording, in seconds, that the model reads at once.
    """

    backend: str
    model: Any
    processor: SpeechProcessor
    window: float

    @property
    def config(self) -> Any:
        """The config of the encoder."""
        return getattr(self.model.config, "encoder", self.model.config)

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.processor.sampling_rate

    def check_length(self, name: str, samples: np.ndarray) -> None:
        """A recording must be long enough for a state of the encoder.

        Raises:
            InputError: it is not.
        """
        least = self.config.least_samples
        if len(samples) < least:
            raise InputError(
                f"{name}: has {len(samples)} samples at {self.rate} Hz, but the model needs at least {least}"
            )

    def inputs(self, samples: np.ndarray, windows: list[Window]) -> dict[str, np.ndarray]:
        """The model's inputs for equally long windows.

        In JAX, they are padded to one of a few lengths if padding changes nothing: group norm counts it, and the states
        of an adapter reach beyond the end.
        """
        rows, config = [samples[one.start : one.stop] for one in windows], self.config
        if self.backend == "torch" or config.feat_extract_norm == "group" or _has_adapter(config):
            return {"input_values": self.processor(rows, return_attention_mask=False).input_values}
        step = max(1, round(self.window * self.rate / _BUCKETS))
        found = self.processor(rows, pad_to_multiple_of=step, return_attention_mask=True)
        return {name: found[name] for name in ("input_values", "attention_mask")}


@dataclass(frozen=True)
class CTCListener(Listener):
    """A CTC model.

    Attributes:
        overlap: the seconds at each end of a window that are context only.
        batch_size: the number of windows that are read at once.
    """

    overlap: float
    batch_size: int

    def windows(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording; a last one that is too short for a frame is left out."""
        found = overlapping_windows(len(samples), self.window, self.overlap, self.rate, self._samples_per_frame)
        return [one for one in found if one.stop - one.start >= self.config.least_samples]

    @property
    def _samples_per_frame(self) -> int:
        adapters = [self.config.adapter_stride] * self.config.num_adapter_layers if _has_adapter(self.config) else []
        return int(np.prod([*self.config.conv_stride, *adapters]))

    def hear(
        self, samples: np.ndarray, windows: list[Window], done: Callable[[int], Any]
    ) -> tuple[str, list[Heard], list[int]]:
        """The text of a recording, its words, and the tokens of its frames.

        Args:
            samples: (samples,) of the recording.
            windows: its own.
            done: receives the number of windows that were read.
        """
        tokens: list[int] = []
        for batch in batches_of_one_length(windows, self.batch_size):
            rows = _best_tokens(self.backend, self.model, self.inputs(samples, batch))
            for window, row in zip(batch, rows, strict=True):
                first, last = window.frames(self._samples_per_frame)
                count = self.config.feature_lengths(window.stop - window.start)  # after them are those of padding
                tokens += row[first : min(last, count)].tolist()
            done(len(batch))
        found, step = self.processor.decode_frames(tokens), self._samples_per_frame
        words = [Heard(one.text, one.start * step / self.rate, one.end * step / self.rate) for one in found.words]
        return found.text, words, tokens


def _has_adapter(config: Any) -> bool:
    return bool(getattr(config, "add_adapter", False))


def _best_tokens(backend: str, model: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The most probable token of each frame (B, T)."""
    if backend == "jax":
        return np.asarray(_jax_program()(model, **inputs))
    import torch

    with torch.inference_mode():
        return model(**inputs).logits.argmax(-1).cpu().numpy()


@functools.cache
def _jax_program() -> Callable[..., Any]:
    import jax

    return jax.jit(lambda model, **inputs: model(**inputs).logits.argmax(-1))


@dataclass(frozen=True)
class WritingListener(Listener):
    """A speech encoder with a decoder, which writes a text for each window.

    Attributes:
        writer: generates and decodes.
    """

    writer: Writer

    def windows(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording, which end where it is quiet."""
        return quiet_windows(samples, self.window, self.rate)

    def write(
        self, samples: np.ndarray, windows: list[Window], seed: int, *, live: bool
    ) -> Iterator[tuple[Heard, Any]]:
        """What is written for each window, with its ids.

        Args:
            samples: (samples,) of the recording.
            windows: its own.
            seed: of the random choices.
            live: whether tokens are shown as they are generated.
        """
        for number, window in enumerate(windows):
            inputs = self.inputs(samples, [window])
            (text,) = self.writer.write(inputs, [()], seed + number, live=live)
            yield Heard(str(text).strip(), window.start / self.rate, window.stop / self.rate), text.ids
