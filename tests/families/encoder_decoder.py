"""Composites of two texts' models: pairs of them and inputs to compare."""

from collections.abc import Callable
from typing import Any

import numpy as np
import transformers

from tests.families.drawing import EPSILONS, PADDINGS, Case, Drawn, Inputs, unseen

BERT_LIKE: dict[str, Any] = {
    "bert": transformers.BertConfig,
    "bert-generation": transformers.BertGenerationConfig,
    "camembert": transformers.CamembertConfig,
    "roberta": transformers.RobertaConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
}
BART_LIKE: dict[str, Any] = {"bart": transformers.BartConfig, "mbart": transformers.MBartConfig}
ENCODERS = ("bert", "bert-generation", "roberta")
DECODERS = (*ENCODERS, "gpt2", "bart", "mbart")

MADE: dict[str, list[dict[str, Any]]] = {
    "EncoderDecoderModel": [
        # every encoder, decoder and way to write in turn; the rest is left to chance
        {"encoder": "bert", "decoder": "bert", "written": "labels"},
        {"encoder": "bert-generation", "decoder": "bert-generation", "written": "embeddings"},
        {"encoder": "bert", "decoder": "gpt2", "written": "ids and labels"},
        {"encoder": "roberta", "decoder": "roberta", "written": "ids"},
        {"encoder": "xlm-roberta", "decoder": "xlm-roberta"},
        {"encoder": "camembert", "decoder": "camembert"},
        {"decoder": "bart", "same_width": False},
        {"decoder": "mbart", "same_width": True},
    ],
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A composite, and one call of it."""
    batch, length, count = drawn.size(2, 5), drawn.size(7, 12), drawn.size(7, 12)
    heads, width = drawn.heads()
    encoder = _bert_like(drawn, drawn.choice("encoder", ENCODERS), heads, width, length, {})
    side = Drawn(drawn.draw, drawn.made)  # the decoder's sizes differ from each other and from these
    side.taken = {batch, length, count}
    if not drawn.choice("same_width", [True, False]):
        side.taken |= {heads, width, width // heads}
        heads, width = side.heads()
    side.taken |= {heads, width, width // heads}
    decodes = {"is_decoder": True, "add_cross_attention": True}
    kind = drawn.choice("decoder", DECODERS)
    make: Callable[..., Any] = _gpt2 if kind == "gpt2" else _bart_like if kind in BART_LIKE else _bert_like
    decoder = make(side, kind, heads, width, count, decodes)
    vocabulary = decoder.vocab_size
    pad = drawn.choice("pad", [0, vocabulary - 1])
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.pad_token_id, config.decoder_start_token_id = pad, drawn.choice("start", [1, 4])

    inputs: Inputs = {"use_cache": False}
    inputs |= drawn.text(encoder, batch, length, drawn.mask(batch, length, PADDINGS[:-1]))
    if encoder.model_type != "bert-generation":
        inputs |= drawn.ids_or_not("token_type_ids", batch, length, encoder.type_vocab_size)
    written = drawn.choice("written", ("labels", "ids", "ids and labels", "embeddings"))
    if written == "labels":  # of which the decoder's ids and mask are made; its first token is never masked
        labels = drawn.ids(batch, count, vocabulary)
        labels[drawn.random().random(labels.shape) < 0.3] = -100
        labels[:, 0] = 3
        return Case(name, config, {**inputs, "labels": labels.astype(np.int64)})
    if written == "embeddings":
        inputs["decoder_inputs_embeds"] = drawn.random().standard_normal((batch, count, width))
    else:
        inputs["decoder_input_ids"] = drawn.ids(batch, count, vocabulary)
    mask = drawn.mask(batch, count, PADDINGS, name="decoder_padding")
    hidden = unseen(mask, causal=True)
    inputs |= {} if mask is None else {"decoder_attention_mask": mask}
    if kind == "gpt2":
        inputs |= drawn.ids_or_not("decoder_token_type_ids", batch, count, vocabulary)
    if written == "ids and labels":
        labels = drawn.ids(batch, count, vocabulary).astype(np.int64)
        labels[drawn.random().random(labels.shape) < 0.3] = -100
        labels[0, -1] = 3
        inputs["labels"] = labels if hidden is None else np.where(hidden, -100, labels)
    return Case(name, config, inputs, hidden)


def _bert_like(drawn: Drawn, kind: str, heads: int, width: int, length: int, options: dict[str, Any]) -> Any:
    pad = drawn.choice("pad_token_id", [0, 1])
    types = {} if kind == "bert-generation" else {"type_vocab_size": drawn.size(1, 12)}
    return BERT_LIKE[kind](
        vocab_size=drawn.size(20, 40),
        hidden_size=width,
        num_hidden_layers=drawn.size(1, 4),
        num_attention_heads=heads,
        intermediate_size=drawn.size(5, 40),
        max_position_embeddings=drawn.size(length + pad + 1, length + 12),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        pad_token_id=pad,
        **types,
        **options,
    )


def _gpt2(drawn: Drawn, kind: str, heads: int, width: int, length: int, options: dict[str, Any]) -> Any:
    return transformers.GPT2Config(
        vocab_size=drawn.size(20, 40),
        n_embd=width,
        n_layer=drawn.size(1, 4),
        n_head=heads,
        n_inner=drawn.size(5, 40),
        n_positions=drawn.size(length, length + 12),
        scale_attn_by_inverse_layer_idx=drawn.choice("scale_attn_by_inverse_layer_idx", [True, False]),
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )


def _bart_like(drawn: Drawn, kind: str, heads: int, width: int, length: int, options: dict[str, Any]) -> Any:
    return BART_LIKE[kind](
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
