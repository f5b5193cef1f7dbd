"""Files of `torch.save` before PyTorch 1.6: pickles in a row, and after them the bytes of all storages."""

from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, Any, cast

from diptych.core.checkpoint.files import map_file
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.checkpoint.torch_pickle import read_pickle, read_state_dict
from diptych.core.checkpoint.torch_storages import check_inside, read_view
from diptych.core.checkpoint.torch_zip import read_torch_zip
from diptych.core.errors import CheckpointError

_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # a pickled number
_VERSION = 1001
_COUNT_BYTES = 8  # each storage begins with the number of its elements


def read_torch(path: str | PathLike[str]) -> dict[str, TensorSource]:
    """Maps a file that `torch.save` of any version made of a state dict; see `read_torch_zip`."""
    return read_torch_legacy(path) if is_legacy(Path(path)) else read_torch_zip(path)


def is_legacy(path: Path) -> bool:
    """Whether a file is in the format of PyTorch before version 1.6."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_torch_legacy(path: str | PathLike[str]) -> dict[str, TensorSource]:
    """Maps a file that an old `torch.save` made of a state dict, and lists its tensors in the order of the dict.

    PyTorch is not needed, and nothing in the file is executed. The file has no checksums.

    Args:
        path: The file.

    Returns:
        The tensors by name; reading one returns a view of the mapped file, or a copy if its strides are not the usual
        ones.

    Raises:
        CheckpointError: The file is damaged or holds something else than dense tensors.
        OSError: It cannot be opened.
    """
    path = Path(path)
    mapped, source = map_file(path), str(path)
    file = cast(IO[bytes], mapped)  # whose methods a map has
    read_pickle(file, source)  # the magic number
    version = read_pickle(file, source)
    if version != _VERSION:
        raise CheckpointError(
            f"{path}: is in version {_describe(version)} of PyTorch's old format, but only {_VERSION} is read. "
            "Save it again"
        )
    read_pickle(file, source)  # the machine that wrote it; values are little-endian on every machine
    stored = read_state_dict(file, source)
    keys = read_pickle(file, source)
    storages = {tensor.storage.key: tensor.storage for tensor in stored.values()}
    listed = cast(list[Any], keys) if isinstance(keys, list) else list[Any]()
    if {type(key) for key in listed} - {str} or sorted(listed) != sorted(storages):
        raise CheckpointError(
            f"{path}: lists the storages {_describe(keys)}, but its tensors are in {_describe([*storages])}. "
            "Download or save it again"
        )
    spans: dict[str, range] = {}
    position = mapped.tell()
    for key in listed:
        storage, start = storages[key], position + _COUNT_BYTES
        position = start + storage.count * (1 if storage.dtype is None else storage.dtype.itemsize)
        if int.from_bytes(mapped[start - _COUNT_BYTES : start], "little") != storage.count or position > len(mapped):
            raise CheckpointError(
                f"{path}: its storage {key} should have {storage.count} elements at byte {start} of {len(mapped)}, and "
                "has others: the file is truncated or damaged. Download or save it again"
            )
        spans[key] = range(start, position)
    if position < len(mapped):
        raise CheckpointError(
            f"{path}: its last storage ends at byte {position}, but the file has {len(mapped)}. Download it again"
        )
    tensors: dict[str, TensorSource] = {}
    for name, tensor in stored.items():
        start = check_inside(path, name, tensor, tensor.storage.key, spans[tensor.storage.key])
        read = partial(read_view, mapped, start, "<", tensor)
        tensors[name] = TensorSource(tensor.shape, tensor.dtype, read, source)
    return tensors


def _describe(found: Any) -> str:
    """A number or texts for a message; of anything else, which may refer to one part many times, only the type."""
    parts = cast(list[object], found) if isinstance(found, list) else [cast(object, found)]
    plain = all(type(part) in (int, str) for part in parts)
    return str(cast(object, found))[:1000] if plain else f"<{type(cast(object, found)).__name__}>"
