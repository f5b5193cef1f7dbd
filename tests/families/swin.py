"""Swin: windows over a grid of patches that halves from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import CLASSIFIER, EPSILONS, PROBLEMS, Case, Choices, Config, Family, Inputs, Shapes, affine

if TYPE_CHECKING:
    from tests.drawing import Drawn

# Tiny checkpoints

# 8 x 8 and 4 x 4 patches; 2 heads of 5, then 4 of 5
SIZES: Config = {
    "image_size": 32,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 10,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 3,
    "mlp_ratio": 1.5,
}


def config(name: str) -> Config:
    """The config.json of a tiny checkpoint; a classifier has absolute positions."""
    return {
        **SIZES,
        "attention_probs_dropout_prob": 0.1,
        "drop_path_rate": 0.1,
        "encoder_stride": 8,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 20,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "model_type": "swin",
        "num_layers": 2,
        "qkv_bias": True,
        "use_absolute_embeddings": name.endswith("ForImageClassification"),
        **(CLASSIFIER if name.endswith("ForImageClassification") else {}),
    }


def encoder(prefix: str) -> Shapes:
    """The tensors of both stages."""
    found: Shapes = {
        **affine(f"{prefix}embeddings.patch_embeddings.projection", 10, 3, 4, 4),
        **affine(f"{prefix}embeddings.norm", 10),
        **affine(f"{prefix}encoder.layers.0.downsample.norm", 40),
        f"{prefix}encoder.layers.0.downsample.reduction.weight": (20, 40),
    }
    for block, width, inner, heads in (("0.blocks.0", 10, 15, 2), ("0.blocks.1", 10, 15, 2), ("1.blocks.0", 20, 30, 4)):
        layer = f"{prefix}encoder.layers.{block}"
        found[f"{layer}.attention.self.relative_position_bias_table"] = (25, heads)
        for projection in ("self.query", "self.key", "self.value", "output.dense"):
            found |= affine(f"{layer}.attention.{projection}", width, width)
        found |= affine(f"{layer}.layernorm_before", width) | affine(f"{layer}.layernorm_after", width)
        found |= affine(f"{layer}.intermediate.dense", inner, width) | affine(f"{layer}.output.dense", width, inner)
    return found


def constants(prefix: str) -> dict[str, np.ndarray]:
    """The places in the tables of 5 x 5 biases: of the 9 patches of a window, each as seen from each."""
    places = [
        [12 + 5 * (row - other_row) + column - other_column for other_row in range(3) for other_column in range(3)]
        for row in range(3)
        for column in range(3)
    ]
    layers = [f"{prefix}encoder.layers.{layer}" for layer in ("0.blocks.0", "0.blocks.1", "1.blocks.0")]
    return {f"{layer}.attention.self.relative_position_index": np.array(places) for layer in layers}


def _shapes(name: str) -> Shapes:
    if name == "SwinModel":
        return encoder("") | affine("layernorm", 20)
    if name == "SwinForMaskedImageModeling":
        decoder: Shapes = {**affine("decoder.0", 3 * 8 * 8, 20, 1, 1), "swin.embeddings.mask_token": (1, 1, 10)}
        return encoder("swin.") | affine("swin.layernorm", 20) | decoder
    positions: Shapes = {"swin.embeddings.position_embeddings": (1, 64, 10)}
    return encoder("swin.") | affine("swin.layernorm", 20) | positions | affine("classifier", 6, 20)


# Cases

POSITIONS = ("none", "absolute", "resampled")

CHOICES: dict[str, Sequence[Choices]] = {
    "SwinModel": [{"positions": kind} for kind in ("none", "resampled")],
    "SwinForMaskedImageModeling": [{}],
    "SwinForImageClassification": [{"positions": "absolute"}],
}


def draw_config(drawn: Drawn, model_type: str, positions: str, **fields: Any) -> tuple[Any, tuple[int, int]]:
    """A config and the size of the images of a call, which transformers computes too.

    There the grid of a stage can't be smaller than a window, and absolute positions need images of whole patches, to
    which a square of positions is resampled. Only squares are reconstructed.
    """
    heads, width = drawn.heads()
    window = drawn.high(2, 3)
    depths = drawn.choice("depths", [[2, 1], [1, 2], [1, 1, 2], [3]])
    least = (window - 1) * 2 ** (len(depths) - 1) + 1  # leaves `window` rows for the last stage
    rows, columns = drawn.high(least, least + 5), drawn.high(least, least + 4)
    patch = drawn.high(1, 3)
    patches = (patch, patch if positions == "resampled" else drawn.high(1, 3))
    images = (rows * patches[0], columns * patches[1])
    if positions == "square":  # in each stage
        side = drawn.high(window, window + 2) * 2 ** (len(depths) - 1) * patch
        images, patches = (side, side), (patch, patch)
    image_size: Any = images[0] if positions == "square" else images
    if positions == "resampled":
        image_size = patch * drawn.high(least, least + 5)
    if positions == "none":
        image_size = drawn.high(5, 40)  # nothing depends on it
        images = (images[0] - drawn.high(0, patches[0] - 1), images[1] - drawn.high(0, patches[1] - 1))
    config = drawn.config(
        model_type,
        image_size=image_size,
        patch_size=patch if patches == (patch, patch) else patches,
        num_channels=drawn.size(1, 8),
        embed_dim=width,
        depths=depths,
        num_heads=[heads * (2**stage if drawn.often() else 1) for stage in range(len(depths))],
        window_size=window,
        mlp_ratio=drawn.choice("mlp_ratio", [1.5, 2.0, 0.75]),
        qkv_bias=drawn.often(),
        hidden_act=drawn.activation("hidden_act"),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        use_absolute_embeddings=positions in ("absolute", "resampled"),
        hidden_dropout_prob=0.1,  # eval mode leaves them out
        attention_probs_dropout_prob=0.1,
        drop_path_rate=0.1,
        **fields,
    )
    return config, images


def draw_images(drawn: Drawn, config: Any, images: tuple[int, int], positions: str) -> Inputs:
    """A batch of images of a size."""
    batch = drawn.size(2, 5)
    switches = {"interpolate_pos_encoding": True} if positions == "resampled" else {}
    return {"pixel_values": drawn.random().standard_normal((batch, config.num_channels, *images)), **switches}


def draw_mask(drawn: Drawn, config: Any, inputs: Inputs) -> np.ndarray:
    """Which patches are masked."""
    batch, _, *images = inputs["pixel_values"].shape
    patches = np.broadcast_to(config.patch_size, 2)
    return drawn.random().random((batch, int(np.prod(-(-np.array(images) // patches))))) < 0.4


def draw_classes(drawn: Drawn) -> Config:
    """How many classes there are, and what kind of labels."""
    classes = drawn.choice("num_labels", [drawn.size(3, 12), 1, 0])
    problem_type = drawn.choice("problem_type", PROBLEMS if classes > 1 else PROBLEMS[:2]) if classes else None
    return {"num_labels": classes, "problem_type": problem_type}


def draw(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    positions, model_type = drawn.choice("positions", POSITIONS), "donut-swin" if "Donut" in name else "swin"
    if name.endswith("ForImageClassification"):
        classes = draw_classes(drawn)
        config, images = draw_config(drawn, model_type, positions, **classes)
        inputs = draw_images(drawn, config, images, positions)
        if classes["num_labels"]:
            inputs["labels"] = drawn.targets(len(inputs["pixel_values"]), *classes.values())
        return Case(name, config, inputs)
    if name.endswith("ForMaskedImageModeling"):
        config, images = draw_config(drawn, model_type, "square")
        config.encoder_stride = config.patch_size * 2 ** (len(config.depths) - 1)
        inputs = draw_images(drawn, config, images, "none")
        if drawn.often():
            # from integers, the loss is rounded to float32
            inputs["bool_masked_pos"] = draw_mask(drawn, config, inputs).astype(np.float64)
        return Case(name, config, inputs)
    config, images = draw_config(drawn, model_type, positions)
    inputs = draw_images(drawn, config, images, positions)
    keywords = {"add_pooling_layer": drawn.often(), "use_mask_token": not drawn.often()}
    if keywords["use_mask_token"]:
        inputs["bool_masked_pos"] = draw_mask(drawn, config, inputs)
    return Case(name, config, inputs, keywords=keywords)


# Tiny models

# 7 x 5 patches and then 4 x 3: windows of 2 are shifted in both stages, and reach beyond both grids
TINY: Config = {
    "image_size": (13, 10),
    "patch_size": 2,
    "embed_dim": 12,
    "depths": (2, 2),
    "num_heads": (3, 2),
    "window_size": 2,
    "mlp_ratio": 1.25,
    "hidden_dropout_prob": 0.15,
    "attention_probs_dropout_prob": 0.25,
    "drop_path_rate": 0.375,  # a third of it is exact in float32, in which transformers computes DonutSwin's
}
LARGE: Config = {
    "image_size": 64,
    "patch_size": 8,
    "embed_dim": 72,
    "depths": (2, 1),
    "num_heads": (4, 8),
    "window_size": 4,
    "initializer_range": 0.07,
    "num_labels": 130,
    "encoder_stride": 16,
    "use_absolute_embeddings": True,
}


def inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Two images."""
    height, width = np.broadcast_to(config.image_size, 2)
    return {"pixel_values": random.standard_normal((2, config.num_channels, height, width)).astype(np.float32)}


def labels(name: str, random: np.random.Generator) -> Inputs:
    """The classes of two images, or their masked patches."""
    if name.endswith("ForMaskedImageModeling"):
        return {"bool_masked_pos": (random.random((2, 36)) < 0.5).astype(np.float32)}
    return {"labels": np.array([2, 5])} if name.endswith("ForImageClassification") else {}


FAMILY = Family(
    model_type="swin",
    classes=tuple(CHOICES),
    checkpoints=tuple(CHOICES),
    config=config,
    shapes=_shapes,
    constants=lambda name: constants("" if name == "SwinModel" else "swin."),
    configs={"SwinConfig": "SwinModel"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=draw,
    tiny={name: {**TINY, "num_labels": 7} for name in CHOICES}
    | {"SwinForMaskedImageModeling": {**TINY, "image_size": 12, "encoder_stride": 4}},
    inputs=inputs,
    labels=labels,
    whole=("SwinForImageClassification",),
    large=lambda name: LARGE,
)
