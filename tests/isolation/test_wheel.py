"""The wheel, installed without the checkout, holds everything that the package needs."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: object, cwd: Path) -> str:
    """Returns what the command printed; fails with all that it said if it did not end well."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("diptych-*.whl")
    return built


@pytest.fixture(scope="module")
def room(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel; third-party packages are those of the tests' environment."""
    room = tmp_path_factory.mktemp("room")
    run(sys.executable, "-m", "venv", "--without-pip", room, cwd=room)
    python = room / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=room)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=room).strip()
    # Python follows no .pth file of a folder that a .pth file names, so the checkout's editable install stays unseen.
    Path(packages, "third_party.pth").write_text(sysconfig.get_path("purelib"))
    return room


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "diptych").rglob("*.py")}
    assert names == sources | {"diptych/py.typed"}


def test_the_command_starts(room: Path, tmp_path: Path) -> None:
    assert "Usage: diptych" in run(room / "bin" / "diptych", "--help", cwd=tmp_path)


@pytest.mark.parametrize("name", ["diptych", "diptych.backends.jax", "diptych.backends.torch", "diptych.conversion"])
def test_the_installed_modules_are_the_wheels(name: str, room: Path, tmp_path: Path) -> None:
    program = f"import importlib; print(importlib.import_module({name!r}).__file__)"
    assert Path(run(room / "bin" / "python", "-c", program, cwd=tmp_path).strip()).is_relative_to(room)
