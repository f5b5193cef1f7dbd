"""Core needs neither JAX nor PyTorch: not to be imported, and not to pass its own tests."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")

# The finder of installed packages, as it is where the frameworks are not installed.
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {FRAMEWORKS} else find(name, path, target)

PathFinder.find_spec = classmethod(find_others)
"""
IMPORT_ALL = f"""
import importlib, pkgutil, sys
import diptych.core
for module in pkgutil.walk_packages(diptych.core.__path__, "diptych.core."):
    importlib.import_module(module.name)
from diptych.core.registry import families
assert len(families()) >= 2
print(*sorted(name for name in sys.modules if name.partition(".")[0] in {FRAMEWORKS}))
print(sum(name.startswith("diptych.core") for name in sys.modules))
"""


def run(code, *arguments):
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_all_of_core_loads_no_framework():
    done = run(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    loaded, count = done.stdout.splitlines()
    assert loaded == ""
    assert int(count) >= len(list((ROOT / "diptych" / "core").rglob("*.py")))


def test_the_frameworks_are_hidden():
    for name in FRAMEWORKS:
        done = run(f"{WITHOUT}\nimport {name}")
        assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


def test_the_tests_of_core_pass_without_a_framework():
    code = f"{WITHOUT}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    folder, options = Path(__file__).parent, ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run(code, *options, f"--ignore={__file__}", str(folder))
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-1_000:]
    assert " passed" in done.stdout
    assert not any(word in done.stdout.splitlines()[-1] for word in ("skipped", "xfailed", "deselected"))
