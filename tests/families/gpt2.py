"""GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    CROSSES,
    EPSILONS,
    LARGE,
    PADDINGS,
    TINY,
    Case,
    Choices,
    Config,
    Family,
    Half,
    Shapes,
    Sizes,
    affine,
    text_inputs,
    text_labels,
    unseen,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# Tiny checkpoints

# 4 heads of 6
SIZES: Sizes = {
    "n_embd": 24,
    "n_inner": 52,
    "n_head": 4,
    "n_layer": 2,
    "vocab_size": 59,
    "n_positions": 17,
    "bos_token_id": 58,
    "eos_token_id": 58,
}


def _config(name: str) -> Config:
    fields: Config = {
        **SIZES,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": 17,
        "resid_pdrop": 0.1,
    }
    return fields | CROSSES if name == "GPT2LMHeadModel" else fields


def _shapes(name: str) -> Shapes:
    """The output layer is the word embeddings and is not stored again."""
    crosses = name == "GPT2LMHeadModel"
    prefix = "transformer." if crosses else ""
    width, inner = SIZES["n_embd"], SIZES["n_inner"]
    found: Shapes = {
        f"{prefix}wte.weight": (SIZES["vocab_size"], width),
        f"{prefix}wpe.weight": (SIZES["n_positions"], width),
        **affine(f"{prefix}ln_f", width),
    }
    for index in range(SIZES["n_layer"]):
        layer = f"{prefix}h.{index}"
        found |= affine(f"{layer}.ln_1", width) | affine(f"{layer}.ln_2", width)
        found |= _linear_in_out(f"{layer}.attn.c_attn", 3 * width, width) | _linear_in_out(
            f"{layer}.attn.c_proj", width, width
        )
        found |= _linear_in_out(f"{layer}.mlp.c_fc", inner, width) | _linear_in_out(f"{layer}.mlp.c_proj", width, inner)
        if crosses:
            found |= affine(f"{layer}.ln_cross_attn", width)
            found |= _linear_in_out(f"{layer}.crossattention.c_attn", 2 * width, width)
            for projection in ("q_attn", "c_proj"):
                found |= _linear_in_out(f"{layer}.crossattention.{projection}", width, width)
    return found


def _linear_in_out(path: str, out: int, width: int) -> Shapes:
    """GPT-2's linear layer, published the other way round."""
    return {f"{path}.weight": (width, out), f"{path}.bias": (out,)}


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "GPT2Model": [{"padding": padding} for padding in PADDINGS],
    "GPT2LMHeadModel": [
        *({"tied": tied} for tied in (True, False)),
        *({"crosses": crosses, "encoder_padding": "right"} for crosses in (True, False)),
    ],
}


def _draw(drawn: Drawn, name: str) -> Case:
    batch, length, memory = drawn.size(2, 5), drawn.size(4, 10), drawn.size(2, 9)
    heads, width = drawn.heads()
    vocabulary, positions = drawn.size(20, 40), drawn.size(length + 1, 18)
    crosses = drawn.choice("crosses", [True, False])
    config = drawn.config(
        "gpt2",
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=width,
        n_layer=drawn.size(1, 4),
        n_head=heads,
        n_inner=drawn.choice("n_inner", [drawn.size(5, 30), None]),
        activation_function=drawn.activation("activation_function"),
        layer_norm_epsilon=drawn.choice("layer_norm_epsilon", EPSILONS),
        scale_attn_weights=drawn.choice("scale_attn_weights", [True, False]),
        scale_attn_by_inverse_layer_idx=drawn.choice("scale_attn_by_inverse_layer_idx", [True, False]),
        reorder_and_upcast_attn=drawn.choice("reorder_and_upcast_attn", [True, False]),  # nothing in float64
        add_cross_attention=crosses,
        is_decoder=crosses,
        tie_word_embeddings=drawn.choice("tied", [True, False]) if name == "GPT2LMHeadModel" else True,
        bos_token_id=0,
        eos_token_id=0,
    )
    mask = drawn.mask(batch, length, PADDINGS)
    hidden = unseen(mask, causal=True)
    inputs = {"use_cache": False} | drawn.text(config, batch, length, mask)
    inputs |= drawn.ids_or_not("token_type_ids", batch, length, vocabulary)
    inputs |= drawn.ids_or_not("position_ids", batch, length, positions)
    if "position_ids" in inputs:
        # without a mask, 5.23 takes a jump in the positions for the border between two texts
        inputs.setdefault("attention_mask", np.ones((batch, length), np.int64))
    if crosses and drawn.often():
        inputs |= drawn.memory(batch, memory, width)
    if name == "GPT2LMHeadModel":
        inputs |= drawn.next_words(batch, length, vocabulary, hidden)
    return Case(name, config, inputs, hidden)


def _half(drawn: Drawn, heads: int, width: int, length: int, options: Config) -> Any:
    return drawn.config(
        "gpt2",
        vocab_size=drawn.size(20, 40),
        n_embd=width,
        n_layer=drawn.size(1, 4),
        n_head=heads,
        n_inner=drawn.size(5, 40),
        n_positions=drawn.size(length, length + 12),
        scale_attn_by_inverse_layer_idx=drawn.choice("scale_attn_by_inverse_layer_idx", [True, False]),
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )


# Tiny models


def spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "vocab_size": sizes["vocabulary"],
        "n_embd": sizes["width"],
        "n_layer": sizes["layers"],
        "n_head": sizes["heads"],
        "n_inner": sizes["inner"],
        "n_positions": sizes["positions"],
        **fields,
    }


_TINY = spell(
    TINY,
    resid_pdrop=0.15,
    attn_pdrop=0.25,
    embd_pdrop=0.2,
    scale_attn_by_inverse_layer_idx=True,
    bos_token_id=22,
    eos_token_id=22,
)

FAMILY = Family(
    model_type="gpt2",
    classes=tuple(CHOICES),
    checkpoints=tuple(CHOICES),
    config=_config,
    shapes=_shapes,
    configs={"GPT2Config": "GPT2LMHeadModel"},  # with cross-attention
    choices=CHOICES.__getitem__,
    draw=_draw,
    spell=spell,
    half=Half(encodes=False, draw=_half),
    tiny={"GPT2Model": _TINY, "GPT2LMHeadModel": _TINY | CROSSES},
    inputs=text_inputs,
    labels=text_labels,
    whole=("GPT2LMHeadModel",),
    decoders={"GPT2Model": {}, "GPT2LMHeadModel": {"is_decoder": False}},
    trained={"GPT2LMHeadModel": {"is_decoder": False, "add_cross_attention": False}},
    generates={"GPT2LMHeadModel": {"is_decoder": True, "bos_token_id": None, "eos_token_id": None}},
    large=lambda name: spell(LARGE | {"layers": 3}, initializer_range=0.05),
)
