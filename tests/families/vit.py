"""ViT, and what DeiT has in common with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    CLASSIFIER,
    EPSILONS,
    LABELS,
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
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# Tiny checkpoints

# 6 heads of 5; 16 patches
SIZES: Sizes = {
    "hidden_size": 30,
    "intermediate_size": 56,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_channels": 2,
    "image_size": 28,
    "patch_size": 7,
    "encoder_stride": 7,
}


def config(name: str, model_type: str = "vit") -> Config:
    classifier = CLASSIFIER if "ForImageClassification" in name else {}
    return {
        **classifier,
        **SIZES,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "model_type": model_type,
        "pooler_act": "tanh",
        "pooler_output_size": SIZES["hidden_size"],
        "qkv_bias": True,
    }


def encoder(below: str, tokens: Sequence[str]) -> Shapes:
    """The tensors of the encoder, with these tokens before the patches."""
    width, inner, patch = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["patch_size"]
    found: Shapes = {f"{below}embeddings.{token}": (1, 1, width) for token in tokens}
    found[f"{below}embeddings.position_embeddings"] = (1, 16 + len(tokens), width)
    found[f"{below}embeddings.patch_embeddings.projection.weight"] = (width, SIZES["num_channels"], patch, patch)
    found[f"{below}embeddings.patch_embeddings.projection.bias"] = (width,)
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"{below}encoder.layer.{index}"
        for projection in ("query", "key", "value"):
            found |= affine(f"{layer}.attention.attention.{projection}", width, width)
        found |= affine(f"{layer}.attention.output.dense", width, width)
        found |= affine(f"{layer}.intermediate.dense", inner, width)
        found |= affine(f"{layer}.output.dense", width, inner)
        found |= affine(f"{layer}.layernorm_before", width) | affine(f"{layer}.layernorm_after", width)
    return found | affine(f"{below}layernorm", width)


def _shapes(name: str) -> Shapes:
    width = SIZES["hidden_size"]
    if name == "ViTModel":
        return encoder("", ["cls_token"]) | affine("pooler.dense", width, width)
    return encoder("vit.", ["cls_token"]) | affine("classifier", len(LABELS), width)


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "ViTModel": [
        {"resized": True, "pooler": True},
        {"resized": False, "pooler": True, "masked": True},
        {"resized": True, "pooler": False, "qkv_bias": False},
    ],
    "ViTForMaskedImageModeling": [{"masked": masked} for masked in (True, False)],
    "ViTForImageClassification": [{"num_labels": labels, "resized": False} for labels in (0, 1, 4)],
}


def drawn_config(drawn: Drawn, model_type: str, heads: int, width: int, **fields: Any) -> Any:
    """A config of transformers; the sizes of images and patches are among the fields."""
    return drawn.config(
        model_type,
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        num_hidden_layers=drawn.size(1, 4),
        num_attention_heads=heads,
        hidden_act=drawn.activation("hidden_act"),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        qkv_bias=drawn.choice("qkv_bias", [True, False]),
        attention_probs_dropout_prob=0.1,  # eval mode leaves it out
        hidden_dropout_prob=0.1,
        **fields,
    )


def square(drawn: Drawn) -> Config:
    """Sizes of images and patches; the last pixels of some images belong to no patch."""
    patch = drawn.high(2, 4)
    return {"patch_size": patch, "image_size": drawn.high(patch, 4 * patch + 1), "num_channels": drawn.size(1, 8)}


def looks(drawn: Drawn, heads: int, width: int, model_type: str = "vit") -> Any:
    return drawn_config(drawn, model_type, heads, width, **square(drawn))


def _oblong(drawn: Drawn) -> Config:
    """The same with other heights than widths."""
    height, width = drawn.high(2, 4), drawn.high(1, 3)
    image = (drawn.high(height, 3 * height + 1), drawn.high(width, 5 * width))
    return {"patch_size": (height, width), "image_size": image, "num_channels": drawn.size(1, 8)}


def draw(drawn: Drawn, name: str, model_type: str = "vit") -> Case:
    """Where 5.23 takes the table of positions for a square, it is one."""
    batch = drawn.size(2, 5)
    heads, width = drawn.heads()
    if name.endswith("ForMaskedImageModeling"):
        return _masked(drawn, name, model_type, batch, heads, width)
    resized = drawn.choice("resized", [True, False])
    sizes = square(drawn) if resized else _oblong(drawn)
    fields: Config = {}
    if name.endswith("Model"):
        pooled = drawn.choice("pooler_output_size", [None, drawn.size(3, 12)])
        fields = {"pooler_act": drawn.activation("pooler_act"), "pooler_output_size": pooled}
    if name.endswith("ForImageClassification"):
        classes = drawn.choice("num_labels", [drawn.size(3, 12), 1, 0])
        problem_type = drawn.choice("problem_type", PROBLEMS if classes > 1 else PROBLEMS[:2]) if classes else None
        fields = {"num_labels": classes, "problem_type": problem_type}
    if name.endswith("WithTeacher"):
        fields = {"num_labels": drawn.choice("num_labels", [drawn.size(3, 12), 0])}
    made = drawn_config(drawn, model_type, heads, width, **sizes, **fields)

    shape: tuple[int, int] = sizes["image_size"]
    inputs: Inputs = {}
    if resized:
        size, patch = sizes["image_size"], sizes["patch_size"]
        inputs["interpolate_pos_encoding"] = True
        shape = (drawn.high(patch, size + 2 * patch), drawn.high(patch, size + patch))
    inputs["pixel_values"] = drawn.random().standard_normal((batch, sizes["num_channels"], *shape))
    if fields.get("num_labels") and not name.endswith("WithTeacher"):
        inputs["labels"] = drawn.targets(batch, fields["num_labels"], fields["problem_type"])
    keywords: dict[str, bool] = {}
    if name.endswith("Model"):
        keywords["add_pooling_layer"] = drawn.choice("pooler", [True, False])
        if drawn.choice("masked", [False, True]):
            high, wide = sizes["patch_size"] if not resized else 2 * (sizes["patch_size"],)
            count = (shape[0] // high) * (shape[1] // wide)
            keywords["use_mask_token"] = True
            inputs["bool_masked_pos"] = drawn.random().random((batch, count)) < 0.4
    return Case(name, made, inputs, keywords=keywords)


def _masked(drawn: Drawn, name: str, model_type: str, batch: int, heads: int, width: int) -> Case:
    """Whole patches of square images, which are all that 5.23 can reconstruct."""
    patch, side, channels = drawn.size(2, 5), drawn.high(1, 3), drawn.size(1, 8)
    masked = drawn.choice("masked", [True, False])
    sizes = {"patch_size": patch, "image_size": side * patch, "num_channels": channels}
    stride = patch if masked else drawn.size(1, 6)
    made = drawn_config(drawn, model_type, heads, width, **sizes, encoder_stride=stride)
    inputs: Inputs = {"pixel_values": drawn.random().standard_normal((batch, channels, side * patch, side * patch))}
    if masked:
        # as floats, since 5.23 computes the loss in float32 otherwise
        inputs["bool_masked_pos"] = (drawn.random().random((batch, side**2)) < 0.6).astype(np.float64)
    return Case(name, made, inputs)


# Tiny models


def spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["inner"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        **fields,
    }


_TINY = spell(TINY, hidden_dropout_prob=0.15, attention_probs_dropout_prob=0.25)
_OBLONG: Config = _TINY | {"image_size": (11, 16), "patch_size": (5, 4)}


def tiny(name: str) -> Config:
    if name.endswith("ForMaskedImageModeling"):
        return _TINY | {"image_size": 10, "patch_size": 5, "encoder_stride": 5}
    return _OBLONG | {"num_labels": 7} if "ForImageClassification" in name else _OBLONG


def inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    return {"pixel_values": random.standard_normal((2, 3, *config.image_shape)).astype(np.float32)}


def labels(name: str, random: np.random.Generator) -> Inputs:
    if name.endswith("ForMaskedImageModeling"):
        return {"bool_masked_pos": np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])}
    return {"labels": np.array([2, 5])} if name.endswith("ForImageClassification") else {}


def large(name: str) -> Config:
    sizes: Sizes = {"width": 96, "layers": 2, "heads": 4, "inner": 160}
    return spell(sizes, image_size=88, patch_size=8, encoder_stride=8, initializer_range=0.05, num_labels=130)


FAMILY = Family(
    model_type="vit",
    classes=tuple(CHOICES),
    checkpoints=("ViTModel", "ViTForImageClassification"),
    config=config,
    shapes=_shapes,
    configs={"ViTConfig": "ViTModel"},
    choices=CHOICES.__getitem__,
    draw=draw,
    looks=looks,
    tiny={name: tiny(name) for name in CHOICES},
    inputs=inputs,
    labels=labels,
    whole=("ViTModel", "ViTForMaskedImageModeling"),
    large=large,
)
