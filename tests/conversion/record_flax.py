"""Records what the last Flax release of transformers writes, and checks that it loads a directory.

The test suite cannot hold that environment (jax 0.4, transformers 4), so it compares with the recorded listing:

    python tests/conversion/record_flax.py                # writes flax_listing.json beside this file
    python tests/conversion/record_flax.py --check DIR    # loads DIR's flax_model.msgpack; status 1 if it differs

Both make the environment on first use, or take the one named by --venv.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

PINS = {
    "torch": "2.13.0",
    "transformers": "4.57.6",
    "jax": "0.4.38",
    "flax": "0.10.2",
    "optax": "0.2.4",
}
REQUIREMENTS = [f"{name}[cpu]=={pin}" if name == "jax" else f"{name}=={pin}" for name, pin in PINS.items()]
UNPINNED = ("msgpack", "numpy", "safetensors")
LISTING = Path(__file__).with_name("flax_listing.json")
ROOT = Path(__file__).resolve().parents[2]
DEFAULT_ENVIRONMENT = Path(tempfile.gettempdir()) / "diptych-flax-4.57.6"

WEIGHTS = "flax_model.msgpack"
INDEX = "flax_model.msgpack.index.json"
TWIN = "model.safetensors"
# flax.serialization's extension code for an array: msgpack of (shape, dtype name, bytes in C order)
ARRAY_CODE = 1
# bytes
CHUNK_LIMIT = 2_048
SHARD_LIMIT = "10KB"

# what from_pretrained says of files that fit: about 16-bit parameters, and about the end of these classes
HARMLESS = re.compile(r"Some of the weights of \w+ were initialized in b?float16|TensorFlow and JAX classes are depr")

Json = dict[str, Any]


def main() -> int:
    """Runs one of the two modes in the old environment; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=DEFAULT_ENVIRONMENT, help="the environment; made if absent")
    parser.add_argument("--check", type=Path, metavar="DIR", help="load DIR instead of recording")
    parser.add_argument("--class", dest="class_name", metavar="FlaxBertModel", help="default: from DIR's config.json")
    arguments = parser.parse_args()
    if arguments.class_name and not arguments.check:
        parser.error("--class belongs to --check")
    if Path(sys.prefix).resolve() != arguments.venv.resolve():
        command = [str(_interpreter(arguments.venv)), __file__, *sys.argv[1:]]
        offline = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
        return subprocess.run(command, env=os.environ | offline, check=False).returncode
    if wrong := [pin for pin in PINS.items() if _version(pin[0]) != pin[1]]:
        raise SystemExit(f"{arguments.venv}: needs {', '.join(f'{name} {pin}' for name, pin in wrong)}.")
    if arguments.check:
        return check(arguments.check, arguments.class_name)
    record()
    return 0


def record() -> None:
    """Saves every tiny checkpoint with its Flax class and writes the listing of what is on disk."""
    checkpoints = _checkpoints()
    listing: Json = {"versions": {name: _version(name) for name in sorted([*PINS, *UNPINNED])}}
    with tempfile.TemporaryDirectory() as scratch:

        def saved(name: str, change: Callable[[Any], None] = lambda model: None, **options: Any) -> Path:
            published, out = Path(scratch, "published", name), Path(tempfile.mkdtemp(dir=scratch))
            checkpoints.write(published, name)
            model, warnings = _load(checkpoints.FLAX_CLASSES[name], published, from_pt=True)
            if warnings:
                raise SystemExit("\n".join(["The tiny checkpoint does not fit:", *warnings]))
            change(model)
            model.save_pretrained(out, **options)
            return out

        def to_bfloat16(model: Any) -> None:
            model.params = model.to_bf16(model.params)

        listing["cases"] = {flax: _file(saved(name) / WEIGHTS) for name, flax in checkpoints.FLAX_CLASSES.items()}
        listing["bfloat16"] = {"FlaxBertModel": _file(saved("BertModel", to_bfloat16) / WEIGHTS)}

        shards = saved("BertModel", max_shard_size=SHARD_LIMIT)
        listing["sharded"] = {
            "FlaxBertModel": {
                "max_shard_size": SHARD_LIMIT,
                "index": json.loads((shards / INDEX).read_text(encoding="utf-8")),
                "files": {file.name: _file(file) for file in sorted(shards.glob("*.msgpack"))},
            }
        }

        # Arrays over a gibibyte are cut into chunks; with a lower limit the same code shows how.
        with patch.object(import_module("flax.serialization"), "MAX_CHUNK_SIZE", CHUNK_LIMIT):
            listing["chunked"] = {"FlaxBertModel": {"limit": CHUNK_LIMIT, **_file(saved("BertModel") / WEIGHTS)}}
    LISTING.write_text(_readable(listing) + "\n", encoding="utf-8")
    print(f"{LISTING.name}: {len(listing['cases'])} classes")


