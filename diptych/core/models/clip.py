"""CLIP (Radford et al. 2021, arXiv:2103.00020): configs, records and the deviations of published files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from diptych.core import check
from diptych.core.checkpoint.slots import Slot
from diptych.core.config import Activation, ModelConfig, config_class
from diptych.core.errors import ConfigError
from diptych.core.image_config import ImageEncoderConfig, ImageSize
from diptych.core.outputs import BaseModelOutputWithPooling, ModelOutput
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, WordEmbeddings
from diptych.core.semantics.losses import example_targets


@config_class
class CLIPTextConfig(ModelConfig):
    """Defaults are openai/clip-vit-base-patch32; field names are those of its config.json."""

    model_type: ClassVar[str] = "clip_text_model"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"dropout": (0.0, 0)}  # published, but unused

    vocab_size: int = 49_408
    hidden_size: int = 512
    intermediate_size: int = 2_048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49_406
    eos_token_id: int | None = 49_407  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "vocab_size", "intermediate_size", "projection_dim", "num_hidden_layers")
        check.positive(self, "max_position_embeddings")
        check.divides(self, "num_attention_heads", "hidden_size")
        check.probability(self, "attention_dropout")
        check.not_negative(self, "layer_norm_eps", "initializer_range", "initializer_factor")


@config_class
class CLIPVisionConfig(ImageEncoderConfig):
    """Defaults are openai/clip-vit-base-patch32; field names are those of its config.json."""

    model_type: ClassVar[str] = "clip_vision_model"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {"dropout": (0.0, 0)}  # published, but unused

    hidden_size: int = 768
    intermediate_size: int = 3_072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    patch_size: ImageSize = 32
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "intermediate_size", "projection_dim", "num_hidden_layers")
        check.divides(self, "num_attention_heads", "hidden_size")
        check.probability(self, "attention_dropout")
        check.not_negative(self, "layer_norm_eps", "initializer_range", "initializer_factor")

    @property
    def num_positions(self) -> int:
        """The number of patches of an image of `image_size`, plus the class token."""
        rows, columns = self.patch_grid
        return rows * columns + 1


@config_class
class CLIPConfig(ModelConfig):
    """Defaults are openai/clip-vit-base-patch32; field names are those of its config.json."""

    model_type: ClassVar[str] = "clip"

    text_config: CLIPTextConfig = CLIPTextConfig()
    vision_config: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check.positive(self, "projection_dim")
        check.not_negative(self, "initializer_factor")

    def part(self, wanted: type[ModelConfig]) -> ModelConfig | None:
        """A tower gets this config's `projection_dim`, since LAION's files have another one in the towers' configs."""
        part = super().part(wanted)
        return part.replace(projection_dim=self.projection_dim) if part not in (None, self) else part

    @classmethod
    def _normalize(cls, data: dict[str, Any], source: str) -> dict[str, Any]:
        """Merges text_config_dict and vision_config_dict of old files, whose fields take precedence."""
        data = super()._normalize(data, source)
        for name in ("text_config", "vision_config"):
            data[name] = data.get(name) or {}
            override = data.pop(f"{name}_dict", None)
            if isinstance(override, Mapping) and isinstance(data[name], Mapping):
                data[name] = {**data[name], **cast(Mapping[str, Any], override)}
            elif override is not None:
                raise ConfigError(f"{source}: {name}_dict={override!r} must be a JSON object")
        return data


@dataclass(frozen=True, kw_only=True)
class CLIPTextModelOutput(ModelOutput):
    """The output of the text tower with its projection."""

    text_embeds: Any = None
    """(B, E), not normalized."""
    last_hidden_state: Any = None
    """(B, T, D), after the final layer norm."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPVisionModelOutput(ModelOutput):
    """The output of the vision tower with its projection."""

    image_embeds: Any = None
    """(B, E), not normalized."""
    last_hidden_state: Any = None
    """(B, P, D), before the final layer norm, which is applied only to the pooled class token."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPOutput(ModelOutput):
    """The output of both towers."""

    loss: Any = None
    """Mean of the text-to-image and image-to-text cross-entropy, a scalar."""
    logits_per_image: Any = None
    """(images, texts): scaled cosine similarities."""
    logits_per_text: Any = None
    """(texts, images)"""
    text_embeds: Any = None
    """(texts, E), of length 1."""
    image_embeds: Any = None
    """(images, E), of length 1."""
    text_model_output: BaseModelOutputWithPooling | None = None
    """The text tower's record; its pooler_output is the projected text, not normalized."""
    vision_model_output: BaseModelOutputWithPooling | None = None
    """The vision tower's record; its pooler_output is the projected image, not normalized."""


