"""What the composites' families share: their tiny models, and the decoder of a drawn one with what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.families import gpt2
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
    from collections.abc import Callable, Sequence

    from tests.drawing import Drawn

DECODER = "GPT2LMHeadModel"
"""The class of the decoder of every tiny composite."""
WRITTEN = ("labels", "embeddings", "ids and labels", "ids")
"""What a drawn decoder is given."""


def halves() -> dict[str, Family]:
    """The families that can be a part of a composite of texts, or the decoder of any, by model type."""
    return {family.model_type: family for family in families().values() if family.half is not None}


def written(index: int) -> str:
    """One of `WRITTEN`, in turn."""
    return WRITTEN[index % len(WRITTEN)]


def paired(encoders: Sequence[str], decoders: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of an encoder and a decoder that contain each at least once; as few as possible."""
    count = max(len(encoders), len(decoders))
    return [(encoders[index % len(encoders)], decoders[index % len(decoders)]) for index in range(count)]


def composite_family(
    model_type: str,
    encoder: Family,
    *,
    encoder_class: str,
    width: int,
    config: Config,
    choices: Callable[[str], Sequence[Choices]],
    draw: Callable[[Drawn, str], Case],
    encoder_config: Config | None = None,
    **tested: Any,
) -> Family:
    """A family of composites whose tiny models have GPT-2 as their decoder.

    Args:
        model_type: of the composite; its class has the same name.
        encoder: the family of the tiny models' encoder.
        encoder_class: the class of it.
        width: of the tiny encoder; other than the decoder's, so that its states are projected.
        config: fields of the tiny checkpoint's config besides the parts.
        choices: see `Family`.
        draw: see `Family`.
        encoder_config: changes of the encoder's config in the tiny checkpoint.
        tested: more fields of `Family`.
    """
    stem = model_type.title().replace("-", "")
    name, decoder = f"{stem}Model", gpt2.FAMILY
    tiny: dict[str, Config] = {
        "encoder": encoder.tiny[encoder_class] | {"model_type": encoder.model_type, "hidden_size": width},
        "decoder": decoder.tiny[DECODER] | {"model_type": decoder.model_type},
    }

    def checkpoint(name: str) -> Config:
        return config | {
            "decoder": decoder.config(DECODER),
            "decoder_start_token_id": 58,
            "encoder": encoder.config(encoder_class) | (encoder_config or {}),
            "is_encoder_decoder": True,
            "model_type": model_type,
            "pad_token_id": 0,
        }

    def shapes(name: str) -> Shapes:
        parts = {"encoder": encoder.shapes(encoder_class), "decoder": decoder.shapes(DECODER)}
        tensors = {f"{part}.{path}": shape for part, of_part in parts.items() for path, shape in of_part.items()}
        fields = checkpoint(name)
        return tensors | affine("enc_to_dec_proj", fields["decoder"]["n_embd"], fields["encoder"]["hidden_size"])

    def inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
        """What the encoder reads, and two texts to write."""
        return {
            **encoder.inputs(encoder_class, config.encoder, random),
            "decoder_input_ids": random.integers(2, TINY["vocabulary"], (2, 4)),
            "decoder_attention_mask": np.array([[1] * 3 + [0], [1] * 4]),
        }

    def large(name: str) -> Config:
        """Parts of different widths and deviations."""
        return {
            "encoder": tiny["encoder"] | encoder.large(encoder_class),
            "decoder": tiny["decoder"] | decoder.large(DECODER) | {"n_embd": 72, "initializer_range": 0.03},
        }

    return Family(
        model_type=model_type,
        classes=(name,),
        encoder_decoder=True,
        checkpoints=(name,),
        config=checkpoint,
        shapes=shapes,
        configs={f"{stem}Config": name},
        choices=choices,
        draw=draw,
        tiny={name: {**tiny, "decoder_start_token_id": 4, "pad_token_id": 0}},
        inputs=inputs,
        labels=lambda name, random: text_labels(name, random, length=4),
        large=large,
        **tested,
    )


def drawn_case(
    drawn: Drawn,
    name: str,
    model_type: str,
    encoder: Any,
    heads: tuple[int, int],
    inputs: Inputs,
    *,
    decoders: Sequence[str],
    taken: Sequence[int],
    adapt: Callable[[str, int, bool], None] = lambda decoder, width, same_width: None,
) -> Case:
    """A composite of a drawn encoder and a decoder, and one call.

    Args:
        drawn: the draws.
        name: the class.
        model_type: of the composite.
        encoder: its config, as transformers has it.
        heads: its number of heads and width.
        inputs: what it reads.
        decoders: the model types that the decoder may have.
        taken: sizes of the inputs; the first is the number of rows.
        adapt: changes the encoder, given the decoder's model type and width, and whether the encoder has that width.
    """
    batch, count = taken[0], drawn.size(7, 12)
    side = drawn.part(*taken, count)
    same_width = drawn.choice("same_width", [True, False])
    if not same_width:
        side.taken |= {*heads, heads[1] // heads[0]}
        heads = side.heads()
    side.taken |= {*heads, heads[1] // heads[0]}
    kind = drawn.choice("decoder", decoders)
    half = halves()[kind].half
    assert half is not None
    adapt(kind, heads[1], same_width)
    decoder = half.draw(side, *heads, count, CROSSES)
    config: Config = drawn.config(
        model_type,
        encoder=encoder.to_dict(),
        decoder=decoder.to_dict(),
        pad_token_id=drawn.choice("pad", [0, decoder.vocab_size - 1]),
        decoder_start_token_id=drawn.choice("start", [1, 4]),
    )
    types = kind == "gpt2" and model_type == "encoder-decoder"
    given, hidden = _decoder_inputs(drawn, (batch, count), heads[1], decoder.vocab_size, types=types)
    return Case(name, config, {"use_cache": False, **inputs, **given}, hidden)


def _decoder_inputs(
    drawn: Drawn, shape: tuple[int, int], width: int, vocabulary: int, *, types: bool
) -> tuple[Inputs, np.ndarray | None]:
    """What a decoder is given, and where a query sees no key.

    Args:
        drawn: the draws.
        shape: the number of texts, and of tokens in each.
        width: of the decoder.
        vocabulary: its number of words.
        types: whether it may be given token types.
    """

    def labels() -> np.ndarray:
        values = drawn.ids(*shape, vocabulary).astype(np.int64)
        values[drawn.random().random(values.shape) < 0.3] = -100
        return values

    kind, inputs = drawn.choice("written", WRITTEN), Inputs()
    if kind == "labels":  # the decoder's ids and mask are made from them; its first token is never masked
        values = labels()
        values[:, 0] = 3
        return {"labels": values}, None
    if kind == "embeddings":
        inputs["decoder_inputs_embeds"] = drawn.random().standard_normal((*shape, width))
    else:
        inputs["decoder_input_ids"] = drawn.ids(*shape, vocabulary)
    mask = drawn.mask(*shape, PADDINGS, name="decoder_padding")
    hidden = unseen(mask, causal=True)
    inputs |= {} if mask is None else {"decoder_attention_mask": mask}
    if types:
        inputs |= drawn.ids_or_not("decoder_token_type_ids", *shape, vocabulary)
    if kind == "ids and labels":
        values = labels()
        values[0, -1] = 3
        inputs["labels"] = values if hidden is None else np.where(hidden, -100, values)
    return inputs, hidden
