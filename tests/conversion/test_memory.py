"""Loading and converting never hold a second copy of the model, measured as bench_size.py does it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTE = 1 << 20
SIZES = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "vocab_size": 8192}
LARGEST = 16 * MEGABYTE  # the embeddings


@pytest.fixture
def large(tmp_path):
    """A checkpoint of 100 MB, in files that are holes but for their headers, beside a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        checkpoints = importlib.import_module("checkpoints")
        for name, fields in (("large", checkpoints.IDEFICS | SIZES), ("small", checkpoints.SMALL_IDEFICS)):
            checkpoints.sparse_idefics(name, fields, 64 * MEGABYTE, tmp_path)
    return tmp_path / "large"


def test_no_second_copy_of_the_model_is_held(large):
    """Loading takes the size of the model; converting 16 MB of parts, and in float32 the largest tensor takes 32 MB."""
    files = [*large.glob("*.safetensors")]
    size = sum(file.stat().st_size for file in files)
    assert len(files) > 1 and size > 80 * MEGABYTE and sum(file.stat().st_blocks for file in files) < 2 * MEGABYTE / 512
    (target := large.parent / "written").mkdir()
    command = [sys.executable, "-m", "tests.conversion.memory", *map(str, (large, large.parent / "small", target))]
    # what is freed leaves the process at once, so that what is held at a time is measured
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MEGABYTE)}
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    taken = json.loads(run.stdout)
    for backend in ("torch", "jax"):
        assert 0.9 * size < taken.pop(backend) < size + LARGEST, backend
    assert set(taken) == {"safetensors", "flax-msgpack"} and max(taken.values()) < 2 * LARGEST, taken
