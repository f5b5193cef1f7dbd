"""GPT-2: models and inputs to compare."""

from typing import Any, get_args

import numpy as np
import transformers

from diptych.core.config import Activation
from tests.parity.cases import EPSILONS, PADDINGS, Case, Drawn, Inputs, _unseen

CLASSES = ("GPT2Model", "GPT2LMHeadModel")
# Of every case that has a name of its own, which a test asks for.
MADE: dict[str, list[dict[str, Any]]] = {
    "GPT2Model": [{"padding": padding} for padding in PADDINGS],
    "GPT2LMHeadModel": [
        *({"tied": tied} for tied in (True, False)),
        *({"crosses": crosses} for crosses in (True, False)),
    ],
}


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
    unseen = _unseen(mask, causal=True)
    inputs: Inputs = {"use_cache": False} | ({} if mask is None else {"attention_mask": mask})
    if drawn.often():
        inputs["input_ids"] = drawn.ids(batch, length, vocabulary)
    else:
        inputs["inputs_embeds"] = drawn.random().standard_normal((batch, length, width))
    inputs |= drawn.ids_or_not("token_type_ids", batch, length, vocabulary)
    inputs |= drawn.ids_or_not("position_ids", batch, length, positions)
    if "position_ids" in inputs:
        # without a mask, 5.23 takes a jump in the positions for the border between two texts
        inputs.setdefault("attention_mask", np.ones((batch, length), np.int64))
    if crosses and drawn.often():
        inputs["encoder_hidden_states"] = drawn.random().standard_normal((batch, memory, width))
        seen = drawn.mask(batch, memory, PADDINGS[:-1])
        inputs |= {} if seen is None else {"encoder_attention_mask": seen}
    if name == "GPT2LMHeadModel" and drawn.often():
        labels = drawn.ids(batch, length, vocabulary).astype(np.int64)
        labels[drawn.random().random(labels.shape) < 0.5] = -100
        labels[0, -1] = 3
        if unseen is not None:
            labels[:, 1:][unseen[:, :-1]] = -100  # which a token is to predict that sees nothing
        if np.any(labels[:, 1:] != -100):  # or the loss would be NaN
            inputs["labels"] = labels
    return Case(name, config, inputs, unseen)
