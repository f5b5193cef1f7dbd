"""The files that say how a checkpoint's inputs are processed: preprocessor_config.json, or what version 5 writes."""

import os
from pathlib import Path
from typing import Any, Literal

from diptych.core.errors import CheckpointError
from diptych.core.json_text import parse_config, read_text

CONFIG_FILE = "preprocessor_config.json"
"""The file of a processor's config."""
PROCESSOR_FILE = "processor_config.json"
"""The file in which transformers 5 keeps it, under "image_processor" or "feature_extractor"."""

Section = Literal["image_processor", "feature_extractor"]


def read_processor_config(
    directory: str | os.PathLike[str], section: Section, what: str = "images"
) -> tuple[dict[str, Any], str]:
    """The fields of a checkpoint's image processor or feature extractor, and where they are for error messages.

    Args:
        directory: the checkpoint's.
        section: the key in a processor_config.json.
        what: what is processed, in the error message.

    Raises:
        CheckpointError: the directory has no such file.
    """
    path, nested = Path(directory) / CONFIG_FILE, Path(directory) / PROCESSOR_FILE
    if path.is_file():
        return parse_config(read_text(path), str(path)), str(path)
    data = parse_config(read_text(nested), str(nested)) if nested.is_file() else {}
    if not isinstance(data.get(section), dict):
        raise CheckpointError(
            f"{directory}: has no {CONFIG_FILE}, nor a {PROCESSOR_FILE} with an {section}, so it does not "
            f"say how {what} are processed"
        )
    return {"processor_class": data.get("processor_class"), **data[section]}, f"{nested}: {section}"


def processes_sound(directory: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint's processor is one of sound; the first files of such a processor name no type."""
    path, nested = Path(directory) / CONFIG_FILE, Path(directory) / PROCESSOR_FILE
    if path.is_file():
        data = parse_config(read_text(path), str(path))
        return "sampling_rate" in data or str(data.get("feature_extractor_type")).startswith("Wav2Vec2")
    return nested.is_file() and "feature_extractor" in parse_config(read_text(nested), str(nested))
