"""The processor of a checkpoint: its image or audio processor, and the tokenizer beside it."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.errors import InputError
from diptych.core.interfaces import Tokenizer
from diptych.core.processing.audio_processor import AudioProcessor
from diptych.core.processing.config_files import processes_sound
from diptych.core.processing.features import Features, Tensors
from diptych.core.processing.image_processor import ImageProcessor
from diptych.text.idefics import IdeficsProcessor
from diptych.text.processing import TextProcessor
from diptych.text.speech import SpeechProcessor
from diptych.text.tokenizer_settings import MissingTokenizerError
from diptych.text.tokenizers import load_tokenizer

_WRITES_LABELS = ("TrOCRProcessor", "DonutProcessor", "NougatProcessor")
"""Processors whose text, beside images, is what the model is to write."""


def load_processor(
    name_or_path: str | os.PathLike[str],
    *,
    ignore_config: Iterable[str] = (),
    **options: Unpack[HubOptions],
) -> "Processor | IdeficsProcessor | SpeechProcessor":
    """The processor of a checkpoint that reads images or sound; its output goes into the models of both backends.

    Args:
        name_or_path: the checkpoint's directory, or its name on the Hugging Face hub.
        ignore_config: unknown fields of preprocessor_config.json to skip.
        options: see `HubOptions`.

    Returns:
        A `Processor` of images; an `IdeficsProcessor` if they stand between texts; a `SpeechProcessor` of sound.

    Raises:
        CheckpointError: there is no such checkpoint, it does not say how images or sound are processed, or its
            tokenizer is damaged.
        ConfigError: the type of the processor or fields are unknown, or a value is invalid.
    """
    directory = locate(name_or_path, only=CONFIGS, **options)
    try:
        tokenizer = load_tokenizer(directory)
    except (MissingTokenizerError, ImportError):  # raised again when a text needs it
        tokenizer = None
    if processes_sound(directory):
        sound = AudioProcessor.from_pretrained(directory, ignore_config=ignore_config)
        return SpeechProcessor(sound, tokenizer, directory)
    images = ImageProcessor.from_pretrained(directory, ignore_config=ignore_config)
    interleaved = images.config.image_processor_type == "IdeficsImageProcessor"
    return (IdeficsProcessor if interleaved else Processor)(images, tokenizer, directory)


class Processor(TextProcessor):
    """Images to `pixel_values`, and texts to ids and back, called as the processors of transformers are.

    Attributes:
        image_processor: for images.
        tokenizer: a `tokenizers.Tokenizer`; None if the checkpoint has none, or tokenizers is not installed.
    """

    def __init__(self, image_processor: ImageProcessor, tokenizer: Tokenizer | None, directory: Path) -> None:
        super().__init__(tokenizer, directory)
        self.image_processor = image_processor

    def __repr__(self) -> str:
        return f"Processor({str(self.directory)!r}, {self.image_processor!r})"

    @property
    def model_input_names(self) -> tuple[str, ...]:
        """The names of what a call may return."""
        words = () if self.tokenizer is None else ("input_ids", "attention_mask")
        return (*self.image_processor.model_input_names, *words)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: Tensors | None = None,
        add_special_tokens: bool | None = None,
        **options: Any,
    ) -> Features:
        """The inputs of a model for images, texts or both.

        Args:
            images: an image, or a list of images; see `ImageProcessor.preprocess`.
            text: a text, or a list of texts, padded on the right to one length.
            return_tensors: "np", "pt" or "jax"; by default numpy.
            add_special_tokens: whether the tokenizer adds its special tokens; by default it does, except to what
                Donut's model is to write.
            options: of the images, see `ImageProcessor.preprocess`.

        Returns:
            `pixel_values`; `input_ids` and `attention_mask`; of a processor of TrOCR, Donut or Nougat for both, the ids
            as `labels`.

        Raises:
            InputError: neither is given; images cannot be read; a text is not valid; or there is no padding token.
            CheckpointError: a text is given, but the checkpoint has no tokenizer.
            ImportError: Pillow or the framework of `return_tensors` is not installed.
        """
        if images is None and text is None:
            raise InputError("processor: images or text is needed, got neither")
        found = Features() if images is None else self.image_processor(images, **options)
        name = self.image_processor.config.housekeeping.get("processor_class")
        if text is not None:
            writes = images is not None and name in _WRITES_LABELS
            if add_special_tokens is None:
                add_special_tokens = not (writes and name == "DonutProcessor")
            ids, mask = self.encode([text] if isinstance(text, str) else text, add_special_tokens=add_special_tokens)
            found |= {"labels": ids} if writes else {"input_ids": ids, "attention_mask": mask}
        return found.to_tensors(return_tensors)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, and copies the tokenizer's files beside it.

        Raises:
            CheckpointError: the directory is a file.
            OSError: a file cannot be written.
        """
        self._save(directory, self.image_processor)
