"""Composites of an encoder and a decoder of texts; in tiny models, BERT and GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.composites import composite_family, drawn_case, halves, written
from tests.families import bert
from tests.family import PADDINGS, Case, Choices

if TYPE_CHECKING:
    from tests.drawing import Drawn


def encoders(*, twins: bool = False) -> list[str]:
    """The model types that the encoder may have."""
    return [
        name
        for name, family in halves().items()
        if family.half is not None and family.half.encodes and twins >= family.twin
    ]


def decoders(*, twins: bool = False) -> list[str]:
    """The model types that the decoder may have."""
    return [name for name, family in halves().items() if twins >= family.twin]


def pairs(*, twins: bool = False) -> list[tuple[str, str]]:
    """An encoder for each decoder: itself where it can be one, else each of the encoders in turn."""
    first = encoders(twins=twins)
    return [
        (name if name in first else first[index % len(first)], name) for index, name in enumerate(decoders(twins=twins))
    ]


def _choices(name: str) -> Sequence[Choices]:
    """Every encoder and decoder, what it is given and padding in turn; equal widths, and different ones."""
    return [
        {
            "encoder": encoder,
            "decoder": decoder,
            "written": written(index),
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
    taken = (batch, length)
    return drawn_case(drawn, name, "encoder-decoder", encoder, heads, inputs, decoders=decoders(), taken=taken)


FAMILY = composite_family(
    "encoder-decoder",
    bert.FAMILY,
    encoder_class="BertModel",
    width=9,
    config={},
    choices=_choices,
    draw=_draw,
    decoders={"EncoderDecoderModel": {}},
    trained={"EncoderDecoderModel": {}},
)
