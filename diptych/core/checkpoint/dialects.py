"""Maps the different names that published files use for the same tensor to its present published name."""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from diptych.core.checkpoint.slots import FLAX_LEAVES
from diptych.core.registry import Family

_RESPELLED = (
    (re.compile(r"(?<=\.)gamma$|^gamma$"), "weight"),  # TensorFlow's layer norms, in BERT's first files
    (re.compile(r"(?<=\.)beta$|^beta$"), "bias"),
    (re.compile(r"\bparametrizations\.weight\.original0$"), "weight_g"),  # PyTorch 2's weight norm
    (re.compile(r"\bparametrizations\.weight\.original1$"), "weight_v"),
)
_FLAX_LEAF = re.compile(rf"(?<=\.)({'|'.join(set(FLAX_LEAVES.values()))})$")


def respell(name: str, *, flax: bool = False) -> str:
    """A tensor's name in the present published spelling; this does not depend on the model.

    Args:
        name: as in the file; for a Flax tree, the path joined by dots.
        flax: whether the file is a Flax tree, whose layers call their weights kernel, scale or embedding.
    """
    for pattern, spelling in _RESPELLED:
        name = pattern.sub(spelling, name)
    return _FLAX_LEAF.sub("weight", name) if flax else name


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name equals a pattern, lies below it (`pooler` covers `pooler.dense.weight`), or matches its `*`."""
    return any(
        name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern) for pattern in patterns
    )


@dataclass(frozen=True)
class Shift:
    """A base-model prefix that the names of a file lack (`added`) or have in excess (`removed`).

    Attributes:
        part: what precedes the prefix: "" for the model itself, or a part's path with a dot, such as "encoder.". Names
            that don't begin with it are unchanged.
    """

    added: str = ""
    removed: str = ""
    part: str = ""

    def __call__(self, name: str) -> str:
        """The name with `removed` removed and `added` added."""
        excess = f"{self.part}{self.removed}"
        return f"{self.part}{self.added}{name.removeprefix(excess)}" if name.startswith(excess) else name


@dataclass(frozen=True)
class PartShifts:
    """One shift for each part of a model; a name gets that of the innermost part that contains it."""

    shifts: tuple[Shift, ...] = ()

    def __call__(self, name: str) -> str:
        """The name under the shift of its part."""
        inside = [shift for shift in self.shifts if name.startswith(shift.part)]
        return max(inside, key=lambda shift: len(shift.part))(name) if inside else name


def possible_shifts(prefixes: Iterable[str], part: str = "") -> list[Shift]:
    """No shift, then each prefix added and removed."""
    shifts = [Shift(part=part)]
    for prefix in prefixes:
        shifts += [Shift(added=prefix, part=part), Shift(removed=prefix, part=part)]
    return shifts


def find_shift(names: Iterable[str], wanted: Collection[str], prefixes: Iterable[str], part: str = "") -> Shift:
    """The shift under which most names of a part are wanted; the empty one in case of a tie."""
    targets, inside = set(wanted), {name for name in names if name.startswith(part)}
    return max(possible_shifts(prefixes, part), key=lambda shift: len(targets.intersection(map(shift, inside))))


def find_shifts(names: Collection[str], wanted: Collection[str], family: Family) -> PartShifts:
    """For each part of a model, the shift under which most of its names are wanted.

    A composite's parts are shifted independently: its encoder's names may lack a prefix while its decoder's don't.
    """
    return PartShifts(
        tuple(find_shift(names, wanted, prefixes, part) for part, prefixes in _prefixes_by_part(family).items())
    )


def spellings(name: str, family: Family) -> set[str]:
    """The name under every possible shift of the model and of its parts, itself included."""
    return {
        shift(name) for part, prefixes in _prefixes_by_part(family).items() for shift in possible_shifts(prefixes, part)
    }


def _prefixes_by_part(family: Family) -> dict[str, tuple[str, ...]]:
    return {"": family.prefixes} | {f"{path}.": prefixes for path, prefixes in family.part_prefixes.items()}


Resolver = Callable[[str], tuple[str, bool] | None]
"""From a name in present spelling to its path, and whether the name is an old one; None if it has no path."""


def resolver(family: Family, wanted: Collection[str], shift: Callable[[str], str] | None = None) -> Resolver:
    """Resolves names to the wanted paths, by the family's old names and a shift of prefixes."""
    targets = set(wanted)
    shifted = PartShifts() if shift is None else shift

    def resolve(name: str) -> tuple[str, bool] | None:
        present = (shifted(name), name)
        candidates = present
        for _ in range(len(family.renamed) + 1):  # an old name may lead to another one
            for candidate in candidates:
                if candidate in targets:
                    return candidate, candidate not in present
            new = next((family.renamed[old] for old in candidates if old in family.renamed), None)
            if new is None:
                return None
            candidates = (new, shifted(new))
        return None

    return resolve
