"""Composites of two texts' models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tests.families import bert, gpt2
from tests.family import (
    CROSSES,
    PADDINGS,
    Case,
    Choices,
    Config,
    Family,
    Inputs,
    Shapes,
    affine,
    families,
    sequence_inputs,
    text_labels,
    unseen,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# A tiny checkpoint: BERT reads, GPT-2 writes, and their widths differ


def _config(name: str) -> Config:
    return {
        "decoder": gpt2.FAMILY.config("GPT2LMHeadModel"),
        "decoder_start_token_id": 58,
        "encoder": bert.FAMILY.config("BertModel"),
        "is_encoder_decoder": True,
        "model_type": "encoder-decoder",
        "pad_token_id": 0,
    }


def _shapes(name: str) -> Shapes:
    parts = ("encoder", bert.FAMILY.shapes("BertModel")), ("decoder", gpt2.FAMILY.shapes("GPT2LMHeadModel"))
    found = {f"{part}.{tensor}": shape for part, tensors in parts for tensor, shape in tensors.items()}
    return found | affine("enc_to_dec_proj", gpt2.SIZES["n_embd"], bert.SIZES["hidden_size"])


# Cases

WRITTEN = ("labels", "embeddings", "ids and labels", "ids")
"""What the decoder is given."""


def halves() -> dict[str, Family]:
    """The families that can be a part of a composite, by model type."""
    return {family.model_type: family for family in families().values() if family.half is not None}


def encoders(*, twins: bool = False) -> list[str]:
    """Those that can be the encoder."""
    return [name for name, family in halves().items() if family.half.encodes and twins >= family.twin]


def decoders(*, twins: bool = False) -> list[str]:
    """Those that can be the decoder."""
    return [name for name, family in halves().items() if twins >= family.twin]


def pairs(*, twins: bool = False) -> list[tuple[str, str]]:
    """An encoder and a decoder each: all of them, as few pairs as there are decoders."""
    first = encoders(twins=twins)
    return [
        (name if name in first else first[index % len(first)], name) for index, name in enumerate(decoders(twins=twins))
    ]


def _choices(name: str) -> Sequence[Choices]:
    """Every encoder, decoder, way to write and padding in turn; widths that are equal, and that are not."""
    return [
        {
            "encoder": encoder,
            "decoder": decoder,
            "written": WRITTEN[index % 4],
            "padding": PADDINGS[index % 3 + 1],
            "same_width": index % 3 == 1,
        }
        for index, (encoder, decoder) in enumerate(pairs(twins=True))
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    batch, length, count = drawn.size(2, 5), drawn.size(7, 12), drawn.size(7, 12)
    heads, width = drawn.heads()
    encoder = _half(drawn, drawn.choice("encoder", encoders()), heads, width, length, {})
    side = drawn.part(batch, length, count)
    if not drawn.choice("same_width", [True, False]):
        side.taken |= {heads, width, width // heads}
        heads, width = side.heads()
    side.taken |= {heads, width, width // heads}
    kind = drawn.choice("decoder", decoders())
    decoder = _half(side, kind, heads, width, count, CROSSES)
    vocabulary = decoder.vocab_size
    config = drawn.config(
        "encoder-decoder",
        encoder=encoder.to_dict(),
        decoder=decoder.to_dict(),
        pad_token_id=drawn.choice("pad", [0, vocabulary - 1]),
        decoder_start_token_id=drawn.choice("start", [1, 4]),
    )

    inputs: Inputs = {"use_cache": False}
    inputs |= drawn.text(encoder, batch, length, drawn.mask(batch, length, PADDINGS[:-1]))
    if hasattr(encoder, "type_vocab_size"):
        inputs |= drawn.ids_or_not("token_type_ids", batch, length, encoder.type_vocab_size)
    written = drawn.choice("written", WRITTEN)
    if written == "labels":  # of which the decoder's ids and mask are made; its first token is never masked
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
    if kind == "gpt2":
        inputs |= drawn.ids_or_not("decoder_token_type_ids", batch, count, vocabulary)
    if written == "ids and labels":
        labels = drawn.ids(batch, count, vocabulary).astype(np.int64)
        labels[drawn.random().random(labels.shape) < 0.3] = -100
        labels[0, -1] = 3
        inputs["labels"] = labels if hidden is None else np.where(hidden, -100, labels)
    return Case(name, config, inputs, hidden)


def _half(drawn: Drawn, kind: str, *sizes: int | Config):
    half = halves()[kind].half
    assert half is not None
    return half.draw(drawn, *sizes)


_TINY: dict[str, Config] = {
    "encoder": bert.FAMILY.tiny["BertModel"] | {"model_type": "bert", "hidden_size": 9},
    "decoder": gpt2.FAMILY.tiny["GPT2LMHeadModel"] | {"model_type": "gpt2"},
}


def _large(name: str) -> Config:
    """Parts of other widths, and of other deviations."""
    encoder, decoder = bert.FAMILY.large("BertModel"), gpt2.FAMILY.large("GPT2LMHeadModel")
    return {
        "encoder": _TINY["encoder"] | encoder,
        "decoder": _TINY["decoder"] | decoder | {"n_embd": 72, "initializer_range": 0.03},
    }


FAMILY = Family(
    model_type="encoder-decoder",
    classes=("EncoderDecoderModel",),
    encoder_decoder=True,
    checkpoints=("EncoderDecoderModel",),
    config=_config,
    shapes=_shapes,
    configs={"EncoderDecoderConfig": "EncoderDecoderModel"},
    choices=_choices,
    draw=_draw,
    tiny={"EncoderDecoderModel": {**_TINY, "decoder_start_token_id": 4, "pad_token_id": 0}},
    inputs=sequence_inputs,
    labels=lambda name, random: text_labels(name, random, length=4),
    decoders={"EncoderDecoderModel": {}},
    trained={"EncoderDecoderModel": {}},
    large=_large,
)
