"""Finding the directory of a checkpoint, on disk or on the Hugging Face hub."""

import errno
import re
from itertools import pairwise
from os import PathLike
from pathlib import Path

from diptych.core.checkpoint import companions
from diptych.core.errors import CheckpointError

# Not "*.safetensors": many repositories hold more copies of the weights, under other names for other programs.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
_FLAX = ("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack")

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def locate(
    name_or_path: str | PathLike[str],
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    only: tuple[str, ...] = (),
) -> Path:
    """Return the directory of a checkpoint, after downloading it if needed.

    Args:
        name_or_path: A directory, which takes precedence, or a model's id on the Hugging Face hub (`owner/name`).
        revision: Branch, tag or commit on the hub.
        cache_dir: The directory for downloads; by default that of huggingface_hub.
        local_files_only: Use only what is in the cache; no network access.
        token: The hub's access token.
        only: The files that are needed besides the configs, in place of the weights.

    Raises:
        CheckpointError: There is no such directory, and the download failed; or there is one, which has no revisions.
        ImportError: It is not a directory, and huggingface_hub is not installed.
    """
    if not isinstance(name_or_path, str | PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CheckpointError(
            f"{name_or_path!r} is a {type(name_or_path).__name__}, but a path, or a model's name on the hub, is needed"
        )
    name, path = str(name_or_path), Path(name_or_path)
    if name and path.is_dir():  # Path("") is the working directory
        if revision is not None:
            raise CheckpointError(f"{path}: is on the disk, but revision={revision!r}; only names on the hub have them")
        return path
    if name and path.exists():
        raise CheckpointError(
            f"{path}: is a file; give the directory that holds it, with config.json and the weights in it"
        )
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such directory, and no id of a model on the Hugging Face hub (owner/name)")
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    except ImportError as error:
        raise ImportError(
            f"{name}: no such directory; to download it from the Hugging Face hub: pip install 'diptych[hub]'"
        ) from error

    def download(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[*companions.ALL, *patterns],
                ignore_patterns=["*/*"],  # the same model for other programs, training logs
            )
        )

    try:
        directory = download(*(only or _SAFETENSORS))
        for before, weights in () if only else pairwise((_SAFETENSORS, _TORCH, _FLAX)):
            if any(any(directory.glob(pattern)) for pattern in before):
                break
            directory = download(*weights)
    except Exception as error:  # the hub, its client and its network layers have no common base class
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        raise CheckpointError(
            f"{name}: no such directory, and the Hugging Face hub answered {type(error).__name__}: {error}"
        ) from error
    return directory
