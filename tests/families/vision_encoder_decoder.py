"""Composites of an encoder of images and a decoder of texts; in tiny models, ViT and GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.composites import composite_family, drawn_case, paired, written
from tests.families import vit
from tests.family import Case, Choices, Family, Inputs, families

if TYPE_CHECKING:
    from tests.drawing import Drawn

DECODERS = ("gpt2", "bert", "mbart", "roberta", "bart", "trocr")


def encoders() -> dict[str, Family]:
    """The families that can be the encoder, by model type."""
    return {family.model_type: family for family in families().values() if family.looks is not None}


def pairs() -> list[tuple[str, str]]:
    """An encoder and a decoder each, all of them."""
    return paired([*encoders()], DECODERS)


def _choices(name: str) -> Sequence[Choices]:
    """Every encoder and decoder, and what it is given in turn; equal widths, and different ones."""
    return [
        {"encoder": encoder, "decoder": decoder, "written": written(index), "same_width": index % 3 == 2}
        for index, (encoder, decoder) in enumerate(pairs())
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    batch, heads = drawn.size(2, 5), drawn.heads()
    looks = encoders()[drawn.choice("encoder", [*encoders()])].looks
    assert looks is not None
    encoder = looks(drawn, *heads)
    shape = (batch, encoder.num_channels, encoder.image_size, encoder.image_size)
    inputs: Inputs = {"pixel_values": drawn.random().standard_normal(shape)}
    taken = (batch,)
    return drawn_case(drawn, name, "vision-encoder-decoder", encoder, heads, inputs, decoders=DECODERS, taken=taken)


FAMILY = composite_family(
    "vision-encoder-decoder",
    vit.FAMILY,
    encoder_class="ViTModel",
    width=9,
    config={"tie_word_embeddings": False},
    choices=_choices,
    draw=_draw,
)
