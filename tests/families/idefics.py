"""IDEFICS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    EPSILONS,
    LARGE,
    PADDINGS,
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

# Tiny checkpoints: 4 heads of 6, 2 of 5 in the encoder of images, 3 of 7 in the resampler

SIZES: Sizes = {
    "vocab_size": 59,
    "additional_vocab_size": 2,
    "hidden_size": 24,
    "intermediate_size": 52,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 19,
    "cross_layer_interval": 2,
}
VISION: Sizes = {
    "embed_dim": 10,
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 3,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PERCEIVER: Sizes = {
    "resampler_n_latents": 5,
    "resampler_depth": 2,
    "resampler_n_heads": 3,
    "resampler_head_dim": 7,
}


def _config(name: str) -> Config:
    """With the whole of it, and without what may be left out."""
    whole = name == "IdeficsForVisionText2Text"
    return {
        **SIZES,
        "alpha_initializer": "ones",
        "alpha_type": "float" if whole else "vector",
        "alphas_initializer_range": 0.0,
        "dropout": 0.1,
        "freeze_lm_head": False,
        "freeze_text_layers": False,
        "freeze_text_module_exceptions": [],
        "freeze_vision_layers": False,
        "freeze_vision_module_exceptions": [],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_type": "idefics",
        "perceiver_config": {"model_type": "idefics_perciever", **PERCEIVER, "qk_layer_norms_perceiver": whole},
        "qk_layer_norms": whole,
        "rms_norm_eps": 1e-6,
        "use_resampler": whole,
        "vision_config": {
            "model_type": "idefics_vision",
            **VISION,
            "attention_dropout": 0.1,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        },
    }


def _shapes(name: str) -> Shapes:
    whole = name == "IdeficsForVisionText2Text"
    prefix, width, inner, seen = "model." if whole else "", SIZES["hidden_size"], SIZES["intermediate_size"], 10
    head = width // SIZES["num_attention_heads"]
    words, more = (SIZES["vocab_size"], width), (SIZES["additional_vocab_size"], width)
    found: Shapes = {
        f"{prefix}embed_tokens.weight": words,
        f"{prefix}embed_tokens.additional_embedding.weight": more,
        f"{prefix}norm.weight": (width,),
    }
    if whole:
        found |= {"lm_head.weight": words, "lm_head.additional_fc.weight": more}
    for index in range(SIZES["num_hidden_layers"]):
        found |= _layer(f"{prefix}layers.{index}", "self_attn", width, width, inner)
    for index in range(SIZES["num_hidden_layers"] // SIZES["cross_layer_interval"]):
        layer = f"{prefix}gated_cross_attn_layers.{index}"
        found |= _layer(layer, "cross_attn", width, seen, inner)
        alpha = (1,) if whole else (1, 1, width)
        found |= {f"{layer}.alpha_cross_attn": alpha, f"{layer}.alpha_dense": alpha}
        if whole:
            found |= {f"{layer}.cross_attn.{norm}.weight": (head,) for norm in ("q_layer_norm", "k_layer_norm")}
    return found | _vision(f"{prefix}vision_model") | (_resampler(f"{prefix}perceiver_resampler") if whole else {})


def _layer(layer: str, attention: str, width: int, seen: int, inner: int) -> Shapes:
    found: Shapes = {f"{layer}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
    for projection, columns in (("q_proj", width), ("k_proj", seen), ("v_proj", seen), ("o_proj", width)):
        found[f"{layer}.{attention}.{projection}.weight"] = (width, columns)
    found |= {f"{layer}.mlp.{projection}.weight": (inner, width) for projection in ("gate_proj", "up_proj")}
    return found | {f"{layer}.mlp.down_proj.weight": (width, inner)}


def _vision(tower: str) -> Shapes:
    width, inner, patch = VISION["embed_dim"], VISION["intermediate_size"], VISION["patch_size"]
    found: Shapes = {
        f"{tower}.embeddings.class_embedding": (width,),
        f"{tower}.embeddings.patch_embedding.weight": (width, VISION["num_channels"], patch, patch),
        f"{tower}.embeddings.position_embedding.weight": (10, width),
        **affine(f"{tower}.pre_layrnorm", width),
        **affine(f"{tower}.post_layernorm", width),
    }
    for index in range(VISION["num_hidden_layers"]):
        layer = f"{tower}.encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= affine(f"{layer}.self_attn.{projection}", width, width)
        found |= affine(f"{layer}.layer_norm1", width) | affine(f"{layer}.layer_norm2", width)
        found |= affine(f"{layer}.mlp.fc1", inner, width) | affine(f"{layer}.mlp.fc2", width, inner)
    return found


def _resampler(path: str) -> Shapes:
    width, head = VISION["embed_dim"], PERCEIVER["resampler_head_dim"]
    inner = PERCEIVER["resampler_n_heads"] * head
    found: Shapes = {
        f"{path}.latents": (PERCEIVER["resampler_n_latents"], width),
        **affine(f"{path}.layer_norm", width),
    }
    for index in range(PERCEIVER["resampler_depth"]):
        attention, mlp = f"{path}.blocks.{index}.0", f"{path}.blocks.{index}.1"
        for norm, size in (("context", width), ("latents", width), ("q", head), ("k", head)):
            found |= affine(f"{attention}.{norm}_layer_norm", size)
        found |= {f"{attention}.{projection}.weight": (inner, width) for projection in ("q_proj", "k_proj", "v_proj")}
        found |= {f"{attention}.output_proj.weight": (width, inner), **affine(f"{mlp}.ln", width)}
        found |= {f"{mlp}.fc.weight": (4 * width, width), f"{mlp}.c_proj.weight": (width, 4 * width)}
    return found


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "IdeficsModel": [
        {"images": "pixel_values", "resized": True, "resampler": False, "padding": "holes", "counted": True},
        {"images": "image_encoder_embeddings", "resampler": True, "additional": 1},
    ],
    "IdeficsForVisionText2Text": [
        {"resampler": True, "norms": True, "alpha": "float", "additional": 2, "tied": False, "padding": "left"},
        {"resampler": False, "norms": False, "alpha": "vector", "additional": 3, "tied": True, "frozen": True},
    ],
}
EXCEPTIONS = ((), ("Linear",), ("LayerNorm", "Embedding"))


def _draw(drawn: Drawn, name: str) -> Case:
    batch, length, images = drawn.size(2, 4), drawn.size(5, 9), drawn.size(1, 3)
    heads, width = drawn.one_of([(heads, heads * size) for heads in (2, 3, 4) for size in (2, 4, 6) if heads != size])
    vision_heads, seen = drawn.heads()
    interval = drawn.choice("interval", [1, 2, 3, 4])
    vocabulary, additional = drawn.size(20, 40), drawn.choice("additional", [0, 1, 2, 3])
    patch, resampler = drawn.high(2, 4), drawn.choice("resampler", [True, False])
    side, norms = drawn.high(patch, 3 * patch + 1), drawn.choice("norms", [True, False])
    frozen = drawn.choice("frozen", [False, True])
    config = drawn.config(
        "idefics",
        vocab_size=vocabulary,
        additional_vocab_size=additional,
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        num_hidden_layers=interval * drawn.choice("gated", [1, 2] if interval < 3 else [1]),
        num_attention_heads=heads,
        max_position_embeddings=drawn.size(length, length + 12),
        hidden_act=drawn.activation("hidden_act"),
        rms_norm_eps=drawn.choice("rms_norm_eps", EPSILONS[:3]),
        dropout=0.1,  # eval mode leaves it out
        alpha_type=drawn.choice("alpha", ["float", "vector"]),
        cross_layer_interval=interval,
        qk_layer_norms=norms,
        use_resampler=resampler,
        tie_word_embeddings=drawn.choice("tied", [True, False]),
        freeze_text_layers=frozen,
        freeze_text_module_exceptions=list(drawn.choice("text_exceptions", EXCEPTIONS)),
        freeze_lm_head=frozen and drawn.choice("lm_head", [True, False]),
        freeze_vision_layers=frozen,
        freeze_vision_module_exceptions=list(drawn.choice("vision_exceptions", EXCEPTIONS)),
        pad_token_id=drawn.choice("pad_token_id", [0, 5]),
        vision_config={
            "embed_dim": seen,
            "image_size": side,
            "patch_size": patch,
            "num_channels": drawn.choice("channels", [3, 1]),
            "intermediate_size": drawn.size(5, 40),
            "num_hidden_layers": drawn.choice("vision_layers", [1, 2]),
            "num_attention_heads": vision_heads,
            "hidden_act": "gelu",
            "layer_norm_eps": drawn.choice("layer_norm_eps", EPSILONS[:3]),
        },
        perceiver_config={
            "resampler_n_latents": drawn.size(2, 9),
            "resampler_depth": drawn.choice("depth", [1, 2]),
            "resampler_n_heads": drawn.choice("resampler_heads", [1, 2, 3]),
            "resampler_head_dim": drawn.choice("head_dim", [4, 5]),
            "qk_layer_norms_perceiver": norms,
        },
    )
    mask = drawn.mask(batch, length, PADDINGS)
    hidden = unseen(mask, causal=True)
    inputs: Inputs = {"use_cache": False} | drawn.text(config, batch, length, mask)
    if "input_ids" in inputs and additional:
        inputs["input_ids"][:, 2] = vocabulary + drawn.random().integers(0, additional, batch)
    if not drawn.choice("counted", [True, False]):
        inputs |= drawn.ids_or_not("position_ids", batch, length, config.max_position_embeddings)
    if "position_ids" in inputs:
        # without a mask, 5.23 takes a jump in the positions for the border between two texts
        inputs.setdefault("attention_mask", np.ones((batch, length), np.int64))
    inputs |= _images(drawn, config, batch, images, resampler)
    inputs["image_attention_mask"] = (drawn.random().random((batch, length, images)) < 0.6).astype(np.int64)
    inputs["image_attention_mask"][:, :2] = 0  # before the first image
    if name == "IdeficsForVisionText2Text":
        inputs |= drawn.next_words(batch, length, vocabulary + additional, hidden)
    return Case(name, config, inputs, hidden)


def _images(drawn: Drawn, config: Any, batch: int, images: int, resampler: bool) -> Inputs:
    """Images as pixels, also of another size than the config's, or as states of one of two kinds."""
    vision, kinds = config.vision_config, ["pixel_values", "image_encoder_embeddings"]
    kind = drawn.choice("images", [*kinds, "perceiver_embeddings"] if resampler else kinds)
    if kind != "pixel_values":
        return {kind: drawn.random().standard_normal((batch, images, drawn.size(2, 9), vision.embed_dim))}
    side, patch, height, width = vision.image_size, vision.patch_size, vision.image_size, vision.image_size
    resized = drawn.choice("resized", [False, True])
    if resized:
        height, width = drawn.high(patch, side + 2 * patch), drawn.high(patch, side + patch)
    shape = (batch, images, vision.num_channels, height, width)
    return {kind: drawn.random().standard_normal(shape), "interpolate_pos_encoding": resized}


