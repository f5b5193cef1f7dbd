"""Composites of an encoder of sound and a decoder of texts; in tiny models, Wav2Vec2 and GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.composites import composite_family, drawn_case, paired, written
from tests.families import wav2vec2
from tests.family import Case, Choices, families

if TYPE_CHECKING:
    from tests.drawing import Drawn

ENCODERS = ("hubert", "wav2vec2", "wavlm")
DECODERS = ("bart", "gpt2", "mbart", "bert", "trocr", "roberta")
ADAPTERS = ("narrow", "", "wide")
"""One that keeps the width, none, and one whose width is the decoder's: transformers projects no other."""


def pairs() -> list[tuple[str, str]]:
    """An encoder and a decoder each, all of them."""
    return paired(ENCODERS, DECODERS)


def _choices(name: str) -> Sequence[Choices]:
    """Every encoder and decoder, an adapter and what the decoder is given in turn; equal widths, and different ones."""
    return [
        {
            "encoder": encoder,
            "decoder": decoder,
            "written": written(index),
            "same_width": index % 2 == 1,
            "adapter at the end": "" if encoder == "hubert" else ADAPTERS[index % 3],
        }
        for index, (encoder, decoder) in enumerate(pairs())
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    kind = drawn.choice("encoder", ENCODERS)
    hears, sound = families()[kind], drawn.part()
    sound.made = {**drawn.made, "adapter": "", "masked": False}  # an adapter is added here
    heard = hears.draw(sound, hears.classes[0])
    encoder = heard.config
    adapter = "" if kind == "hubert" else drawn.choice("adapter at the end", ADAPTERS)

    def adapt(decoder: str, width: int, same_width: bool) -> None:
        if not adapter or (same_width and decoder == "gpt2"):  # there, transformers fails
            return
        strides = {"adapter_stride": drawn.high(1, 2), "num_adapter_layers": drawn.high(1, 2)}
        wide = width if adapter == "wide" else encoder.hidden_size
        # transformers counts the frames after an adapter right for this kernel alone
        fields = {"add_adapter": True, "adapter_kernel_size": 3, "output_hidden_size": wide, **strides}
        for field, value in fields.items():
            setattr(encoder, field, value)

    return drawn_case(
        drawn,
        name,
        "speech-encoder-decoder",
        encoder,
        (encoder.num_attention_heads, encoder.hidden_size),
        heard.inputs,
        decoders=DECODERS,
        taken=(len(heard.inputs["input_values"]),),
        adapt=adapt,
    )


FAMILY = composite_family(
    "speech-encoder-decoder",
    wav2vec2.FAMILY,
    encoder_class="Wav2Vec2Model",
    width=18,
    config={"tie_word_embeddings": False},
    # the Flax class starts with 1024 samples, whose frames must not outnumber the decoder's positions
    encoder_config={"conv_stride": [8, 3, 3]},
    choices=_choices,
    draw=_draw,
)
