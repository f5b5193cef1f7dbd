"""Configs of audio processors: preprocessor_config.json of the feature extractors of transformers."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from diptych.core.check import describe_type, has_type
from diptych.core.config import FrozenMap, freeze_json, thaw_json
from diptych.core.errors import ConfigError
from diptych.core.processing.fields import Accepted, split_fields

TYPE = "Wav2Vec2FeatureExtractor"
"""The one type of audio processor: it takes raw samples. Its first files name no type."""

MOST_SAMPLES = 2**24
"""The greatest number of samples per second."""

_HOUSEKEEPING: Accepted = {
    "auto_map": (),
    "feature_size": (1,),
    "padding_side": ("right",),
    "processor_class": (),
    "return_tensors": (),
}
"""Fields that are carried along."""


@dataclass(frozen=True, kw_only=True)
class AudioProcessorConfig:
    """What an audio processor does; by default that of facebook/wav2vec2-base-960h.

    Attributes:
        sampling_rate: samples per second of what the model reads.
        do_normalize: whether each recording gets a mean of 0 and a variance of 1.
        padding_value: of samples after the end of a recording.
        return_attention_mask: whether a mask is returned. Models whose feature encoder has a group norm were trained
            without.
        housekeeping: other fields of the file, which are written back.

    Raises:
        ConfigError: a value is invalid.
    """

    sampling_rate: int = 16_000
    do_normalize: bool = True
    padding_value: float = 0.0
    return_attention_mask: bool = False
    housekeeping: FrozenMap = dataclasses.field(default=FrozenMap(), compare=False, repr=False)

    def __post_init__(self) -> None:
        hints = {"sampling_rate": int, "do_normalize": bool, "padding_value": float, "return_attention_mask": bool}
        wrong = [
            f"{name}={thaw_json(getattr(self, name))!r} must be {describe_type(hint)}"
            for name, hint in hints.items()
            if not has_type(getattr(self, name), hint)
        ]
        if not wrong and not is_sampling_rate(self.sampling_rate):
            wrong = [f"sampling_rate={self.sampling_rate} must lie between 1 and {MOST_SAMPLES}"]
        if wrong:
            raise ConfigError(f"{type(self).__name__}: {'; '.join(wrong)}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, ignore: Iterable[str] = (), source: str = "config") -> Self:
        """A config from the fields of a `preprocessor_config.json`.

        Args:
            data: the JSON object; null stands for a default.
            ignore: names of unknown fields to carry along instead of refusing them.
            source: the origin of the data in error messages, such as a path.

        Raises:
            ConfigError: the type or fields are unknown (all are listed), or a value is not supported.
        """
        found = data.get("feature_extractor_type") or TYPE
        if found != TYPE:
            raise ConfigError(f"{source}: feature_extractor_type={found!r} is not known; known: {TYPE}")
        fields = {name: value for name, value in data.items() if name != "feature_extractor_type"}
        values, carried = split_fields(
            fields, _declared_fields(cls), _HOUSEKEEPING, ignore=set(ignore), owner=TYPE, source=source
        )
        try:
            return cls(**{name: freeze_json(value) for name, value in values.items()}, housekeeping=FrozenMap(carried))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Every field, housekeeping included, as plain JSON data."""
        data = {name: getattr(self, name) for name in _declared_fields(type(self))}
        data |= {"feature_extractor_type": TYPE, "feature_size": 1, "padding_side": "right", **self.housekeeping}
        return {name: thaw_json(value) for name, value in sorted(data.items())}

    def to_json(self) -> str:
        """The text of a `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def is_sampling_rate(value: Any) -> bool:
    """Whether a value is a whole number of samples per second."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value in range(1, MOST_SAMPLES + 1)


def _declared_fields(cls: type[AudioProcessorConfig]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)} - {"housekeeping"}
