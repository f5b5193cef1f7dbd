"""From sound files to texts: transcriptions and translations of recordings of any length."""

import importlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from diptych.core import backends
from diptych.core.checkpoint.hub import HubOptions, split_options
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.processing import load_processor
from diptych.sound.files import find_recordings
from diptych.sound.reading import read_groups, report_damage
from diptych.sound.recognition import CTCListener, Heard, WritingListener
from diptych.text.files import OnError, Paths, beside_bars
from diptych.text.placement import loading_keywords
from diptych.text.speech import SpeechProcessor
from diptych.text.writing import Writer, language_id, load_writer

WINDOW = 30.0
"""The longest part of a recording, in seconds, that is read at once by default."""


@dataclass(frozen=True)
class Transcription:
    """The text of a recording.

    Attributes:
        audio: its path.
        text: all of it; ids as text if there is no tokenizer.
        parts: the words of a CTC model, or the windows of another, with their times in seconds.
        ids: the tokens of all frames, or those that were generated.
        damage: why samples are missing at the end of the recording; None if it is whole.
    """

    audio: str
    text: str
    parts: tuple[Heard, ...]
    ids: tuple[int, ...]
    damage: str | None = None

    def to_json(self, *, timestamps: bool = False) -> str:
        """One JSON object on one line: path and text, any damage, and with `timestamps` the parts."""
        damage = {} if self.damage is None else {"damage": self.damage}
        parts = {"parts": [asdict(part) for part in self.parts]} if timestamps else {}
        return json.dumps({"audio": self.audio, "text": self.text, **damage, **parts}, ensure_ascii=False)

    def to_text(self, *, timestamps: bool = False) -> str:
        """The text, or with `timestamps` a line for each part, which begins with its seconds."""
        if not timestamps:
            return self.text
        return "\n".join(f"{part.start:.2f} {part.end:.2f} {part.text}" for part in self.parts)


def transcribe(
    directory: str | os.PathLike[str],
    recordings: Paths,
    *,
    language: str | None = None,
    window: float = WINDOW,
    overlap: float | None = None,
    timestamps: bool = False,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    sharding: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    compile: bool = False,
    echo: bool = False,
    show: Callable[[str], None] | None = None,
    as_json: bool = False,
    on_error: OnError | None = None,
    progress: bool | None = None,
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    **options: Any,
) -> list[Transcription]:
    """Loads a checkpoint with its processor, and writes the text of recordings.

    A CTC model reads a long recording in windows that overlap, as the pipeline of transformers does with
    chunk_length_s and stride_length_s; only the middle of each counts. A `SpeechEncoderDecoderModel` reads windows that
    end where the recording is quietest, and its texts are joined with spaces.

    Args:
        directory: the checkpoint's, or a name on the Hugging Face hub.
        recordings: paths of sound files, directories of them, or patterns such as "talks/*.flac".
        language: for a model with several: the code of the text's language, whose token is forced as the first one, or
            whose adapter and vocabulary are loaded (MMS).
        window: the seconds of a window; a recording that is no longer is read as a whole.
        overlap: of a CTC model, the seconds at each end of a window that are context only; by default a sixth of it.
        timestamps: whether `show` receives the parts with their times.
        batch_size: the number of windows that are read at once, of one recording or of several; by default 8, or 1 if
            text is shown piece by piece. Windows of different lengths are read at once if padding changes nothing.
        echo: whether the text includes the decoder's start token.
        show: receives the texts, with a line break after each; that of a single recording is shown piece by piece if a
            decoder generates it and `batch_size` is not given. Lines of several begin with the path of the recording
            and a colon.
        as_json: whether it receives a line of JSON for each recording instead.
        on_error: receives the errors of files that cannot be read, which are left out, and of files whose end is
            missing, of which the rest is transcribed; by default the first is raised, or a warning is given.
        progress: whether to show a bar of windows on stderr; by default if stderr is a terminal and text is not shown
            piece by piece.
        backend, dtype, device, sharding, changes, seed, compile, ignore, ignore_config, options: as for
            `generate_text`; a CTC model has no options of generation.

    Returns:
        The transcriptions of all recordings that can be read, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model writes no text about sound.
        CheckpointError, ConfigError: the checkpoint, its processor or its tokenizer cannot be loaded.
        ImportError: soundfile is not installed, or soxr or tokenizers, if they are needed.
    """
    chosen = backends.choose("result", backend, argument="generate: backend")
    _check_numbers(batch_size, window, overlap)
    (hub, options), source = split_options(options), directory
    paths, directory = find_recordings(recordings), locate(directory, **hub)
    ignore_config = tuple(ignore_config)
    name = architecture_of(directory, ignore_config)
    processor = load_processor(directory, ignore_config=ignore_config)
    if not isinstance(processor, SpeechProcessor):
        raise InputError(f"{directory}: {name} reads no sound, since its processor is one of images")
    kept = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    loading = loading_keywords(chosen, hub, device, sharding, changes, **kept)
    live = len(paths) == 1 and not as_json and not timestamps and not name.endswith("ForCTC") and batch_size is None
    batch_size = batch_size or (1 if live else 8)
    listener: CTCListener | WritingListener
    if name.endswith("ForCTC"):
        if options:
            raise InputError(f"{directory}: {name} has no options of generation, such as {next(iter(options))}")
        model = importlib.import_module(f"diptych.backends.{chosen}").load(directory, **loading)
        if language is not None:
            _choose_language(model, processor, language, source, hub)
        side = window / 6 if overlap is None else overlap
        listener = CTCListener(chosen, model, processor, window, batch_size, overlap=side)
    else:
        if overlap is not None:
            raise InputError(f"{directory}: overlap={overlap:g}, but only the windows of a CTC model overlap")
        model = load_writer(chosen, directory, "input_values", loading)
        if language is not None:
            options["forced_bos_token_id"] = language_id(processor.needed_tokenizer(), language, "language")
        if model.generation_config.resolve(**options).num_return_sequences != 1:
            raise InputError("generate: num_return_sequences must be 1 for recordings, whose windows make one text")
        pieces = _without_line_breaks(show) if live and show is not None else None
        writer = Writer(model, processor.tokenizer, options, compile=compile, echo=echo, show=pieces, as_json=False)
        listener = WritingListener(chosen, model, processor, window, batch_size, writer=writer)
    listener.check_window("generate")
    hidden = (True if live else None) if progress is None else not progress
    show, found = beside_bars(show), list[Transcription]()

    def after_window(waiting: int) -> None:
        if live and show is not None:  # the text of the window is shown already
            show(" " if waiting else "\n")

    for made in _listen(listener, paths, seed, on_error, after_window, hidden):
        found.append(made)
        if show is not None and not live:
            line = made.to_json(timestamps=timestamps) if as_json else made.to_text(timestamps=timestamps)
            named = len(paths) > 1 and not as_json
            show(f"{made.audio}:{chr(10) if timestamps else ' '}{line}\n" if named else f"{line}\n")
    return found


