"""What models hear in a recording: CTC models a token in each frame, others a text for each window."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from diptych.core.errors import InputError
from diptych.core.outputs import EncoderOutput
from diptych.sound.windows import Window, overlapping_windows, quiet_windows
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


class Part(NamedTuple):
    """A window of one of several recordings.

    Attributes:
        recording: its number.
        window: where it lies.
        samples: (samples,) of it.
    """

    recording: int
    window: Window
    samples: np.ndarray


class Text(NamedTuple):
    """The text of a recording.

    Attributes:
        text: all of it.
        heard: its parts.
        ids: the tokens of all frames, or those that were generated.
    """

    text: str
    heard: tuple[Heard, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Listener(ABC):
    """A model that reads sound, with its processor.

    Attributes:
        backend: jax or torch.
        model: of the backend.
        processor: of its checkpoint.
        window: the longest part of a recording, in seconds, that the model reads at once.
        batch_size: the number of windows that are read at once.
    """

    backend: str
    model: Any
    processor: SpeechProcessor
    window: float
    batch_size: int

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

    @property
    def shortest_window(self) -> int:
        """The least number of samples of a window that allows the model to read every part of a recording."""
        return self.config.least_samples

    @abstractmethod
    def windows(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording."""

    def check_window(self, caller: str) -> None:
        """A window must be long enough for a state of the encoder.

        Raises:
            InputError: it is not.
        """
        if self.window * self.rate < self.shortest_window:
            raise InputError(
                f"{caller}: window={self.window:g} seconds are {round(self.window * self.rate)} samples at {self.rate} "
                f"Hz, but the model needs at least {self.shortest_window}"
            )

    def batches(self, recordings: Sequence[tuple[np.ndarray, Sequence[Window]]]) -> Iterator[list[Part]]:
        """The windows of recordings in batches.

        Args:
            recordings: the samples (samples,) of each, and its windows.
        """
        parts = [
            Part(number, window, samples[window.start : window.stop])
            for number, (samples, windows) in enumerate(recordings)
            for window in windows
        ]
        for start in range(0, len(parts), self.batch_size):
            yield parts[start : start + self.batch_size]

    @property
    def _bucket(self) -> int:
        """The number of samples whose multiples JAX pads windows to."""
        return max(1, round(self.window * self.rate / _BUCKETS))

    def inputs(self, batch: Sequence[Part]) -> dict[str, np.ndarray]:
        """The model's inputs for a batch of windows, padded if their lengths differ; in JAX to one of a few lengths.

        The model is called with `ignore_padding`, so each window is read as if it were alone.
        """
        rows = [part.samples for part in batch]
        if self.backend == "torch" and len({len(row) for row in rows}) == 1:
            return {"input_values": self.processor(rows, return_attention_mask=False).input_values}
        step = self._bucket if self.backend == "jax" else None
        found = self.processor(rows, pad_to_multiple_of=step, return_attention_mask=True)
        return {name: found[name] for name in ("input_values", "attention_mask")}