def _initial(config: CLIPConfig | CLIPTextConfig | CLIPVisionConfig, slot: Slot) -> Distribution:
    path = slot.path
    if path == "logit_scale":
        return Constant(cast(CLIPConfig, config).logit_scale_init_value)
    if slot.kind == "norm":
        return Constant(1.0)
    leaf = ".".join(path.split(".")[-2:])
    if leaf.endswith("bias"):
        return Constant(0.0)
    tower = cast(CLIPTextConfig | CLIPVisionConfig, config)
    if isinstance(config, CLIPConfig):
        in_text = path.startswith(("text_model.", "text_projection."))
        tower = config.text_config if in_text else config.vision_config
    factor = config.initializer_factor if "projection" in path or "classifier" in path else tower.initializer_factor
    width = tower.hidden_size**-0.5 * factor
    depth = (2 * cast(CLIPTextConfig, tower).num_hidden_layers) ** -0.5
    if leaf in ("q_proj.weight", "k_proj.weight", "v_proj.weight", "fc2.weight"):
        return Normal(width * depth)
    if leaf == "fc1.weight":
        return Normal((2 * tower.hidden_size) ** -0.5 * factor)
    if slot.kind == "linear" or leaf.endswith("class_embedding"):
        return Normal(width)
    # the text tower's embeddings use 0.02, not its initializer_range
    return Normal((0.02 if isinstance(tower, CLIPTextConfig) else tower.initializer_range) * factor)


def _example(
    config: CLIPConfig | CLIPTextConfig | CLIPVisionConfig, architecture: str, random: np.random.Generator
) -> dict[str, Any]:
    """Two texts of different lengths, padded after their end, and two images."""
    inputs: dict[str, Any] = {}
    text = config.text_config if isinstance(config, CLIPConfig) else config
    vision = config.vision_config if isinstance(config, CLIPConfig) else config
    if isinstance(text, CLIPTextConfig) and architecture != "CLIPForImageClassification":
        length = min(10, text.max_position_embeddings)
        ids = random.integers(0, text.vocab_size, (2, length))
        mask = np.ones((2, length), np.int64)
        mask[1, length - length // 3 :] = 0
        end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
        if end is not None and end < text.vocab_size:
            ids[0, -1] = ids[1, length - length // 3 - 1] = end
        inputs |= {"input_ids": ids, "attention_mask": mask}
    if isinstance(vision, CLIPVisionConfig):
        inputs["pixel_values"] = random.standard_normal((2, vision.num_channels, *vision.image_shape))
    if architecture == "CLIPModel":
        inputs["return_loss"] = True
    if architecture == "CLIPForImageClassification" and config.num_labels > 0:
        inputs["labels"] = example_targets(config.num_labels, config.problem_type, random)
    return inputs


_TOKENS = ("text_model.embeddings.token_embedding",)

FAMILY = Family(
    classes={
        "CLIPTextModel": CLIPTextConfig,
        "CLIPTextModelWithProjection": CLIPTextConfig,
        "CLIPVisionModel": CLIPVisionConfig,
        "CLIPVisionModelWithProjection": CLIPVisionConfig,
        "CLIPModel": CLIPConfig,
        "CLIPForImageClassification": CLIPConfig,
    },
    initial=_initial,
    example=_example,
    prefixes=("text_model.", "vision_model."),
    encoders={"image": ("CLIPVisionModel",)},
    ignored={"*embeddings.position_ids": "the numbers 0, 1, 2 …, a buffer until transformers 4.31"},
    embeddings={
        **dict.fromkeys(("CLIPTextModel", "CLIPTextModelWithProjection"), WordEmbeddings(inputs=_TOKENS)),
        "CLIPModel": WordEmbeddings(inputs=_TOKENS, config="text_config"),
    },
)
