"""Composites of a model of images and one of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.families import gpt2, vit
from tests.families.encoder_decoder import halves
from tests.family import (
    CROSSES,
    PADDINGS,
    TINY,
    Case,
    Choices,
    Config,
    Family,
    Inputs,
    Shapes,
    affine,
    families,
    text_labels,
    unseen,
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
    parts = ("encoder", vit.FAMILY.shapes("ViTModel")), ("decoder", gpt2.FAMILY.shapes("GPT2LMHeadModel"))
    found = {f"{part}.{tensor}": shape for part, tensors in parts for tensor, shape in tensors.items()}
    return found | affine("enc_to_dec_proj", gpt2.SIZES["n_embd"], vit.SIZES["hidden_size"])


# Cases

WRITTEN = ("labels", "embeddings", "ids and labels")
"""What the decoder is given."""
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
        {"encoder": encoder, "decoder": decoder, "written": WRITTEN[index % 3], "same_width": index % 3 == 2}
        for index, (encoder, decoder) in enumerate(pairs())
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    batch, count = drawn.size(2, 5), drawn.size(7, 12)
    heads, width = drawn.heads()
    looks = encoders()[drawn.choice("encoder", [*encoders()])].looks
    assert looks is not None
    encoder = looks(drawn, heads, width)
    side = drawn.part(batch, count)
    if not drawn.choice("same_width", [True, False]):
        side.taken |= {heads, width, width // heads}
        heads, width = side.heads()
    side.taken |= {heads, width, width // heads}
    half = halves()[drawn.choice("decoder", [name for name in DECODERS if name in halves()])].half
    assert half is not None
    decoder = half.draw(side, heads, width, count, CROSSES)
    vocabulary = decoder.vocab_size
    config = drawn.config(
        "vision-encoder-decoder",
        encoder=encoder.to_dict(),
        decoder=decoder.to_dict(),
        pad_token_id=drawn.choice("pad", [0, vocabulary - 1]),
        decoder_start_token_id=drawn.choice("start", [1, 4]),
    )

    shape = (batch, encoder.num_channels, encoder.image_size, encoder.image_size)
    inputs: Inputs = {"use_cache": False, "pixel_values": drawn.random().standard_normal(shape)}
    written = drawn.choice("written", WRITTEN)
    if written == "labels":  # of which the decoder's ids are made
        labels = drawn.ids(batch, count, vocabulary)
        labels[drawn.random().random(labels.shape) < 0.3] = -100
        labels[:, 0] = 3
        return Case(name, config, {**inputs, "labels": labels.astype(np.int64)})
    if written == "embeddings":
        inputs["decoder_inputs_embeds"] = drawn.random().standard_normal((batch, count, width))
    else:
        inputs["decoder_input_ids"] = drawn.ids(batch, count, vocabulary)
    mask = drawn.mask(batch, count, PADDINGS, name="decoder_padding")
    hidden = unseen(mask, causal=True)
    inputs |= {} if mask is None else {"decoder_attention_mask": mask}
    if written == "ids and labels":
        labels = drawn.ids(batch, count, vocabulary).astype(np.int64)
        labels[drawn.random().random(labels.shape) < 0.3] = -100
        labels[0, -1] = 3
        inputs["labels"] = labels if hidden is None else np.where(hidden, -100, labels)
    return Case(name, config, inputs, hidden)


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
