"""ViT (Dosovitskiy et al. 2020, arXiv:2010.11929): configs and the deviations of published files."""

from typing import Any, ClassVar

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import Activation, config_class
from diptych.core.image_config import ImageEncoderConfig
from diptych.core.random import Constant, Distribution, Normal, TruncatedNormal
from diptych.core.registry import Family
from diptych.core.semantics.losses import example_targets


@config_class
class ViTStackConfig(ImageEncoderConfig):
    """The fields of a stack of ViT's layers over patches; defaults are those of ViT-base."""

    hidden_size: int = 768
    intermediate_size: int = 3_072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    attention_probs_dropout_prob: float = 0.0
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "num_hidden_layers", "intermediate_size")
        check.divides(self, "num_attention_heads", "hidden_size")
        check.probability(self, "attention_probs_dropout_prob", "hidden_dropout_prob")
        check.not_negative(self, "layer_norm_eps", "initializer_range")


@config_class
class ViTConfig(ViTStackConfig):
    """Defaults are google/vit-base-patch16-224-in21k; field names are those of its config.json."""

    model_type: ClassVar[str] = "vit"
    special_tokens: ClassVar[int] = 1
    """The number of tokens before the patches: the class token, and DeiT's distillation token."""

    qkv_bias: bool = True
    pooler_act: Activation = "tanh"
    pooler_output_size: int | None = None
    encoder_stride: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "encoder_stride")
        if self.pooler_output_size is not None:
            check.positive(self, "pooler_output_size")

    @property
    def num_positions(self) -> int:
        """The number of patches of an image of `image_size`, plus the special tokens."""
        rows, columns = self.patch_grid
        return rows * columns + self.special_tokens

    @property
    def pooled_width(self) -> int:
        """The width of the pooled output."""
        return self.hidden_size if self.pooler_output_size is None else self.pooler_output_size


def initial(config: ViTConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter."""
    if slot.kind == "norm":
        return Constant(1.0)
    if slot.path.endswith((".cls_token", ".position_embeddings")):
        return TruncatedNormal(config.initializer_range)
    return Constant(0.0) if slot.kind == "plain" else Normal(config.initializer_range)


def example(config: ViTConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two images; half of their patches masked, or classes."""
    inputs: dict[str, Any] = {"pixel_values": random.standard_normal((2, config.num_channels, *config.image_shape))}
    if architecture.endswith("ForMaskedImageModeling"):
        rows, columns = config.patch_grid
        masked = random.permutation(2 * rows * columns).reshape(2, -1) % 2
        # floats, since from integers transformers computes the loss in float32
        inputs["bool_masked_pos"] = masked.astype(np.float64)
    if architecture.endswith("ForImageClassification") and config.num_labels > 0:
        inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
    return inputs


FAMILY = Family(
    classes=dict.fromkeys(("ViTModel", "ViTForMaskedImageModeling", "ViTForImageClassification"), ViTConfig),
    initial=initial,
    example=example,
    prefixes=("vit.",),
    encoders={"image": ("ViTModel",)},
    grown=("pooler",),
)
