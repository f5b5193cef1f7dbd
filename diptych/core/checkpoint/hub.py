"""Downloads from the Hugging Face hub into its cache."""

import errno
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, cast

from diptych.core.checkpoint import companions
from diptych.core.checkpoint.formats import FILE_FORMATS, ORBAX, missing_variant
from diptych.core.errors import CheckpointError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


class HubOptions(TypedDict, total=False):
    """The keywords of every function that takes the name of a checkpoint.

    revision: a branch, tag or commit on the hub.
    subfolder: the directory inside the repository, or inside a local directory, that holds the checkpoint.
    variant: which of several sets of weights, such as "fp16" for model.fp16.safetensors; also in a local directory.
    token: the hub's access token; by default HF_TOKEN, or that of `hf auth login`.
    cache_dir: the directory for downloads; by default that of huggingface_hub.
    local_files_only: use only what is in the cache, without network access.
    """

    revision: str | None
    subfolder: str | None
    variant: str | None
    token: str | bool | None
    cache_dir: str | PathLike[str] | None
    local_files_only: bool


def split_options(options: Mapping[str, Any], prefix: str = "") -> tuple[HubOptions, dict[str, Any]]:
    """Separates the `HubOptions` among keywords, whose names may begin with a prefix, from all others."""
    names = {f"{prefix}{name}": name for name in HubOptions.__annotations__}
    hub = {names[name]: value for name, value in options.items() if name in names}
    return cast(HubOptions, hub), {name: value for name, value in options.items() if name not in names}


def access_options(options: HubOptions) -> HubOptions:
    """Those options that are the same for several checkpoints: how they are downloaded, and not which ones."""
    shared = ("token", "cache_dir", "local_files_only")
    return cast(HubOptions, {name: value for name, value in options.items() if name in shared})


def download(name: str, only: tuple[str, ...], options: HubOptions) -> Path:
    """Returns the directory of a checkpoint in the hub's cache, after downloading the files that it lacks.

    Of the formats of weights that the repository has, only the first is downloaded, in the order of `FILE_FORMATS`,
    and an Orbax checkpoint only if there is none of them.

    Args:
        name: the id of the repository, `owner/name`.
        only: the files that are needed besides the configs, in place of the weights.
        options: see `HubOptions`.

    Raises:
        CheckpointError: the download failed, or differs from the hash that the hub announced, or the repository lacks
            the subfolder or variant.
        ImportError: huggingface_hub is not installed.
    """
    subfolder = options.get("subfolder")
    variant = None if only else options.get("variant")
    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    formats = [] if only else [layout.of_variant(variant).patterns for layout in FILE_FORMATS]
    directory = _snapshot(name, inside, only or formats[0], options)
    for number, weights in enumerate(formats[1:], start=1):
        if _has_any(directory, formats[:number]):  # an index of another format is downloaded with the configs
            break
        directory = _snapshot(name, inside, weights, options)
    if not only and variant is None and not _has_any(directory, formats):
        directory = _orbax_snapshot(name, inside, options)
    if inside and not directory.is_dir():
        raise CheckpointError(f"{name}: has no files of a checkpoint in a subfolder {subfolder}")
    if variant and not _has_any(directory, formats):
        raise missing_variant(name, variant, _list_files(name, inside, options) or os.listdir(directory))
    return directory


def repository_of(directory: Path) -> tuple[str, str] | None:
    """The repository and the commit that a directory in the hub's cache was downloaded from; None for any other."""
    for path in (directory.absolute(), *directory.absolute().parents):
        owner = path.parent.parent.name
        if path.parent.name == "snapshots" and owner.startswith("models--"):
            return owner.removeprefix("models--").replace("--", "/"), path.name
    return None


def _has_any(directory: Path, formats: Iterable[Iterable[str]]) -> bool:
    """Whether a file in the directory matches a pattern of one of the formats."""
    return any(path for patterns in formats for pattern in patterns for path in directory.glob(pattern))


