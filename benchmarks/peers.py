"""The sides of a benchmark: environments for other libraries, and one worker process for each side.

Workers wait for commands, so that only one side computes at a time and the sides take turns within one session.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("DIPTYCH_BENCHMARKS", Path(tempfile.gettempdir(), "diptych-benchmarks")))
"""Where checkpoints and environments are kept between runs."""

FLAX_PINS = {"torch": "2.13.0", "transformers": "4.57.6", "jax": "0.4.38", "flax": "0.10.2", "optax": "0.2.4"}
"""The last versions with which the Flax classes of transformers work."""

PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--flax-environment", type=Path, metavar="VENV", help="an existing environment with the last Flax release"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small models and few rounds, to check that the benchmark works"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to this file")
    return parser


def interpreter(environment: str, flax_environment: Path | None) -> Path:
    """The Python of an environment: "here" is the current one; "flax", for the Flax release, is created once."""
    if environment == "here":
        return Path(sys.executable)
    where = flax_environment or CACHE / f"flax-transformers-{FLAX_PINS['transformers']}"
    python = where / "bin" / "python"
    done = where / ".complete"
    if not python.exists() or (flax_environment is None and not done.exists()):
        requirements = [f"{name}[cpu]=={pin}" if name == "jax" else f"{name}=={pin}" for name, pin in FLAX_PINS.items()]
        print(f"creating {where}: {' '.join(requirements)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(where)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--extra-index-url", PYTORCH_INDEX, *requirements], check=True)
        done.touch()
    return python


class Worker:
    """A process that runs the measurements of one side.

    Args:
        script: file name of the worker in this folder.
        side: name of the side.
        environment, flax_environment: see `interpreter`.
    """

    def __init__(self, script: str, side: str, environment: str, flax_environment: Path | None = None) -> None:
        self.side = side
        python = interpreter(environment, flax_environment)
        settings = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error", "USE_TF": "0"}
        self._process = subprocess.Popen(
            [str(python), str(HERE / script), side],
            env=os.environ | settings | {"PYTHONPATH": str(HERE.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, command: str, **options: Any) -> Any:
        """The worker's answer to a command.

        Raises:
            RuntimeError: the worker exited; its output is on standard error.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"command": command, **options}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker for {self.side} exited with status {process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(commands: dict[str, Any]) -> None:
    """Answers commands from standard input until it is closed; output of libraries goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        options = json.loads(line)
        answers.write(json.dumps(commands[options.pop("command")](**options)) + "\n")
        answers.flush()


def versions() -> dict[str, str]:
    """Versions of the interpreter and of the libraries in this process."""
    found = {"python": platform.python_version()}
    for name in ("diptych", "torch", "jax", "flax", "transformers", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def session() -> dict[str, Any]:
    """Facts about this session that a reader needs to judge the numbers."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", *sys.argv]),
        "hardware": f"{os.cpu_count()} cores of {model or platform.processor()}, {memory} GiB, {platform.system()}",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }


def described(facts: dict[str, Any]) -> str:
    """The facts of a session as lines of text."""
    texts = {
        name: ", ".join(f"{package} {version}" for package, version in value.items())
        if isinstance(value, dict)
        else str(value)
        for name, value in facts.items()
    }
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
