"""Matching a checkpoint's tensors with a model's slots: all are accounted for, or one error lists the problems."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diptych.core.checkpoint.dialects import find_shifts, matches, resolver, respell, spellings
from diptych.core.checkpoint.slots import Layout, Slot, axes_in, inverse
from diptych.core.checkpoint.strips import count_infinities, permute
from diptych.core.checkpoint.tensors import TensorSource, bitwise_equal
from diptych.core.dtypes import FLOAT8, FLOATS
from diptych.core.errors import CheckpointError, InputError
from diptych.core.registry import Family


@dataclass(frozen=True)
class LoadReport:
    """What happened to a checkpoint's tensors.

    Any two reports compare equal, so that models that differ only in them share compiled programs.

    Attributes:
        directory: where the weights came from.
        loaded: number of tensors loaded.
        left_out: tensors of the file that other classes of the family own, unsupported ones included.
        ignored: tensors of the file that are not parameters, or that the call said to ignore.
        dropped: tensors of the file that the class has no place for since the call changed the config, such as those of
            further layers.
        fresh: parameters that the file does not have and that were newly drawn, as allowed.
    """

    directory: str = field(default="", compare=False)
    loaded: int = field(default=0, compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)
    fresh: tuple[str, ...] = field(default=(), compare=False)
    dropped: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded from {self.directory}"]
        if self.left_out:
            parts.append(f"{len(self.left_out)} of other classes left out")
        if self.dropped:
            listed = ", ".join(self.dropped[:3]) + (" …" if self.dropped[3:] else "")
            parts.append(f"{len(self.dropped)} dropped, for which the changed config has no place: {listed}")
        if self.ignored:
            parts.append(f"{len(self.ignored)} ignored")
        if self.fresh:
            parts.append(f"{len(self.fresh)} drawn anew: {', '.join(self.fresh)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class NamedTensors:
    """The tensors of a checkpoint or of a live model.

    Attributes:
        source: the origin in error messages, such as the directory.
        by_name: the tensors.
        layout: of their names and axes.
    """

    source: str
    by_name: Mapping[str, TensorSource]
    layout: Layout = "published"

    def respell(self, name: str) -> str:
        """The present published spelling of a tensor's name."""
        return respell(name, flax=self.layout != "published")


