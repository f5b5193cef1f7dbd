"""Tiny models that write texts, what they begin with and write about, and transformers' `generate` in float64.

Every size of a model is another one; the models share theirs, since JAX compiles an operation once for each shape. All
parameters are random, and so large that no two scores are equal.
"""

import functools
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import transformers
from transformers.generation import utils

import diptych.backends.jax
import diptych.backends.torch
from diptych.backends.jax import generation
from diptych.core.generation.options import GenerationConfig
from diptych.core.models.bart import BartConfig
from diptych.core.models.bert import BertConfig
from diptych.core.models.gpt2 import GPT2Config
from tests.assertions import assert_close
from tests.families.encoder_decoder import BART_LIKE, BERT_LIKE, DECODERS, ENCODERS
from tests.parity import oracle
from tests.parity.sides import QUICK

BACKENDS = {"torch": diptych.backends.torch, "jax": diptych.backends.jax}
LAYERS, HEADS, WIDTH, VOCABULARY, POSITIONS = 2, 5, 35, 31, 41
READ = 29
"""Words that the encoder of a composite knows."""

ALONE = {
    "GPT2LMHeadModel": "gpt2",
    "BertLMHeadModel": "bert",
    "RobertaForCausalLM": "roberta",
    "BertGenerationDecoder": "bert-generation",
    "BartForCausalLM": "bart",
    "MBartForCausalLM": "mbart",
}
"""Classes that go on with a text -> their family."""
ABOUT = {"BartForConditionalGeneration": "bart", "MBartForConditionalGeneration": "mbart"}
"""Classes that write about a text -> their family."""
PAIRS = tuple(f"{encoder} {decoder}" for encoder in ENCODERS for decoder in DECODERS)
"""Composites, by the families of their encoder and their decoder."""
NAMES = (*ALONE, *ABOUT, *PAIRS)


def _config(kind: str, **options: Any) -> Any:
    """A decoder of a family; or, with other options, an encoder."""
    untied = {"tie_word_embeddings": False}  # else a model writes what it reads, again and again
    if kind == "gpt2":
        sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "n_inner": 17, "n_positions": POSITIONS}
        return transformers.GPT2Config(
            vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **sizes, **untied, **options
        )
    if kind in BART_LIKE:
        encoder = {"encoder_layers": 3, "encoder_attention_heads": 7, "encoder_ffn_dim": 19}
        decoder = {"decoder_layers": LAYERS, "decoder_attention_heads": HEADS, "decoder_ffn_dim": 17}
        sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
        return BART_LIKE[kind](**sizes, **encoder, **decoder, **untied, scale_embedding=kind == "mbart")
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 17,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1 if kind == "roberta" else 0,
    }
    types = {} if kind == "bert-generation" else {"type_vocab_size": 9}
    return BERT_LIKE[kind](**{**sizes, **types, **untied, **options})


