"""The tiny checkpoints are what transformers reads and writes: every name, every shape, every value."""

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file

from tests.conversion import checkpoints
from tests.family import family_of


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_transformers_reads_the_checkpoint_and_writes_it_again(tmp_path, name):
    checkpoints.write(tmp_path / "recipe", name)
    model, info = getattr(transformers, name).from_pretrained(tmp_path / "recipe", output_loading_info=True)
    assert not any(info.values()), info
    model.save_pretrained(tmp_path / "again")
    recipe, again = (load_file(tmp_path / part / "model.safetensors") for part in ("recipe", "again"))
    # of tables of integers, 5.23 writes some no longer
    constants = family_of(name).constants(name).keys()
    assert {tensor: array.shape for tensor, array in again.items() if tensor not in constants} == checkpoints.shapes(
        name
    )
    for tensor in recipe.keys() - (constants - again.keys()):
        assert np.array_equal(again[tensor], recipe[tensor]), tensor
