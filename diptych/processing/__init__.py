"""The processor of a checkpoint: its image processor, and the tokenizer beside it."""

import os
from collections.abc import Iterable

from diptych.core.checkpoint.locate import locate
from diptych.core.processing.image_processor import ImageProcessor
from diptych.processing.idefics import IdeficsProcessor as IdeficsProcessor
from diptych.processing.processor import Processor as Processor
from diptych.text.tokenizers import MissingTokenizerError, load_tokenizer

__all__ = ["IdeficsProcessor", "Processor", "load_processor"]


def load_processor(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    ignore_config: Iterable[str] = (),
) -> Processor:
    """The processor of a checkpoint that reads images; what it returns goes into the models of both backends.

    Args:
        name_or_path: the checkpoint's directory, or its name on the Hugging Face hub.
        revision, cache_dir, local_files_only, token: of a download.
        ignore_config: unknown fields of preprocessor_config.json to skip.

    Returns:
        A `Processor`; an `IdeficsProcessor` where images stand between texts.

    Raises:
        CheckpointError: there is no such checkpoint, it does not say how images are processed, or its tokenizer is
            damaged.
        ConfigError: the type of the image processor or fields are unknown, or a value is invalid.
    """
    directory = locate(name_or_path, revision, cache_dir, local_files_only, token)
    images = ImageProcessor.from_pretrained(directory, ignore_config=ignore_config)
    try:
        tokenizer = load_tokenizer(directory)
    except (MissingTokenizerError, ImportError):  # raised again when a text needs it
        tokenizer = None
    interleaved = images.config.image_processor_type == "IdeficsImageProcessor"
    return (IdeficsProcessor if interleaved else Processor)(images, tokenizer, directory)