# Tiny models


def spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "vocab_size": sizes["vocabulary"],
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["inner"],
        "max_position_embeddings": sizes["positions"],
        "freeze_text_layers": False,
        "freeze_vision_layers": False,
        "vision_config": {
            "embed_dim": 10,
            "image_size": 4,
            "patch_size": 2,
            "intermediate_size": 7,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "attention_dropout": 0.2,
        },
        "perceiver_config": {
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 5,
            "qk_layer_norms_perceiver": True,
        },
        **fields,
    }


_TINY = spell(
    TINY,
    additional_vocab_size=7,
    cross_layer_interval=2,
    dropout=0.15,
    use_resampler=True,
    qk_layer_norms=True,
    alpha_initializer="ones",
)


def _inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Two texts, the second padded, with two images each."""
    ids = random.integers(2, TINY["vocabulary"] + config.additional_vocab_size, (2, 6))
    ids[1, 4:] = config.pad_token_id or 0
    seen = np.zeros((2, 6, 2), np.int64)
    seen[:, 1:3, 0] = seen[:, 3:, 1] = 1
    vision = config.vision_config
    pixels = random.standard_normal((2, 2, vision.num_channels, *vision.image_shape)).astype(np.float32)
    mask = np.array([[1] * 6, [1] * 4 + [0] * 2])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_attention_mask": seen}


def _labels(name: str, random: np.random.Generator) -> Inputs:
    heads = name == "IdeficsForVisionText2Text"
    return {"labels": random.integers(0, TINY["vocabulary"] + 7, (2, 6))} if heads else {}


def _large(name: str) -> Config:
    """Alphas that are drawn, and sizes that tell which formula a deviation came from."""
    fields = spell(LARGE, initializer_range=0.05, additional_vocab_size=40, pad_token_id=3, cross_layer_interval=1)
    fields["vision_config"] = {"embed_dim": 96, "image_size": 80, "patch_size": 8, "intermediate_size": 160} | {
        "num_hidden_layers": 1, "num_attention_heads": 4,
    }  # fmt: skip
    fields["perceiver_config"] |= {"resampler_n_latents": 64, "resampler_n_heads": 4, "resampler_head_dim": 24}
    return fields | {"alpha_initializer": "normal", "alpha_type": "vector", "alphas_initializer_range": 0.3}


FAMILY = Family(
    model_type="idefics",
    classes=tuple(CHOICES),
    checkpoints=tuple(CHOICES),
    config=_config,
    shapes=_shapes,
    configs={"IdeficsConfig": "IdeficsForVisionText2Text"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=_draw,
    tiny=dict.fromkeys(CHOICES, _TINY),
    inputs=_inputs,
    labels=_labels,
    whole=("IdeficsForVisionText2Text",),
    large=_large,
)
