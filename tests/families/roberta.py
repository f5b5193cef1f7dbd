"""RoBERTa, and what the families that are RoBERTa under other names take from here."""

from __future__ import annotations

from collections.abc import Sequence

from tests.families import bert
from tests.family import (
    CROSSES,
    LABELS,
    LARGE,
    PROBLEMS,
    TINY,
    Choices,
    Family,
    Shapes,
    Sizes,
    affine,
    text_inputs,
    text_labels,
)

# 7 heads of 4; 21 positions for tokens
SIZES: Sizes = {
    "hidden_size": 28,
    "intermediate_size": 60,
    "num_attention_heads": 7,
    "num_hidden_layers": 2,
    "vocab_size": 57,
    "max_position_embeddings": 23,
    "type_vocab_size": 3,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
HEADS = ("Model", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification")
"""What the names of the classes end with."""
CHOICES: dict[str, Sequence[Choices]] = {
    "RobertaModel": [
        *({"padding": padding, "is_decoder": False} for padding in ("right", "left", "holes")),
        *({"padding": padding, "is_decoder": True} for padding in ("left", "holes")),
        *({"pad_token_id": pad} for pad in (0, 6)),
        {"crosses": True, "encoder_padding": "holes"},
    ],
    "RobertaForCausalLM": [
        *({"tied": tied, "crosses": False} for tied in (True, False)),
        *({"padding": padding, "crosses": True, "encoder_padding": "left"} for padding in ("left", "right")),
    ],
    "RobertaForMaskedLM": [{"tied": tied} for tied in (True, False)],
    "RobertaForSequenceClassification": [{"problem_type": problem} for problem in PROBLEMS],
}


def shapes(sizes: Sizes, name: str) -> Shapes:
    """The output layer is the word embeddings and is not stored again."""
    width = sizes["hidden_size"]
    prefix = "" if name.endswith("Model") else "roberta."
    found = bert.layers(prefix, sizes, crosses=name.endswith("ForCausalLM"))
    if name.endswith("Model"):
        found |= affine("pooler.dense", width, width)
    elif name.endswith("ForSequenceClassification"):
        found |= affine("classifier.dense", width, width) | affine("classifier.out_proj", len(LABELS), width)
    else:
        found["lm_head.bias"] = (sizes["vocab_size"],)
        found |= affine("lm_head.dense", width, width) | affine("lm_head.layer_norm", width)
    return found


# nine positions are left for tokens
_TINY = bert.spell(TINY | {"positions": 11}, **bert.RATES, **bert.HEADS)

FAMILY = Family(
    model_type="roberta",
    classes=tuple(CHOICES),
    checkpoints=tuple(CHOICES),
    config=lambda name: bert.published("roberta", SIZES, name, layer_norm_eps=1e-5),
    shapes=lambda name: shapes(SIZES, name),
    configs={"RobertaConfig": "RobertaForSequenceClassification"},
    choices=CHOICES.__getitem__,
    draw=lambda drawn, name: bert.case(drawn, name, "roberta", counts_pads=False),
    spell=bert.spell,
    half=bert.half("roberta"),
    tiny={
        "RobertaModel": _TINY,
        "RobertaForCausalLM": _TINY | CROSSES,
        "RobertaForMaskedLM": _TINY | {"tie_word_embeddings": False},
        "RobertaForSequenceClassification": _TINY,
    },
    inputs=text_inputs,
    labels=text_labels,
    whole=("RobertaForCausalLM",),
    decoders={"RobertaModel": {"is_decoder": True}, "RobertaForCausalLM": {}},
    trained={"RobertaForMaskedLM": {"tie_word_embeddings": True}},
    generates={"RobertaForCausalLM": {"is_decoder": True, "pad_token_id": 1, "type_vocab_size": 9}},
    large=lambda name: bert.spell(LARGE, **bert.DEVIATION, type_vocab_size=110, num_labels=130),
)


def twin(start: str, model_type: str, sizes: Sizes, *, in_flax: bool) -> Family:
    """A family whose classes are RoBERTa's under names that start otherwise; what may differ is where they lead to."""
    choices: dict[str, Sequence[Choices]] = {
        f"{start}Model": [{}],
        f"{start}ForCausalLM": [{"tied": True, "crosses": True, "encoder_padding": "right"}],
        f"{start}ForMaskedLM": [{"tied": False}],
        f"{start}ForSequenceClassification": [{}],
    }
    return Family(
        model_type=model_type,
        classes=tuple(choices),
        twin=True,
        checkpoints=(f"{start}Model",),
        config=lambda name: bert.published(model_type, sizes, name, layer_norm_eps=1e-5),
        shapes=lambda name: shapes(sizes, name),
        configs={f"{start}Config": f"{start}Model"},
        in_flax=in_flax,
        choices=choices.__getitem__,
        draw=lambda drawn, name: bert.case(drawn, name, model_type, counts_pads=False),
        spell=bert.spell,
        half=bert.half(model_type),
        tiny=dict.fromkeys(choices, _TINY),
        inputs=text_inputs,
        labels=text_labels,
        large=FAMILY.large,
    )
