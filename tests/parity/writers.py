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

import numpy as np
import torch
import transformers
from transformers.generation import utils

from diptych.core.generation.options import GenerationConfig
from diptych.core.models.bart import BartConfig
from diptych.core.models.bert import BertConfig
from diptych.core.models.gpt2 import GPT2Config
from diptych.core.registry import part_architectures
from tests.assertions import assert_close
from tests.backends import BACKENDS
from tests.composites import halves
from tests.families import speech_encoder_decoder, vision_encoder_decoder
from tests.families.encoder_decoder import pairs
from tests.family import CROSSES, Family, Sizes, families
from tests.parity import oracle

SIZES = {"vocabulary": 31, "width": 35, "layers": 2, "heads": 5, "inner": 17, "positions": 41}
VOCABULARY = SIZES["vocabulary"]
READ = 29
"""Words that the encoder of a composite knows."""

_GENERATES = {name: family for family in families().values() for name in family.generates}
ALONE = tuple(name for name, family in _GENERATES.items() if not family.encodes_and_decodes(name))
"""Classes that go on with a text."""
ABOUT = tuple(name for name, family in _GENERATES.items() if family.encodes_and_decodes(name))
"""Classes that write about a text."""
PAIRS = tuple(" ".join(pair) for pair in pairs())
"""Composites, by the families of their encoder and their decoder: each once."""
LOOKING = tuple(" ".join(pair) for pair in vision_encoder_decoder.pairs())
"""The same of those that write about images."""
HEARING = tuple(" ".join(pair) for pair in speech_encoder_decoder.pairs())
"""The same of those that write about recordings."""
NAMES = (*ALONE, *ABOUT, *PAIRS)


def _config(family: Family, name: str, sizes: Sizes = SIZES, **options: Any) -> Any:
    """A config of the class `name` that does not tie its output layer, else it writes what it reads again and again."""
    encoder = ({"layers": 3, "heads": 7, "inner": 19},) if family.encoder_decoder else ()
    assert family.spell is not None
    fields = family.spell(sizes, *encoder, **{**family.generates[name], "tie_word_embeddings": False, **options})
    return transformers.AutoConfig.for_model(family.model_type, **fields)


def _looking(first: str, second: str) -> Any:
    """A config of a model that writes about images of one channel."""
    looks, writes = vision_encoder_decoder.encoders()[first], halves()[second]
    encoder = part_architectures("encoder", "image")
    kind, name = next((cls, name) for cls, name in encoder.items() if name in looks.classes)
    fields = looks.tiny[name] | {"num_channels": 1, "image_size": 10, "patch_size": 5}
    crosses = {} if writes.encoder_decoder else CROSSES
    return transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.AutoConfig.for_model(kind.model_type, **fields),
        _config(writes, next(iter(writes.generates)), **crosses),
    )


def _hearing(first: str, second: str) -> Any:
    """A config of a model that writes about recordings, of which a mask over samples leaves some out."""
    hears, writes = next(family for family in families().values() if family.model_type == first), halves()[second]
    fields = hears.tiny[hears.classes[0]] | {"feat_extract_norm": "layer", "hidden_size": 18}
    crosses = {} if writes.encoder_decoder else CROSSES
    return transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.AutoConfig.for_model(first, **fields), _config(writes, next(iter(writes.generates)), **crosses)
    )


def theirs(name: str) -> Any:
    """A model of transformers."""
    if name in _GENERATES:
        architecture, config = name, _config(_GENERATES[name], name)
    elif name in LOOKING:
        architecture, config = "VisionEncoderDecoderModel", _looking(*name.split())
    elif name in HEARING:
        architecture, config = "SpeechEncoderDecoderModel", _hearing(*name.split())
    else:
        first, second = (halves()[kind] for kind in name.split())
        # BERT is as wide as the decoders, so that nothing is projected
        width = {} if first.model_type == "bert" else {"width": 33, "heads": 3}
        sizes = SIZES | {"vocabulary": READ, "layers": 1, "inner": 19, "positions": 43} | width
        crosses = {} if second.encoder_decoder else CROSSES
        architecture = "EncoderDecoderModel"
        encoder = _config(first, next(iter(first.generates)), sizes, is_decoder=False)
        decoder = _config(second, next(iter(second.generates)), **crosses)
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
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
        name = type(model).__name__
        ours = {key: getattr(backend, name).from_pretrained(directory) for key, backend in BACKENDS.items()}
    for one in ours.values():
        one.generation_config = GenerationConfig()
    return Models(model, **ours)


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


def array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def read(name: str) -> int:
    """The number of words that may be read."""
    return VOCABULARY if name in _GENERATES else READ


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