@dataclass(frozen=True)
class Target:
    """The model that tensors are matched with.

    Attributes:
        class_name: its name in error messages.
        slots: its parameters.
        family: the description of its files, including those of its parts (see `registry.within`).
        known_paths: returns the paths that each class of the family owns; called only if a tensor has no slot.
        copied: parameters that a file may lack -> those whose tensors they share.
    """

    class_name: str
    slots: Sequence[Slot]
    family: Family
    known_paths: Callable[[], Sequence[Collection[str]]] = list[set[str]]
    copied: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Filling:
    """The source of a slot's value: the tensor, and the axes that permute it to the published layout."""

    slot: Slot
    source: TensorSource
    name: str
    axes: tuple[int, ...]

    def read(self, axes: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """A copy of the tensor with its axes permuted and its dtype converted.

        Raises:
            CheckpointError: it has values that are too large for the dtype.
        """
        counts: list[int] = []
        values = self.convert(axes, dtype, counts.append).read()
        if counts:
            raise CheckpointError(
                f"{self.source.origin}: {self.name} holds {self.source.dtype} values that are too large for {dtype}; "
                "choose a wider dtype"
            )
        return values

    def convert(
        self, axes: tuple[int, ...], dtype: np.dtype[Any], overflowed: Callable[[int], object] = lambda count: None
    ) -> TensorSource:
        """The tensor with its axes permuted and its dtype converted; reading it, or rows of it, makes a copy.

        Args:
            axes: axis k of the result is axis `axes[k]` of the tensor.
            dtype: of the result.
            overflowed: is called with the number of values, if any, that a copy has made infinite.
        """
        source = self.source

        def read_rows(start: int | None, stop: int | None) -> np.ndarray:
            values = source.read()
            if axes:
                values = values[(*(slice(None),) * axes[0], slice(start, stop))]
            with np.errstate(over="ignore"):
                copy = permute(values, axes, dtype)
            infinite = count_infinities(copy) if dtype != values.dtype else 0
            count = infinite - count_infinities(values) if infinite else 0
            if count:
                overflowed(count)
            return copy

        return TensorSource(
            tuple(source.shape[axis] for axis in axes),
            dtype,
            lambda: read_rows(None, None),
            source.origin,
            # elsewhere, each part would read the whole tensor again
            read_rows=read_rows if source.mapped and source.read_rows is not None else None,
        )

    def view(self, axes: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """The tensor itself where it lies in a mapped file as it is needed, writable; otherwise a copy, as of `read`.

        What is written to it changes neither the file nor another view of the file.
        """
        values = self.source.read()
        fits = values.dtype == dtype and values.flags.aligned and axes == tuple(range(len(axes)))
        if not self.source.mapped or not fits:
            return self.read(axes, dtype)
        values.flags.writeable = True
        return values

    def in_published_layout(self) -> TensorSource:
        """The tensor in the published layout; reading it makes a copy only if the file has another layout."""
        if self.axes == tuple(range(len(self.axes))):
            return self.source
        return self.convert(self.axes, self.source.dtype)


@dataclass(frozen=True)
class Match:
    """What fills each slot, and what happens to each tensor.

    Attributes:
        fillings: the slots that have a tensor.
        fresh: the slots that have none and are newly drawn, as allowed.
        left_out: tensors that other classes of the family own, unsupported ones included.
        ignored: tensors that are not parameters, are duplicates, or were to be ignored.
        constant: slots that files may lack and that keep their initial constant.
    """

    fillings: tuple[Filling, ...]
    fresh: tuple[Slot, ...]
    left_out: tuple[str, ...]
    ignored: tuple[str, ...]
    constant: tuple[Slot, ...] = ()


def match(
    tensors: NamedTensors, target: Target, *, allow_fresh: Iterable[str] = (), ignore: Iterable[str] = ()
) -> Match:
    """Matches tensors with slots, allowing for old names, prefixes, and tensors of other classes of the family.

    Args:
        tensors: of the file or live model.
        target: the model.
        allow_fresh: parameters or modules that may be missing; names, or patterns with *.
        ignore: tensors of the file to skip; names, modules, or patterns with *.

    Raises:
        CheckpointError: tensors are missing, unexpected, misshapen or not floating-point, or duplicates differ; all are
            listed.
    """
    allow_fresh = names_of("allow_fresh", allow_fresh)
    return Matching(tensors, target, names_of("ignore", ignore)).result(allow_fresh)


class FamilyPaths:
    """The paths that each class of a family owns."""

    def __init__(self, family: Family, classes: Sequence[Collection[str]]) -> None:
        self.family = family
        self.classes = [frozenset(paths) for paths in classes]
        self.all = frozenset[str]().union(*self.classes)

    def owns(self, spelling: str) -> bool:
        """Whether a class owns a tensor of this name, under any prefix and even under an old name."""
        return resolver(self.family, self.all, find_shifts({spelling}, self.all, self.family))(spelling) is not None

    def distinguish(self, one: str, other: str) -> bool:
        """Whether some class owns two different tensors under these names, with any prefixes."""
        for paths in self.classes:
            first, second = (spellings(name, self.family) & paths for name in (one, other))
            if first and second and first != second:
                return True
        return False


class Matching:
    """The steps from tensors' names to a `Match`.

    Attributes:
        spelling: a tensor's name in the file -> the present spelling of it.
        filled_by: a slot's path -> the name of the tensor that fills it.
        legacy: (path of a slot, name of a tensor) for old names.
        without_slot: names for which this model has no slot.
        left_out, ignored, unexpected: names of tensors by what happens to them.
    """

    def __init__(self, tensors: NamedTensors, target: Target, ignore: tuple[str, ...] = ()) -> None:
        self.tensors, self.target, self.family, self.ignore = tensors, target, target.family, ignore
        self.spelling = {name: tensors.respell(name) for name in tensors.by_name}
        paths = {slot.path for slot in target.slots}
        self.resolve = resolver(self.family, paths, find_shifts(set(self.spelling.values()), paths, self.family))
        self.filled_by: dict[str, str] = {}
        self.legacy: list[tuple[str, str]] = []
        self.without_slot: list[str] = []
        self.left_out: list[str] = []
        self.ignored: list[str] = []
        self.unexpected: list[str] = []

    @functools.cached_property
    def family_paths(self) -> FamilyPaths:
        """The paths of every class of the family; computing them builds the models, without values."""
        return FamilyPaths(self.family, self.target.known_paths())

    def result(self, allow_fresh: tuple[str, ...]) -> Match:
        """The complete match.

        Raises:
            CheckpointError: see `match`.
        """
        for name in self.spelling:
            self._classify(name)
        for path, name in self.legacy:
            self._place_legacy(path, name)
        for name in self.without_slot:
            self._place_without_slot(name)
        self._fill_copies()
        absent = [slot for slot in self.target.slots if slot.path not in self.filled_by]
        constant = tuple(slot for slot in absent if matches(slot.path, self.family.optional))
        fresh = tuple(slot for slot in absent if slot not in constant and matches(slot.path, allow_fresh))
        missing = [slot.path for slot in absent if slot not in constant and slot not in fresh]
        fillings = tuple(self._make_filling(slot) for slot in self.target.slots if slot.path in self.filled_by)
        self._refuse(missing, fillings)
        return Match(fillings, fresh, tuple(self.left_out), tuple(self.ignored), constant)

    def published_tensors(self) -> dict[str, TensorSource]:
        """All tensors by published name and in the published layout; nothing is refused.

        Tensors for which the model has no slot keep their own names. Those that are not parameters, and second copies
        of others, are left out.
        """
        slots, legacy = {slot.path: slot for slot in self.target.slots}, dict[str, str]()
        for name, spelling in self.spelling.items():
            path, old = self.resolve(spelling) or (spelling, False)
            if old:
                legacy[name] = path
            elif path in slots or not matches(spelling, self.family.ignored):
                self._fill_or_keep(path, name)
        for name, path in legacy.items():
            if path not in self.filled_by or self.spelling[name] not in self.family.superseded:
                self._fill_or_keep(path, name)
        self._fill_copies()
        return {
            path: self._make_filling(slots[path]).in_published_layout() if path in slots else self.tensors.by_name[name]
            for path, name in self.filled_by.items()
        }

    def _fill_or_keep(self, path: str, name: str) -> None:
        """Fills a path, or keeps a tensor under its own name if another one has filled it."""
        present = self.filled_by.setdefault(path, name)
        if present != name and not self._are_equal(present, name):
            self.filled_by[self.spelling[name]] = name

    def _classify(self, name: str) -> None:
        """Classifies a tensor by its name alone."""
        spelling = self.spelling[name]
        if matches(name, self.ignore) or matches(spelling, self.ignore):
            self.ignored.append(name)
        elif (resolved := self.resolve(spelling)) is not None:
            path, old = resolved
            if old:
                self.legacy.append((path, name))
            else:
                self._fill(path, name)
        elif matches(spelling, self.family.ignored):
            self.ignored.append(name)
        elif matches(spelling, self.family.unsupported):
            self.left_out.append(name)
        else:
            self.without_slot.append(name)

    def _fill(self, path: str, name: str) -> None:
        if path in self.filled_by:
            self._require_equal(self.filled_by[path], name)
            self.ignored.append(name)
        else:
            self.filled_by[path] = name

    def _place_legacy(self, path: str, name: str) -> None:
        """Decides whether an old name is the slot's tensor, a second copy of it, or a tensor of another class.

        A duplicate in one class may be a separate tensor in another, such as an untied output layer.
        """
        present = self.filled_by.get(path)
        if present is not None and (self.spelling[name] in self.family.superseded or self._are_equal(present, name)):
            self.ignored.append(name)
        elif self.family_paths.distinguish(self.spelling[name], path if present is None else self.spelling[present]):
            self.left_out.append(name)
        else:
            self._fill(path, name)

    def _place_without_slot(self, name: str) -> None:
        spelling = self.spelling[name]
        for path in (spellings(spelling, self.family) - {spelling}) & set(self.filled_by):
            self._require_equal(self.filled_by[path], name)  # the same tensor under another prefix
        (self.left_out if self.family_paths.owns(spelling) else self.unexpected).append(name)

    def _fill_copies(self) -> None:
        wanted = {slot.path for slot in self.target.slots}
        for path, other in self.target.copied.items():
            if path in wanted and path not in self.filled_by and other in self.filled_by:
                self.filled_by[path] = self.filled_by[other]

    def _make_filling(self, slot: Slot) -> Filling:
        name = self.filled_by[slot.path]
        source = self.tensors.by_name[name]
        rank = len(source.shape)
        layout = self.tensors.layout if rank == len(slot.shape) else "published"
        axes = inverse(axes_in(layout, slot.kind, rank))
        return Filling(slot, source, name, axes)

    def _are_equal(self, one: str, other: str) -> bool:
        """Whether two tensors are bitwise the same."""
        first, second = self.tensors.by_name[one], self.tensors.by_name[other]
        alike = first.shape == second.shape and first.dtype == second.dtype
        return alike and bitwise_equal(first, second)

    def _require_equal(self, one: str, other: str) -> None:
        if not self._are_equal(one, other):
            raise CheckpointError(
                f"{self.tensors.source}: {one} and {other} are one tensor in the model, but the file holds two "
                f"different ones; ignore=({other!r},) takes the first"
            )

    def _wrapped_names(self) -> tuple[str, list[str]] | None:
        """The prefix that all unexpected names have in excess, if one, and the paths that they would fill."""
        names = [self.spelling[name] for name in self.unexpected]
        modules = names[0].split(".")[:-1] if names else []
        for depth in range(1, len(modules) + 1):
            prefix = ".".join(modules[:depth]) + "."
            inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            found = {name: resolved[0] for name in inner if (resolved := self.resolve(name)) is not None}
            rest = [name for name in inner if name not in found and not matches(name, self._not_loaded)]
            known, paths = all(map(self.family_paths.owns, rest)), [*found.values()]
            if len(inner) == len(names) and paths and known and self.filled_by.keys().isdisjoint(paths):
                return prefix, paths
        return None

    @property
    def _not_loaded(self) -> tuple[str, ...]:
        """Patterns of tensors that a file may have, but no class here."""
        return (*self.family.ignored, *self.family.unsupported)

    def _refuse(self, missing: list[str], fillings: tuple[Filling, ...]) -> None:
        """Raises one error that lists everything that does not fit."""
        class_name, layout = self.target.class_name, self.tensors.layout
        others = [f for f in fillings if tuple(f.source.shape[axis] for axis in f.axes) != f.slot.shape]
        misshapen = [
            f"{f.name} has shape {f.source.shape}, {class_name} needs {f.slot.shape_in(layout)}" for f in others
        ]
        floats = (*FLOATS.values(), *FLOAT8.values())
        not_floating = [f"{f.name} ({f.source.dtype})" for f in fillings if f.source.dtype not in floats]
        unexpected, problems = self.unexpected, list[str]()
        if wrapped := self._wrapped_names():
            prefix, paths = wrapped
            unexpected, missing = [], [path for path in missing if path not in paths]
            problems.append(
                f"{_count(self.unexpected, 'begins', 'begin')} with {prefix!r}, which a wrapper such as "
                f"DistributedDataParallel adds; save what it wraps, or take it off: "
                f"{{name.removeprefix({prefix!r}): tensor for name, tensor in tensors.items()}}"
            )
        if missing:
            problems.append(
                f"{_count(missing, 'is missing', 'are missing')}: {', '.join(missing)} ({_suggestion(missing)})"
            )
        if unexpected:
            problems.append(
                f"{_count(unexpected, 'belongs', 'belong')} to no class of the family: {', '.join(unexpected)} "
                f"(ignore=({', '.join(map(repr, unexpected[:3]))},) leaves them unread; patterns may have *)"
            )
        if misshapen:
            problems.append(
                f"{_count(misshapen, 'has', 'have')} another shape: {'; '.join(misshapen)} "
                f"(ignore={_first_three(f.name for f in others)} leaves them unread, and with it "
                f"allow_fresh={_first_three(f.slot.path for f in others)} in from_pretrained draws them anew)"
            )
        if not_floating:
            count = _count(not_floating, "has", "have")
            problems.append(f"{count} a dtype other than {', '.join(FLOATS)} or float8: {', '.join(not_floating)}")
        if problems:
            raise CheckpointError(f"{self.tensors.source} does not fit {class_name}: " + ". ".join(problems))


def unused_names(
    tensors: NamedTensors, slots: Iterable[Slot], allow_fresh: Iterable[str], ignore: Iterable[str]
) -> dict[str, list[str]]:
    """The names given to `allow_fresh` and `ignore` that match nothing, such as misspelt ones."""
    names = [spelling for name in tensors.by_name for spelling in (name, tensors.respell(name))]
    paths = [slot.path for slot in slots]
    return {
        "allow_fresh": [given for given in allow_fresh if not any(matches(path, (given,)) for path in paths)],
        "ignore": [given for given in ignore if not any(matches(name, (given,)) for name in names)],
    }


def names_of(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        InputError: a single string is given, which would be iterated letter by letter.
    """
    if isinstance(names, str):
        raise InputError(f"{argument}={names!r} must be a tuple of names, such as ({names!r},)")
    return tuple(names)


def _count(names: Sequence[str], one: str, several: str) -> str:
    """The number of tensors, with the verb that follows."""
    return f"1 tensor {one}" if len(names) == 1 else f"{len(names)} tensors {several}"


def _first_three(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)[:3]


def _suggestion(missing: list[str]) -> str:
    """What a caller may do about missing tensors."""
    modules = top_modules(missing)
    allowed = f"allow_fresh=({', '.join(map(repr, modules))},) draws them anew"
    if modules in (["pooler"], ["encoder.pooler"]):
        switch = "encoder_add_pooling_layer" if modules[0].startswith("encoder") else "add_pooling_layer"
        return f"{switch}=False builds the model without; {allowed}"
    return allowed


def top_modules(paths: Iterable[str]) -> list[str]:
    """The top-level modules of these paths, or those directly inside a top-level encoder or decoder."""
    modules: set[str] = set()
    for path in paths:
        first, *rest = path.split(".")
        modules.add(f"{first}.{rest[0]}" if first in ("encoder", "decoder") and len(rest) > 1 else first)
    return sorted(modules)
