"""Composites of a model of sound and one of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.families import gpt2, wav2vec2
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
    parts = ("encoder", wav2vec2.FAMILY.shapes("Wav2Vec2Model")), ("decoder", gpt2.FAMILY.shapes("GPT2LMHeadModel"))
    found = {f"{part}.{tensor}": shape for part, tensors in parts for tensor, shape in tensors.items()}
    return found | affine("enc_to_dec_proj", gpt2.SIZES["n_embd"], wav2vec2.SIZES["hidden_size"])


# Cases

WRITTEN = ("labels", "embeddings", "ids and labels")
"""What the decoder is given."""
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
            "written": WRITTEN[index % 3],
            "same_width": index % 2 == 1,
            "adapter at the end": "" if encoder == "hubert" else ADAPTERS[index % 3],
        }
        for index, (encoder, decoder) in enumerate(pairs())
    ]


def _draw(drawn: Drawn, name: str) -> Case:
    kind, writer = drawn.choice("encoder", encoders()), drawn.choice("decoder", DECODERS)
    hears, writes = families()[kind], halves()[writer].half
    assert writes is not None
    sound = drawn.part()
    sound.made = {**drawn.made, "adapter": "", "masked": False}  # an adapter is added here
    heard = hears.draw(sound, hears.classes[0])
    encoder, batch, count = heard.config, len(heard.inputs["input_values"]), drawn.size(7, 12)
    side = drawn.part(batch, count)
    heads, width = encoder.num_attention_heads, encoder.hidden_size
    same = drawn.choice("same_width", [True, False])
    adapter = "" if kind == "hubert" else drawn.choice("adapter at the end", ADAPTERS)
    if not same:
        side.taken |= {heads, width, width // heads}
        heads, width = side.heads()
    side.taken |= {heads, width, width // heads}
    if adapter and not (same and writer == "gpt2"):  # there, transformers fails
        strides = {"adapter_stride": drawn.high(1, 2), "num_adapter_layers": drawn.high(1, 2)}
        wide = width if adapter == "wide" else encoder.hidden_size
        # transformers counts the frames behind an adapter right for this kernel alone
        fields = {"add_adapter": True, "adapter_kernel_size": 3, "output_hidden_size": wide, **strides}
        for field, value in fields.items():
            setattr(encoder, field, value)
    decoder = writes.draw(side, heads, width, count, CROSSES)
    vocabulary = decoder.vocab_size
    config = drawn.config(
        "speech-encoder-decoder",
        encoder=encoder.to_dict(),
        decoder=decoder.to_dict(),
        pad_token_id=drawn.choice("pad", [0, vocabulary - 1]),
        decoder_start_token_id=drawn.choice("start", [1, 4]),
    )
    inputs: Inputs = {"use_cache": False, **heard.inputs}
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
