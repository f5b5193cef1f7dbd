"""Makes both frameworks strict and repeatable before a test imports either; a test of core needs neither of them.

What a framework reads when it is imported is set through the environment, so that nothing is imported here and
processes that a test starts are as strict as the test itself.
"""

import ctypes
import gc
import os
import random
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers asks the hub library about its own bars
os.environ["HF_HUB_OFFLINE"] = "1"  # the suite needs no network: a test that asks for it fails at once
os.environ["OMP_NUM_THREADS"] = "1"  # several threads take longer for what is so small
os.environ["DIPTYCH_TORCH_PRODUCTS"] = "torch"  # what is fastest differs from run to run
# Most programs run once, so that compiling them is what takes time: without MLIR's emitters it takes a third. What a
# test measures says so itself, and `make test-long` has XLA's own settings. XLA aborts at flags of other versions.
if os.environ.get("HYPOTHESIS_PROFILE") != "long":
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if find_spec("jax") and version("jax").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# A second run finds what took long to compile; where each run starts from nothing, writing it is wasted.
if "CI" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

# The import hook checks modules that are imported after it stands.
assert not any(name.startswith("diptych.") for name in sys.modules)
CHECKED = [
    f"diptych.backends.{name}.{part}" for name in ("jax", "torch") for part in ("layers", "models", "ops", "slots")
]
CHECKED += ["diptych.backends.torch.products", "diptych.core.semantics"]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

# A test that wants more or fewer cases scales the profile: @settings(max_examples=settings().max_examples // 5).
CASES = 100
# Each starts from Hypothesis's "default": left alone, it would take its own "ci" as the parent wherever CI is set.
default = settings(settings.get_profile("default"), deadline=None, max_examples=CASES)
# The same cases in each run, so that the second one finds its programs compiled; `make test-long` draws others.
settings.register_profile("fixed", default, derandomize=True, database=None, print_blob=True)
settings.register_profile("long", default, max_examples=10 * CASES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same state of the global generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # transformers draws SpecAugment from it
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[None]:
    """Compiled programs are dropped after each file: the next one has others, and all together take gigabytes."""
    yield
    _drop_programs()


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """The same after a test that left more than two GiB in use, where the system tells."""
    yield
    statistics = Path("/proc/self/statm")
    if statistics.exists() and int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2 * 2**30:
        _drop_programs()


def _drop_programs() -> None:
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps what is freed, unless it is told
            trim(0)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Switches the annotations' checks off, as for a user: for bad input, and for compiling what users compile."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A `HubServer` in place of the Hugging Face hub, and an empty cache; its repository has no files yet."""
    import huggingface_hub
    from huggingface_hub import constants

    from tests.hub_server import serve

    root = tmp_path / "served"
    root.mkdir()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # the pauses between attempts
    with serve(root) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
            ("ENDPOINT", server.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
        ):
            monkeypatch.setattr(constants, name, value)
        huggingface_hub.close_session()
        yield server
    huggingface_hub.close_session()
