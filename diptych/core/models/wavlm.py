"""WavLM (Chen et al. 2021, arXiv:2110.13900): Wav2Vec2 with gated relative positions; config and published files."""

from typing import ClassVar, Literal

from diptych.core import check
from diptych.core.config import config_class
from diptych.core.errors import ConfigError
from diptych.core.models.wav2vec2 import example, initial, unsupported_tensors
from diptych.core.registry import Family
from diptych.core.sound_config import AdaptedSoundEncoderConfig


@config_class
class WavLMConfig(AdaptedSoundEncoderConfig):
    """Defaults are microsoft/wavlm-base; field names are those of its config.json.

    Raises:
        ConfigError: there are too few buckets of distances, or the farthest one is too near.
    """

    model_type: ClassVar[str] = "wavlm"

    num_buckets: int = 320
    max_bucket_distance: int = 800
    ctc_loss_reduction: Literal["sum", "mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "num_buckets", "max_bucket_distance")
        if self.num_buckets < 4 or self.max_bucket_distance <= self.num_buckets // 4:
            raise ConfigError(
                f"{type(self).__name__}: num_buckets={self.num_buckets} must be 4 or more, and max_bucket_distance="
                f"{self.max_bucket_distance} greater than a quarter of it"
            )


FAMILY = Family(
    classes=dict.fromkeys(("WavLMModel", "WavLMForCTC", "WavLMForSequenceClassification"), WavLMConfig),
    initial=initial,
    example=example,
    prefixes=("wavlm.",),
    encoders={"sound": ("WavLMModel",)},
    grown=("adapter",),
    unsupported=unsupported_tensors("WavLM"),
)
