"""Composites of two texts' models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.composites import WRITTEN, halves, part_shapes, written_case
from tests.families import bert, gpt2
from tests.family import (
    PADDINGS,
    Case,
    Choices,
    Config,
    Family,
    Shapes,
    sequence_inputs,
    text_labels,
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
    return part_shapes(
        bert.FAMILY.shapes("BertModel"),
        gpt2.FAMILY.shapes("GPT2LMHeadModel"),
        (bert.SIZES["hidden_size"], gpt2.SIZES["n_embd"]),
    )


# Cases


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
            "written": WRITTEN[index % len(WRITTEN)],
            "padding": PADDINGS[index % 3 + 1],
            "same_width": index % 3 == 1,
        }
        for index, (encoder, decoder) in enumerate(pairs(twins=True))
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    batch, length = drawn.size(2, 5), drawn.size(7, 12)
    heads = drawn.heads()
    half = halves()[drawn.choice("encoder", encoders())].half
    assert half is not None
    encoder = half.draw(drawn, *heads, length, {})
    inputs = drawn.text(encoder, batch, length, drawn.mask(batch, length, PADDINGS[:-1]))
    if hasattr(encoder, "type_vocab_size"):
        inputs |= drawn.ids_or_not("token_type_ids", batch, length, encoder.type_vocab_size)
    return written_case(
        drawn, name, "encoder-decoder", encoder, heads, inputs, decoders=decoders(), taken=(batch, length)
    )


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
