"""BERT and, with other options, the families built like it: models and inputs to compare."""

from typing import Any, get_args

import numpy as np
import transformers

from diptych.core.config import Activation
from tests.families.drawing import EPSILONS, PADDINGS, PROBLEMS, Case, Drawn, unseen

DECODERS = ("LMHeadModel", "ForCausalLM", "GenerationDecoder")
"""What the names of classes end with that write texts."""
WORDS = (*DECODERS, "ForPreTraining", "ForMaskedLM")
"""What the names of classes end with that predict words."""

MADE: dict[str, list[dict[str, Any]]] = {
    "BertModel": [
        *({"padding": padding, "is_decoder": False} for padding in PADDINGS),
        *({"padding": padding, "is_decoder": True} for padding in ("left", "holes")),
        {"crosses": True},
    ],
    "BertForPreTraining": [{"tied": tied} for tied in (True, False)],
    "BertLMHeadModel": [
        *({"tied": tied, "crosses": False} for tied in (True, False)),
        *({"padding": padding, "crosses": True} for padding in ("left", "right")),
    ],
    "BertForMaskedLM": [{"tied": tied} for tied in (True, False)],
    "BertForSequenceClassification": [{"problem_type": problem} for problem in PROBLEMS],
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    return case(drawn, name, transformers.BertConfig)


def case(drawn: Drawn, name: str, config_class: Any, *, counts_pads: bool = True) -> Case:
    """A model of a class, and one call of it.

    Args:
        drawn: draws.
        name: of the class.
        config_class: of transformers.
        counts_pads: whether a pad takes a position as any token does; else the tokens are counted from its id on.
    """
    layers = drawn.size(1, 3)
    heads, width = drawn.heads()
    batch, length, memory = drawn.size(2, 5), drawn.size(4, 9), drawn.size(2, 10)
    vocabulary = drawn.size(15, 30)
    pad = drawn.choice("pad_token_id", [0, vocabulary - 1, None] if counts_pads else [1, 0, 6])
    positions = drawn.size(length + 1, 18) if counts_pads else drawn.size(length + pad + 1, length + pad + 8)
    types = 0 if name.startswith("BertGeneration") else drawn.size(1, 11)
    decodes = drawn.choice("is_decoder", [True, True, False] if name.endswith(DECODERS) else [False, False, True])
    may_cross = name.endswith((*DECODERS, "Model", "Encoder"))
    crosses = drawn.choice("crosses", [True, False] if may_cross and decodes else [False])
    keywords: dict[str, Any] = {}
    options: dict[str, Any] = {"type_vocab_size": types} if types else {}
    if name.endswith("Model") and not name.endswith(DECODERS):
        keywords["add_pooling_layer"] = drawn.choice("add_pooling_layer", [True, False])
    if name.endswith(WORDS):
        options["tie_word_embeddings"] = drawn.choice("tied", [True, False])
    if name.endswith("ForSequenceClassification"):
        options["problem_type"] = drawn.choice("problem_type", PROBLEMS)
        single = options["problem_type"] == "single_label_classification"  # which needs two labels or more
        options["num_labels"] = drawn.choice("num_labels", [drawn.size(2, 12), *([] if single else [1])])
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=drawn.size(5, 30),
        hidden_act=drawn.choice("hidden_act", get_args(Activation)),
        max_position_embeddings=positions,
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        pad_token_id=pad,
        is_decoder=decodes or crosses,
        add_cross_attention=crosses,
        **options,
    )
    mask = drawn.mask(batch, length, PADDINGS)
    hidden = unseen(mask, causal=config.is_decoder)
    inputs = drawn.text(config, batch, length, mask)
    inputs |= drawn.ids_or_not("token_type_ids", batch, length, types) if types else {}
    inputs |= drawn.ids_or_not("position_ids", batch, length, positions)
    if may_cross:
        inputs["use_cache"] = False
    if crosses and drawn.often():
        inputs |= drawn.memory(batch, memory, width)
    if name.endswith(DECODERS):
        inputs |= drawn.next_words(batch, length, vocabulary, hidden)
    elif name.endswith(WORDS):
        inputs |= drawn.words(batch, length, vocabulary, hidden)
    if name.endswith("ForPreTraining") and hidden is None and drawn.often():
        inputs["next_sentence_label"] = drawn.targets(batch, 2, "single_label_classification")
    if name.endswith("ForSequenceClassification") and hidden is None:
        inputs["labels"] = drawn.targets(batch, config.num_labels, config.problem_type)
    return Case(name, config, inputs, hidden, np.zeros(batch, int), keywords)
