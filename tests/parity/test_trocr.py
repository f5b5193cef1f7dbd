"""TrOCR's sinusoidal positions, and where transformers 5.23 crashes: embeddings in place of ids, and long texts."""

import numpy as np
import pytest
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

from diptych.backends.jax import ops as jax_ops
from diptych.backends.torch import ops as torch_ops
from diptych.core.errors import InputError
from diptych.core.semantics import positions
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity import oracle
from tests.parity.tiny import CONFIGS
from tests.parity.writers import array

pytestmark = pytest.mark.usefixtures("x64")

OPS = {"jax": jax_ops, "torch": torch_ops}
CONFIG = CONFIGS["TrOCRForCausalLM"]
IDS = np.array([[5, 6, 1, 7, 8], [1, 9, 3, 1, 4]])  # 1 is padding


def built(backend, **changes):
    return BACKENDS[backend].TrOCRForCausalLM(CONFIG.replace(**changes), seed=3, dtype="float64")


@pytest.mark.parametrize(("rows", "width", "padding"), [(1100, 1024, 1), (19, 15, 18)])
@each_backend
def test_the_positions_are_transformers(backend, rows, width, padding):
    ops, like = OPS[backend], np.zeros((1, 1, width))
    frequencies = positions.sinusoid_frequencies(width)
    assert frequencies.dtype == np.float32
    given = (np.arange(rows)[None], frequencies, like)
    found = array(positions.sinusoidal(ops.xp, *map(ops.xp.asarray, given), padding))
    assert_close(found[0], oracle.sinusoids(rows, width, padding).numpy())
    # theirs takes exponentials, sines and cosines in float32, each up to a unit of the last place away
    theirs = TrOCRSinusoidalPositionalEmbedding.get_embedding(rows, width, padding).double().numpy()
    assert np.abs(found[0] - theirs).max() < 1e-7 + rows * 2.0**-24


def test_embeddings_in_place_of_ids_are_no_padding():
    """transformers crashes there; scaled embeddings give what ids without padding give."""
    model, ids = built("torch"), np.where(IDS == 1, 2, IDS)
    words = array(model.model.decoder.embed_tokens.weight)
    found = model(inputs_embeds=words[ids] * CONFIG.d_model**0.5).logits
    assert_close(array(found), array(model(ids).logits))


@each_backend
def test_sinusoids_have_no_limit(backend):
    """Beyond max_position_embeddings transformers goes on without a cache, and crashes with one."""
    model, longer = built(backend, max_position_embeddings=3), built(backend)
    expected = array(longer(IDS).logits)
    assert_close(array(model(IDS).logits), expected)
    outputs, cache = [], model.init_cache(2, 5)
    for column in range(5):
        output = model(IDS[:, column : column + 1], past_key_values=cache)
        outputs.append(array(output.logits))
        cache = output.past_key_values
    assert_close(np.concatenate(outputs, axis=1), expected)
    learned = built(backend, max_position_embeddings=3, use_learned_position_embeddings=True)
    with pytest.raises(
        InputError, match=r"^TrOCRForCausalLM: the number of tokens is 5, but max_position_embeddings=3"
    ):
        learned(IDS)


@each_backend
def test_what_cross_attention_cannot_take_is_refused(backend):
    with pytest.raises(InputError, match=r"encoder_hidden_states has shape \(2, 4, 12\), but \(2, 4, 10\) is needed"):
        built(backend)(IDS, encoder_hidden_states=np.zeros((2, 4, 12)))
