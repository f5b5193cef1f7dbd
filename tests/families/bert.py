"""BERT, and what the families that are built like it take from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    CLASSIFIER,
    CROSSES,
    EPSILONS,
    LABELS,
    LARGE,
    PADDINGS,
    PROBLEMS,
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

DECODERS = ("LMHeadModel", "ForCausalLM", "GenerationDecoder")
"""What the names of classes end with that write texts."""
WORDS = (*DECODERS, "ForPreTraining", "ForMaskedLM")
"""What the names of classes end with that predict words."""

# Tiny checkpoints

# 5 heads of 4
SIZES: Sizes = {
    "hidden_size": 20,
    "intermediate_size": 44,
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "vocab_size": 61,
    "max_position_embeddings": 19,
    "type_vocab_size": 7,
    "pad_token_id": 0,
}


def published(model_type: str, sizes: Sizes, name: str, *, layer_norm_eps: float = 1e-12) -> Config:
    """The config.json of a checkpoint."""
    fields: Config = {
        **sizes,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": layer_norm_eps,
        "model_type": model_type,
        "position_embedding_type": "absolute",
        "use_cache": True,
    }
    if "type_vocab_size" in sizes:
        fields["classifier_dropout"] = None
    if name.endswith(DECODERS):
        fields |= CROSSES
    return fields | CLASSIFIER if name.endswith("ForSequenceClassification") else fields


def layers(prefix: str, sizes: Sizes, *, crosses: bool) -> Shapes:
    """The embeddings and the encoder."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    embeddings = f"{prefix}embeddings"
    found: Shapes = {
        f"{embeddings}.word_embeddings.weight": (sizes["vocab_size"], width),
        f"{embeddings}.position_embeddings.weight": (sizes["max_position_embeddings"], width),
        **affine(f"{embeddings}.LayerNorm", width),
    }
    if "type_vocab_size" in sizes:
        found[f"{embeddings}.token_type_embeddings.weight"] = (sizes["type_vocab_size"], width)
    for index in range(sizes["num_hidden_layers"]):
        layer = f"{prefix}encoder.layer.{index}"
        for attention in ("attention", "crossattention") if crosses else ("attention",):
            for projection in ("self.query", "self.key", "self.value", "output.dense"):
                found |= affine(f"{layer}.{attention}.{projection}", width, width)
            found |= affine(f"{layer}.{attention}.output.LayerNorm", width)
        found |= affine(f"{layer}.intermediate.dense", inner, width) | affine(f"{layer}.output.dense", width, inner)
        found |= affine(f"{layer}.output.LayerNorm", width)
    return found


def _shapes(name: str) -> Shapes:
    """The output layer is the word embeddings and is not stored again."""
    width = SIZES["hidden_size"]
    prefix = "" if name == "BertModel" else "bert."
    found = layers(prefix, SIZES, crosses=name.endswith(DECODERS))
    if name in ("BertModel", "BertForPreTraining", "BertForSequenceClassification"):
        found |= affine(f"{prefix}pooler.dense", width, width)
    if name == "BertForSequenceClassification":
        found |= affine("classifier", len(LABELS), width)
    if name == "BertForPreTraining":
        found |= affine("cls.seq_relationship", 2, width)
    if name.endswith(WORDS):
        found["cls.predictions.bias"] = (SIZES["vocab_size"],)
        found |= affine("cls.predictions.transform.dense", width, width)
        found |= affine("cls.predictions.transform.LayerNorm", width)
    return found


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "BertModel": [
        *({"padding": padding, "is_decoder": False} for padding in PADDINGS),
        *({"padding": padding, "is_decoder": True} for padding in ("left", "holes")),
        {"crosses": True, "encoder_padding": "left"},
    ],
    "BertForPreTraining": [{"tied": tied} for tied in (True, False)],
    "BertLMHeadModel": [
        *({"tied": tied, "crosses": False} for tied in (True, False)),
        *({"padding": padding, "crosses": True, "encoder_padding": "right"} for padding in ("left", "right")),
    ],
    "BertForMaskedLM": [{"tied": tied} for tied in (True, False)],
    "BertForSequenceClassification": [{"problem_type": problem} for problem in PROBLEMS],
}


def case(drawn: Drawn, name: str, model_type: str, *, counts_pads: bool = True) -> Case:
    """A model of a class, and one call of it.

    Args:
        drawn: draws.
        name: of the class.
        model_type: of its family.
        counts_pads: whether a pad takes a position as any token does; else the tokens are counted from its id on.
    """
    depth = drawn.size(1, 3)
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
    options |= drawn.labelled(name)
    config = drawn.config(
        model_type,
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=drawn.size(5, 30),
        hidden_act=drawn.activation("hidden_act"),
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


def half(model_type: str, *, types: bool = True) -> Half:
    """A family that is built like BERT as a part of composites."""

    def draw(drawn: Drawn, heads: int, width: int, length: int, options: Config) -> Any:
        pad = drawn.choice("pad_token_id", [0, 1])
        return drawn.config(
            model_type,
            vocab_size=drawn.size(20, 40),
            hidden_size=width,
            num_hidden_layers=drawn.size(1, 4),
            num_attention_heads=heads,
            intermediate_size=drawn.size(5, 40),
            max_position_embeddings=drawn.size(length + pad + 1, length + 12),
            layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
            pad_token_id=pad,
            **({"type_vocab_size": drawn.size(1, 12)} if types else {}),
            **options,
        )

    return Half(encodes=True, draw=draw)


# Tiny models


def spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "vocab_size": sizes["vocabulary"],
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["inner"],
        "max_position_embeddings": sizes["positions"],
        **fields,
    }


RATES: Config = {"hidden_dropout_prob": 0.15, "attention_probs_dropout_prob": 0.25}
HEADS: Config = {"type_vocab_size": 5, "classifier_dropout": 0.3, "num_labels": 7}
_TINY = spell(TINY, **RATES, **HEADS)
DEVIATION: Config = {"initializer_range": 0.05, "pad_token_id": 3}

FAMILY = Family(
    model_type="bert",
    classes=tuple(CHOICES),
    checkpoints=tuple(CHOICES),
    config=lambda name: published("bert", SIZES, name),
    shapes=_shapes,
    configs={"BertConfig": "BertForSequenceClassification"},
    choices=CHOICES.__getitem__,
    draw=lambda drawn, name: case(drawn, name, "bert"),
    spell=spell,
    half=half("bert"),
    tiny={name: _TINY | (CROSSES if name == "BertLMHeadModel" else {}) for name in CHOICES},
    inputs=text_inputs,
    labels=text_labels,
    whole=("BertForMaskedLM", "BertForSequenceClassification"),
    rates={"BertForMaskedLM": 1e-2},
    decoders={"BertModel": {"is_decoder": True}, "BertLMHeadModel": {}},
    trained={"BertLMHeadModel": {"add_cross_attention": False}, "BertForMaskedLM": {}},
    generates={"BertLMHeadModel": {"is_decoder": True, "pad_token_id": 0, "type_vocab_size": 9}},
    large=lambda name: spell(LARGE, **DEVIATION, type_vocab_size=110, num_labels=130),
)
