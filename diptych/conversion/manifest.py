"""The manifest of a conversion: what was written, and from what, in a file beside the weights."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from diptych.conversion.contents import config_fields
from diptych.core.checkpoint.files import open_atomic, parse_json_object
from diptych.core.checkpoint.hub import repository_of
from diptych.core.config import ModelConfig
from diptych.core.errors import CheckpointError

_VERSION = 1
_PACKAGES = ("diptych", "ml_dtypes", "numpy", "safetensors")


@dataclass(frozen=True)
class TensorRecord:
    """A tensor in a manifest.

    Attributes:
        dtype, shape: in the published layout.
        sha256: of the values in that dtype and layout, whatever the format of the files.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `verify` needs of a manifest.

    Attributes:
        architecture: the class whose names the tensors have.
        config: the fields of the config, without those that describe its file.
        tensors: by published name.
    """

    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorRecord]


def write_manifest(
    path: Path,
    *,
    source: Path | str,
    formats: tuple[str, str],
    architecture: str,
    config: ModelConfig,
    tensors: Mapping[str, TensorRecord],
) -> None:
    """Writes the manifest of a conversion.

    Args:
        path: of the file.
        source: the directory that was converted, of which one in the hub's cache is named by its repository and commit;
            or the description of a live model.
        formats: of the weights before and after.
        architecture: the class whose names the tensors have.
        config: of the result.
        tensors: by published name.
    """
    if isinstance(source, str):
        repository, commit = source, None
    else:
        # names of files may hold bytes that are no characters
        path_text = os.fsencode(source.resolve()).decode(errors="backslashreplace")
        repository, commit = repository_of(source) or (path_text, None)
    manifest = {
        "manifest_version": _VERSION,
        "source": repository,
        "revision": commit,
        "source_format": formats[0],
        "format": formats[1],
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
        "architecture": architecture,
        "config": config_fields(config),
        "tensors": {name: vars(tensors[name]) for name in sorted(tensors)},
    }
    with open_atomic(path) as handle:
        handle.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        CheckpointError: there is no such file, or it is damaged or of a later version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; convert writes a manifest with manifest=True (--manifest)")
    data = parse_json_object(path.read_bytes(), str(path))
    version = data.get("manifest_version")
    if version != _VERSION:
        raise CheckpointError(
            f"{path}: manifest_version={version!r} is not known; version {_VERSION} is. Update diptych"
        )
    try:
        tensors = {name: _record(tensor) for name, tensor in data["tensors"].items()}
        architecture, config = data["architecture"], data["config"]
        if not isinstance(architecture, str) or not isinstance(config, dict):
            raise TypeError
        return Manifest(architecture, cast(dict[str, Any], config), tensors)
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(
            f"{path}: not a manifest of a conversion, or damaged. Convert the checkpoint again"
        ) from None


def _record(tensor: Any) -> TensorRecord:
    """A tensor's entry.

    Raises:
        KeyError, TypeError: it is none.
    """
    dtype, shape, digest = tensor["dtype"], tensor["shape"], tensor["sha256"]
    texts = isinstance(dtype, str) and isinstance(digest, str)
    if not texts or not isinstance(shape, list) or any(type(size) is not int for size in cast(list[Any], shape)):
        raise TypeError
    return TensorRecord(dtype, tuple(cast(list[int], shape)), digest)
