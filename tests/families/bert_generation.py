"""BertGeneration."""

from __future__ import annotations

from tests.families import bert
from tests.family import CROSSES, LARGE, TINY, Family, Shapes, Sizes, text_inputs, text_labels

# 6 heads of 3
SIZES: Sizes = {
    "hidden_size": 18,
    "intermediate_size": 42,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "vocab_size": 53,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
CHOICES = {
    "BertGenerationEncoder": [
        *({"padding": padding, "is_decoder": False} for padding in ("right", "holes")),
        {"padding": "left", "is_decoder": True},
        {"crosses": True, "encoder_padding": "holes"},
    ],
    "BertGenerationDecoder": [
        *({"tied": tied, "crosses": True, "encoder_padding": "right"} for tied in (True, False)),
        *({"padding": padding, "is_decoder": True} for padding in ("none", "left")),
    ],
}


def _shapes(name: str) -> Shapes:
    if name == "BertGenerationEncoder":
        return bert.layers("", SIZES, crosses=False)
    return bert.layers("bert.", SIZES, crosses=True) | {"lm_head.bias": (SIZES["vocab_size"],)}


_TINY = bert.spell(TINY, **bert.RATES)

FAMILY = Family(
    model_type="bert-generation",
    classes=tuple(CHOICES),
    checkpoints=tuple(CHOICES),
    config=lambda name: bert.published("bert-generation", SIZES, name),
    shapes=_shapes,
    configs={"BertGenerationConfig": "BertGenerationEncoder"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=lambda drawn, name: bert.case(drawn, name, "bert-generation"),
    spell=bert.spell,
    half=bert.half("bert-generation", types=False),
    tiny={
        "BertGenerationEncoder": _TINY,
        "BertGenerationDecoder": _TINY | CROSSES | {"tie_word_embeddings": False},
    },
    inputs=text_inputs,
    labels=text_labels,
    decoders={"BertGenerationDecoder": {"tie_word_embeddings": True}},
    trained={"BertGenerationDecoder": {"add_cross_attention": False}},
    generates={"BertGenerationDecoder": {"is_decoder": True, "pad_token_id": 0}},
    large=lambda name: bert.spell(LARGE, **bert.DEVIATION),
)
