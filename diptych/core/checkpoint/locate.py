"""Finding the directory of a checkpoint, on disk or on the Hugging Face hub."""

import re
from os import PathLike
from pathlib import Path
from typing import Unpack

from diptych.core.checkpoint.hub import HubOptions, download
from diptych.core.errors import CheckpointError, InputError

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_VARIANT = re.compile(r"\w[\w.-]*", re.ASCII)
_SUBFOLDER = re.compile(r"[\w-][\w. -]*(/[\w-][\w. -]*)*/?")

CONFIGS = ("config.json",)
"""As `only` of `locate`: the configs and the files of tokenizers and processors, without the weights."""


def locate(name_or_path: str | PathLike[str], *, only: tuple[str, ...] = (), **options: Unpack[HubOptions]) -> Path:
    """Returns the directory of a checkpoint, after downloading it if needed.

    Args:
        name_or_path: a directory, which takes precedence, or a model's id on the Hugging Face hub (`owner/name`).
        only: the files that are needed besides the configs, in place of the weights.
        options: see `HubOptions`.

    Raises:
        CheckpointError: there is no such directory, and the download failed; or there is one, which has no revisions.
        ImportError: it is not a directory, and huggingface_hub is not installed.
        InputError: subfolder or variant is none.
        TypeError: an option is unknown.
    """
    _check_options(options)
    if not isinstance(name_or_path, str | PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CheckpointError(
            f"something of type {type(name_or_path).__name__} is given, but the path of a checkpoint's directory, or a "
            "name on the hub, is needed; save_pretrained of a model in memory writes one"
        )
    name, path = str(name_or_path), Path(name_or_path)
    revision, subfolder = options.get("revision"), options.get("subfolder")
    if name and path.is_dir():  # Path("") is the working directory
        if revision is not None:
            raise CheckpointError(f"{path}: is on the disk, but revision={revision!r}; only names on the hub have them")
        return _subfolder_of(path, subfolder) if subfolder else path
    if name and path.exists():
        raise CheckpointError(
            f"{path}: is a file; give the directory that holds it, with config.json and the weights in it"
        )
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such directory, and no id of a model on the Hugging Face hub (owner/name)")
    return download(name, only, options)


def _check_options(options: HubOptions) -> None:
    """Checks the names of options, and the values that become parts of file names."""
    unknown = [name for name in options if name not in HubOptions.__annotations__]
    if unknown:
        raise TypeError(
            f"unknown keyword {', '.join(unknown)}; for a checkpoint there are {', '.join(HubOptions.__annotations__)}"
        )
    for name, pattern, needed in (
        ("subfolder", _SUBFOLDER, "a relative path without .. and patterns"),
        ("variant", _VARIANT, "a part of the weights' file names, such as fp16"),
    ):
        value = options.get(name)
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise InputError(f"{name}={value!r} must be {needed}")


def _subfolder_of(directory: Path, subfolder: str) -> Path:
    """A directory inside a local one."""
    found = directory / subfolder
    if not found.is_dir():
        there = sorted(path.name for path in directory.iterdir() if path.is_dir())
        raise CheckpointError(f"{found}: no such directory; subfolders here: {', '.join(there) or 'none'}")
    if not found.resolve().is_relative_to(directory.resolve()):
        raise CheckpointError(f"{found}: is outside of {directory}, at {found.resolve()}; give that directory itself")
    return found
