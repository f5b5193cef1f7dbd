"""The processor of a checkpoint: its image or audio processor, and the tokenizer beside it."""

import os
from collections.abc import Iterable

from diptych.core.checkpoint.locate import locate
from diptych.core.processing.audio_processor import AudioProcessor
from diptych.core.processing.config_files import processes_sound
from diptych.core.processing.image_processor import ImageProcessor
from diptych.processing.idefics import IdeficsProcessor as IdeficsProcessor
from diptych.processing.processor import Processor as Processor
from diptych.processing.speech import SpeechProcessor as SpeechProcessor
from diptych.text.tokenizers import MissingTokenizerError, load_tokenizer

__all__ = ["IdeficsProcessor", "Processor", "SpeechProcessor", "load_processor"]


def load_processor(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    ignore_config: Iterable[str] = (),
) -> Processor | SpeechProcessor:
    """The processor of a checkpoint that reads images or sound; its output goes into the models of both backends.

    Args:
        name_or_path: the checkpoint's directory, or its name on the Hugging Face hub.
        revision, cache_dir, local_files_only, token: of a download.
        ignore_config: unknown fields of preprocessor_config.json to skip.

    Returns:
        A `Processor` of images; an `IdeficsProcessor` where they stand between texts; a `SpeechProcessor` of sound.

    Raises:
        CheckpointError: there is no such checkpoint, it does not say how images or sound are processed, or its
            tokenizer is damaged.
        ConfigError: the type of the processor or fields are unknown, or a value is invalid.
    """
    directory = locate(name_or_path, revision, cache_dir, local_files_only, token)
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
