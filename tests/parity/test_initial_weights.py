"""The weights that a new model starts from: the same bits in both backends, from the distribution of transformers."""

from typing import Any

import jax
import numpy as np
import pytest
import transformers
from flax import nnx

import diptych.backends.jax
import diptych.backends.torch
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import ModelConfig
from diptych.core.models.clip import CLIPConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from tests.parity import oracle
from tests.parity.tiny import CONFIGS, RENAMED, theirs

BACKENDS = {"jax": diptych.backends.jax, "torch": diptych.backends.torch}


def weights(backend: str, name: str, config: object, **build: object) -> dict[str, np.ndarray]:
    model = getattr(BACKENDS[backend], name)(config, **build)
    sources: dict[str, TensorSource] = model._sources()
    return {path: source.read() for path, source in sources.items()}


@pytest.mark.parametrize("name", [*CONFIGS, *RENAMED])
def test_a_seed_gives_the_same_bits_in_both_backends(name: str) -> None:
    ours = {backend: weights(backend, name, (CONFIGS | RENAMED)[name], seed=7) for backend in BACKENDS}
    assert ours["jax"].keys() == ours["torch"].keys()
    for path, values in ours["jax"].items():
        assert values.dtype == np.float32
        assert values.tobytes() == ours["torch"][path].tobytes(), path


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds_and_paths_are_independent(backend: str) -> None:
    first, again, other = (weights(backend, "BertModel", CONFIGS["BertModel"], seed=seed) for seed in (0, 0, 1))
    drawn = [path for path, values in first.items() if values.std() > 0]
    assert len(drawn) > 10
    for path in drawn:
        assert np.array_equal(first[path], again[path])
        assert not np.any((first[path] == other[path]) & (first[path] != 0)), path
    default = weights(backend, "BertModel", CONFIGS["BertModel"])
    assert all(np.array_equal(first[path], default[path]) for path in first)
    # two tensors of one shape differ, and a part that two classes share is the same in both
    queries = [first[f"encoder.layer.{layer}.attention.self.query.weight"] for layer in range(2)]
    assert not np.any(queries[0] == queries[1])
    assert not np.any(queries[0] == first["encoder.layer.0.attention.self.key.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrower_weights_are_the_rounded_float32_ones_in_both(dtype: str) -> None:
    wide = weights("torch", "CLIPModel", CONFIGS["CLIPModel"])
    for backend in BACKENDS:
        narrow = weights(backend, "CLIPModel", CONFIGS["CLIPModel"], dtype=dtype)
        for path, values in wide.items():
            assert narrow[path].dtype.name == dtype
            assert np.array_equal(narrow[path], values.astype(narrow[path].dtype)), (backend, path)


def test_float64_holds_the_float32_values() -> None:
    wide = weights("torch", "BertModel", CONFIGS["BertModel"], dtype="float64")
    with jax.enable_x64(True):
        ours = weights("jax", "BertModel", CONFIGS["BertModel"], dtype="float64")
    for path, values in weights("torch", "BertModel", CONFIGS["BertModel"]).items():
        assert wide[path].dtype == ours[path].dtype == np.float64
        assert np.array_equal(wide[path], values) and np.array_equal(ours[path], values)


# Sizes all differ and are large enough that the standard deviation of a tensor tells which formula it came from.
_LARGE_STACK = {
    "vocab_size": 211,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "max_position_embeddings": 120,
    "initializer_range": 0.05,
    "pad_token_id": 3,
}
_LARGE_BERT = {**_LARGE_STACK, "type_vocab_size": 110, "num_labels": 130}
_LARGE_BART = {
    "vocab_size": 211,
    "d_model": 96,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 160,
    "decoder_layers": 1,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 144,
    "max_position_embeddings": 120,
    "init_std": 0.05,
    "pad_token_id": 3,
    "num_labels": 130,
}
LARGE: dict[str, dict[str, Any]] = {
    "bert": _LARGE_BERT,
    "bert-generation": _LARGE_STACK,
    "roberta": _LARGE_BERT,
    "gpt2": {
        "vocab_size": 211,
        "n_embd": 96,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 160,
        "n_positions": 120,
        "initializer_range": 0.05,
    },
    "bart": _LARGE_BART,
    "mbart": _LARGE_BART,
}
"""Fields by model_type."""
LARGE_CLIP = {
    "text_config": {
        "vocab_size": 211,
        "hidden_size": 96,
        "intermediate_size": 160,
        "projection_dim": 70,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 120,
        "initializer_range": 0.07,
        "initializer_factor": 1.3,
    },
    "vision_config": {
        "hidden_size": 144,
        "intermediate_size": 208,
        "projection_dim": 82,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "image_size": 88,
        "patch_size": 8,
        "initializer_range": 0.04,
        "initializer_factor": 0.6,
    },
    "projection_dim": 110,
    "initializer_factor": 2.1,
    "logit_scale_init_value": 1.7,
    "num_labels": 130,
}


def large(config: ModelConfig) -> ModelConfig:
    """A tiny model's config, made large."""
    if config.model_type.startswith("clip"):
        whole = CLIPConfig.from_dict(LARGE_CLIP)
        return {"clip": whole, "clip_text_model": whole.text_config, "clip_vision_model": whole.vision_config}[
            config.model_type
        ]
    if isinstance(config, EncoderDecoderConfig):  # whose parts have other widths, and other deviations
        decoder = large(config.decoder).replace(n_embd=72, initializer_range=0.03)
        return config.replace(encoder=large(config.encoder), decoder=decoder)
    return config.replace(**LARGE[config.model_type])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_has_the_distribution_of_transformers(name: str) -> None:
    config = large(CONFIGS[name])
    model = getattr(transformers, name)(theirs(config))
    buffers = {path: values for path, values in model.named_buffers() if path in model.state_dict()}
    tensors = {**dict(model.named_parameters()), **buffers}
    expected = oracle.published(model, {path: values.detach().numpy() for path, values in tensors.items()})
    found = weights("torch", name, config)
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        assert_same_distribution(found[path], values, path)


def assert_same_distribution(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal constants, or samples of one normal distribution; with zeros in the same rows."""
    assert found.shape == expected.shape, name
    if expected.size == 1 or expected.std() == 0.0:
        assert np.array_equal(found, expected), name
        return
    zero = expected == 0.0
    assert np.array_equal(found == 0.0, zero), name
    found, expected = found[~zero], expected[~zero]
    # six standard errors of the difference of two sample deviations, or of two sample means
    assert abs(found.std() / expected.std() - 1) < 6 * found.size**-0.5, (name, found.std(), expected.std())
    assert abs(found.mean() - expected.mean()) < 6 * (2 / found.size) ** 0.5 * expected.std(), name
    # and the shape: a normal has 68.3% within one deviation, 0.27% beyond three
    for edge, share in ((1.0, 0.6827), (3.0, 0.9973)):
        within = np.mean(np.abs(found) < edge * expected.std())
        assert abs(within - share) < 6 * (share * (1 - share) / found.size) ** 0.5 + 6 * 0.5 * found.size**-0.5, name


@pytest.mark.parametrize(
    ("factor", "shift", "spread"), [(1.2, 0.0, "normal"), (1.0, 0.3, "normal"), (1.0, 0.0, "flat")]
)
def test_another_distribution_is_seen(factor: float, shift: float, spread: str) -> None:
    random = np.random.default_rng(0)
    expected = random.standard_normal((96, 96))
    draw = {"normal": random.standard_normal, "flat": lambda shape: random.uniform(-(3**0.5), 3**0.5, shape)}[spread]
    with pytest.raises(AssertionError):
        assert_same_distribution(factor * draw((96, 96)) + shift, expected, "weight")
    assert_same_distribution(random.standard_normal((96, 96)), expected, "weight")


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_seed_a_model_has_shapes_only(name: str) -> None:
    ours, theirs = (getattr(backend, name)(CONFIGS[name], seed=None) for backend in BACKENDS.values())
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(ours))
    assert all(values.is_meta for values in theirs.state_dict().values())
    shapes = {path: tuple(values.shape) for path, values in theirs.state_dict().items()}
    assert {slot.path: slot.shape for slot in ours._leaves()} == shapes
    traced = nnx.eval_shape(lambda: diptych.backends.jax.__getattr__(name)(CONFIGS[name], seed=None))
    assert jax.tree.structure(traced) == jax.tree.structure(ours)
    assert jax.tree.leaves(traced) == jax.tree.leaves(ours)
    assert ours.num_parameters() == theirs.num_parameters() == sum(p.numel() for p in theirs.parameters())
