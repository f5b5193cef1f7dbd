"""What a conversion did to each tensor."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from diptych.core.checkpoint.tensors import NUMPY_DTYPES


@dataclass(frozen=True)
class ConvertedTensor:
    """A converted tensor.

    Attributes:
        name, shape: as published, whatever the format.
        dtype: in the new files.
        source_dtype: in the old files.
        digest: SHA-256 of the values in the new dtype and the published layout, equal for bitwise equal tensors; None
            if the conversion wrote no manifest.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    digest: str | None


@dataclass(frozen=True)
class ConversionReport:
    """The result of a conversion.

    Attributes:
        source, destination: the directories, or what the live model is called.
        source_format, format: the old and the new format; of a live model its library.
        architecture: the class whose names the tensors have.
        tensors: all converted tensors.
        other_classes: the tensors that only other classes of the family own, such as the heads of a pretraining file.
        left_out: tensors of published classes that diptych does not have, which are not converted.
        ignored: tensors of the source that are not parameters, are duplicates, or were to be ignored.
        missing: parameters of the class that the source does not have, as allowed.
        files: the weight files written.
        copied: the other files that were copied.
        overflowed: tensors with values that were too large for the new dtype and became infinite, as allowed, and the
            number of these values.
        not_copied: the other files and directories of the source, without weights of other formats and hidden ones.
    """

    source: str
    destination: str
    source_format: str
    format: str
    architecture: str
    tensors: tuple[ConvertedTensor, ...]
    other_classes: tuple[str, ...]
    left_out: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    files: tuple[str, ...]
    copied: tuple[str, ...]
    overflowed: dict[str, int] = field(default_factory=dict[str, int])
    not_copied: tuple[str, ...] = ()

    @property
    def dtypes(self) -> dict[str, int]:
        """Each dtype in the new files, with the number of tensors that have it."""
        names = [tensor.dtype for tensor in self.tensors]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    @property
    def nbytes(self) -> int:
        """The size of the converted tensors in bytes."""
        return sum(math.prod(tensor.shape) * NUMPY_DTYPES[tensor.dtype].itemsize for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return {**asdict(self), "dtypes": self.dtypes, "nbytes": self.nbytes}

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        dtypes = ", ".join(self.dtypes)
        lines = [
            f"{len(self.tensors)} tensors of {self.architecture} ({self.nbytes:,} bytes, {dtypes}) converted from "
            f"{self.source_format} to {self.format} in {self.destination}; all read back and found equal"
        ]
        for what, names in (
            ("only in other classes of the family", self.other_classes),
            ("of unsupported classes, left out", self.left_out),
            ("ignored", self.ignored),
            ("missing, as allowed", self.missing),
            ("with values that overflowed, as allowed", [f"{name} ({n})" for name, n in self.overflowed.items()]),
            ("copied along", self.copied),
            ("not copied", self.not_copied),
        ):
            if names:
                lines.append(f"{len(names)} {what}: {', '.join(names)}")
        return "\n".join(lines)
