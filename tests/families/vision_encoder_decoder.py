"""Composites of a model of images and one of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.composites import WRITTEN, halves, part_shapes, written_case
from tests.families import gpt2, vit
from tests.family import (
    TINY,
    Case,
    Choices,
    Config,
    Family,
    Inputs,
    Shapes,
    families,
    text_labels,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# A tiny checkpoint: ViT looks, GPT-2 writes, and their widths differ


def _config(name: str) -> Config:
    return {
        "decoder": gpt2.FAMILY.config("GPT2LMHeadModel"),
        "decoder_start_token_id": 58,
        "encoder": vit.FAMILY.config("ViTModel"),
        "is_encoder_decoder": True,
        "model_type": "vision-encoder-decoder",
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }


def _shapes(name: str) -> Shapes:
    return part_shapes(
        vit.FAMILY.shapes("ViTModel"),
        gpt2.FAMILY.shapes("GPT2LMHeadModel"),
        (vit.SIZES["hidden_size"], gpt2.SIZES["n_embd"]),
    )


# Cases

DECODERS = ("gpt2", "bert", "mbart", "roberta", "bart", "trocr")


def encoders() -> dict[str, Family]:
    """The families that can be the encoder, by model type."""
    return {family.model_type: family for family in families().values() if family.looks is not None}


def pairs() -> list[tuple[str, str]]:
    """An encoder and a decoder each: all of them, in as few pairs as there are of the more numerous."""
    first, second = [*encoders()], [name for name in DECODERS if name in halves()]
    return [(first[index % len(first)], second[index % len(second)]) for index in range(max(len(first), len(second)))]


def _choices(name: str) -> Sequence[Choices]:
    """Every encoder and decoder, with what it is given in turn; widths that are equal, and that are not."""
    return [
        {"encoder": encoder, "decoder": decoder, "written": WRITTEN[index % len(WRITTEN)], "same_width": index % 3 == 2}
        for index, (encoder, decoder) in enumerate(pairs())
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    batch, heads = drawn.size(2, 5), drawn.heads()
    looks = encoders()[drawn.choice("encoder", [*encoders()])].looks
    assert looks is not None
    encoder = looks(drawn, *heads)
    shape = (batch, encoder.num_channels, encoder.image_size, encoder.image_size)
    inputs: Inputs = {"pixel_values": drawn.random().standard_normal(shape)}
    kinds = [name for name in DECODERS if name in halves()]
    return written_case(drawn, name, "vision-encoder-decoder", encoder, heads, inputs, decoders=kinds, taken=(batch,))


_TINY: dict[str, Config] = {
    "encoder": vit.tiny("ViTModel") | {"model_type": "vit", "hidden_size": 9},
    "decoder": gpt2.FAMILY.tiny["GPT2LMHeadModel"] | {"model_type": "gpt2"},
}


def _inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Two images to look at and two texts to write."""
    return {
        **vit.inputs(name, config.encoder, random),
        "decoder_input_ids": random.integers(2, TINY["vocabulary"], (2, 4)),
        "decoder_attention_mask": np.array([[1] * 3 + [0], [1] * 4]),
    }


def _large(name: str) -> Config:
    """Parts of other widths, and of other deviations."""
    decoder = gpt2.FAMILY.large("GPT2LMHeadModel")
    return {
        "encoder": _TINY["encoder"] | vit.large("ViTModel"),
        "decoder": _TINY["decoder"] | decoder | {"n_embd": 72, "initializer_range": 0.03},
    }


FAMILY = Family(
    model_type="vision-encoder-decoder",
    classes=("VisionEncoderDecoderModel",),
    encoder_decoder=True,
    checkpoints=("VisionEncoderDecoderModel",),
    config=_config,
    shapes=_shapes,
    configs={"VisionEncoderDecoderConfig": "VisionEncoderDecoderModel"},
    choices=_choices,
    draw=_draw,
    tiny={"VisionEncoderDecoderModel": {**_TINY, "decoder_start_token_id": 4, "pad_token_id": 0}},
    inputs=_inputs,
    labels=lambda name, random: text_labels(name, random, length=4),
    large=_large,
)
