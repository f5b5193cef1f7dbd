"""Composites of a model of sound and one of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.composites import WRITTEN, halves, part_shapes, written_case
from tests.families import gpt2, wav2vec2
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

# A tiny checkpoint: Wav2Vec2 hears, GPT-2 writes, and their widths differ


def _config(name: str) -> Config:
    return {
        "decoder": gpt2.FAMILY.config("GPT2LMHeadModel"),
        "decoder_start_token_id": 58,
        # the Flax class starts with 1024 samples, whose frames must not outnumber the decoder's positions
        "encoder": wav2vec2.FAMILY.config("Wav2Vec2Model") | {"conv_stride": [8, 3, 3]},
        "is_encoder_decoder": True,
        "model_type": "speech-encoder-decoder",
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }


def _shapes(name: str) -> Shapes:
    return part_shapes(
        wav2vec2.FAMILY.shapes("Wav2Vec2Model"),
        gpt2.FAMILY.shapes("GPT2LMHeadModel"),
        (wav2vec2.SIZES["hidden_size"], gpt2.SIZES["n_embd"]),
    )


# Cases

DECODERS = ("bart", "gpt2", "mbart", "bert", "trocr", "roberta")
ADAPTERS = ("narrow", "", "wide")
"""One that keeps the width, none, and one whose width is the decoder's: transformers projects no other."""


def encoders() -> list[str]:
    """The families that can be the encoder, by model type."""
    return [family.model_type for family in families().values() if family.model_type in ("wav2vec2", "hubert", "wavlm")]


def pairs() -> list[tuple[str, str]]:
    """An encoder and a decoder each: all of them, in as few pairs as there are of the more numerous."""
    first, second = encoders(), [name for name in DECODERS if name in halves()]
    return [(first[index % len(first)], second[index % len(second)]) for index in range(max(len(first), len(second)))]


def _choices(name: str) -> Sequence[Choices]:
    """Every decoder with an encoder, an adapter and what it is given in turn; widths that are equal, and not."""
    return [
        {
            "encoder": encoder,
            "decoder": decoder,
            "written": WRITTEN[index % len(WRITTEN)],
            "same_width": index % 2 == 1,
            "adapter at the end": "" if encoder == "hubert" else ADAPTERS[index % 3],
        }
        for index, (encoder, decoder) in enumerate(pairs())
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    kind = drawn.choice("encoder", encoders())
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

    return written_case(
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


_TINY: dict[str, Config] = {
    "encoder": wav2vec2.tiny("Wav2Vec2Model") | {"model_type": "wav2vec2", "hidden_size": 18},
    "decoder": gpt2.FAMILY.tiny["GPT2LMHeadModel"] | {"model_type": "gpt2"},
}


def _inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Two recordings to hear and two texts to write."""
    return {
        **wav2vec2.inputs(name, config.encoder, random),
        "decoder_input_ids": random.integers(2, TINY["vocabulary"], (2, 4)),
        "decoder_attention_mask": np.array([[1] * 3 + [0], [1] * 4]),
    }


def _large(name: str) -> Config:
    """Parts of other widths, and of other deviations."""
    decoder = gpt2.FAMILY.large("GPT2LMHeadModel")
    return {
        "encoder": _TINY["encoder"] | wav2vec2.large("Wav2Vec2Model"),
        "decoder": _TINY["decoder"] | decoder | {"n_embd": 72, "initializer_range": 0.03},
    }


FAMILY = Family(
    model_type="speech-encoder-decoder",
    classes=("SpeechEncoderDecoderModel",),
    encoder_decoder=True,
    checkpoints=("SpeechEncoderDecoderModel",),
    config=_config,
    shapes=_shapes,
    configs={"SpeechEncoderDecoderConfig": "SpeechEncoderDecoderModel"},
    choices=_choices,
    draw=_draw,
    tiny={"SpeechEncoderDecoderModel": {**_TINY, "decoder_start_token_id": 4, "pad_token_id": 0}},
    inputs=_inputs,
    labels=lambda name, random: text_labels(name, random, length=4),
    large=_large,
)
