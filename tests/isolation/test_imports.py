"""What an import brings with it: diptych nothing, a backend its own framework alone; each lives without the other's.

Every program runs in a process of its own, so that nothing is loaded but by it.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conversion import checkpoints

FRAMEWORKS = {"jax": ("jax", "jaxlib", "flax", "optax", "orbax"), "torch": ("torch", "functorch")}
OTHER = {"jax": "torch", "torch": "jax"}
NAMES = {"jax": "JAX and Flax", "torch": "PyTorch"}

# The finder comes first, so that these modules are as if they were not installed.
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in {names!r} else real(name, package)
"""


def attempt(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "DIPTYCH_BACKEND"}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True)


def run(program: str, **environment: str) -> str:
    """What a program prints."""
    done = attempt(program, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(program: str, **environment: str) -> str:
    """The error with which a program ends."""
    done = attempt(program, environment)
    assert done.returncode == 1, done.stdout
    return done.stderr.strip().splitlines()[-1]


def without(*backends: str) -> str:
    """The start of a program for which the frameworks of these backends are not installed."""
    return ABSENT.format(names={name for backend in backends for name in FRAMEWORKS[backend]})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    for name in ("BertModel", "CLIPModel"):
        checkpoints.write(path / name, name)
    return path


def test_importing_diptych_imports_nothing_that_is_not_of_python() -> None:
    program = "import sys; before = set(sys.modules); import diptych; print(*(set(sys.modules) - before))"
    loaded = {name.split(".")[0] for name in run(program).split()}
    assert loaded <= sys.stdlib_module_names | {"diptych"}
    assert "diptych" in loaded


def test_importing_diptych_takes_less_than_a_tenth_of_a_second() -> None:
    def took(program: str) -> float:
        before = time.perf_counter()
        run(program)
        return time.perf_counter() - before

    # by turns, so that a busy moment of the machine falls on both
    pairs = [(took("import diptych"), took("")) for _ in range(7)]
    assert statistics.median(loaded - bare for loaded, bare in pairs) < 0.1


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_a_backend_has_every_public_name_and_leaves_the_other_framework_alone(backend: str, directory: Path) -> None:
    program = f"""
import sys
import diptych
import diptych.backends.{backend} as backend
print(*dir(diptych))
print(*(getattr(backend, name).__name__ for name in dir(backend)))
backend.load({str(directory / "BertModel")!r})
backend.load({str(directory / "CLIPModel")!r})
print(*sys.modules)
try:
    backend.OtherNet
except AttributeError as error:
    print(error)
"""
    public, own, modules, error = run(program).splitlines()
    names = public.split()
    assert {"CLIPModel", "BertConfig", "BertForMaskedLM", "CLIPVisionConfig", "load", "use", "backend"} <= set(names)
    assert names == sorted(names)
    assert set(own.split()) == set(names) - {"__version__", "backend", "load_processor", "use"}
    assert error == f"module 'diptych.backends.{backend}' has no attribute 'OtherNet'"
    assert "torch._dynamo" not in modules.split(), "the compiler of torch doubles the time of the import"
    loaded = {name.split(".")[0] for name in modules.split()}
    assert loaded >= set(FRAMEWORKS[backend][:1]) | {"diptych", "safetensors"}
    assert not loaded & {*FRAMEWORKS[OTHER[backend]], "transformers", "diptych.conversion"}


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_a_backend_works_where_the_other_framework_is_not_installed(
    backend: str, directory: Path, tmp_path: Path
) -> None:
    program = f"""{without(OTHER[backend])}
import numpy as np
import diptych

def logits(directory):
    model = diptych.load(directory)
    assert type(model).__module__.startswith("diptych.backends.{backend}."), type(model).__module__
    output = model(input_ids=np.arange(10).reshape(2, 5), pixel_values=np.ones((1, 3, 36, 36), np.float32))
    model.save_pretrained({str(tmp_path)!r})
    return output.logits_per_text.tolist()

first = logits({str(directory / "CLIPModel")!r})
assert np.isfinite(first).all() and logits({str(tmp_path)!r}) == first
print(diptych.backend().NAME)
"""
    assert run(program) == backend
    read, written = (load_file(path / "model.safetensors") for path in (directory / "CLIPModel", tmp_path))
    assert read.keys() == written.keys()
    assert all(np.array_equal(read[name], written[name]) for name in read)


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_the_absent_framework_is_named_with_its_extra(backend: str) -> None:
    expected = (
        f"ImportError: diptych.backends.{backend} needs {NAMES[backend]}, which "
        f"{'are' if backend == 'jax' else 'is'} not installed; pip install 'diptych[{backend}]'"
    )
    for program in (f"import diptych.backends.{backend}", f"import diptych; diptych.use({backend!r})"):
        assert refused(f"{without(backend)}\n{program}") == expected
    assert refused(f"{without(backend)}\nimport diptych; diptych.BertModel", DIPTYCH_BACKEND=backend) == expected


def test_flax_is_needed_too() -> None:
    program = ABSENT.format(names={"flax"}) + "\nimport diptych.backends.jax"
    assert refused(program).endswith("which are not installed; pip install 'diptych[jax]'")


def test_no_framework_at_all() -> None:
    program = f"{without('jax', 'torch')}\nimport diptych; diptych.BertModel"
    expected = (
        "ImportError: neither JAX with Flax nor PyTorch is installed; pip install 'diptych[jax]' or 'diptych[torch]'"
    )
    assert refused(program) == expected
    # configs are core's, so that a backend's absence does not keep them from being read
    assert run(f"{without('jax', 'torch')}\nimport diptych; print(diptych.BertConfig(hidden_size=24).model_type)")


def test_where_both_are_installed_one_must_be_chosen() -> None:
    assert refused("import diptych; diptych.BertModel") == (
        "ImportError: JAX and PyTorch are both installed: choose with DIPTYCH_BACKEND or diptych.use('jax' | 'torch')"
    )
    assert run("import diptych; print(diptych.ViTConfig.model_type)").strip() == "vit"  # configs are the same in both


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_the_environment_chooses_and_use_overrules_it(backend: str, directory: Path) -> None:
    program = f"""
import diptych
model = diptych.load({str(directory / "BertModel")!r})
print(diptych.backend().NAME, diptych.BertModel.__module__, type(model).__module__)
print(diptych.use({OTHER[backend]!r}).NAME, diptych.CLIPModel.__module__, diptych.BertConfig.__module__)
"""
    other = OTHER[backend]
    models = f"diptych.backends.{backend}.models.bert"
    assert run(program, DIPTYCH_BACKEND=backend).splitlines() == [
        f"{backend} {models} {models}",
        f"{other} diptych.backends.{other}.models.clip diptych.core.models.bert",
    ]


def test_unknown_backends_and_names() -> None:
    known = "is not known; known: jax, torch"
    assert refused("import diptych; diptych.use('mxnet')") == f"diptych.core.errors.InputError: backend='mxnet' {known}"
    assert refused("import diptych; diptych.backend()", DIPTYCH_BACKEND="tf") == (
        f"diptych.core.errors.InputError: DIPTYCH_BACKEND='tf' {known}"
    )
    # an unknown name is one whatever is chosen, and loads no framework
    assert refused("import diptych; diptych.OtherNet") == (
        "AttributeError: module 'diptych' has no attribute 'OtherNet'"
    )
    assert refused("from diptych import OtherNet").startswith("ImportError: cannot import name 'OtherNet'")


def test_places_are_checked_before_a_framework_is_imported(directory: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from diptych.conversion import convert, diff, parity, verify
there, absent = {str(directory / "BertModel")!r}, {str(tmp_path)!r}
calls = (
    lambda: convert(there, there),
    lambda: diff(there, absent),
    lambda: parity(there, absent),
    lambda: parity(there, dtype="int8"),
    lambda: verify(there, manifest=absent + "/manifest"),
)
for call in calls:
    try:
        call()
    except ValueError as error:
        print(type(error).__name__)
print(sorted({{"torch", "jax"}} & set(sys.modules)))
"""
    check = "CheckpointError"
    assert run(program).splitlines() == [check, "ConfigError", "ConfigError", "InputError", check, "[]"]
