"""CLIP: both towers, together and alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    EPSILONS,
    PADDINGS,
    PROBLEMS,
    TINY,
    Case,
    Choices,
    Config,
    Family,
    Inputs,
    Shapes,
    Sizes,
    affine,
    unseen,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# Tiny checkpoints

# 6 heads of 8
TEXT: Sizes = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "vocab_size": 67,
    "max_position_embeddings": 13,
    "projection_dim": 18,
    "pad_token_id": 1,
    "bos_token_id": 65,
    "eos_token_id": 66,
}
# 7 heads of 5; 16 patches, 17 positions
VISION: Sizes = {
    "hidden_size": 35,
    "intermediate_size": 56,
    "num_attention_heads": 7,
    "num_hidden_layers": 4,
    "num_channels": 3,
    "image_size": 36,
    "patch_size": 9,
    "projection_dim": 18,
}


def _config(name: str) -> Config:
    tower: Config = {
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
    }
    text: Config = {**tower, **TEXT, "model_type": "clip_text_model"}
    vision: Config = {**tower, **VISION, "model_type": "clip_vision_model"}
    both: Config = {
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": TEXT["projection_dim"],
        "text_config": text,
        "vision_config": vision,
    }
    return both if name == "CLIPModel" else text if name.startswith("CLIPText") else vision


def _shapes(name: str) -> Shapes:
    text_projection: Shapes = {"text_projection.weight": (TEXT["projection_dim"], TEXT["hidden_size"])}
    visual_projection: Shapes = {"visual_projection.weight": (VISION["projection_dim"], VISION["hidden_size"])}
    match name:
        case "CLIPModel":
            return _text() | _vision() | text_projection | visual_projection | {"logit_scale": ()}
        case "CLIPTextModel":
            return _text()
        case "CLIPTextModelWithProjection":
            return _text() | text_projection
        case _:
            return _vision()


def _encoder(tower: str, sizes: Sizes) -> Shapes:
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    found: Shapes = {}
    for index in range(sizes["num_hidden_layers"]):
        layer = f"{tower}.encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= affine(f"{layer}.self_attn.{projection}", width, width)
        found |= affine(f"{layer}.layer_norm1", width) | affine(f"{layer}.layer_norm2", width)
        found |= affine(f"{layer}.mlp.fc1", inner, width) | affine(f"{layer}.mlp.fc2", width, inner)
    return found


def _text() -> Shapes:
    width = TEXT["hidden_size"]
    return {
        "text_model.embeddings.token_embedding.weight": (TEXT["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (TEXT["max_position_embeddings"], width),
        **_encoder("text_model", TEXT),
        **affine("text_model.final_layer_norm", width),
    }


def _vision() -> Shapes:
    width, patch = VISION["hidden_size"], VISION["patch_size"]
    positions = (VISION["image_size"] // patch) ** 2 + 1
    return {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, VISION["num_channels"], patch, patch),
        "vision_model.embeddings.position_embedding.weight": (positions, width),
        **affine("vision_model.pre_layrnorm", width),  # the published spelling
        **_encoder("vision_model", VISION),
        **affine("vision_model.post_layernorm", width),
    }


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "CLIPTextModel": [{"padding": padding} for padding in PADDINGS],
    "CLIPTextModelWithProjection": [{"eos_token_id": end} for end in (2, 7)],
    "CLIPVisionModel": [{"interpolate_pos_encoding": other} for other in (True, False)],
    "CLIPVisionModelWithProjection": [{"interpolate_pos_encoding": other} for other in (True, False)],
    "CLIPModel": [{"return_loss": loss} for loss in (True, False)],
    "CLIPForImageClassification": [{"num_labels": labels} for labels in (0, 1, 4)],
}


def _text_config(drawn: Drawn, projection: int) -> Any:
    layers = drawn.size(1, 4)
    heads, width = drawn.heads()
    vocabulary = drawn.size(20, 40)
    return drawn.config(
        "clip_text_model",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=drawn.size(11, 17),
        hidden_act=drawn.activation("hidden_act"),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        attention_dropout=0.1,  # eval mode leaves it out
        eos_token_id=drawn.choice("eos_token_id", [2, 7, vocabulary - 1]),
        bos_token_id=0,
        pad_token_id=1,
    )


def _vision_config(drawn: Drawn, projection: int) -> Any:
    return _looks(drawn, *drawn.heads(), projection)


def _looks(drawn: Drawn, heads: int, width: int, projection: int = 5) -> Any:
    layers = drawn.size(1, 3)
    patch = drawn.high(1, 4)
    return drawn.config(
        "clip_vision_model",
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_channels=drawn.size(1, 8),
        image_size=drawn.high(patch, 4 * patch + 1),  # some are no multiple of the patch
        patch_size=patch,
        hidden_act=drawn.activation("hidden_act"),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        attention_dropout=0.1,
    )


def _texts(drawn: Drawn, config: Any, batch: int, paddings: Sequence[str]) -> tuple[Inputs, np.ndarray | None]:
    length, end = drawn.size(4, 10), config.eos_token_id
    ids = drawn.ids(batch, length, config.vocab_size)
    ids[np.arange(batch), drawn.random().integers(0, length, batch)] = end
    mask = drawn.mask(batch, length, paddings)
    inputs: Inputs = {"input_ids": ids}
    if mask is not None:
        inputs["attention_mask"] = mask
        ids[mask == 0] = config.pad_token_id
        ids[:, -1] = config.vocab_size - 1 if end == 2 else end  # the last token sees whatever is not padding
    return inputs | drawn.ids_or_not("position_ids", batch, length, config.max_position_embeddings), unseen(
        mask, causal=True
    )


def _images(drawn: Drawn, config: Any, batch: int) -> Inputs:
    size, patch = config.image_size, config.patch_size
    shape: tuple[int, ...] = (size, size)
    switches: Inputs = {}
    if drawn.choice("interpolate_pos_encoding", [True, False]):
        switches["interpolate_pos_encoding"] = True
        shape = (drawn.high(patch, size + 2 * patch), drawn.high(patch, size + patch))
    return {"pixel_values": drawn.random().standard_normal((batch, config.num_channels, *shape)), **switches}


def _draw(drawn: Drawn, name: str) -> Case:
    batch, projection = drawn.size(2, 5), drawn.size(3, 12)
    if name.startswith("CLIPText"):
        text = _text_config(drawn, projection)
        inputs, hidden = _texts(drawn, text, batch, PADDINGS)
        ids, end = inputs["input_ids"], text.eos_token_id
        return Case(name, text, inputs, hidden, pooled=(ids if end == 2 else ids == end).argmax(-1))
    vision = _vision_config(drawn, projection)
    images = _images(drawn, vision, batch)
    if name.startswith("CLIPVision"):
        return Case(name, vision, images)
    if name == "CLIPForImageClassification":
        classes = drawn.choice("num_labels", [drawn.size(3, 12), 1, 0])
        problem_type = drawn.choice("problem_type", PROBLEMS if classes > 1 else PROBLEMS[:2]) if classes else None
        config = drawn.config("clip", vision_config=vision.to_dict(), num_labels=classes, problem_type=problem_type)
        labels = {"labels": drawn.targets(batch, classes, problem_type)} if classes else {}
        return Case(name, config, {**images, **labels})
    side = drawn.part(batch, projection, vision.num_hidden_layers, vision.hidden_size)
    text = _text_config(side, projection)
    config = drawn.config(
        "clip",
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=projection,
        logit_scale_init_value=2.6592,
    )
    loss = drawn.choice("return_loss", [True, False])
    texts, hidden = _texts(side, text, batch if loss else side.size(1, 8), PADDINGS[:-1])
    return Case(name, config, {**texts, **images, **({"return_loss": True} if loss else {})}, hidden)


# Tiny models

_TINY_TEXT: Config = {
    "vocab_size": 31,
    "hidden_size": 15,
    "intermediate_size": 14,
    "projection_dim": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 10,
    "attention_dropout": 0.2,
    "bos_token_id": 29,
    "eos_token_id": 30,
}
_TINY_VISION: Config = {
    "hidden_size": 20,
    "intermediate_size": 13,
    "projection_dim": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 11,
    "patch_size": 5,
    "attention_dropout": 0.2,
}
_TINY: Config = {"text_config": _TINY_TEXT, "vision_config": _TINY_VISION, "projection_dim": 6, "num_labels": 7}
_LARGE_TEXT: Config = {
    "vocab_size": 211,
    "hidden_size": 96,
    "intermediate_size": 160,
    "projection_dim": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 120,
    "initializer_range": 0.07,
    "initializer_factor": 1.3,
}
_LARGE_VISION: Config = {
    "hidden_size": 144,
    "intermediate_size": 208,
    "projection_dim": 82,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "image_size": 88,
    "patch_size": 8,
    "initializer_range": 0.04,
    "initializer_factor": 0.6,
}

_LARGE: Config = {
    "text_config": _LARGE_TEXT,
    "vision_config": _LARGE_VISION,
    "projection_dim": 110,
    "initializer_factor": 2.1,
    "logit_scale_init_value": 1.7,
    "num_labels": 130,
}


def _part(name: str, text: Config, vision: Config, both: Config) -> Config:
    """What a class needs of the fields of both towers."""
    return text if name.startswith("CLIPText") else vision if name.startswith("CLIPVision") else both


def _inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    inputs: Inputs = {}
    if "Vision" not in name and "Image" not in name:
        ids = random.integers(2, TINY["vocabulary"], (2, 6))
        ids[0, -1] = ids[1, 3] = _TINY_TEXT["eos_token_id"]
        ids[1, 4:] = 0
        inputs = {"input_ids": ids, "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2])}
    if not name.startswith("CLIPText"):
        inputs["pixel_values"] = random.standard_normal((2, 3, 11, 11)).astype(np.float32)
    return inputs


def _labels(name: str, random: np.random.Generator) -> Inputs:
    if name == "CLIPForImageClassification":
        return {"labels": np.array([2, 5])}
    return {"return_loss": True} if name == "CLIPModel" else {}


FAMILY = Family(
    model_type="clip",
    classes=tuple(CHOICES),
    checkpoints=("CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel"),
    config=_config,
    shapes=_shapes,
    configs={"CLIPConfig": "CLIPModel", "CLIPTextConfig": "CLIPTextModel", "CLIPVisionConfig": "CLIPVisionModel"},
    choices=CHOICES.__getitem__,
    draw=_draw,
    looks=_looks,
    tiny={name: _part(name, _TINY_TEXT, _TINY_VISION, _TINY) for name in CHOICES},
    inputs=_inputs,
    labels=_labels,
    whole=("CLIPModel", "CLIPForImageClassification"),
    rates={"CLIPModel": 1e-5},  # its normalized vectors start out short
    large=lambda name: _part(name, _LARGE_TEXT, _LARGE_VISION, _LARGE),
)
