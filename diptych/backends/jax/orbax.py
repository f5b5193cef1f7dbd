"""Orbax checkpoints: trees whose arrays TensorStore holds, so that each can be read alone."""

import functools
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

try:
    import orbax.checkpoint as ocp
    import tensorstore
except ImportError as error:
    raise ImportError(
        "Orbax checkpoints need orbax and JAX, which are not installed; pip install 'diptych[jax]'"
    ) from error

from diptych.core.checkpoint.files import parse_json_object
from diptych.core.checkpoint.msgpack import nested_names
from diptych.core.checkpoint.tensors import NUMPY_DTYPES, TensorSource, dtype_from_name, dtype_name
from diptych.core.checkpoint.zarr import METADATA, DeclaredArray, parse_metadata, require_memory
from diptych.core.errors import CheckpointError

_METADATA = "_METADATA"
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
_EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")


def read(directory: Path) -> dict[str, TensorSource]:
    """Lists the arrays of a checkpoint in the order of its tree; only their headers are read.

    Args:
        directory: A checkpoint as `StandardCheckpointer` saves it: of nested dicts, or of an NNX model or its state.

    Returns:
        The arrays by name, the keys of the tree joined with "."; each is read alone.

    Raises:
        CheckpointError: The checkpoint is damaged, or holds something else than a tree of arrays.
    """
    _require_characters(directory)
    metadata = parse_json_object((directory / _METADATA).read_bytes(), str(directory / _METADATA))
    entries = metadata.get("tree_metadata")
    if not isinstance(entries, dict):
        raise _refusal(directory, f"needs a 'tree_metadata' that describes each leaf, found {entries!r}")
    stored = [".".join(keys) for entry in entries.values() if (keys := _array_keys(entry, directory))]
    if len(set(stored)) < len(stored):
        raise _refusal(directory, "describes a leaf twice")
    _check_arrays(directory, metadata, stored)
    opened = {name: tensorstore.open(_spec(directory, metadata, name), open=True, read=True) for name in stored}
    # a variable of NNX is a node of its own, with its value as the only leaf
    suffix = ".value" if all(name.endswith(".value") for name in stored) else ""
    tensors: dict[str, TensorSource] = {}
    for name, future in opened.items():
        with _naming(directory, name):
            array = future.result()
        dtype = dtype_from_name(array.dtype.name, name, str(directory), NUMPY_DTYPES)
        read_one = functools.partial(_read_array, array, directory, name)
        tensors[name.removesuffix(suffix)] = TensorSource(tuple(array.shape), dtype, read_one, str(directory))
    return tensors


def write(directory: Path, tensors: Mapping[str, TensorSource], progress: Callable[[int], None] | None) -> None:
    """Writes arrays as nested dicts, as `StandardCheckpointer` does, which needs all of them in memory.

    Args:
        directory: The checkpoint; it appears after it is complete.
        tensors: The arrays by name; "." separates the keys of the tree.
        progress: Called for each array with its size in bytes.

    Raises:
        CheckpointError: A name does not describe a place in a tree, or Orbax cannot store an array.
        OSError: The disk failed.
    """
    _require_characters(directory)
    for name, source in tensors.items():
        dtype_name(source, name)
        if source.nbytes == 0:
            raise CheckpointError(
                f"{directory}: Orbax stores no empty arrays, but {name} has the shape {source.shape}. Choose another "
                "format"
            )

    def arrays(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tensors[node].read() if isinstance(node, str) else arrays(node) for key, node in tree.items()}

    tree = arrays(nested_names(tensors, directory))
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            checkpointer.save(directory.resolve(), tree)
            checkpointer.wait_until_finished()
        except ValueError as error:  # of TensorStore, whatever went wrong
            raise OSError(f"{directory}: Orbax could not write it: {error}") from error
    for source in tensors.values():
        if progress is not None:
            progress(source.nbytes)


def _require_characters(directory: Path) -> None:
    """Refuses a path with bytes that are no characters, which TensorStore cannot take."""
    try:
        str(directory.resolve()).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{directory}: its path is not in UTF-8, as Orbax needs it. Rename the directory, or choose another format"
        ) from None


def _array_keys(entry: Any, directory: Path) -> tuple[str, ...]:
    """The path in the tree of the array that an entry of the metadata describes, () if it describes nothing."""
    try:
        keys = tuple(key["key"] for key in entry["key_metadata"])
        kind = entry["value_metadata"]["value_type"]
    except (KeyError, TypeError):
        raise _refusal(directory, f"needs 'key_metadata' and 'value_metadata' for each leaf, found {entry!r}") from None
    # a name is a folder, or the start of a key, so that it must not lead elsewhere
    if not keys or not all(isinstance(key, str) and key and not {".", "/", "\\", "\0"} & {*key} for key in keys):
        raise _refusal(
            directory, f"has the path {keys!r}; its keys must be texts that are not empty, without '.' or '/'"
        )
    if kind in _EMPTY:
        return ()
    if kind not in _ARRAYS:
        raise _refusal(directory, f"says that {'.'.join(keys)} is a {kind}, but a tree of weights holds arrays alone")
    return keys


def _check_arrays(directory: Path, metadata: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuses arrays for which TensorStore would reserve more memory than their files justify, or end the process."""
    version = _zarr_version(metadata)
    stores = {name: tensorstore.KvStore.open(_store(directory, metadata, name)) for name in names}
    declared: dict[str, DeclaredArray] = {}
    found = {}
    for name, store in stores.items():
        with _naming(directory, name):
            found[name] = store.result().read(METADATA[version])
    for name, future in found.items():
        with _naming(directory, name):
            value = future.result()
        if value.state != "value":
            raise CheckpointError(f"{directory}: the array {name} is described, but is not there. Copy it again")
        declared[name] = parse_metadata(value.value, version, name, str(directory))
    files = (Path(parent, name) for parent, _, names in os.walk(directory) for name in names)
    require_memory(declared, sum(file.stat().st_size for file in files), str(directory))


def _zarr_version(metadata: Mapping[str, Any]) -> Literal[2, 3]:
    return 3 if metadata.get("use_zarr3") is True else 2


def _store(directory: Path, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Where TensorStore finds the parts of an array."""
    files = {"driver": "file", "path": f"{directory.resolve()}/"}
    if metadata.get("use_ocdbt") is True:
        return {"driver": "ocdbt", "base": files, "path": f"{name}/"}
    return {**files, "path": f"{files['path']}{name}/"}


def _spec(directory: Path, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Where and how TensorStore finds an array."""
    return {
        "driver": {2: "zarr", 3: "zarr3"}[_zarr_version(metadata)],
        "kvstore": _store(directory, metadata, name),
        # parts that are absent are an error, unless absence may mean zeros, as in old files
        "fill_missing_data_reads": metadata.get("store_array_data_equal_to_fill_value") is not True,
    }


def _read_array(array: Any, directory: Path, name: str) -> np.ndarray:
    with _naming(directory, name):
        return np.asarray(array.read().result(), order="C")


@contextmanager
def _naming(directory: Path, name: str) -> Generator[None, None, None]:
    """Turns an error of TensorStore into one that names the array."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(
            f"{directory}: the array {name} cannot be read, so the checkpoint is damaged. Copy or save it again. "
            f"TensorStore says: {error}"
        ) from error


def _refusal(directory: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{directory / _METADATA}: {problem}. Save the weights alone, with StandardCheckpointer")