@dataclass(frozen=True)
class CTCListener(Listener):
    """A CTC model.

    Attributes:
        overlap: the seconds at each end of a window that are context only.
    """

    overlap: float

    def windows(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording; a last one that is too short for a frame is left out."""
        found = overlapping_windows(len(samples), self.window, self.overlap, self.rate, self.config.samples_per_state)
        return [one for one in found if one.stop - one.start >= self.config.least_samples]

    def listen(
        self, recordings: Sequence[tuple[np.ndarray, Sequence[Window]]], seed: int, done: Callable[[int], Any]
    ) -> list[Text]:
        """The texts of recordings, with the times of their words.

        Args:
            recordings: the samples (samples,) of each, and its windows.
            seed: unused, since nothing is random.
            done: receives the number of windows that were read.
        """
        tokens: list[list[int]] = [[] for _ in recordings]
        for batch in self.batches(recordings):
            rows = _best_tokens(self.backend, self.model, self.inputs(batch))
            for part, row in zip(batch, rows, strict=True):
                first, last = part.window.frames(self.config.samples_per_state)
                count = self.config.feature_lengths(len(part.samples))  # after them are those of padding
                tokens[part.recording] += row[first : min(last, count)].tolist()
            done(len(batch))
        return [self._text(one) for one in tokens]

    def _text(self, tokens: list[int]) -> Text:
        found, step = self.processor.decode_frames(tokens), self.config.samples_per_state
        words = [Heard(one.text, one.start * step / self.rate, one.end * step / self.rate) for one in found.words]
        return Text(found.text, tuple(words), tuple(tokens))


def _best_tokens(backend: str, model: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The most probable token of each frame (B, T)."""
    if backend == "jax":
        return np.asarray(_jax_program()(model, **inputs))
    import torch

    with torch.inference_mode():
        return model(**inputs, ignore_padding=True).logits.argmax(-1).cpu().numpy()


@functools.cache
def _jax_program() -> Callable[..., Any]:
    import jax

    return jax.jit(lambda model, **inputs: model(**inputs, ignore_padding=True).logits.argmax(-1))


@dataclass(frozen=True)
class WritingListener(Listener):
    """A speech encoder with a decoder, which writes a text for each window.

    Attributes:
        writer: generates and decodes.
    """

    writer: Writer

    @property
    def shortest_window(self) -> int:
        """Four times that of an encoder alone, since a recording may be cut a quarter of a window before its end."""
        return 4 * self.config.least_samples

    def windows(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording, which end where it is quiet."""
        return quiet_windows(samples, self.window, self.rate)

    def listen(
        self, recordings: Sequence[tuple[np.ndarray, Sequence[Window]]], seed: int, done: Callable[[int], Any]
    ) -> list[Text]:
        """The texts of recordings: those of their windows, joined with spaces.

        Args:
            recordings: the samples (samples,) of each, and its windows.
            seed: of the random choices.
            done: receives the number of windows that were read.
        """
        heard: list[list[Heard]] = [[] for _ in recordings]
        ids: list[list[int]] = [[] for _ in recordings]
        number = 0
        for batch in self.batches(recordings):
            texts = self.writer.write(self._writer_inputs(batch), [()] * len(batch), seed + number, live=True)
            for part, text in zip(batch, texts, strict=True):
                start, stop = part.window.start / self.rate, part.window.stop / self.rate
                heard[part.recording].append(Heard(str(text).strip(), start, stop))
                ids[part.recording] += text.ids
            number += len(batch)
            done(len(batch))
        joined = [" ".join(one.text for one in parts) for parts in heard]
        return [Text(text, tuple(parts), tuple(one)) for text, parts, one in zip(joined, heard, ids, strict=True)]

    def _writer_inputs(self, batch: Sequence[Part]) -> dict[str, Any]:
        """What the writer reads for a batch of windows.

        In JAX it is the encoder's states, padded to those of a half or a whole window, so that a program of the decoder
        serves many lengths.
        """
        inputs = self.inputs(batch)
        if self.backend == "torch":
            return {**inputs, "ignore_padding": True}
        states, most = (
            self.config.feature_lengths(samples)
            for samples in (inputs["input_values"].shape[1], _BUCKETS * self._bucket)
        )
        half = -(-most // 2)
        return {"encoder_outputs": _jax_encoder()(self.model, inputs, length=half if states <= half else 2 * half)}


@functools.cache
def _jax_encoder() -> Callable[..., EncoderOutput]:
    import jax
    from jax import numpy as jnp

    @functools.partial(jax.jit, static_argnames="length")
    def encode(model: Any, inputs: Mapping[str, Any], *, length: int) -> EncoderOutput:
        found = model.encode(**inputs, ignore_padding=True, return_dict=True)
        states, mask = found.last_hidden_state, found.attention_mask
        padding = ((0, 0), (0, length - states.shape[1]))
        return EncoderOutput(
            last_hidden_state=jnp.pad(states, (*padding, (0, 0))), attention_mask=jnp.pad(mask, padding)
        )

    return encode
