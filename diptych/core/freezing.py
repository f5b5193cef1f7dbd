"""Freezing parameters by published path, in both backends alike."""

from typing import Any, Self

from diptych.core.checkpoint.dialects import matches
from diptych.core.checkpoint.slots import Slot
from diptych.core.errors import InputError
from diptych.core.hooks import Hooks


class Freezable(Hooks):
    """A model whose parameters can be excluded from training, one by one or module by module.

    Whether a parameter is frozen is a property of the parameter itself, so a base model and the model around it agree,
    copies keep it, and `to_jax` and `to_torch` carry it over. A checkpoint does not hold it: a loaded model trains as a
    whole. Buffers, such as BART's final_logits_bias, never train.
    """

    def freeze(self, *patterns: str) -> Self:
        """Excludes parameters from training. Make the optimizer after this, since its state follows the parameters.

        Args:
            patterns: published paths of parameters or of modules, or patterns with *; without any, all parameters.

        Returns:
            The model.

        Raises:
            InputError: a pattern matches no parameter; all such patterns are listed, and nothing has changed.
        """
        return self._freeze("freeze", patterns, True)

    def unfreeze(self, *patterns: str) -> Self:
        """Has frozen parameters train again; arguments and errors as `freeze`."""
        return self._freeze("unfreeze", patterns, False)

    @property
    def frozen_parameters(self) -> tuple[str, ...]:
        """The published paths of the parameters that are frozen, sorted."""
        return tuple(sorted(slot.path for slot, leaf in self._parameters().items() if self._is_frozen(leaf)))

    def _parameters(self) -> dict[Slot, Any]:
        """Every slot that can be trained, with what holds it."""
        return {slot: leaf for slot, leaf in self._leaves().items() if slot.kind != "buffer"}

    def _freeze(self, verb: str, patterns: tuple[str, ...], frozen: bool) -> Self:
        parameters = self._parameters()
        self._check_patterns(f"{type(self).__name__}.{verb}", patterns)
        for slot, leaf in parameters.items():
            if not patterns or matches(slot.path, patterns):
                self._set_frozen(leaf, frozen)
        return self

    def _check_patterns(self, caller: str, patterns: tuple[str, ...]) -> None:
        wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]  # pyright: ignore[reportUnnecessaryIsInstance]
        if wrong:
            raise InputError(f"{caller}: {wrong[0]!r} is no path; give each path as an argument of its own")
        unmatched = [pattern for pattern in patterns if not _any_path(self._parameters(), pattern)]
        if unmatched:
            buffers = [slot.path for slot in self._leaves() if slot.kind == "buffer" and matches(slot.path, unmatched)]
            known = sorted({slot.path.split(".")[0] for slot in self._parameters()})
            raise InputError(
                f"{caller}: no parameter matches {', '.join(map(repr, unmatched))}"
                + (f" ({', '.join(buffers)} is a buffer, which never trains)" if buffers else "")
                + f"; paths start with {', '.join(known)}"
            )


def _any_path(slots: dict[Slot, Any], pattern: str) -> bool:
    return any(matches(slot.path, (pattern,)) for slot in slots)
