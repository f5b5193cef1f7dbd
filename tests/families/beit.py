"""BEiT: an encoder of images whose attention is biased by the distance of patches."""

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

# 3 heads of 11; 4 x 4 patches, 49 distances and those of the class token
SIZES: Sizes = {
    "hidden_size": 33,
    "intermediate_size": 58,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_channels": 5,
    "image_size": 28,
    "patch_size": 7,
    "vocab_size": 61,
}
DISTANCES = 52
# the pretraining of published files, with absolute positions and a final norm, which none of them has
PRETRAINED: Config = {
    "use_mask_token": True,
    "use_absolute_position_embeddings": True,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": True,
    "use_mean_pooling": False,
}
FINETUNED: Config = {
    "use_mask_token": False,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": True,
    "use_shared_relative_position_bias": False,
    "use_mean_pooling": True,
}


def _config(name: str) -> Config:
    own = {
        "BeitModel": PRETRAINED,
        "BeitForMaskedImageModeling": PRETRAINED | {"use_mean_pooling": True},
        "BeitForImageClassification": CLASSIFIER | FINETUNED,
    }
    return {
        **own[name],
        **SIZES,
        "attention_probs_dropout_prob": 0.1,
        "auxiliary_channels": 256,
        "auxiliary_concat_input": False,
        "auxiliary_loss_weight": 0.4,
        "auxiliary_num_convs": 1,
        "drop_path_rate": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "layer_scale_init_value": 0.1,
        "model_type": "beit",
        "out_indices": [1],
        "pool_scales": [1, 2, 3, 6],
        "semantic_loss_ignore_index": 255,
        "use_auxiliary_head": True,
    }


def _shapes(name: str) -> Shapes:
    width, inner, patch = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["patch_size"]
    classifies = name == "BeitForImageClassification"
    base = "" if name == "BeitModel" else "beit."
    found = {} if classifies else affine("layernorm", width)
    if name == "BeitForMaskedImageModeling":
        found |= affine("lm_head", SIZES["vocab_size"], width)
    table: Shapes = {"relative_position_bias.relative_position_bias_table": (DISTANCES, SIZES["num_attention_heads"])}
    found |= {
        f"{base}embeddings.cls_token": (1, 1, width),
        f"{base}embeddings.patch_embeddings.projection.weight": (width, SIZES["num_channels"], patch, patch),
        f"{base}embeddings.patch_embeddings.projection.bias": (width,),
    }
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"{base}encoder.layer.{index}"
        for projection in ("query", "value"):
            found |= affine(f"{layer}.attention.attention.{projection}", width, width)
        found[f"{layer}.attention.attention.key.weight"] = (width, width)
        if classifies:
            found |= {f"{layer}.attention.attention.{path}": shape for path, shape in table.items()}
        found |= affine(f"{layer}.attention.output.dense", width, width)
        found |= affine(f"{layer}.intermediate.dense", inner, width) | affine(f"{layer}.output.dense", width, inner)
        found |= affine(f"{layer}.layernorm_before", width) | affine(f"{layer}.layernorm_after", width)
        found |= {f"{layer}.lambda_1": (width,), f"{layer}.lambda_2": (width,)}
    if classifies:
        return found | affine("beit.pooler.layernorm", width) | affine("classifier", len(LABELS), width)
    found |= {f"{base}encoder.{path}": shape for path, shape in table.items()}
    found[f"{base}embeddings.mask_token"] = (1, 1, width)
    found[f"{base}embeddings.position_embeddings"] = (1, 17, width)
    return found


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "BeitModel": [
        {"bias": "own", "resized": True, "mean": True, "pooler": True},
        {"bias": "shared", "resized": True, "positions": True, "masked": True, "mean": False, "pooler": True},
        {"bias": "both", "resized": False, "scale": 0.0, "pooler": False},
        {"bias": "none", "positions": False, "oblong": True},
    ],
    "BeitForMaskedImageModeling": [
        {"bias": "shared", "masked": True, "mean": True},
        {"bias": "none", "masked": True, "mean": False, "oblong": True, "positions": False},
        {"masked": False},
    ],
    "BeitForImageClassification": [
        {"num_labels": 4, "bias": "own", "mean": True},
        {"num_labels": 1, "bias": "shared", "mean": False},
        {"num_labels": 0},
    ],
}


