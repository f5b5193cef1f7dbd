"""The classes of recordings: keywords, speakers, languages, emotions, or whatever a model was trained on."""

import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from tqdm import tqdm

from diptych.classification import Classification, label_probabilities, most_probable
from diptych.core import backends, check
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.core.registry import architectures, families
from diptych.core.sound_config import SoundEncoderConfig
from diptych.processing import load_processor
from diptych.sound.files import find_recordings
from diptych.sound.reading import read_groups, report_damage
from diptych.sound.recognition import Listener
from diptych.sound.windows import Window, equal_windows
from diptych.text.files import OnError, Paths, beside_bars
from diptych.text.placement import loading_keywords
from diptych.text.speech import SpeechProcessor

WINDOW = 30.0
"""The longest part of a recording, in seconds, that is read at once by default."""


def classify_recordings(
    directory: str | os.PathLike[str],
    recordings: Paths,
    *,
    top: int | None = None,
    window: float = WINDOW,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    sharding: str | None = None,
    changes: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    show: Callable[[Classification], None] | None = None,
    on_error: OnError | None = None,
    progress: bool | None = None,
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    **options: Unpack[HubOptions],
) -> list[Classification]:
    """Loads a speech encoder's classifier with its processor, and gives each recording a probability for each label.

    The labels are those of the config. The probabilities of a recording sum to 1, unless the config's problem_type is
    multi_label_classification, where each label has a probability of its own.

    Args:
        directory: the checkpoint's, or a name on the Hugging Face hub.
        recordings: paths of sound files, directories of them, or patterns such as "talks/*.flac".
        top: the number of most probable labels that are returned; by default all.
        window: the seconds of a recording that are read at once. A longer one is read in parts of equal length, whose
            probabilities are averaged.
        batch_size: the number of windows that are read at once, of one recording or of several.
        show: receives each result after its batch.
        on_error: receives the errors of files that cannot be read, which are left out, and of files whose end is
            missing, of which the rest is classified; by default the first is raised, or a warning is given.
        progress: whether to show a bar of windows on stderr; by default if stderr is a terminal.
        backend, dtype, device, sharding, changes, ignore, ignore_config: as for `generate_text`; unknown fields of
            preprocessor_config.json are skipped by `ignore_config` too.
        options: see `HubOptions`.

    Returns:
        A classification of each recording that can be read, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model does not classify recordings.
        CheckpointError, ConfigError: the checkpoint or its processor cannot be loaded.
        ImportError: soundfile is not installed, or soxr, which another rate needs.
    """
    chosen = backends.choose("result", backend, argument="classify: backend")
    check.counts("classify", batch_size=batch_size, top=top)
    if not 0 < window < math.inf:
        raise InputError(f"classify: window={window:g} must be greater than 0, and finite")
    paths, directory = find_recordings(recordings), locate(directory, **options)
    ignore_config = tuple(ignore_config)
    processor = _load_processor(directory, ignore_config)
    kept = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    loading = loading_keywords(chosen, options, device, sharding, changes, **kept)
    model = importlib.import_module(f"diptych.backends.{chosen}").load(directory, **loading)
    probabilities = label_probabilities(chosen, model, ignore_padding=True)
    names = list(model.config.id2label.values())
    listener = ClassifyingListener(chosen, model, processor, window, batch_size, probabilities=probabilities)
    listener.check_window("classify")
    show, found = beside_bars(show), list[Classification]()
    with tqdm(total=0, unit="window", disable=None if progress is None else not progress, leave=False) as bar:
        for group in read_groups(listener, paths, on_error):
            bar.total += sum(len(one.windows) for one in group)
            bar.refresh()
            rows = listener.classify([(one.recording.samples, one.windows) for one in group], bar.update)
            for one, row in zip(group, rows, strict=True):
                report_damage(one, on_error)
                labels = most_probable(names, row, top)
                found.append(Classification(audio=one.path, probabilities=labels, damage=one.recording.damage))
                if show is not None:
                    show(found[-1])
    return found


@dataclass(frozen=True)
class ClassifyingListener(Listener):
    """A classifier of recordings.

    Attributes:
        probabilities: of each label (B, labels), from the model's inputs.
    """

    probabilities: Callable[..., np.ndarray]

    @property
    def shortest_window(self) -> int:
        """Twice that of the encoder, since a recording that is hardly longer than a window is divided in two."""
        return 2 * self.config.least_samples

    def windows(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording, of equal length."""
        return equal_windows(len(samples), self.window, self.rate)

    def classify(
        self, recordings: Sequence[tuple[np.ndarray, Sequence[Window]]], done: Callable[[int], Any]
    ) -> list[np.ndarray]:
        """The probabilities (labels,) of recordings: the mean of those of their windows.

        Args:
            recordings: the samples (samples,) of each, and its windows.
            done: receives the number of windows that were read.
        """
        rows: list[list[np.ndarray]] = [[] for _ in recordings]
        for batch in self.batches(recordings):
            for part, row in zip(batch, self.probabilities(**self.inputs(batch)), strict=True):
                rows[part.recording].append(row)
            done(len(batch))
        return [np.mean(found, axis=0) for found in rows]


def _load_processor(directory: Path, ignore_config: tuple[str, ...]) -> SpeechProcessor:
    """The processor of a classifier of recordings.

    Raises:
        InputError: the checkpoint is of another class.
    """
    name = architecture_of(directory, ignore_config)
    config = families()[architectures()[name]].classes[name]
    if not (issubclass(config, SoundEncoderConfig) and name.endswith("ForSequenceClassification")):
        raise InputError(
            f"{directory}: {name} does not classify recordings; a …ForSequenceClassification of a speech encoder does"
        )
    processor = load_processor(directory, ignore_config=ignore_config)
    if not isinstance(processor, SpeechProcessor):
        raise InputError(f"{directory}: its processor reads images, not sound")
    return processor
