"""BART and MBart: models and inputs to compare."""

from typing import Any, get_args

import numpy as np
import transformers
from hypothesis import reject
from hypothesis import strategies as st

from diptych.core.config import Activation
from tests.families.drawing import PADDINGS, PROBLEMS, Case, Drawn, unseen

MADE: dict[str, list[dict[str, Any]]] = {
    "BartModel": [
        *({"written": written, "tied": True} for written in ("ids", "shifted", "embeddings")),
        {"written": "ids", "tied": False, "padding": "left", "decoder_padding": "left"},
    ],
    "BartForConditionalGeneration": [
        *({"written": written, "tied": True} for written in ("labels", "ids and labels")),
        {"written": "labels", "tied": False},
    ],
    "BartForSequenceClassification": [{"problem_type": problem} for problem in PROBLEMS],
    "BartForCausalLM": [{"crosses": True, "tied": True}, {"crosses": False, "tied": False}],
    "MBartModel": [
        {"written": "shifted", "tied": True},
        {"written": "ids", "tied": False, "padding": "left", "decoder_padding": "left"},
    ],
    "MBartForConditionalGeneration": [{"written": "labels", "tied": tied} for tied in (True, False)],
    "MBartForSequenceClassification": [{"written": written} for written in ("ids", "shifted")],
    "MBartForCausalLM": [{"crosses": True, "tied": False}],
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)

# two numbers of heads and a width that both divide, into heads of other widths
_HEADS = [
    (one, other, width)
    for width in (12, 18, 20, 24)
    for one in range(1, 8)
    for other in range(1, 8)
    if width % one == width % other == 0 and len({one, other, width, width // one, width // other}) == 5
]


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    alone, classifies = name.endswith("ForCausalLM"), name.endswith("ForSequenceClassification")
    batch, length, source = drawn.size(2, 5), drawn.size(4, 9), drawn.size(4, 9)
    config = _config(drawn, name, max(length, source))
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


def _config(drawn: Drawn, name: str, length: int) -> Any:
    free = [sizes for sizes in _HEADS if not drawn.taken & {*sizes, sizes[2] // sizes[0], sizes[2] // sizes[1]}]
    encoder_heads, decoder_heads, width = drawn.draw(st.sampled_from(free)) if free else reject()
    drawn.taken |= {encoder_heads, decoder_heads, width, width // encoder_heads, width // decoder_heads}
    vocabulary = drawn.size(20, 40)
    options: dict[str, Any] = {}
    if name.endswith("ForSequenceClassification"):
        options["problem_type"] = drawn.choice("problem_type", PROBLEMS)
        single = options["problem_type"] == "single_label_classification"  # which needs two labels or more
        options["num_labels"] = drawn.choice("num_labels", [drawn.size(2, 12), *([] if single else [1])])
    return (transformers.MBartConfig if name.startswith("MBart") else transformers.BartConfig)(
        vocab_size=vocabulary,
        max_position_embeddings=drawn.size(length, length + 12),
        d_model=width,
        encoder_layers=drawn.size(1, 3),
        decoder_layers=drawn.size(1, 3),
        encoder_attention_heads=encoder_heads,
        decoder_attention_heads=decoder_heads,
        encoder_ffn_dim=drawn.size(5, 40),
        decoder_ffn_dim=drawn.size(5, 40),
        activation_function=drawn.choice("activation_function", get_args(Activation)),
        scale_embedding=drawn.choice("scale_embedding", [True, False]),
        tie_word_embeddings=drawn.choice("tied", [True, False]),
        use_cache=False,
        bos_token_id=0,
        pad_token_id=drawn.choice("pad_token_id", [1, 0, vocabulary - 1]),
        eos_token_id=drawn.choice("eos_token_id", [2, 7]),
        decoder_start_token_id=drawn.choice("decoder_start_token_id", [2, 5]),
        **options,
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