def _orbax_snapshot(name: str, inside: str, options: HubOptions) -> Path:
    """The directory after downloading the Orbax checkpoint in it, or in its only directory that is one."""
    marker = ORBAX.marker
    directory = _snapshot(name, inside, (marker, f"*/{marker}"), options, deep=True)
    found = (
        []
        if not directory.is_dir()
        else [place for place in (directory, *directory.iterdir()) if (place / marker).is_file()]
    )
    if len(found) != 1:  # none, or too many, which reading it will tell
        return directory
    within = "" if found == [directory] else f"{found[0].name}/"
    return _snapshot(name, inside, (f"{within}*",), options, deep=True)


def _snapshot(name: str, inside: str, patterns: Collection[str], options: HubOptions, *, deep: bool = False) -> Path:
    """The directory with those files of a repository, or of a directory inside it, that match the patterns.

    Args:
        name: the repository.
        inside: the directory inside it, with a slash at its end, or nothing.
        patterns: of the files that are needed besides the configs.
        options: see `HubOptions`.
        deep: whether the patterns are of files in directories too, where those of other programs and logs may be.
    """
    try:
        from huggingface_hub import constants, snapshot_download  # pyright: ignore[reportUnknownVariableType]
    except ImportError as error:
        raise ImportError(
            f"{name}: no such directory; to download it from the Hugging Face hub: pip install 'diptych[hub]'"
        ) from error
    revision, cache_dir = options.get("revision"), options.get("cache_dir")
    repository = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    before = _blobs(repository)
    try:
        try:
            snapshot = snapshot_download(
                name,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=options.get("local_files_only", False),
                token=options.get("token"),
                allow_patterns=[f"{inside}{pattern}" for pattern in (*(() if deep else companions.ALL), *patterns)],
                ignore_patterns=None if deep else [f"{inside}*/*"],
            )
        finally:
            damaged = _remove_damaged(repository, _blobs(repository) - before)
    except Exception as error:  # the hub, its client and its network layers have no common base class
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        cause = error.__cause__
        because = "" if cause is None or str(cause) in str(error) else f" ({type(cause).__name__}: {cause})"
        raise CheckpointError(
            f"{name}: no such directory, and the Hugging Face hub, asked for revision {revision or 'main'}, answered "
            + " ".join(f"{type(error).__name__}: {error}{because}".split())
        ) from error
    if damaged:
        raise CheckpointError(
            f"{name}: {', '.join(damaged)} of revision {revision or 'main'} arrived with another hash than the Hugging "
            "Face hub announced, and was removed. Download it again"
        )
    return Path(snapshot) / inside


def _blobs(repository: Path) -> set[str]:
    """The names of the downloaded files of a repository in the cache, which are their hashes on the hub."""
    blobs = repository / "blobs"
    return {path.name for path in blobs.iterdir()} if blobs.is_dir() else set()


def _remove_damaged(repository: Path, blobs: Collection[str]) -> list[str]:
    """Removes those files from the cache that don't have the hash in their name; returns their names on the hub.

    The client compares only sizes.
    """
    damaged = [repository / "blobs" / name for name in blobs if not _has_hash(repository / "blobs" / name)]
    for blob in damaged:
        blob.unlink(missing_ok=True)
    links = [link for link in (repository / "snapshots").rglob("*") if damaged and link.is_symlink()]
    dangling = [link for link in links if not link.exists()]
    for link in dangling:
        link.unlink()
    return sorted({link.name for link in dangling})


def _has_hash(blob: Path) -> bool:
    """Whether a file of the cache has the hash in its name: SHA-256, or as in Git, SHA-1; others are not checked."""
    algorithm = {64: "sha256", 40: "sha1"}.get(len(blob.name))
    if algorithm is None or not set(blob.name) <= set("0123456789abcdef"):
        return True
    with blob.open("rb") as handle:
        if hashlib.file_digest(handle, algorithm).hexdigest() == blob.name:
            return True
        if algorithm == "sha256":
            return False
        content = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob.name


def _list_files(name: str, inside: str, options: HubOptions) -> list[str]:
    """The names of a repository's files in a directory, for an error message; empty if the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        paths = HfApi(token=options.get("token")).list_repo_files(name, revision=options.get("revision"))
    except Exception:  # as for a download
        return []
    return [path.removeprefix(inside) for path in paths if path.startswith(inside)]
