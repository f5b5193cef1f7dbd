"""Audio processing: samples bit for bit as the feature extractor of transformers 5.23 makes them.

Letters of the shapes: B batch.
"""

import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, cast

import numpy as np

from diptych.core.errors import InputError
from diptych.core.processing.audio_config import MOST_SAMPLES, AudioProcessorConfig, is_sampling_rate
from diptych.core.processing.config_files import ConfiguredProcessor
from diptych.core.processing.features import Features, Tensors
from diptych.core.processing.recordings import flat, read_recording, resample, to_samples

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
"""To which length recordings are padded: True is the longest one's, False none."""

_EPSILON = 1e-7
"""Added to the variance."""
_BLOCK = 2**14
"""The number of samples that are squared at once."""


class AudioProcessor(ConfiguredProcessor):
    """Turns recordings into `input_values` (B, samples), in float32, as its config says.

    Args:
        config: what is done.
    """

    config: AudioProcessorConfig
    config_class = AudioProcessorConfig
    section = "feature_extractor"

    @property
    def sampling_rate(self) -> int:
        """Samples per second of what the model reads."""
        return self.config.sampling_rate

    @property
    def model_input_names(self) -> Sequence[str]:
        """The names of what a call returns."""
        return ("input_values", "attention_mask") if self.config.return_attention_mask else ("input_values",)

    def __call__(
        self,
        raw_speech: Any,
        *,
        sampling_rate: int | None = None,
        padding: Padding = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Tensors | None = None,
    ) -> Features:
        """The samples of one or more recordings, as a model takes them.

        Args:
            raw_speech: a recording or a list of recordings: paths of sound files, whose channels are averaged, or
                arrays or lists of samples (samples,); or an array (B, samples).
            sampling_rate: samples per second of the arrays, which are resampled if the model's rate is another; by
                default the model's. Files say their own.
            padding: to which length recordings are padded at their ends.
            max_length: the number of samples for "max_length" and `truncation`.
            truncation: whether samples from `max_length` on are cut off.
            pad_to_multiple_of: a number whose multiples lengths are rounded up to.
            return_attention_mask: whether the mask is returned; by default as the config says.
            return_tensors: "np", "pt" or "jax"; by default numpy.

        Returns:
            `input_values` (B, samples) and, if asked for, `attention_mask` (B, samples), 1 = sample, in int32. With a
            mask, each recording is normalized on its own and then padded. Without, padding comes first and counts.

        Raises:
            InputError: recordings cannot be read (all of them are named), have different lengths without padding, or
                an option is not valid.
            ImportError: soundfile, soxr or the framework of `return_tensors` is not installed, but needed.
        """
        strategy = ("longest" if padding else "do_not_pad") if isinstance(padding, bool) else padding
        if strategy not in ("longest", "max_length", "do_not_pad"):
            raise InputError(f"padding={padding!r} must be True, False, 'longest', 'max_length' or 'do_not_pad'")
        _check_numbers(sampling_rate, max_length, pad_to_multiple_of)
        if max_length is None and (truncation or strategy == "max_length"):
            raise InputError("max_length is needed for truncation=True and padding='max_length', got None")
        recordings = list(flat(raw_speech))
        rows = self._read_all(recordings, sampling_rate)
        if truncation:
            rows = [row[: _round_up(cast(int, max_length), pad_to_multiple_of)] for row in rows]
        lengths = [len(row) for row in rows]
        width = max(lengths) if strategy == "longest" or max_length is None else max_length
        width = _round_up(width, pad_to_multiple_of)
        widths = {length if strategy == "do_not_pad" else max(length, width) for length in lengths}
        if len(widths) > 1:
            raise InputError(
                f"recordings: they come out in different lengths ({', '.join(map(str, sorted(widths)))} samples); "
                "padding=True pads them to the longest, truncation=True cuts them"
            )
        masks = self.config.return_attention_mask if return_attention_mask is None else return_attention_mask
        if len(rows) == 1 and widths == {len(rows[0])} and isinstance(recordings[0][1], str | os.PathLike):
            values = rows[0][None]  # nobody else has what was read from a file, so it need not be copied
        else:
            values = np.full((len(rows), *widths), self.config.padding_value, np.float32)
        for row, samples in zip(values, rows, strict=True):
            if not self.config.do_normalize:
                row[: len(samples)] = samples
            elif masks or len(samples) == len(row):
                _normalize(samples, out=row[: len(samples)])
            else:
                row[: len(samples)] = samples
                _normalize(row, out=row)
        found = Features(input_values=values)
        if masks:
            found["attention_mask"] = np.zeros(values.shape, np.int32)
            for row, length in zip(found["attention_mask"], lengths, strict=True):
                row[:length] = 1
        return found.to_tensors(return_tensors)

    def _read_all(self, recordings: Sequence[tuple[str, Any]], sampling_rate: int | None) -> list[np.ndarray]:
        """The samples (S,) of each of the named recordings.

        Raises:
            InputError: recordings cannot be read; all of them are named.
        """
        rows: list[np.ndarray] = []
        errors: list[str] = []
        for name, recording in recordings:
            try:
                rows.append(self._samples(name, recording, sampling_rate))
            except InputError as error:
                errors.append(str(error))
        if errors:
            raise InputError("; ".join(errors))
        return rows

    def _samples(self, name: str, recording: Any, sampling_rate: int | None) -> np.ndarray:
        """The samples (S,) of a recording, in mono and at the model's rate."""
        if isinstance(recording, str | os.PathLike):
            found = read_recording(cast(str, recording), self.sampling_rate)
            if found.damage is not None:
                warnings.warn(f"{name}: {found.damage}", stacklevel=4)  # the processor's caller
            return found.samples
        samples = to_samples(name, recording)
        if samples.dtype.kind in "iu":
            if not self.config.do_normalize:
                raise InputError(
                    f"{name}: holds whole numbers, but the model reads samples from -1 to 1; divide them by their "
                    "largest value, such as 2**15 for 16 bits"
                )
            samples = samples.astype(np.float32)
        rate = self.sampling_rate if sampling_rate is None else int(sampling_rate)
        found = resample(samples, rate, self.sampling_rate)
        if not found.size:
            raise InputError(f"{name}: {len(samples)} samples at {rate} Hz are none at {self.sampling_rate} Hz")
        return found


def _check_numbers(sampling_rate: Any, max_length: Any, pad_to_multiple_of: Any) -> None:
    """Raises an InputError for a number that is given but is out of range."""
    for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
            raise InputError(f"{name}={value!r} must be 1 or more, a whole number")
    if sampling_rate is not None and not is_sampling_rate(sampling_rate):
        raise InputError(f"sampling_rate={sampling_rate!r} must be a whole number from 1 to {MOST_SAMPLES}")


def _normalize(samples: np.ndarray, out: np.ndarray) -> None:
    """Writes the samples with a mean of 0 and a variance of 1."""
    np.subtract(samples, samples.mean(), out=out)
    out /= np.sqrt(_sum_of_squares(out) / len(out) + _EPSILON)


def _sum_of_squares(values: np.ndarray) -> np.floating[Any]:
    """The sum of values * values, bit for bit, without memory for all squares: NumPy adds up halves too."""
    if len(values) <= _BLOCK:
        return np.sum(np.square(values))
    half = len(values) // 16 * 8
    return _sum_of_squares(values[:half]) + _sum_of_squares(values[half:])


def _round_up(count: int, multiple: int | None) -> int:
    return count if multiple is None else -(-count // multiple) * multiple
