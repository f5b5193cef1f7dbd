"""Files of `torch.save`: a zip archive with a pickle that describes the tensors, and the bytes of their storages."""

import math
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
from diptych.core.checkpoint.torch_pickle import StoredTensor, read_state_dict
from diptych.core.errors import CheckpointError

_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the pickled number that old files begin with
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
_ENCRYPTED = 0x1
_ORDERS = {b"little": "<", b"big": ">"}
_LARGEST = 2**48  # the product of a tensor's sizes other than 0; numpy has no larger arrays


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


class LegacyFormatError(CheckpointError):
    """The file is in the format of PyTorch before version 1.6, which is no zip archive."""


def is_legacy(path: Path) -> bool:
    """Whether a file is in the format of PyTorch before version 1.6."""
    with path.open("rb") as file:
        return file.read(len(_LEGACY)) == _LEGACY


def read_torch_zip(path: str | PathLike[str]) -> dict[str, TensorSource]:
    """Map a file that `torch.save` made of a state dict, and list its tensors in the order of the dict.

    PyTorch is not needed, and nothing in the file is executed.

    Args:
        path: The file.

    Returns:
        The tensors by name; reading one checks its storage against the checksum, and returns a view of the mapped file,
        or a copy if its strides or its byte order are not the usual ones.

    Raises:
        CheckpointError: The file is damaged or holds something else than dense tensors; a LegacyFormatError if it is
            in PyTorch's old format.
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
        start = _storage_start(archive, name, tensor)
        read = partial(_read, archive, start, _ORDERS[order], tensor)
        alone = uses[tensor.storage.key] == 1
        tensors[name] = TensorSource(tensor.shape, tensor.dtype, read, str(path), mapped=alone)
    return tensors


def _open(path: Path) -> _Archive:
    """Map an archive, and check that its members are stored as they are and apart from each other."""
    mapped = map_file(path)
    if mapped[: len(_LEGACY)] == _LEGACY:
        raise LegacyFormatError(
            f"{path}: is in PyTorch's format from before version 1.6, which diptych does not read. Save it again: "
            "torch.save(torch.load(path, weights_only=True), path)"
        )
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


def _storage_start(archive: _Archive, name: str, tensor: StoredTensor) -> int:
    """The position of a tensor's storage in the file, after a check that the tensor lies inside of it."""
    storage = tensor.storage
    span = archive.members.get(f"data/{storage.key}")
    itemsize = tensor.dtype.itemsize
    declared = storage.count * (1 if storage.dtype is None else itemsize)
    entries, last = math.prod(tensor.shape), tensor.offset
    last += sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if span is None or len(span) != declared:
        found = "is not in the file" if span is None else f"has {len(span)} bytes"
        problem = f"needs {declared} bytes of storage data/{storage.key}, which {found}"
    elif entries and (last + 1) * itemsize > declared:
        problem = f"ends at byte {(last + 1) * itemsize} of its storage, which has {declared}"
    elif entries * itemsize > declared:
        problem = (
            f"repeats the entries of its storage ({entries} of {declared // itemsize}), as after expand(); save its "
            "clone()"
        )
    elif math.prod(size or 1 for size in tensor.shape) > _LARGEST:
        problem = f"has the shape {tensor.shape}, which no array can have"
    else:
        return span.start
    raise CheckpointError(f"{archive.path}: tensor {name!r} {problem}. Download or save the file again")


def _read(archive: _Archive, start: int, order: str, tensor: StoredTensor) -> np.ndarray:
    """A tensor's values, read as integers of its width, since bfloat16 has no byte order.

    Raises:
        CheckpointError: its storage differs from its checksum.
    """
    archive.check(f"data/{tensor.storage.key}")
    itemsize = tensor.dtype.itemsize
    bits = np.ndarray(
        tensor.shape,
        f"{order}u{itemsize}",
        archive.mapped,
        start + tensor.offset * itemsize,
        tuple(stride * itemsize for stride in tensor.strides),
    )
    values = np.asarray(bits, f"u{itemsize}", order="C").view(tensor.dtype)
    values.flags.writeable = False
    return values