def theirs(name: str) -> Any:
    """A model of transformers."""
    if name in ABOUT:
        architecture, config = name, _config(ABOUT[name])
    elif name in ALONE:
        architecture, config = name, _config(ALONE[name], **({} if "Bart" in name else {"is_decoder": True}))
    else:
        first, second = name.split()
        sizes = {"vocab_size": READ, "num_hidden_layers": 1, "intermediate_size": 19, "max_position_embeddings": 43}
        # BERT is as wide as the decoders, so that nothing is projected
        width = {} if first == "bert" else {"hidden_size": 33, "num_attention_heads": 3}
        crosses = {} if second in BART_LIKE else {"is_decoder": True, "add_cross_attention": True}
        parts = _config(first, **sizes, **width), _config(second, **crosses)
        architecture = "EncoderDecoderModel"
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    model = oracle.built(architecture, config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            # what a token is and where it stands counts for more than what all tokens have in common
            if re.search(r"embed|wte|wpe|shared|(query|key|[qk]_proj)\.weight", path) and "norm" not in path.lower():
                parameter.mul_(4.0)
            elif path.endswith("bias"):
                parameter.mul_(0.3)
    model.generation_config = transformers.GenerationConfig()
    return model


class Models(NamedTuple):
    """One model thrice."""

    theirs: Any
    torch: Any
    jax: Any


@functools.cache
def models(name: str) -> Models:
    """The same model of transformers, of torch and of JAX; enter x64 first."""
    model = theirs(name)
    with tempfile.TemporaryDirectory() as directory:
        oracle.saved(model, Path(directory))
        classes = [getattr(backend, type(model).__name__) for backend in BACKENDS.values()]
        ours = [each.from_pretrained(directory) for each in classes]
    for one in ours:
        one.generation_config = GenerationConfig()
    return Models(model, *ours)


SMALL: dict[str, Any] = {
    "GPT2LMHeadModel": GPT2Config(
        vocab_size=13,
        n_embd=12,
        n_inner=17,
        n_layer=1,
        n_head=3,
        n_positions=40,
        initializer_range=0.4,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=None,
    ),
    "BertLMHeadModel": BertConfig(
        vocab_size=13,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=17,
        max_position_embeddings=40,
        initializer_range=0.4,
        tie_word_embeddings=False,
        is_decoder=True,
    ),
    "BartForConditionalGeneration": BartConfig(
        vocab_size=13,
        d_model=12,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=19,
        decoder_layers=2,
        decoder_attention_heads=3,
        decoder_ffn_dim=17,
        max_position_embeddings=40,
        init_std=0.2,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=None,
        decoder_start_token_id=4,
    ),
}
"""Models that compile fast, for tests of what surrounds the mathematics; 0 is padding."""


@functools.cache
def small(backend: str, name: str = "GPT2LMHeadModel", dtype: str = "float64") -> Any:
    """One of them; enter x64 first."""
    return getattr(BACKENDS[backend], name)(SMALL[name], seed=8, dtype=dtype)


_PLAIN = {"_all_steps": {}, "_first_step": {}, "_next_step": {"donate_argnames": "cache"}}
QUICK_PROGRAMS = {
    name: jax.jit(getattr(generation, name).__wrapped__, static_argnames="plan", compiler_options=QUICK, **options)
    for name, options in _PLAIN.items()
}
"""JAX's programs, compiled in less time."""


def array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def read(name: str) -> int:
    """The number of words that may be read."""
    return READ if name in PAIRS else VOCABULARY


class _Wide(ModuleType):
    """torch, in which single precision is double."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def in_float64() -> Iterator[None]:
    """transformers' `generate` rounds no scores to float32, but for the biases of sequences."""
    utils.torch = _Wide("torch")
    try:
        yield
    finally:
        utils.torch = torch


def tensors(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in call.items()}


def expected(model: Any, call: Mapping[str, Any]) -> Any:
    """What transformers writes."""
    with in_float64():
        return model.generate(**tensors(call), return_dict_in_generate=True, output_scores=True, output_logits=True)


def assert_same(found: Any, wanted: Any) -> None:
    """Two outputs of `generate` agree: tokens and the beams that they come from exactly, scores to rounding."""
    np.testing.assert_array_equal(np.asarray(found.sequences), np.asarray(wanted.sequences))
    for name in ("logits", "scores"):
        ours, others = ([np.asarray(step) for step in getattr(output, name)] for output in (found, wanted))
        assert len(ours) == len(others), name
        for step, (one, other) in enumerate(zip(ours, others, strict=True)):
            forbidden = np.isneginf(other)
            np.testing.assert_array_equal(np.isneginf(one), forbidden)
            assert_close(np.where(forbidden, 0.0, one), np.where(forbidden, 0.0, other), name=f"{name}[{step}]")
    if getattr(wanted, "beam_indices", None) is None:
        assert getattr(found, "beam_indices", None) is None
    else:
        np.testing.assert_array_equal(np.asarray(found.beam_indices), np.asarray(wanted.beam_indices))
        assert_close(found.sequences_scores, wanted.sequences_scores, name="sequences_scores")
