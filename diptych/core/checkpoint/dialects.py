"""The spellings that published files use for one and the same tensor, brought to the present published name."""

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


def respelled(name: str, *, flax: bool = False) -> str:
    """A tensor's name in the present published spelling, whatever model it belongs to.

    Args:
        name: as in the file; a Flax tree's path joined by dots.
        flax: whether the file is a Flax tree, whose layers call their weights kernel, scale or embedding.
    """
    for pattern, spelling in _RESPELLED:
        name = pattern.sub(spelling, name)
    return _FLAX_LEAF.sub("weight", name) if flax else name


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is a pattern, lies below one (`pooler` covers `pooler.dense.weight`), or fits its `*`."""
    return any(
        name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern) for pattern in patterns
    )


@dataclass(frozen=True)
class Shift:
    """A base-model prefix that a file lacks (`added`) or has in excess (`removed`)."""

    added: str = ""
    removed: str = ""

    def __call__(self, name: str) -> str:
        """The name without what is removed and with what is added."""
        return self.added + name.removeprefix(self.removed) if name.startswith(self.removed) else name


def find_shift(names: Collection[str], wanted: Collection[str], prefixes: Iterable[str]) -> Shift:
    """The one shift of prefixes under which most of a file's names are wanted; none if nothing is better than none."""
    targets = set(wanted)
    shifts = [Shift()]
    for prefix in prefixes:
        shifts += [Shift(added=prefix), Shift(removed=prefix)]
    return max(shifts, key=lambda shift: len(targets.intersection(map(shift, names))))


def resolver(family: Family, wanted: Collection[str], shift: Shift) -> Callable[[str], tuple[str, bool] | None]:
    """A function from a respelled name to the wanted path that it means, and whether it is an old name of it."""
    targets = set(wanted)

    def resolve(name: str) -> tuple[str, bool] | None:
        present = (shift(name), name)
        candidates = present
        for _ in range(len(family.renamed) + 1):  # an old name may lead to another one
            for candidate in candidates:
                if candidate in targets:
                    return candidate, candidate not in present
            new = next((family.renamed[old] for old in candidates if old in family.renamed), None)
            if new is None:
                return None
            candidates = (new, shift(new))
        return None

    return resolve
