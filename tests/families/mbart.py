"""MBart: BART with norms before each layer's parts, and one after the last."""

from __future__ import annotations

from collections.abc import Sequence

from tests.families import bart
from tests.family import Choices, Family, Sizes

# 5 heads of 6 read, 10 of 3 write; 24 positions
SIZES: Sizes = {
    "d_model": 30,
    "encoder_layers": 3,
    "encoder_attention_heads": 5,
    "encoder_ffn_dim": 46,
    "decoder_layers": 2,
    "decoder_attention_heads": 10,
    "decoder_ffn_dim": 58,
    "vocab_size": 73,
    "max_position_embeddings": 22,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CHOICES: dict[str, Sequence[Choices]] = {
    "MBartModel": [
        {"written": "shifted", "tied": True},
        {"written": "ids", "tied": False, "padding": "left", "decoder_padding": "left"},
    ],
    "MBartForConditionalGeneration": [{"written": "labels", "tied": tied} for tied in (True, False)],
    "MBartForSequenceClassification": [{"written": written} for written in ("ids", "shifted")],
    "MBartForCausalLM": [{"crosses": True, "tied": False, "encoder_padding": "holes"}],
}
_TINY = bart.TINY_BART | {"scale_embedding": True}
_UNTIED = {"tie_word_embeddings": False}
GENERATES = {"pad_token_id": 0, "scale_embedding": True}

FAMILY = Family(
    model_type="mbart",
    classes=tuple(CHOICES),
    encoder_decoder=True,
    checkpoints=("MBartForConditionalGeneration", "MBartModel"),
    config=lambda name: bart.published("mbart", SIZES, name, scale_embedding=True),
    shapes=lambda name: bart.shapes(SIZES, name, normed=True),
    configs={"MBartConfig": "MBartModel"},
    choices=CHOICES.__getitem__,
    draw=lambda drawn, name: bart.case(drawn, name, "mbart"),
    spell=bart.spell,
    half=bart.half("mbart"),
    tiny={name: _TINY | ({} if name == "MBartForSequenceClassification" else _UNTIED) for name in CHOICES},
    inputs=bart.inputs,
    labels=bart.labels,
    whole=("MBartForSequenceClassification",),
    decoders={"MBartForCausalLM": {"tie_word_embeddings": True}},
    trained={"MBartForConditionalGeneration": {}},
    generates={"MBartForConditionalGeneration": GENERATES, "MBartForCausalLM": GENERATES},
    large=lambda name: bart.LARGE_BART,
)
