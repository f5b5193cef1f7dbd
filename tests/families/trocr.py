"""TrOCR's decoder: BART's, with learned or sinusoidal positions, and an encoder of another width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.families import bart
from tests.family import (
    CROSSES,
    LARGE,
    PADDINGS,
    TINY,
    Case,
    Choices,
    Config,
    Family,
    Half,
    Inputs,
    Shapes,
    Sizes,
    affine,
    text_inputs,
    text_labels,
    unseen,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# A tiny checkpoint with learned positions, which is what transformers 5.23 can read

# 5 heads of 6, 23 positions
SIZES: Sizes = {
    "d_model": 30,
    "cross_attention_hidden_size": 44,
    "decoder_layers": 2,
    "decoder_attention_heads": 5,
    "decoder_ffn_dim": 52,
    "vocab_size": 71,
    "max_position_embeddings": 21,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def _config(name: str) -> Config:
    return {
        **SIZES,
        **CROSSES,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
        "decoder_layerdrop": 0.0,
        "dropout": 0.1,
        "init_std": 0.02,
        "layernorm_embedding": True,
        "model_type": "trocr",
        "scale_embedding": True,
        "tie_word_embeddings": False,
        "use_cache": False,
        "use_learned_position_embeddings": True,
    }


def _shapes(name: str) -> Shapes:
    """Two rows of the positions are no token's; keys and values of cross-attention take the encoder's width."""
    width, inner, source = SIZES["d_model"], SIZES["decoder_ffn_dim"], SIZES["cross_attention_hidden_size"]
    words = (SIZES["vocab_size"], width)
    found: Shapes = {"output_projection.weight": words, "model.decoder.embed_tokens.weight": words}
    found["model.decoder.embed_positions.weight"] = (SIZES["max_position_embeddings"] + 2, width)
    found |= affine("model.decoder.layernorm_embedding", width)
    for index in range(SIZES["decoder_layers"]):
        layer = f"model.decoder.layers.{index}"
        for attention, seen in (("self_attn", width), ("encoder_attn", source)):
            for projection, columns in (("q_proj", width), ("k_proj", seen), ("v_proj", seen), ("out_proj", width)):
                found |= affine(f"{layer}.{attention}.{projection}", width, columns)
            found |= affine(f"{layer}.{attention}_layer_norm", width)
        found |= affine(f"{layer}.fc1", inner, width) | affine(f"{layer}.fc2", width, inner)
        found |= affine(f"{layer}.final_layer_norm", width)
    return found


# Cases

CHOICES: list[Choices] = [
    {"learned": False, "layernorm_embedding": False, "tied": False, "crosses": True, "narrow": True, "text": "ids"},
    {"learned": False, "layernorm_embedding": True, "tied": True, "crosses": False, "padding": "left"},
    {"learned": True, "layernorm_embedding": True, "tied": True, "crosses": True, "narrow": False},
]


def _draw(drawn: Drawn, name: str) -> Case:
    batch, length, source = drawn.size(2, 5), drawn.size(4, 9), drawn.size(4, 9)
    heads, width = drawn.heads()
    vocabulary = drawn.size(20, 40)
    narrow = drawn.choice("narrow", [True, False])
    seen = drawn.size(5, 30) if narrow else None
    learned = drawn.choice("learned", [True, False])
    config = drawn.config(
        "trocr",
        vocab_size=vocabulary,
        max_position_embeddings=drawn.size(length, length + 12),
        d_model=width,
        cross_attention_hidden_size=seen,
        decoder_layers=drawn.size(1, 3),
        decoder_attention_heads=heads,
        decoder_ffn_dim=drawn.size(5, 40),
        activation_function=drawn.activation("activation_function"),
        use_learned_position_embeddings=learned,
        layernorm_embedding=drawn.choice("layernorm_embedding", [True, False]),
        scale_embedding=drawn.choice("scale_embedding", [True, False]),
        tie_word_embeddings=drawn.choice("tied", [True, False]),
        use_cache=False,
        bos_token_id=0,
        pad_token_id=drawn.choice("pad_token_id", [1, 0, vocabulary - 1]),
        eos_token_id=2,
    )
    mask = drawn.mask(batch, length, PADDINGS)
    hidden = unseen(mask, causal=True)
    inputs = drawn.text(config, batch, length, mask)
    if not learned and "inputs_embeds" in inputs:  # with which transformers crashes
        del inputs["inputs_embeds"]
        inputs["input_ids"] = drawn.ids(batch, length, vocabulary)
    if drawn.choice("crosses", [True, False]):
        inputs |= drawn.memory(batch, source, seen or width)
    return Case(name, config, inputs | drawn.words(batch, length, vocabulary, hidden), hidden)


def _half(drawn: Drawn, heads: int, width: int, length: int, options: Config) -> Any:
    return drawn.config(
        "trocr",
        vocab_size=drawn.size(20, 40),
        d_model=width,
        decoder_layers=drawn.size(1, 4),
        decoder_attention_heads=heads,
        decoder_ffn_dim=drawn.size(5, 40),
        max_position_embeddings=drawn.size(length, length + 12),
        layernorm_embedding=drawn.choice("layernorm_embedding", [True, False]),
        scale_embedding=drawn.choice("scale_embedding", [True, False]),
        **options,
    )


# Tiny models


def spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "vocab_size": sizes["vocabulary"],
        "d_model": sizes["width"],
        "decoder_layers": sizes["layers"],
        "decoder_attention_heads": sizes["heads"],
        "decoder_ffn_dim": sizes["inner"],
        "max_position_embeddings": sizes["positions"],
        **fields,
    }


_TINY = spell(
    TINY,
    cross_attention_hidden_size=10,
    dropout=0.15,
    attention_dropout=0.25,
    activation_dropout=0.2,
    use_learned_position_embeddings=False,
    scale_embedding=True,
)


def _inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    inputs = text_inputs(name, config, random)
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][..., : config.cross_attention_width]
    return inputs


FAMILY = Family(
    model_type="trocr",
    classes=("TrOCRForCausalLM",),
    checkpoints=("TrOCRForCausalLM",),
    config=_config,
    shapes=_shapes,
    configs={"TrOCRConfig": "TrOCRForCausalLM"},
    in_flax=False,
    choices=lambda name: CHOICES,
    draw=_draw,
    spell=spell,
    half=Half(encodes=False, draw=_half),
    tiny={"TrOCRForCausalLM": _TINY},
    inputs=_inputs,
    labels=text_labels,
    decoders={"TrOCRForCausalLM": {"cross_attention_hidden_size": None}},
    generates={"TrOCRForCausalLM": bart.GENERATES | {"pad_token_id": 7, "use_learned_position_embeddings": False}},
    large=lambda name: spell(LARGE | {"layers": 1, "heads": 6, "inner": 144}, init_std=0.05, pad_token_id=3),
)
