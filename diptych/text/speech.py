"""The processor of a checkpoint that reads sound: its audio processor, and the tokenizer beside it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.core.checkpoint.files import open_atomic
from diptych.core.errors import InputError
from diptych.core.interfaces import Tokenizer
from diptych.core.json_text import parse_config, read_text
from diptych.core.processing.audio_processor import AudioProcessor
from diptych.core.processing.features import Features, Tensors
from diptych.text.ctc import CTCTokenizer, TimedText
from diptych.text.processing import TextProcessor


class SpeechProcessor(TextProcessor):
    """Recordings to `input_values`, and texts to ids and back, called as Wav2Vec2Processor of transformers is.

    Attributes:
        audio_processor: for recordings.
        tokenizer: a `CTCTokenizer` for a CTC model, else a `tokenizers.Tokenizer`; None if the checkpoint has none, or
            tokenizers is not installed but needed.
    """

    def __init__(self, audio_processor: AudioProcessor, tokenizer: Tokenizer | None, directory: Path) -> None:
        super().__init__(tokenizer, directory)
        self.audio_processor = audio_processor
        self._language: str | None = None

    def __repr__(self) -> str:
        return f"SpeechProcessor({str(self.directory)!r}, {self.audio_processor!r})"

    @property
    def sampling_rate(self) -> int:
        """Samples per second of what the model reads."""
        return self.audio_processor.sampling_rate

    @property
    def model_input_names(self) -> tuple[str, ...]:
        """The names of what a call for recordings and texts returns."""
        return (*self.audio_processor.model_input_names, *(() if self.tokenizer is None else ("labels",)))

    def __call__(
        self,
        audio: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: Tensors | None = None,
        add_special_tokens: bool = True,
        **options: Any,
    ) -> Features:
        """The inputs of a model for recordings, texts or both.

        Args:
            audio: a recording, or a list of recordings; see `AudioProcessor`.
            text: a text, or a list of texts, padded on the right to one length.
            return_tensors: "np", "pt" or "jax"; by default numpy.
            add_special_tokens: whether the tokenizer adds its special tokens; that of a CTC model has none to add.
            options: of the recordings, such as sampling_rate and padding; see `AudioProcessor`.

        Returns:
            `input_values`, and `attention_mask` if the config or an option says so; the ids of texts as `labels`, or
            without recordings as `input_ids` with their `attention_mask`.

        Raises:
            InputError: neither is given; recordings cannot be read; a text is not valid; or there is no padding token.
            CheckpointError: a text is given, but the checkpoint has no tokenizer.
            ImportError: soundfile, soxr or the framework of `return_tensors` is not installed, but needed.
        """
        if audio is None and text is None:
            raise InputError("processor: audio or text is needed, got neither")
        found = Features() if audio is None else self.audio_processor(audio, **options)
        if text is not None:
            ids, mask = self.encode([text] if isinstance(text, str) else text, add_special_tokens=add_special_tokens)
            found |= {"input_ids": ids, "attention_mask": mask} if audio is None else {"labels": ids}
        return found.to_tensors(return_tensors)

    def decode_frames(self, ids: Any, *, skip_special_tokens: bool = False) -> TimedText:
        """The text of a CTC model's tokens, one for each frame (frames,), with the frames of its words and characters.

        Raises:
            InputError: the model is not one of CTC.
            CheckpointError: the checkpoint has no tokenizer.
        """
        tokenizer = self.needed_tokenizer()
        if not isinstance(tokenizer, CTCTokenizer):
            raise InputError(
                f"{self.directory}: only the tokens of a CTC model are those of frames, so words have times"
            )
        return tokenizer.decode_frames([int(id) for id in ids], skip_special_tokens=skip_special_tokens)

    def set_language(self, language: str) -> None:
        """Chooses the vocabulary of a CTC model with several, such as MMS.

        Raises:
            InputError: the vocabulary lacks the language, or has no languages.
        """
        tokenizer = self.needed_tokenizer()
        if not isinstance(tokenizer, CTCTokenizer):
            raise InputError(f"{self.directory}: language={language!r}, but its vocabulary has no languages")
        self.tokenizer, self._language = tokenizer.for_language(language), language

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, and copies the tokenizer's files beside it, with the language that was set.

        Raises:
            CheckpointError: the directory is a file.
            OSError: a file cannot be written.
        """
        self._save(directory, self.audio_processor)
        if self._language is not None:
            path = Path(directory) / "tokenizer_config.json"
            settings = parse_config(read_text(path), str(path)) if path.is_file() else {}
            with open_atomic(path) as handle:
                handle.write(json.dumps({**settings, "target_lang": self._language}, indent=2).encode())
