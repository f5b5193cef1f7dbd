"""The differences between two checkpoints, of any formats, or live models."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from diptych.conversion.contents import open_contents
from diptych.conversion.report import plain_json
from diptych.core.checkpoint.hub import access_options, split_options
from diptych.core.checkpoint.tensors import TensorSource

_CHUNK = 1 << 16
"""Entries that are compared at a time, in float64; they fit the cache."""

Kind = Literal["shape", "dtype", "values"]


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that both sides have and that is not the same.

    Attributes:
        name: the published name.
        kind: "shape"; "dtype" if the values are equal after casting to the coarser dtype, and finite in both; or
            "values".
        shapes, dtypes: of the reference and of the candidate.
        count: how many entries differ.
        max_absolute: the largest |candidate - reference|; infinite where only one side is finite.
        units: max_absolute in units of rounding: the coarser dtype's eps times the reference's largest absolute value;
            of integers 1.
        where: the index of the largest difference, in the published layout.
        pair: the two values there.
    """

    name: str
    kind: Kind
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    count: int = 0
    max_absolute: float = 0.0
    units: float = 0.0
    where: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        if self.kind == "shape":
            return f"{list(self.shapes[0])} and {list(self.shapes[1])}"
        if self.kind == "dtype":
            return f"equal, but {self.dtypes[0]} and {self.dtypes[1]}"
        dtypes = self.dtypes[0] if self.dtypes[0] == self.dtypes[1] else " and ".join(self.dtypes)
        return (
            f"{self.count} of {math.prod(self.shapes[0])} entries ({dtypes}), by up to {self.max_absolute:.2e}, "
            f"{self.units:.2g} units of rounding, at {list(self.where)}: {self.pair[0]:g} and {self.pair[1]:g}"
        )


@dataclass(frozen=True)
class ConfigDifference:
    """A config field with its two values, as JSON data; a side that lacks it has None, and is named in `absent`."""

    name: str
    reference: Any
    candidate: Any
    absent: Literal["", "reference", "candidate"] = ""

    @property
    def texts(self) -> tuple[str, str]:
        """The two values as JSON, or "absent"."""
        one, other = (json.dumps(self.reference), json.dumps(self.candidate))
        return "absent" if self.absent == "reference" else one, "absent" if self.absent == "candidate" else other

    def __str__(self) -> str:
        return f"{self.name}: {' and '.join(self.texts)}"


_SIDES = ("reference", "candidate")