def check(directory: Path, class_name: str | None) -> int:
    """Loads a directory's Flax file with the old class and compares every parameter.

    They are compared with the directory's own model.safetensors, read by the old class as a PyTorch checkpoint; where
    there is none, with the listing (the directory is then a conversion of the tiny checkpoint).

    Args:
        directory: holds config.json and flax_model.msgpack, or its shards and index.
        class_name: the old class; None takes the one of config.json's "architectures".

    Returns:
        The exit status: 0 if all of it loads and equals.
    """
    if not (directory / WEIGHTS).is_file() and not (directory / INDEX).is_file():
        raise SystemExit(f"{directory}: holds neither {WEIGHTS} nor {INDEX}.")
    if class_name is None:
        architectures = json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"]
        class_name = _checkpoints().FLAX_CLASSES.get(architectures[0], f"Flax{architectures[0]}")
    model, faults = _load(class_name, directory)
    loaded = _parameters(model)

    if (directory / TWIN).is_file():
        reference = f"{directory.name}/{TWIN}"
        with tempfile.TemporaryDirectory() as scratch:
            for file in ("config.json", TWIN):
                shutil.copyfile(directory / file, Path(scratch, file))
            twin, warnings = _load(class_name, Path(scratch), from_pt=True)
        faults += warnings
        expected = _parameters(twin)
    else:
        listing = json.loads(LISTING.read_text(encoding="utf-8"))
        dtypes = {leaf["dtype"] for leaf in loaded.values()}
        part = "bfloat16" if dtypes == {"bfloat16"} else "cases"
        if class_name not in listing[part]:
            raise SystemExit(f"{directory}: holds no {TWIN}, and {LISTING.name} has no {class_name} in {part!r}.")
        reference = f"{LISTING.name}, {part!r}"
        expected = listing[part][class_name]["tree"]

    for path in sorted(expected.keys() | loaded.keys()):
        if expected.get(path) != loaded.get(path):
            faults.append(f"{path}: loaded {loaded.get(path)}, expected {expected.get(path)}")
    for fault in faults:
        print(fault)
    print(f"{class_name}: {len(loaded)} parameters compared with {reference}, {len(faults)} faults")
    return 1 if faults else 0


def _checkpoints() -> Any:
    """The tiny checkpoints, which are found as tests find each other: from the root of the repository."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module("tests.conversion.checkpoints")


def _interpreter(environment: Path) -> Path:
    """The environment's python; makes the environment first if it does not exist."""
    python = environment / "bin" / "python"
    if not python.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        except BaseException:
            shutil.rmtree(environment, ignore_errors=True)
            raise
    return python


def _version(name: str) -> str | None:
    """The installed version without its local part ("+cpu"), or None."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _load(class_name: str, directory: Path, **options: Any) -> tuple[Any, list[str]]:
    """The model, and the warnings about parameters that were missing, unexpected or misshapen."""
    model_class = getattr(import_module("transformers"), class_name)
    with _warnings_of("transformers.modeling_flax_utils") as warnings:
        model = model_class.from_pretrained(directory, **options)
    return model, [warning for warning in warnings if not HARMLESS.match(warning)]


@contextmanager
def _warnings_of(name: str) -> Iterator[list[str]]:
    """Collects what a logger says at warning level and above."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, collector = logging.getLogger(name), Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)


def _leaf(shape: tuple[int, ...], dtype: str, data: bytes) -> Json:
    return {"dtype": dtype, "shape": list(shape), "sha256": hashlib.sha256(data).hexdigest()}


def _parameters(model: Any) -> dict[str, Json]:
    """The parameters in memory, by path, in the form of the listing."""
    flat: Mapping[str, Any] = import_module("flax.traverse_util").flatten_dict(model.params, sep="/")
    arrays: dict[str, NDArray[Any]] = {path: np.asarray(value) for path, value in flat.items()}
    return {path: _leaf(array.shape, array.dtype.name, array.tobytes("C")) for path, array in arrays.items()}


def _file(file: Path) -> Json:
    """One msgpack file: its size and digest, and each leaf as it is on disk (chunks are not joined)."""
    msgpack = import_module("msgpack")
    content = file.read_bytes()

    def array(code: int, data: bytes) -> tuple[tuple[int, ...], str, bytes]:
        if code != ARRAY_CODE:
            raise SystemExit(f"{file.name}: holds an extension of code {code}, not an array ({ARRAY_CODE}).")
        shape, dtype, values = msgpack.unpackb(data, raw=True, use_list=False)
        return shape, dtype.decode(), values

    def walk(path: str, node: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict):
            for key, child in node.items():
                yield from walk(f"{path}/{key}" if path else key, child)
        else:
            yield path, _leaf(*node) if isinstance(node, tuple) else node

    tree = dict(walk("", msgpack.unpackb(content, ext_hook=array, raw=False)))
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "tree": tree}


def _readable(value: Any, indent: str = "") -> str:
    """JSON with sorted keys and one line for each object that holds no other."""
    if not isinstance(value, dict) or not any(isinstance(child, dict) for child in value.values()):
        return json.dumps(value, sort_keys=True)
    rows = [f"{indent} {json.dumps(key)}: {_readable(child, indent + ' ')}" for key, child in sorted(value.items())]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


if __name__ == "__main__":
    sys.exit(main())
