"""BEiT (Bao et al. 2021, arXiv:2106.08254): config and the deviations of published files."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import config_class
from diptych.core.models.vit import ViTStackConfig
from diptych.core.outputs import BaseModelOutputWithPooling
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family
from diptych.core.semantics.losses import example_targets

_SEGMENTATION = (
    "pool_scales", "use_auxiliary_head", "auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs",
    "auxiliary_concat_input", "semantic_loss_ignore_index", "add_fpn", "reshape_hidden_states", "out_features",
    "out_indices", "segmentation_indices", "stage_names",
)  # fmt: skip
"""Fields that only BeitForSemanticSegmentation and BeitBackbone read."""


@config_class
class BeitConfig(ViTStackConfig):
    """Defaults are microsoft/beit-base-patch16-224, without a bias; field names are those of its config.json."""

    model_type: ClassVar[str] = "beit"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = dict.fromkeys(_SEGMENTATION, ())

    vocab_size: int = 8_192
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_mean_pooling: bool = True
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size")
        check.probability(self, "drop_path_rate")

    @property
    def has_layer_scale(self) -> bool:
        """Whether each layer scales what it adds to the hidden states."""
        return self.layer_scale_init_value > 0

    def drop_path_of(self, layer: int) -> float:
        """The rate of a layer's stochastic depth: 0 in the first, `drop_path_rate` in the last, linear in between."""
        return self.drop_path_rate * layer / max(1, self.num_hidden_layers - 1)


@dataclass(frozen=True, kw_only=True)
class BeitModelOutputWithPooling(BaseModelOutputWithPooling):
    """The output of the encoder; `pooler_output` is the normalized mean of the patches, or the class token."""


def _initial(config: BeitConfig, slot: Slot) -> Distribution:
    if slot.kind == "norm":
        return Constant(1.0)
    if slot.path.endswith(("lambda_1", "lambda_2")):
        return Constant(config.layer_scale_init_value)
    # plain ones are biases, the class and mask tokens, positions and tables of biases
    return Constant(0.0) if slot.kind == "plain" else Normal(config.initializer_range)


def _example(config: BeitConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two images; masked, if the class or the config has a mask token."""
    inputs: dict[str, Any] = {
        "pixel_values": random.standard_normal((2, config.num_channels, *config.image_shape)),
    }
    if architecture == "BeitForImageClassification":
        if config.num_labels > 0:
            inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
        return inputs
    if config.use_mask_token:
        rows, columns = config.patch_grid
        masked = random.random((2, rows * columns)) < 0.5
        masked[:, 0] = True
        inputs["bool_masked_pos"] = masked
        if architecture == "BeitForMaskedImageModeling":
            inputs["labels"] = random.integers(0, config.vocab_size, int(masked.sum()))
    return inputs


FAMILY = Family(
    classes=dict.fromkeys(("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification"), BeitConfig),
    initial=_initial,
    example=_example,
    prefixes=("beit.",),
    encoders={"image": ("BeitModel",)},
    grown=("pooler",),
    ignored={"*relative_position_index": "the numbers of all distances, a buffer until transformers 5"},
    unsupported=dict.fromkeys(("decode_head", "auxiliary_head", "fpn", "fpn1", "fpn2"), "BeitForSemanticSegmentation"),
)
