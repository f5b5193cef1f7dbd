"""HuBERT (Hsu et al. 2021, arXiv:2106.07447): Wav2Vec2's encoder under another name; config and published files."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from diptych.core.checkpoint.slots import Slot
from diptych.core.config import config_class
from diptych.core.models.wav2vec2 import example, unsupported_tensors
from diptych.core.models.wav2vec2 import initial as wav2vec2_initial
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family
from diptych.core.sound_config import SoundEncoderConfig


@config_class
class HubertConfig(SoundEncoderConfig):
    """Defaults are facebook/hubert-base-ls960; field names are those of its config.json."""

    model_type: ClassVar[str] = "hubert"

    feat_proj_layer_norm: bool = True
    conv_pos_batch_norm: bool = False

    @property
    def normalizes_features(self) -> bool:
        """Whether there is a layer norm before the projection of the features."""
        return self.feat_proj_layer_norm

    @property
    def normalizes_positions(self) -> bool:
        """Whether the positional convolution reads batch-normalised states, instead of having a normalised weight."""
        return self.conv_pos_batch_norm


def initial(config: HubertConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter: Wav2Vec2's, but for the projection and the convolutions' biases."""
    if slot.path.endswith("conv.bias"):
        return Constant(0.0)
    if "feature_projection.projection" in slot.path:
        return Constant(0.0) if slot.kind == "plain" else Normal(config.initializer_range)
    return wav2vec2_initial(config, slot)


def constants(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The counter of a batch norm's updates, which PyTorch expects; its statistics are never updated here."""
    means = [path for path in shapes if path.endswith("batch_norm.running_mean")]
    return {path.replace("running_mean", "num_batches_tracked"): np.array(0, np.int64) for path in means}


FAMILY = Family(
    classes=dict.fromkeys(("HubertModel", "HubertForCTC", "HubertForSequenceClassification"), HubertConfig),
    initial=initial,
    example=example,
    prefixes=("hubert.",),
    encoders={"sound": ("HubertModel",)},
    ignored={"*.num_batches_tracked": "the number of updates of a batch norm, whose statistics are never updated"},
    unsupported=unsupported_tensors("Hubert"),
    constants=constants,
)
