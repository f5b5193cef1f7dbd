"""Files of `torch.save`: a zip archive with a pickle that describes the tensors, and the bytes of their storages."""

import mmap
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from diptych.core.checkpoint.files import map_file
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.checkpoint.torch_pickle import read_state_dict
from diptych.core.checkpoint.torch_storages import StoredTensor, check_inside, read_view
from diptych.core.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
_ENCRYPTED = 0x1
_ORDERS = {b"little": "<", b"big": ">"}


@dataclass(frozen=True)
class _Archive:
    """The members of a mapped zip archive, all of them stored without compression."""

    mapped: mmap.mmap
    path: Path
    members: dict[str, range]
    """The bytes of each member by its name, without the folder that contains them all."""
    checksums: dict[str, int]
    """The CRC-32 of each member that has one and has not been checked yet."""

    def read(self, name: str) -> bytes:
        """A member's bytes, after its check."""
        self.check(name)
        span = self.members[name]
        return self.mapped[span.start : span.stop]

    def check(self, name: str) -> None:
        """Compares a member with its checksum, once; several tensors may share a storage."""
        span, checksum = self.members[name], self.checksums.get(name)
        if checksum is None:
            return
        if checksum != zlib.crc32(memoryview(self.mapped)[span.start : span.stop]):
            raise CheckpointError(
                f"{self.path}: its {name} differs from its checksum, so it is damaged. Download or save the file again"
            )
        self.checksums.pop(name, None)


def read_torch_zip(path: str | PathLike[str]) -> dict[str, TensorSource]:
    """Maps a file that `torch.save` made of a state dict, and lists its tensors in the order of the dict.

    PyTorch is not needed, and nothing in the file is executed.

    Args:
        path: The file.

    Returns:
        The tensors by name; reading one checks its storage against the checksum, and returns a view of the mapped file,
        or a copy if its strides or its byte order are not the usual ones.

    Raises:
        CheckpointError: The file is damaged or holds something else than dense tensors.
        OSError: It cannot be opened.
    """
    path = Path(path)
    archive = _open(path)
    if "data.pkl" not in archive.members or "constants.pkl" in archive.members:
        what = "is a TorchScript program" if "constants.pkl" in archive.members else "has no data.pkl"
        raise CheckpointError(f"{path}: {what}, not a dict of tensors, as torch.save(model.state_dict(), …) writes it")
    order = archive.read("byteorder") if "byteorder" in archive.members else b"little"
    if order not in _ORDERS:
        raise CheckpointError(f"{path}: its byte order is {order!r}, but little or big is needed. Save it again")
    tensors: dict[str, TensorSource] = {}
    stored = read_state_dict(archive.read("data.pkl"), str(path))
    uses = Counter(tensor.storage.key for tensor in stored.values())
    for name, tensor in stored.items():
        place = f"data/{tensor.storage.key}"
        start = check_inside(path, name, tensor, place, archive.members.get(place))
        read = partial(_read, archive, start, _ORDERS[order], tensor)
        alone = uses[tensor.storage.key] == 1
        tensors[name] = TensorSource(tensor.shape, tensor.dtype, read, str(path), mapped=alone)
    return tensors


def _open(path: Path) -> _Archive:
    """Maps an archive, and checks that its members are stored as they are and apart from each other."""
    mapped = map_file(path)
    try:
        with zipfile.ZipFile(path) as file:
            entries, end = file.infolist(), file.start_dir
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
        raise CheckpointError(
            f"{path}: is no zip archive, as torch.save writes it, or truncated ({error}). Download or save it again"
        ) from error
    members: dict[str, range] = {}
    checksums: dict[str, int] = {}
    previous = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename.partition("/")[2] or entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise CheckpointError(
                f"{path}: its member {entry.filename} is compressed or encrypted, so it cannot be mapped. Save it "
                "again with torch.save, which does neither"
            )
        span = _span(mapped, entry)
        if span is None or entry.header_offset < previous or span.stop > end or name in members:
            raise CheckpointError(
                f"{path}: its member {entry.filename} overlaps another one, has the same name, or is not where the "
                "directory says. Download or save the file again"
            )
        members[name], previous = span, span.stop
        if entry.CRC != 0:  # torch.serialization.set_crc32_options(False) leaves it out
            checksums[name] = entry.CRC
    return _Archive(mapped, path, members, checksums)


def _span(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> range | None:
    """The bytes of a member, which follow its local header; None if there is no such header."""
    header = mapped[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size:
        return None
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\x03\x04" or entry.file_size != entry.compress_size:
        return None
    return range(start, start + entry.file_size)


def _read(archive: _Archive, start: int, order: str, tensor: StoredTensor) -> np.ndarray:
    """A tensor's values, after the check of its storage."""
    archive.check(f"data/{tensor.storage.key}")
    return read_view(archive.mapped, start, order, tensor)