def _check_numbers(batch_size: int | None, window: float, overlap: float | None) -> None:
    """Raises an InputError for numbers that are out of range."""
    for name, value in (("batch_size", batch_size), ("window", window)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"generate: {name}={value:g} must be greater than 0, and finite")
    if overlap is not None and not 0 <= overlap < math.inf:
        raise InputError(f"generate: overlap={overlap:g} must be 0 or more, and finite")


def _listen(
    listener: CTCListener | WritingListener,
    paths: Sequence[str],
    seed: int,
    on_error: OnError | None,
    after_window: Callable[[int], None],
    hidden: bool | None,
) -> Iterator[Transcription]:
    """The transcriptions of recordings that can be read, in their order, with a bar of windows on stderr.

    Args:
        listener: hears the text.
        paths: of the recordings.
        seed: of the random choices.
        on_error: as for `transcribe`.
        after_window: receives how many windows of the recordings that are read at once are not heard yet.
        hidden: whether there is no bar; None shows it if stderr is a terminal.
    """
    with tqdm(total=0, unit="window", disable=hidden, leave=False) as bar:
        waiting = 0

        def count_windows(count: int) -> None:
            nonlocal waiting
            waiting -= count
            bar.update(count)
            after_window(waiting)

        for group in read_groups(listener, paths, on_error):
            waiting = sum(len(one.windows) for one in group)
            bar.total += waiting
            bar.refresh()
            texts = listener.listen([(one.recording.samples, one.windows) for one in group], seed, count_windows)
            for one, (text, parts, ids) in zip(group, texts, strict=True):
                report_damage(one, on_error)
                yield Transcription(one.path, text, parts, ids, one.recording.damage)


def _without_line_breaks(show: Callable[[str], None]) -> Callable[[str], None]:
    """The function, which leaves out the line break after the text of a window."""
    return lambda text: show(text.removesuffix("\n"))


def _choose_language(
    model: Any, processor: SpeechProcessor, language: str, source: str | os.PathLike[str], hub: HubOptions
) -> None:
    """Loads the adapter and the vocabulary of a language, of the same checkpoint, into a CTC model and its processor.

    Raises:
        InputError: the model or its vocabulary has no languages, or lacks this one.
    """
    if getattr(model.config, "adapter_attn_dim", None) is None:
        raise InputError(f"{source}: language={language!r}, but the model has no adapters for languages")
    processor.set_language(language)
    model.load_adapter(language, source, **hub)
