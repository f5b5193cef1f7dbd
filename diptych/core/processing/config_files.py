"""The files that say how a checkpoint's inputs are processed: preprocessor_config.json, or what version 5 writes."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack, cast

from diptych.core.checkpoint.files import open_atomic
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.errors import CheckpointError
from diptych.core.json_text import parse_config, read_text
from diptych.core.registry import config_classes
from diptych.core.sound_config import SoundEncoderConfig

CONFIG_FILE = "preprocessor_config.json"
"""The file of a processor's config."""
PROCESSOR_FILE = "processor_config.json"
"""The file in which transformers 5 keeps it, under "image_processor" or "feature_extractor"."""

Section = Literal["image_processor", "feature_extractor"]
"""The key of an image or audio processor's config in a processor_config.json."""
_PROCESSED: dict[Section, str] = {"image_processor": "images", "feature_extractor": "recordings"}


class ConfiguredProcessor:
    """The base of image and audio processors, whose configs are files of checkpoints."""

    config_class: ClassVar[Any]
    section: ClassVar[Section]

    def __init__(self, config: Any) -> None:
        self.config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, ignore_config: Iterable[str] = (), **options: Unpack[HubOptions]
    ) -> Self:
        """The processor of a checkpoint.

        Args:
            name_or_path: a directory with preprocessor_config.json, or a processor_config.json of transformers 5; or a
                name on the Hugging Face hub.
            ignore_config: unknown fields to skip.
            options: see `HubOptions`.

        Raises:
            CheckpointError: the directory has no such file.
            ConfigError: the type or fields are unknown, or a value is invalid.
        """
        fields, source = read_processor_config(locate(name_or_path, only=CONFIGS, **options), cls.section)
        return cls(cls.config_class.from_dict(fields, ignore=tuple(ignore_config), source=source))

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, which transformers reads too.

        Raises:
            OSError: the file cannot be written.
        """
        Path(directory).mkdir(parents=True, exist_ok=True)
        with open_atomic(Path(directory) / CONFIG_FILE) as handle:
            handle.write(self.config.to_json().encode())


def read_processor_config(directory: str | os.PathLike[str], section: Section) -> tuple[dict[str, Any], str]:
    """The fields of a checkpoint's image processor or feature extractor, and their origin for error messages.

    Args:
        directory: the checkpoint's.
        section: the key in a processor_config.json.

    Raises:
        CheckpointError: the directory has no such file.
    """
    path, nested = Path(directory) / CONFIG_FILE, Path(directory) / PROCESSOR_FILE
    if path.is_file():
        return parse_config(read_text(path), str(path)), str(path)
    data = parse_config(read_text(nested), str(nested)) if nested.is_file() else {}
    if not isinstance(data.get(section), dict):
        raise CheckpointError(
            f"{directory}: has no {CONFIG_FILE}, nor a {PROCESSOR_FILE} with {section!r} in it, so it does not say how "
            f"{_PROCESSED[section]} are processed; copy the file from the checkpoint that this one was made from"
        )
    return {"processor_class": data.get("processor_class"), **data[section]}, f"{nested}: {section}"


def processes_sound(directory: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint's processor is one of sound, or if it has none, its model is.

    The first files of such a processor name no type.
    """
    path, nested = Path(directory) / CONFIG_FILE, Path(directory) / PROCESSOR_FILE
    if path.is_file():
        data = parse_config(read_text(path), str(path))
        return "sampling_rate" in data or str(data.get("feature_extractor_type")).startswith("Wav2Vec2")
    data = parse_config(read_text(nested), str(nested)) if nested.is_file() else {}
    if "feature_extractor" in data or "image_processor" in data:
        return "feature_extractor" in data
    return _has_model_of_sound(Path(directory) / "config.json")


def _has_model_of_sound(path: Path) -> bool:
    """Whether a config.json is one of a speech encoder, or of a composite with one."""
    data = parse_config(read_text(path), str(path)) if path.is_file() else {}
    encoder = data.get("encoder")
    fields = cast(dict[str, Any], encoder) if isinstance(encoder, dict) else data
    config_class = config_classes().get(str(fields.get("model_type")))
    return config_class is not None and issubclass(config_class, SoundEncoderConfig)
