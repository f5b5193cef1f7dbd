"""BART, whose encoder and decoder have other depths, heads and inner widths; and what MBart takes from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    CLASSIFIER,
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
    Inputs,
    Shapes,
    Sizes,
    affine,
    sequence_inputs,
    text_inputs,
    text_labels,
    unseen,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# Tiny checkpoints

# 6 heads of 6 read, 4 of 9 write; 23 positions
SIZES: Sizes = {
    "d_model": 36,
    "encoder_layers": 2,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 52,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 68,
    "vocab_size": 71,
    "max_position_embeddings": 21,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def published(model_type: str, sizes: Sizes, name: str, *, scale_embedding: bool) -> Config:
    """The config.json of a checkpoint."""
    fields: Config = {
        **sizes,
        "activation_dropout": 0.1,
        "activation_function": "gelu",
        "attention_dropout": 0.1,
        "classifier_dropout": 0.0,
        "decoder_layerdrop": 0.0,
        "dropout": 0.1,
        "encoder_layerdrop": 0.0,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "model_type": model_type,
        "num_hidden_layers": sizes["encoder_layers"],
        "scale_embedding": scale_embedding,
        "use_cache": True,
    }
    if name.endswith("ForCausalLM"):
        fields |= {"is_decoder": True, "is_encoder_decoder": False}
    return fields | CLASSIFIER if name.endswith("ForSequenceClassification") else fields


def shapes(sizes: Sizes, name: str, *, normed: bool) -> Shapes:
    """The words are stored once, whatever reads and writes them; `normed` stacks end with a norm."""
    width, vocabulary = sizes["d_model"], sizes["vocab_size"]
    prefix = "" if name.endswith("Model") else "model."
    decoder = _stack(f"{prefix}decoder", sizes, "decoder", normed=normed)
    if name.endswith("ForCausalLM"):
        return {"model.decoder.embed_tokens.weight": (vocabulary, width)} | decoder
    encoder = _stack(f"{prefix}encoder", sizes, "encoder", normed=normed)
    found: Shapes = {f"{prefix}shared.weight": (vocabulary, width)} | encoder | decoder
    if name.endswith("ForConditionalGeneration"):
        found["final_logits_bias"] = (1, vocabulary)
    if name.endswith("ForSequenceClassification"):
        found |= affine("classification_head.dense", width, width)
        found |= affine("classification_head.out_proj", len(LABELS), width)
    return found


def _stack(path: str, sizes: Sizes, side: str, *, normed: bool) -> Shapes:
    """The encoder or the decoder; two rows of the positions are no token's."""
    width, inner = sizes["d_model"], sizes[f"{side}_ffn_dim"]
    found: Shapes = {f"{path}.embed_positions.weight": (sizes["max_position_embeddings"] + 2, width)}
    found |= affine(f"{path}.layernorm_embedding", width)
    if normed:
        found |= affine(f"{path}.layer_norm", width)
    for index in range(sizes[f"{side}_layers"]):
        layer = f"{path}.layers.{index}"
        for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                found |= affine(f"{layer}.{attention}.{projection}", width, width)
            found |= affine(f"{layer}.{attention}_layer_norm", width)
        found |= affine(f"{layer}.fc1", inner, width) | affine(f"{layer}.fc2", width, inner)
        found |= affine(f"{layer}.final_layer_norm", width)
    return found


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "BartModel": [
        *({"written": written, "tied": True} for written in ("ids", "shifted", "embeddings")),
        {"written": "ids", "tied": False, "padding": "left", "decoder_padding": "left"},
    ],
    "BartForConditionalGeneration": [
        *({"written": written, "tied": True} for written in ("labels", "ids and labels")),
        {"written": "labels", "tied": False},
    ],
    "BartForSequenceClassification": [{"problem_type": problem} for problem in PROBLEMS],
    "BartForCausalLM": [{"crosses": True, "tied": True, "encoder_padding": "right"}, {"crosses": False, "tied": False}],
}

