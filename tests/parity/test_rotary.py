"""Rotary positions: the tables and the turn, against a direct computation and transformers' Llama."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from diptych.backends.jax import ops as jax_ops
from diptych.backends.torch import ops as torch_ops
from diptych.core.semantics import positions
from tests.assertions import assert_close


@pytest.mark.parametrize(("width", "base"), [(128, 10000.0), (80, 10000.0), (6, 500000.0)])
def test_the_tables_are_llamas(width: int, base: float) -> None:
    config = LlamaConfig(
        hidden_size=3 * width,
        num_attention_heads=3,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    original = LlamaRotaryEmbedding(config)
    cos, sin = positions.rotary(2048, width, base)
    assert cos.dtype == sin.dtype == np.float64 and cos.shape == sin.shape == (2048, width)
    # the angles are the same float32 numbers: only the rounding of the cosines themselves is left
    angles = torch.arange(2048).float()[:, None] * original.inv_freq[None, :]
    assert np.array_equal(cos[:, : width // 2], np.cos(angles.double().numpy()))
    assert np.array_equal(sin[:, width // 2 :], np.sin(angles.double().numpy()))
    theirs = original(torch.zeros(1, dtype=torch.float32), torch.arange(2048)[None])
    for found, expected in zip((cos, sin), theirs, strict=True):
        assert_close(found.astype(np.float32), expected[0].double().numpy(), kind="float32")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_turn_is_llamas(dtype: str) -> None:
    random = np.random.default_rng(0)
    query, key = random.normal(size=(2, 3, 5, 8)).astype(dtype), random.normal(size=(2, 2, 5, 8)).astype(dtype)
    tables = positions.rotary(40, 8)
    where = np.array([[0, 1, 2, 3, 4], [7, 39, 9, 0, 11]])
    cos, sin = (torch_ops.constant(table, torch.tensor(query))[where] for table in tables)
    theirs = apply_rotary_pos_emb(torch.tensor(query), torch.tensor(key), cos, sin)
    for states, expected in zip((query, key), theirs, strict=True):
        assert_close(torch_ops.rotate(torch.tensor(states), cos, sin).numpy(), expected.double().numpy(), kind=dtype)
        with jax.enable_x64(True):
            array = jnp.asarray(states)
            found = jax_ops.rotate(array, *(jax_ops.constant(table, array)[where] for table in tables))
        assert_close(np.asarray(found), expected.double().numpy(), kind=dtype)


def test_a_turn_is_a_rotation_by_the_position() -> None:
    """Entry i and entry i + H / 2 are a complex number, multiplied by exp(i position / base^(2i / H))."""
    states = np.random.default_rng(0).normal(size=(1, 2, 5, 6))
    cos, sin = (torch.tensor(table)[None] for table in positions.rotary(5, 6, 100.0))
    found = torch_ops.rotate(torch.tensor(states), cos, sin).numpy()
    angles = np.arange(5)[:, None] * 100.0 ** (-np.arange(3) / 3)[None]
    expected = (states[..., :3] + 1j * states[..., 3:]) * np.exp(1j * angles)
    assert np.abs(found - np.concatenate((expected.real, expected.imag), -1)).max() < 1e-5
