"""GPT-2: models and inputs to compare."""

from typing import Any, get_args

import numpy as np
import transformers

from diptych.core.config import Activation
from tests.families.drawing import EPSILONS, PADDINGS, Case, Drawn, unseen

MADE: dict[str, list[dict[str, Any]]] = {
    "GPT2Model": [{"padding": padding} for padding in PADDINGS],
    "GPT2LMHeadModel": [
        *({"tied": tied} for tied in (True, False)),
        *({"crosses": crosses} for crosses in (True, False)),
    ],
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    batch, length, memory = drawn.size(2, 5), drawn.size(4, 10), drawn.size(2, 9)
    heads, width = drawn.heads()
    vocabulary, positions = drawn.size(20, 40), drawn.size(length + 1, 18)
    crosses = drawn.choice("crosses", [True, False])
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=width,
        n_layer=drawn.size(1, 4),
        n_head=heads,
        n_inner=drawn.choice("n_inner", [drawn.size(5, 30), None]),
        activation_function=drawn.choice("activation_function", get_args(Activation)),
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
