"""Swin (Liu et al. 2021, arXiv:2103.14030): config, records and published files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import Activation, config_class
from diptych.core.errors import ConfigError
from diptych.core.image_config import ImageEncoderConfig, ImageSize
from diptych.core.outputs import ModelOutput
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family
from diptych.core.semantics.losses import example_targets
from diptych.core.semantics.positions import patch_distances


@config_class
class SwinLikeConfig(ImageEncoderConfig):
    """The fields of Swin and DonutSwin; `hidden_size` and `num_layers` of a file follow from the others."""

    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"path_norm": (True,)}  # patches are always normalized
    final_norm: ClassVar[bool] = True
    """Whether a layer norm follows the last stage."""
    special_positions: ClassVar[int] = 0
    """The rows of the table of positions before those of the patches."""

    patch_size: ImageSize = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: Activation = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        name, stages = type(self).__name__, len(self.depths)
        if not 1 <= stages == len(self.num_heads) <= 16:
            raise ConfigError(
                f"{name}: depths={self.depths} and num_heads={self.num_heads} must have a number for each stage, "
                "of which there are 1 to 16"
            )
        check.positive(self, "embed_dim", "window_size", "depths", "num_heads")
        check.not_negative(self, "mlp_ratio")
        largest = max(self.hidden_size, self.intermediate_size(self.hidden_size))
        if largest > 2**24 or self.intermediate_size(self.embed_dim) < 1:
            raise ConfigError(
                f"{name}: embed_dim={self.embed_dim} and mlp_ratio={self.mlp_ratio} make layers of "
                f"{self.intermediate_size(self.embed_dim)} to {largest}, but 1 to {2**24} is possible"
            )
        if any(width % heads for heads, width in zip(self.num_heads, self.stage_widths, strict=True)):
            raise ConfigError(f"{name}: num_heads={self.num_heads} must divide the stages' widths {self.stage_widths}")
        check.probability(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        check.not_negative(self, "layer_norm_eps", "initializer_range")

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """The width of the states in each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def hidden_size(self) -> int:
        """The width of the states after the last stage."""
        return self.stage_widths[-1]

    @property
    def drop_path_rates(self) -> tuple[tuple[float, ...], ...]:
        """The rate of stochastic depth for each layer of each stage, from 0 in the first to `drop_path_rate`."""
        firsts = [sum(self.depths[:stage]) for stage in range(len(self.depths))]
        last = max(sum(self.depths) - 1, 1)
        return tuple(
            tuple(self.drop_path_rate * (first + index) / last for index in range(depth))
            for first, depth in zip(firsts, self.depths, strict=True)
        )

    @property
    def attention_output_dropout_prob(self) -> float:
        """The rate of dropout after the output layer of attention."""
        return self.hidden_dropout_prob

    @property
    def num_positions(self) -> int:
        """The number of rows of the table of positions: one for each whole patch of an image of `image_size`."""
        rows, columns = self.patch_grid
        return self.special_positions + rows * columns

    def intermediate_size(self, width: int) -> int:
        """The inner width of an MLP whose states have a width."""
        return int(self.mlp_ratio * width)

    def padded_grid_of(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns of patches of an image, with the incomplete ones at its bottom and right."""
        return -(-height // self.patch_shape[0]), -(-width // self.patch_shape[1])

    def to_dict(self) -> dict[str, Any]:
        """Every field, housekeeping included, as plain JSON data."""
        derived = {"hidden_size": self.hidden_size, "num_layers": len(self.depths)}
        return dict(sorted({**super().to_dict(), **derived}.items()))

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        """Checks the fields that follow from others, and removes them."""
        data = super()._normalize(data, source)
        depths, width = data.get("depths", cls.depths), data.get("embed_dim", cls.embed_dim)
        stages = len(cast(list[int], depths)) if isinstance(depths, list | tuple) else 0
        known = 1 <= stages <= 16 and isinstance(width, int)  # anything else is refused with the fields themselves
        for name, value in (("num_layers", stages), ("hidden_size", known and width * 2 ** (stages - 1))):
            if data.pop(name, value) != value and known:
                raise ConfigError(
                    f"{source}: {name} must be {value}, which follows from embed_dim={width} and depths={depths!r}"
                )
        return data


@config_class
class SwinConfig(SwinLikeConfig):
    """Defaults are microsoft/swin-tiny-patch4-window7-224; field names are those of its config.json."""

    model_type: ClassVar[str] = "swin"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        **SwinLikeConfig.accepted,
        # only of SwinBackbone
        "out_features": (),
        "out_indices": (),
        "stage_names": (),
    }

    encoder_stride: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "encoder_stride")


@dataclass(frozen=True, kw_only=True)
class SwinModelOutput(ModelOutput):
    """The output of the encoder. Each stage after the first has half as many rows and columns, and twice the width."""

    last_hidden_state: Any = None
    """(B, T, D), after the final layer norm, if there is one."""
    pooler_output: Any = None
    """(B, D), the mean over the patches; None without a pooling layer."""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every stage's output, before the final layer norm, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """The attention probabilities of every stage's last layer, each (B * W, N, S, S) for W windows of S patches."""
    reshaped_hidden_states: tuple[Any, ...] | None = None
    """The hidden states as images, each (B, D, rows, columns)."""


@dataclass(frozen=True, kw_only=True)
class SwinImageClassifierOutput(ModelOutput):
    """The output of an image classifier."""

    loss: Any = None
    """The problem type's loss, a scalar."""
    logits: Any = None
    """(B, num_labels), before the softmax."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    reshaped_hidden_states: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SwinMaskedImageModelingOutput(ModelOutput):
    """The output of a model that reconstructs masked patches of images."""

    loss: Any = None
    """Mean absolute error over the pixels of the masked patches, a scalar; None without `bool_masked_pos`."""
    reconstruction: Any = None
    """(B, C, Y, X): `encoder_stride` pixels for each row and column of the last stage."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    reshaped_hidden_states: tuple[Any, ...] | None = None


def initial(config: SwinLikeConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter: biases, positions and the mask token are zeros."""
    if slot.kind == "norm":
        return Constant(1.0)
    return Constant(0.0) if slot.kind == "plain" else Normal(config.initializer_range)


def example(config: SwinLikeConfig, architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Two images, with classes or masked patches; as small as windows that move in the last stage allow."""
    moving = 2 ** (len(config.depths) - 1) * (config.window_size + 1)
    sizes = zip(config.image_shape, config.patch_shape, strict=True)
    fixed = config.use_absolute_embeddings or architecture.endswith("ForMaskedImageModeling")
    size = tuple(image if fixed else min(image, patch * moving) for image, patch in sizes)
    inputs: dict[str, Any] = {"pixel_values": random.standard_normal((2, config.num_channels, *size))}
    if architecture.endswith("ForImageClassification") and config.num_labels > 0:
        inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
    if architecture.endswith("ForMaskedImageModeling"):
        rows, columns = config.padded_grid_of(size[0], size[1])
        masked = random.permutation(2 * rows * columns).reshape(2, -1) % 2
        # floats, since from integers transformers computes the loss in float32
        inputs["bool_masked_pos"] = masked.astype(np.float64)
    return inputs


def constants(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The place of each pair of patches in the tables of biases, which transformers reads from files."""
    table, places = "relative_position_bias_table", "relative_position_index"
    return {
        path.removesuffix(table) + places: patch_distances(side, side)
        for path, shape in shapes.items()
        if path.endswith(table)
        for side in (math.isqrt(shape[0]) // 2 + 1,)
    }


IGNORED = {"*.relative_position_index": "places in the table of relative positions, a buffer"}

FAMILY = Family(
    classes=dict.fromkeys(("SwinModel", "SwinForMaskedImageModeling", "SwinForImageClassification"), SwinConfig),
    initial=initial,
    example=example,
    prefixes=("swin.",),
    ignored=IGNORED,
    encoders={"image": ("SwinModel",)},
    constants=constants,
)
