"""What the composites' families have in common: the decoder of a drawn model, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import CROSSES, PADDINGS, Case, Config, Family, Inputs, Shapes, affine, families, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.drawing import Drawn

WRITTEN = ("labels", "embeddings", "ids and labels", "ids")
"""What the decoder is given."""


def halves() -> dict[str, Family]:
    """The families that can be a part of a composite, by model type."""
    return {family.model_type: family for family in families().values() if family.half is not None}


def part_shapes(encoder: Shapes, decoder: Shapes, widths: tuple[int, int]) -> Shapes:
    """The tensors of a composite whose parts have the given tensors and widths."""
    parts = ("encoder", encoder), ("decoder", decoder)
    found = {f"{part}.{tensor}": shape for part, tensors in parts for tensor, shape in tensors.items()}
    return found | affine("enc_to_dec_proj", widths[1], widths[0])


def written_case(
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
    vocabulary = decoder.vocab_size
    config: Config = drawn.config(
        model_type,
        encoder=encoder.to_dict(),
        decoder=decoder.to_dict(),
        pad_token_id=drawn.choice("pad", [0, vocabulary - 1]),
        decoder_start_token_id=drawn.choice("start", [1, 4]),
    )

    def labels() -> np.ndarray:
        values = drawn.ids(batch, count, vocabulary).astype(np.int64)
        values[drawn.random().random(values.shape) < 0.3] = -100
        return values

    inputs = {"use_cache": False, **inputs}
    written = drawn.choice("written", WRITTEN)
    if written == "labels":  # of which the decoder's ids and mask are made; its first token is never masked
        values = labels()
        values[:, 0] = 3
        return Case(name, config, {**inputs, "labels": values})
    if written == "embeddings":
        inputs["decoder_inputs_embeds"] = drawn.random().standard_normal((batch, count, heads[1]))
    else:
        inputs["decoder_input_ids"] = drawn.ids(batch, count, vocabulary)
    mask = drawn.mask(batch, count, PADDINGS, name="decoder_padding")
    hidden = unseen(mask, causal=True)
    inputs |= {} if mask is None else {"decoder_attention_mask": mask}
    if kind == "gpt2" and model_type == "encoder-decoder":
        inputs |= drawn.ids_or_not("decoder_token_type_ids", batch, count, vocabulary)
    if written == "ids and labels":
        values = labels()
        values[0, -1] = 3
        inputs["labels"] = values if hidden is None else np.where(hidden, -100, values)
    return Case(name, config, inputs, hidden)