# two numbers of heads and a width that both divide, into heads of other widths
_HEADS = [
    (one, other, width)
    for width in (12, 18, 20, 24)
    for one in range(1, 8)
    for other in range(1, 8)
    if width % one == width % other == 0 and len({one, other, width, width // one, width // other}) == 5
]


def case(drawn: Drawn, name: str, model_type: str) -> Case:
    """A model of a class, and one call of it."""
    alone, classifies = name.endswith("ForCausalLM"), name.endswith("ForSequenceClassification")
    batch, length, source = drawn.size(2, 5), drawn.size(4, 9), drawn.size(4, 9)
    config = _drawn_config(drawn, name, model_type, max(length, source))
    crosses = not alone or drawn.choice("crosses", [True, False])
    if alone:
        mask = drawn.mask(batch, length, PADDINGS)
        hidden = unseen(mask, causal=True)
        inputs = drawn.text(config, batch, length, mask)
        inputs |= drawn.memory(batch, source, config.d_model) if crosses else {}
        return Case(name, config, inputs | drawn.words(batch, length, config.vocab_size, hidden), hidden)

    inputs = drawn.text(config, batch, source, drawn.mask(batch, source, PADDINGS[:-1]))
    if classifies:
        inputs |= {"input_ids": _ended(drawn, config, batch, source)}
        inputs.pop("inputs_embeds", None)
    written = ("ids", "embeddings", "shifted") if "input_ids" in inputs else ("ids", "embeddings")
    if name.endswith("ForConditionalGeneration"):
        written = (*written, "labels", "ids and labels")
    kind = drawn.choice("written", written)
    if kind == "shifted" and "input_ids" not in inputs:
        inputs["input_ids"] = drawn.ids(batch, source, config.vocab_size)
        del inputs["inputs_embeds"]
    count = source if classifies or kind == "shifted" else length
    if kind.startswith("ids"):
        inputs["decoder_input_ids"] = drawn.ids(batch, count, config.vocab_size)
    if kind == "embeddings":
        inputs["decoder_inputs_embeds"] = drawn.states(batch, count, config.d_model)
    # MBart's labels say what comes first, so that one of each row must be a word
    mask = drawn.mask(batch, count, PADDINGS[:-1] if kind == "labels" else PADDINGS, name="decoder_padding")
    hidden = unseen(mask, causal=True)
    inputs |= {} if mask is None else {"decoder_attention_mask": mask}
    if kind.endswith("labels"):
        inputs["labels"] = _labels(drawn, batch, count, config.vocab_size, hidden)
    if classifies and hidden is None:
        inputs["labels"] = drawn.targets(batch, config.num_labels, config.problem_type)
    pooled = None
    if classifies:
        pooled = source - 1 - np.argmax((inputs["input_ids"] == config.eos_token_id)[:, ::-1], axis=1)
    return Case(name, config, inputs, hidden, pooled)


def _drawn_config(drawn: Drawn, name: str, model_type: str, length: int) -> Any:
    free = [sizes for sizes in _HEADS if not drawn.taken & {*sizes, sizes[2] // sizes[0], sizes[2] // sizes[1]}]
    encoder_heads, decoder_heads, width = drawn.one_of(free)
    drawn.taken |= {encoder_heads, decoder_heads, width, width // encoder_heads, width // decoder_heads}
    vocabulary = drawn.size(20, 40)
    return drawn.config(
        model_type,
        vocab_size=vocabulary,
        max_position_embeddings=drawn.size(length, length + 12),
        d_model=width,
        encoder_layers=drawn.size(1, 3),
        decoder_layers=drawn.size(1, 3),
        encoder_attention_heads=encoder_heads,
        decoder_attention_heads=decoder_heads,
        encoder_ffn_dim=drawn.size(5, 40),
        decoder_ffn_dim=drawn.size(5, 40),
        activation_function=drawn.activation("activation_function"),
        scale_embedding=drawn.choice("scale_embedding", [True, False]),
        tie_word_embeddings=drawn.choice("tied", [True, False]),
        use_cache=False,
        bos_token_id=0,
        pad_token_id=drawn.choice("pad_token_id", [1, 0, vocabulary - 1]),
        eos_token_id=drawn.choice("eos_token_id", [2, 7]),
        decoder_start_token_id=drawn.choice("decoder_start_token_id", [2, 5]),
        **drawn.labelled(name),
    )


def _ended(drawn: Drawn, config: Any, batch: int, length: int) -> np.ndarray:
    """Texts with one end, or two, anywhere."""
    ids = drawn.ids(batch, length, config.vocab_size)
    ids[ids == config.eos_token_id] = 3
    order = np.argsort(drawn.random().random(ids.shape), axis=1)
    np.put_along_axis(ids, order[:, : drawn.choice("ends", [1, 2])], config.eos_token_id, axis=1)
    return ids


def _labels(drawn: Drawn, batch: int, length: int, size: int, hidden: np.ndarray | None) -> np.ndarray:
    """Words to write, of which each row has one that counts, unless it is not defined."""
    labels = drawn.ids(batch, length, size).astype(np.int64)
    labels[drawn.random().random(labels.shape) < 0.4] = -100
    labels[:, -1] = 3
    return labels if hidden is None else np.where(hidden, -100, labels)


def half(model_type: str) -> Half:
    """BART or MBart as the decoder of a composite."""

    def draw(drawn: Drawn, heads: int, width: int, length: int, options: Config) -> Any:
        return drawn.config(
            model_type,
            vocab_size=drawn.size(20, 40),
            d_model=width,
            encoder_layers=2,
            decoder_layers=drawn.size(1, 4),
            encoder_attention_heads=width,  # of the encoder that isn't there
            decoder_attention_heads=heads,
            decoder_ffn_dim=drawn.size(5, 40),
            max_position_embeddings=drawn.size(length, length + 12),
            scale_embedding=drawn.choice("scale_embedding", [True, False]),
            **options,
        )

    return Half(encodes=False, draw=draw)


# Tiny models

ENCODER: Sizes = {"layers": 1, "heads": 2, "inner": 19}
"""Sizes of the encoder where those of the decoder are TINY."""


def spell(sizes: Sizes, encoder: Sizes = ENCODER, **fields: Any) -> Config:
    found: Config = {
        "vocab_size": sizes["vocabulary"],
        "d_model": sizes["width"],
        "max_position_embeddings": sizes["positions"],
    }
    for side, own in (("encoder", encoder), ("decoder", sizes)):
        found |= {
            f"{side}_layers": own["layers"],
            f"{side}_attention_heads": own["heads"],
            f"{side}_ffn_dim": own["inner"],
        }
    return found | fields


TINY_BART = spell(
    TINY,
    dropout=0.15,
    attention_dropout=0.25,
    activation_dropout=0.2,
    classifier_dropout=0.3,
    num_labels=7,
    decoder_start_token_id=4,
)
LARGE_BART = spell(
    LARGE | {"layers": 1, "heads": 6, "inner": 144},
    {"layers": 2, "heads": 4, "inner": 160},
    init_std=0.05,
    pad_token_id=3,
    num_labels=130,
)

GENERATES: Config = {"pad_token_id": 0, "scale_embedding": False}


def inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    made = text_inputs if name.endswith("ForCausalLM") else sequence_inputs
    return made(name, config, random)


def labels(name: str, random: np.random.Generator) -> Inputs:
    return text_labels(name, random, length=6 if name.endswith("ForCausalLM") else 4)


FAMILY = Family(
    model_type="bart",
    classes=tuple(CHOICES),
    encoder_decoder=True,
    checkpoints=tuple(CHOICES),
    config=lambda name: published("bart", SIZES, name, scale_embedding=False),
    shapes=lambda name: shapes(SIZES, name, normed=False),
    configs={"BartConfig": "BartForSequenceClassification"},  # with six labels
    choices=CHOICES.__getitem__,
    draw=lambda drawn, name: case(drawn, name, "bart"),
    spell=spell,
    half=half("bart"),
    tiny=dict.fromkeys(CHOICES, TINY_BART),
    inputs=inputs,
    labels=labels,
    whole=("BartForConditionalGeneration",),
    decoders={"BartForConditionalGeneration": {}},
    trained={"BartForConditionalGeneration": {}},
    generates={"BartForConditionalGeneration": GENERATES, "BartForCausalLM": GENERATES},
    large=lambda name: LARGE_BART,
)