def _draw(drawn: Drawn, name: str) -> Case:
    """Where 5.23 takes a table for that of a square, the sizes in the config are square."""
    batch = drawn.size(2, 5)
    heads, width = drawn.heads()
    bias, positions = drawn.choice("bias", ["own", "shared", "both", "none"]), drawn.choice("positions", [False, True])
    sizes = _oblong(drawn) if drawn.choice("oblong", [False]) else _square(drawn)
    masked = name != "BeitForImageClassification" and drawn.choice("masked", [False, True])
    fields: Config = {}
    if name == "BeitForImageClassification":
        classes = drawn.choice("num_labels", [drawn.size(3, 12), 1, 0])
        problem_type = drawn.choice("problem_type", PROBLEMS if classes > 1 else PROBLEMS[:2]) if classes else None
        fields = {"num_labels": classes, "problem_type": problem_type}
    config = drawn.config(
        "beit",
        **sizes,
        **fields,
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        num_hidden_layers=drawn.size(1, 4),
        num_attention_heads=heads,
        num_channels=drawn.size(1, 8),
        vocab_size=drawn.size(5, 40),
        hidden_act=drawn.activation("hidden_act"),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        layer_scale_init_value=drawn.choice("scale", [0.1, 0.0, -1.0]),
        use_mask_token=masked or drawn.choice("mask_token", [False, True]),
        use_absolute_position_embeddings=positions,
        use_relative_position_bias=bias in ("own", "both"),
        use_shared_relative_position_bias=bias in ("shared", "both"),
        use_mean_pooling=drawn.choice("mean", [True, False]),
        attention_probs_dropout_prob=0.1,  # eval mode leaves these out
        hidden_dropout_prob=0.1,
        drop_path_rate=0.2,
    )
    inputs = _images(drawn, config, batch)
    if masked:
        places = drawn.random().random((batch, _patches(inputs["pixel_values"], config))) < 0.4
        places[-1, -1] = True
        inputs["bool_masked_pos"] = places
        if name == "BeitForMaskedImageModeling":
            labels = drawn.random().integers(0, config.vocab_size, int(places.sum()))
            labels[1:][drawn.random().random(labels.size - 1) < 0.3] = -100
            inputs["labels"] = labels
    if fields.get("num_labels"):
        inputs["labels"] = drawn.targets(batch, fields["num_labels"], fields["problem_type"])
    pooled = {"add_pooling_layer": drawn.choice("pooler", [True, False])} if name == "BeitModel" else {}
    return Case(name, config, inputs, keywords=pooled)


def _square(drawn: Drawn) -> Config:
    """Sizes of images and patches; the last pixels of some images belong to no patch."""
    patch = drawn.high(2, 4)
    return {"patch_size": patch, "image_size": drawn.high(patch, 4 * patch + 1)}


def _oblong(drawn: Drawn) -> Config:
    """The same with other heights than widths."""
    height, width = drawn.high(2, 4), drawn.high(1, 3)
    return {
        "patch_size": (height, width),
        "image_size": (drawn.high(height, 3 * height + 1), drawn.high(width, 5 * width)),
    }


def _images(drawn: Drawn, config: Any, batch: int) -> Inputs:
    """Images of the config's size, or of another one, which needs no switch."""
    size, patch = config.image_size, config.patch_size
    shape = (size, size) if isinstance(size, int) else size
    if isinstance(size, int) and drawn.choice("resized", [True, False]):
        shape = (drawn.high(patch, size + 2 * patch), drawn.high(patch, size + patch))
    return {"pixel_values": drawn.random().standard_normal((batch, config.num_channels, *shape))}


def _patches(pixels: np.ndarray, config: Any) -> int:
    """The number of patches of each image."""
    size = config.patch_size
    height, width = (size, size) if isinstance(size, int) else size
    return (pixels.shape[2] // height) * (pixels.shape[3] // width)


# Tiny models


def _spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["inner"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        **fields,
    }


_RATES: Config = {"hidden_dropout_prob": 0.15, "attention_probs_dropout_prob": 0.25, "drop_path_rate": 0.3}
_TINY = _spell(TINY, image_size=11, patch_size=5, vocab_size=TINY["vocabulary"], **_RATES)
_LARGE = _spell(
    {"width": 96, "layers": 2, "heads": 4, "inner": 160},
    image_size=88,
    patch_size=8,
    vocab_size=211,
    initializer_range=0.05,
    layer_scale_init_value=0.25,
    num_labels=130,
)


def _tiny(name: str) -> Config:
    if name == "BeitForImageClassification":
        return _TINY | FINETUNED | {"num_labels": 7}
    return _TINY | PRETRAINED | {"use_relative_position_bias": True}


def _inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Images of another size than the config's."""
    found: Inputs = {"pixel_values": random.standard_normal((2, 3, 11, 16)).astype(np.float32)}
    if config.use_mask_token:
        found["bool_masked_pos"] = np.array([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0]], bool)
    return found


def _labels(name: str, random: np.random.Generator) -> Inputs:
    if name == "BeitForMaskedImageModeling":
        return {"labels": np.array([3, 11, -100, 20, 7])}
    return {"labels": np.array([2, 5])} if name == "BeitForImageClassification" else {}


FAMILY = Family(
    model_type="beit",
    classes=tuple(CHOICES),
    checkpoints=("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification"),
    config=_config,
    shapes=_shapes,
    configs={"BeitConfig": "BeitModel"},
    choices=CHOICES.__getitem__,
    draw=_draw,
    tiny={name: _tiny(name) for name in CHOICES},
    inputs=_inputs,
    labels=_labels,
    whole=("BeitModel",),
    large=lambda name: _LARGE,
)