@dataclass(frozen=True)
class Diff:
    """The result of a comparison.

    Attributes:
        reference, candidate: what was compared.
        formats, architectures: of both.
        same: the tensors that are equal, by published name; NaN equals NaN.
        only_reference, only_candidate: the tensors that one side has.
        tensors: those that differ.
        config: the fields that differ, without those that describe a file, such as transformers_version, and those that
            one side leaves out, which change nothing.
    """

    reference: str
    candidate: str
    formats: tuple[str, str]
    architectures: tuple[str, str]
    same: tuple[str, ...]
    only_reference: tuple[str, ...]
    only_candidate: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]
    config: tuple[ConfigDifference, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.only_reference or self.only_candidate or self.tensors or self.config)

    def of_kind(self, kind: Kind) -> list[TensorDifference]:
        """The tensors that differ in one way."""
        return [difference for difference in self.tensors if difference.kind == kind]

    def verdict(self) -> str:
        """The result in one sentence."""
        if self.equal:
            return f"SAME: {_count(len(self.same), 'tensor')} and the config are equal"
        counts = (
            (len(self.of_kind("values")), "with other values"),
            (len(self.of_kind("dtype")), "with another dtype only"),
            (len(self.of_kind("shape")), "with another shape"),
            (len(self.only_reference), "only in the reference"),
            (len(self.only_candidate), "only in the candidate"),
        )
        parts = [f"{_count(count, 'tensor')} {what}" for count, what in counts if count]
        parts += [f"{_count(len(self.config), 'config field')} with another value"] if self.config else []
        return f"DIFFERENT: {', '.join(parts)}; {_count(len(self.same), 'tensor')} the same"

    def to_json(self) -> str:
        """Everything as JSON text, with the verdict."""
        return json.dumps(plain_json({"equal": self.equal, "verdict": self.verdict(), **asdict(self)}), indent=2)

    def __str__(self) -> str:
        lines = [*self._head(), *(f"{difference.name}: {difference}" for difference in self.tensors), *self._tail()]
        return "\n".join([*lines, self.verdict()])

    def __rich__(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("tensor", overflow="fold")
        for column in ("differs in", "entries", "max abs", "units", "at"):
            table.add_column(column, justify="right", no_wrap=True)
        for one in self.tensors:
            if one.kind == "values":
                numbers = (str(one.count), f"{one.max_absolute:.2e}", f"{one.units:.3g}", str(list(one.where)))
            else:
                numbers = (" → ".join(map(str, one.shapes if one.kind == "shape" else one.dtypes)), "", "", "")
            table.add_row(Text(one.name), one.kind, *numbers)
        verdict = Text(self.verdict(), style="bold green" if self.equal else "bold red")
        tables = [table] if self.tensors else []
        return Group(*map(Text, self._head()), *tables, *map(Text, self._tail()), verdict)

    def _head(self) -> Iterator[str]:
        for side, name, format, architecture in zip(
            _SIDES, (self.reference, self.candidate), self.formats, self.architectures, strict=True
        ):
            yield f"{side}: {name} ({architecture}, {format})"

    def _tail(self) -> Iterator[str]:
        for side, names in zip(_SIDES, (self.only_reference, self.only_candidate), strict=True):
            if names:
                yield f"only in the {side}: {', '.join(names)}"
        for difference in self.config:
            yield f"config {difference}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def diff(reference: Any, candidate: Any, *, ignore_config: Iterable[str] = (), **options: Any) -> Diff:
    """Compares two checkpoints or live models, tensor by tensor, by published name and in the published layout.

    A Flax file and a safetensors file of the same model are the same. Only one pair of tensors is in memory at a time.

    Args:
        reference, candidate: directories, names on the Hugging Face hub, or live models of either backend or of
            transformers.
        ignore_config: unknown fields of config.json to skip.
        options: `HubOptions`. revision, subfolder and variant are the reference's, and the candidate's begin with
            candidate_.

    Raises:
        CheckpointError, ConfigError: a checkpoint can't be read, or its class is not known.
        InputError: a live model's class is not known.
        TypeError: an option is unknown.
    """
    hub, options = split_options(options)
    of_candidate, options = split_options(options, "candidate_")
    if options:
        raise TypeError(f"diff has no keyword {', '.join(options)}")
    ignore_config = tuple(ignore_config)
    if isinstance(candidate, str | os.PathLike):
        of_candidate = access_options(hub) | of_candidate
    opened = open_contents(reference, ignore_config=ignore_config, **hub)
    other = open_contents(candidate, ignore_config=ignore_config, **of_candidate).contents(opened.architecture)
    one = opened.contents()
    same: list[str] = []
    different: list[TensorDifference] = []
    for name in one.tensors:
        if name in other.tensors:
            found = _compare(name, one.tensors[name], other.tensors[name])
            same.append(name) if found is None else different.append(found)
    return Diff(
        reference=one.label,
        candidate=other.label,
        formats=(one.format, other.format),
        architectures=(one.architecture, other.architecture),
        same=tuple(same),
        only_reference=tuple(name for name in one.tensors if name not in other.tensors),
        only_candidate=tuple(name for name in other.tensors if name not in one.tensors),
        tensors=tuple(different),
        config=tuple(found for found in config_differences(one.config, other.config) if not found.absent),
    )


def config_differences(reference: Any, candidate: Any) -> Iterator[ConfigDifference]:
    """The fields of two configs that differ."""
    for name in dict.fromkeys((*reference, *candidate)):
        one, other = reference.get(name), candidate.get(name)
        if one != other:
            absent = "reference" if name not in reference else "candidate" if name not in candidate else ""
            yield ConfigDifference(name, one, other, absent)


def _compare(name: str, reference: TensorSource, candidate: TensorSource) -> TensorDifference | None:
    """The difference of two tensors; None if they are the same."""
    shapes = (reference.shape, candidate.shape)
    dtypes = (reference.dtype.name, candidate.dtype.name)
    if reference.shape != candidate.shape:
        return TensorDifference(name, "shape", shapes, dtypes)
    one, other = reference.read().reshape(-1), candidate.read().reshape(-1)
    coarser = max((one.dtype, other.dtype), key=_rounding)
    starts = range(0, one.size, _CHUNK)
    chunks = [(start, one[start : start + _CHUNK], other[start : start + _CHUNK]) for start in starts]
    if one.dtype != other.dtype and all(_equal_when_cast(first, second, coarser) for _, first, second in chunks):
        return TensorDifference(name, "dtype", shapes, dtypes)
    count, largest, index = 0, -1.0, 0
    for start, first, second in chunks:
        if first.dtype == second.dtype and np.array_equal(first.view(np.uint8), second.view(np.uint8)):
            continue
        exact, approximate = first.astype(np.float64), second.astype(np.float64)
        differs = _differs(first, second) if first.dtype == second.dtype else _differs(exact, approximate)
        if not differs.any():
            continue
        count += int(np.count_nonzero(differs))
        with np.errstate(invalid="ignore"):
            distance = np.where(differs, np.abs(approximate - exact), -1.0)
        distance[np.isnan(distance)] = np.inf  # NaN on one side, or infinities of both signs
        if distance.max() > largest:
            largest, index = float(distance.max()), start + int(distance.argmax())
    if count == 0:
        return None
    where = tuple(int(position) for position in np.unravel_index(index, reference.shape))
    unit = _rounding(coarser) * (_largest(one) if _is_float(coarser) else 1.0)
    units = largest / unit if unit else math.inf
    pair = (float(one[index]), float(other[index]))
    return TensorDifference(name, "values", shapes, dtypes, count, largest, units, where, pair)


def _equal_when_cast(one: np.ndarray, other: np.ndarray, coarser: np.dtype[Any]) -> bool:
    """Whether values of two dtypes are equal in the coarser one, or if not both are floating-point, as numbers."""
    common = coarser if _is_float(one.dtype) and _is_float(other.dtype) else np.dtype(np.float64)
    with np.errstate(over="ignore"):
        differs = _differs(one.astype(common), other.astype(common)).any()
    # what overflows in the cast is another value than infinity or NaN
    finite, too = (np.isfinite(side.astype(np.float64)) for side in (one, other))
    return not differs and np.array_equal(finite, too)


def _largest(values: np.ndarray) -> float:
    """The largest finite absolute value."""
    largest = 0.0
    for start in range(0, values.size, _CHUNK):
        chunk = np.abs(values[start : start + _CHUNK].astype(np.float64))
        largest = max(largest, float(chunk.max(where=np.isfinite(chunk), initial=0.0)))
    return largest


def _differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two arrays differ; NaN equals NaN."""
    differs = one != other
    return differs & ~((one != one) & (other != other))


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind not in "biu"


def _rounding(dtype: np.dtype[Any]) -> float:
    """The unit of rounding of a dtype: its eps, or 1 for integers."""
    return float(ml_dtypes.finfo(dtype).eps) if _is_float(dtype) else 1.0
