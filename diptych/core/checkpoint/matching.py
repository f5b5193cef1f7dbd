"""Matching the tensors of a checkpoint with the slots of a model: all are accounted for, or one error lists them."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from diptych.core.checkpoint.dialects import Shift, find_shift, matches, resolver, respelled
from diptych.core.checkpoint.slots import Slot, inverse, tree_axes
from diptych.core.checkpoint.tensors import TensorSource, read_bytes
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError, InputError
from diptych.core.registry import Family


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's tensors.

    Any two reports compare equal, so that they never part compiled programs.

    Attributes:
        directory: where the weights came from.
        loaded: number of tensors loaded.
        left_out: tensors of the file that other classes of the family own.
        ignored: tensors of the file that carry no weights, or that the call said to ignore.
        fresh: parameters that the file does not have and that were drawn anew, as allowed.
    """

    directory: str = field(default="", compare=False)
    loaded: int = field(default=0, compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)
    fresh: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded from {self.directory}"]
        if self.left_out:
            parts.append(f"{len(self.left_out)} of other classes left out")
        if self.ignored:
            parts.append(f"{len(self.ignored)} ignored")
        if self.fresh:
            parts.append(f"{len(self.fresh)} drawn anew: {', '.join(self.fresh)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Filling:
    """Where a slot's value comes from: the tensor, and the axes that bring it to the published layout."""

    slot: Slot
    source: TensorSource
    name: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """A full account: each slot is filled, fresh or one that files may lack; each tensor used, left out or ignored."""

    fillings: tuple[Filling, ...]
    fresh: tuple[Slot, ...]
    left_out: tuple[str, ...]
    ignored: tuple[str, ...]
    constant: tuple[Slot, ...] = ()


def match(
    slots: Sequence[Slot],
    tensors: Mapping[str, TensorSource],
    *,
    family: Family,
    known: Callable[[], Sequence[Collection[str]]],
    flax: bool = False,
    copied: Mapping[str, str] | None = None,
    allow_fresh: Iterable[str] = (),
    ignore: Iterable[str] = (),
    where: str,
    class_name: str,
) -> Match:
    """Matches tensors with slots by meaning: old spellings, prefixes, and parts of other classes of the family.

    Args:
        slots: the model's parameters.
        tensors: the file's, by name.
        family: its prefixes, ignored and renamed tensors.
        known: gives the paths that each class of the family owns; asked only when a tensor has no slot of its own.
        flax: whether the tensors have a Flax tree's names and layouts.
        copied: parameters that a file may lack -> the ones whose tensors serve for them too.
        allow_fresh: parameters, or modules, that may be missing.
        ignore: tensors of the file, patterns or modules, to leave unread.
        where: what errors call the file.
        class_name: what errors call the model.

    Raises:
        CheckpointError: tensors are missing, unexpected, misshaped or not floating, or two that should be one differ;
            all are listed.
    """
    allow_fresh, ignore = names_of("allow_fresh", allow_fresh), names_of("ignore", ignore)
    wanted = {slot.path: slot for slot in slots}
    spelled = {name: respelled(name, flax=flax) for name in tensors}
    resolve = resolver(family, wanted, find_shift(set(spelled.values()), wanted, family.prefixes))

    shifts = [Shift()]
    shifts += [shift for prefix in family.prefixes for shift in (Shift(added=prefix), Shift(removed=prefix))]
    found: dict[str, str] = {}
    left_out: list[str] = []
    ignored: list[str] = []
    strangers: list[str] = []
    unexpected: list[str] = []
    olds: list[tuple[str, str]] = []

    classes = functools.cache(known)  # builds every class of the family, without values
    everything = functools.cache(lambda: {path for paths in classes() for path in paths})

    def elsewhere(spelling: str) -> tuple[str, bool] | None:
        return resolver(family, everything(), find_shift({spelling}, everything(), family.prefixes))(spelling)

    def apart(one: str, other: str) -> bool:
        """Whether a class of the family has two tensors of these names."""
        for paths in classes():
            first, second = ({shift(name) for shift in shifts} & set(paths) for name in (one, other))
            if first and second and first != second:
                return True
        return False

    def fill(path: str, name: str) -> None:
        if path in found:
            _must_be_equal(where, found[path], tensors[found[path]], name, tensors[name])
            ignored.append(name)
        else:
            found[path] = name

    for name, spelling in spelled.items():
        if matches(name, ignore) or matches(spelling, ignore):
            ignored.append(name)
        elif (resolved := resolve(spelling)) is not None:
            path, old = resolved
            olds.append((path, name)) if old else fill(path, name)
        elif matches(spelling, family.ignored):
            ignored.append(name)
        else:
            strangers.append(name)
    for path, name in olds:
        # what one class holds twice may be two tensors of another, as the output layer of a model without tied weights
        if path in found and (spelled[name] in family.superseded or _equal(tensors[found[path]], tensors[name])):
            ignored.append(name)
        elif apart(spelled[name], spelled[found[path]] if path in found else path):
            left_out.append(name)
        else:
            fill(path, name)
    for name in strangers:
        spelling = spelled[name]
        for path in {shift(spelling) for shift in shifts[1:]} & set(found):  # the same tensor under another prefix
            _must_be_equal(where, found[path], tensors[found[path]], name, tensors[name])
        (left_out if elsewhere(spelled[name]) is not None else unexpected).append(name)

    for path, other in (copied or {}).items():
        if path in wanted and path not in found and other in found:
            found[path] = found[other]
    absent = [slot for slot in slots if slot.path not in found]
    constant = tuple(slot for slot in absent if matches(slot.path, family.optional))
    fresh = tuple(slot for slot in absent if slot not in constant and matches(slot.path, allow_fresh))
    missing = [slot.path for slot in absent if slot not in constant and slot not in fresh]
    fillings = tuple(
        _filling(slot, tensors[found[slot.path]], found[slot.path], flax) for slot in slots if slot.path in found
    )
    misshaped = [
        f"{f.name} has shape {f.source.shape}, {class_name} needs {f.slot.flax_shape if flax else f.slot.shape}"
        for f in fillings
        if tuple(f.source.shape[axis] for axis in f.axes) != f.slot.shape
    ]
    unfloating = [f"{f.name} ({f.source.dtype})" for f in fillings if f.source.dtype not in FLOATS.values()]
    _raise_all(where, class_name, missing, unexpected, misshaped, unfloating)
    return Match(fillings, fresh, tuple(left_out), tuple(ignored), constant)


def names_of(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        InputError: a single string is given, which would be taken letter by letter.
    """
    if isinstance(names, str):
        raise InputError(f"{argument}={names!r} must be a tuple of names, such as ({names!r},)")
    return tuple(names)


def _filling(slot: Slot, source: TensorSource, name: str, flax: bool) -> Filling:
    rank = len(source.shape)
    same_rank = rank == len(slot.shape)
    axes = inverse(tree_axes(slot.kind, rank)) if flax and same_rank else tuple(range(rank))
    return Filling(slot, source, name, axes)


def _equal(one: TensorSource, other: TensorSource) -> bool:
    """Whether two tensors are bitwise the same."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and read_bytes(one, "") == read_bytes(other, "")


def _must_be_equal(where: str, first: str, one: TensorSource, second: str, other: TensorSource) -> None:
    if not _equal(one, other):
        raise CheckpointError(
            f"{where}: {first} and {second} are one tensor in the model, but the file holds two different ones; "
            f"ignore=({second!r},) takes the first"
        )


def _head(path: str) -> str:
    """The module at the top of a path, or next to it where that is half of the model."""
    first, *rest = path.split(".")
    return f"{first}.{rest[0]}" if first in ("encoder", "decoder") and len(rest) > 1 else first


def _raise_all(
    where: str,
    class_name: str,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
    unfloating: list[str],
) -> None:
    problems: list[str] = []
    if missing:
        heads = sorted(set(map(_head, missing)))
        way_out = f"allow_fresh=({', '.join(map(repr, heads))},) draws them anew"
        if heads == ["pooler"]:
            way_out = f"add_pooling_layer=False builds the model without; {way_out}"
        problems.append(f"{len(missing)} tensors are missing: {', '.join(missing)} ({way_out})")
    if unexpected:
        problems.append(
            f"{len(unexpected)} tensors belong to no class of the family: {', '.join(unexpected)} "
            f"(ignore=({', '.join(map(repr, unexpected[:3]))},) leaves them unread; patterns may have *)"
        )
    if misshaped:
        problems.append(f"{len(misshaped)} tensors have another shape: {'; '.join(misshaped)}")
    if unfloating:
        problems.append(
            f"{len(unfloating)} tensors hold no floating numbers of {', '.join(FLOATS)}: " + ", ".join(unfloating)
        )
    if problems:
        raise CheckpointError(f"{where} does not fit {class_name}: " + ". ".join(problems))
