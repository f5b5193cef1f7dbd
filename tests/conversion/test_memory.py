"""Loading and converting never hold a second copy of the model, measured as bench_size.py does it."""

import ctypes
import gc
import importlib
from pathlib import Path

import jax
import pytest

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert

MEGABYTE = 1 << 20
SIZES = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "vocab_size": 8192}

BACKENDS = ("torch", "jax")
ACTIONS = {
    "torch": lambda source, _: in_torch.IdeficsForVisionText2Text.from_pretrained(source, device="cpu"),
    "jax": lambda source, _: in_jax.IdeficsForVisionText2Text.from_pretrained(source, sharding=jax.devices()[0]),
    "safetensors": lambda source, target: convert(source, target, dtype="float32", progress=False),
    "flax-msgpack": lambda source, target: convert(source, target, format="flax-msgpack", progress=False),
}


@pytest.fixture(scope="module", autouse=True)
def _memory_is_returned():
    """What is freed leaves the process at once: elsewhere, glibc keeps as much as earlier tests have made it keep."""
    mallopt, threshold_of_maps = ctypes.CDLL(None).mallopt, -3
    assert mallopt(threshold_of_maps, MEGABYTE) == 1
    yield
    mallopt(threshold_of_maps, 32 * MEGABYTE)  # the largest, which glibc would have come to by itself


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A checkpoint of 100 MB, in files that are holes but for their headers, and a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        checkpoints, folder = importlib.import_module("checkpoints"), tmp_path_factory.mktemp("sizes")
        for name, fields in (("large", checkpoints.IDEFICS | SIZES), ("small", checkpoints.SMALL_IDEFICS)):
            checkpoints.sparse_idefics(name, fields, 64 * MEGABYTE, folder)
        yield folder / "large", folder / "small", importlib.import_module("loading_worker").Peak


@pytest.mark.parametrize("action", ACTIONS)
def test_no_second_copy_of_the_model_is_held(action, sources, tmp_path):
    large, small, measure_peak = sources
    files = [*large.glob("*.safetensors")]
    size, largest = sum(file.stat().st_size for file in files), 16 * MEGABYTE  # the embeddings
    assert len(files) > 1 and size > 80 * MEGABYTE and sum(file.stat().st_blocks for file in files) < 2 * MEGABYTE / 512
    ACTIONS[action](small, tmp_path / "small")  # whatever is imported or started
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would hide what is taken now
    with measure_peak() as peak:
        result = ACTIONS[action](large, tmp_path / "out")
    taken = peak.value - peak.start
    if action in BACKENDS:
        assert taken < size + largest, result
    else:
        assert taken < 2 * largest  # parts of 16 MB are held; in float32 the largest tensor takes 32
