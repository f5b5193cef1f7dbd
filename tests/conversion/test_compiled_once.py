"""One compiled program serves every JAX model of a config, wherever its weights came from."""

from pathlib import Path

import jax
import numpy as np

import diptych.backends.jax as backend
from diptych.conversion import to_jax, to_torch
from tests.conversion import checkpoints


def test_drawn_loaded_and_handed_over(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "first", "BertModel")
    checkpoints.write(tmp_path / "second", "BertModel", seed=1)
    loaded = backend.BertModel.from_pretrained(tmp_path / "first")
    models = [
        loaded,
        backend.BertModel.from_pretrained(tmp_path / "second"),
        backend.BertModel(loaded.config, seed=3),
        backend.BertModel(loaded.config.replace(max_length=30)),
        to_jax(to_torch(loaded)),
    ]
    run = jax.jit(lambda model, ids: model(ids).pooler_output)
    ids = np.array([[1, 2, 3]])
    outputs = [np.asarray(run(model, ids)) for model in models]
    assert run._cache_size() == 1
    assert np.array_equal(outputs[0], outputs[4])
    assert not np.array_equal(outputs[0], outputs[1])
    run(backend.BertModel(loaded.config.replace(layer_norm_eps=1e-3)), ids)
    assert run._cache_size() == 2
