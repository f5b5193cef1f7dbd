"""Both backends take what callers have: lists, numpy arrays of any layout, arrays of either framework."""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import diptych.backends.jax
import diptych.backends.torch
from diptych.core.errors import InputError
from diptych.core.models.bert import BertConfig
from tests.assertions import assert_close

CONFIG = BertConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
IDS = np.array([[1, 2, 3], [4, 5, 6]])

both = pytest.mark.parametrize("backend", [diptych.backends.jax, diptych.backends.torch], ids=["jax", "torch"])


def states(model: Any, **inputs: Any) -> np.ndarray:
    output = model(**inputs).last_hidden_state
    return output.detach().numpy() if isinstance(output, torch.Tensor) else np.asarray(output)


GIVEN = {
    "list": IDS.tolist(),
    "mirrored": np.ascontiguousarray(IDS[:, ::-1])[:, ::-1],
    "columns": np.asfortranarray(IDS),
    "big-endian": IDS.astype(">i8"),
    "read-only": np.asarray(jnp.asarray(IDS)),
    "tensors": list(torch.from_numpy(IDS)),
} | {name: IDS.astype(name) for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64")}


@both
@pytest.mark.parametrize("ids", GIVEN.values(), ids=GIVEN)
def test_ids_of_any_kind_mean_the_same(backend: ModuleType, ids: Any) -> None:
    model = backend.BertModel(CONFIG)
    assert_close(states(model, input_ids=ids), states(model, input_ids=IDS), kind="float32")


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint16", "uint32"])
def test_ids_of_the_framework_of_every_integer_dtype(dtype: str) -> None:
    for backend, ids in (
        (diptych.backends.jax, jnp.asarray(IDS, dtype)),
        (diptych.backends.torch, torch.from_numpy(IDS).to(getattr(torch, dtype))),
    ):
        model = backend.BertModel(CONFIG)
        assert_close(states(model, input_ids=ids), states(model, input_ids=IDS), kind="float32", name=backend.NAME)


@both
@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint64"])
def test_labels_of_every_integer_dtype(backend: ModuleType, dtype: str) -> None:
    model = backend.BertForSequenceClassification(CONFIG)
    losses = [model(input_ids=IDS, labels=np.array([0, 1], name)).loss for name in (dtype, "int64")]
    assert bool(losses[0] == losses[1])


@both
def test_embeddings_in_bfloat16_mean_the_same_numbers_in_float32(backend: ModuleType) -> None:
    model = backend.BertModel(CONFIG)
    exact = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(ml_dtypes.bfloat16)
    found = states(model, inputs_embeds=exact)
    assert_close(found, states(model, inputs_embeds=exact.astype(np.float32)), kind="float32")


@both
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": [[1, 2], [3]]}, "input_ids has rows of different lengths; pad them to one"),
        ({"input_ids": [["a"]]}, "input_ids must hold numbers, but numpy reads it as str32"),
        ({"input_ids": [[2**70]]}, "input_ids must hold numbers, but numpy reads it as object"),
        ({"input_ids": IDS, "attention_mask": [["1"] * 3] * 2}, "attention_mask must hold numbers, .* as str32"),
        ({"inputs_embeds": [[None]]}, "inputs_embeds must hold numbers, but numpy reads it as object"),
    ],
)
def test_what_is_no_array_of_numbers(backend: ModuleType, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^BertModel: {message}$"):
        backend.BertModel(CONFIG)(**inputs)
