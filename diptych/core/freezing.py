"""Freezing parameters by published path, in both backends."""

from collections.abc import Iterable
from typing import Self

from diptych.core.checkpoint.dialects import matches
from diptych.core.checkpoint.slots import Slot
from diptych.core.errors import InputError
from diptych.core.hooks import Hooks


class Freezable(Hooks):
    """A model whose parameters can be excluded from training, one by one or module by module.

    Whether a parameter is frozen is a property of the parameter itself, so a base model and the model around it agree,
    copies keep it, and `to_jax` and `to_torch` carry it over. A checkpoint does not hold it: a loaded model trains as a
    whole, but for what its config freezes (IDEFICS). Buffers, such as BART's final_logits_bias, never train.
    """

    def freeze(self, *patterns: str) -> Self:
        """Excludes parameters from training. Create the optimizer after this, since its state follows the parameters.

        In JAX a frozen parameter's gradient is zero; an optimizer that decays weights must be masked too, by
        `trainable_parameters()` or `trainable_filter()`.

        Args:
            patterns: published paths of parameters or of modules, or patterns with *; by default all parameters.

        Returns:
            The model.

        Raises:
            InputError: a pattern matches no parameter; all such patterns are listed, and nothing is changed.
        """
        return self._freeze("freeze", patterns, True)

    def unfreeze(self, *patterns: str) -> Self:
        """Makes frozen parameters trainable again; arguments and errors as for `freeze`."""
        return self._freeze("unfreeze", patterns, False)

    @property
    def frozen_parameters(self) -> tuple[str, ...]:
        """The published paths of the parameters that are frozen, sorted."""
        leaves = self._leaves().items()
        return tuple(sorted(slot.path for slot, leaf in leaves if slot.kind != "buffer" and self._is_frozen(leaf)))

    def _freeze(self, verb: str, patterns: tuple[str, ...], frozen: bool) -> Self:
        leaves = self._leaves()
        parameters = {slot: leaf for slot, leaf in leaves.items() if slot.kind != "buffer"}
        _check_patterns(f"{type(self).__name__}.{verb}", patterns, [slot.path for slot in leaves], parameters)
        for slot, leaf in parameters.items():
            if not patterns or matches(slot.path, patterns):
                self._set_frozen(leaf, frozen)
        return self


def _check_patterns(caller: str, patterns: tuple[object, ...], paths: list[str], parameters: Iterable[Slot]) -> None:
    """Refuses patterns that match no parameter; `paths` includes those of buffers."""
    trained = [slot.path for slot in parameters]
    unmatched: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"{caller}: {pattern!r} is no path; give each path as an argument of its own")
        if not any(matches(path, (pattern,)) for path in trained):
            unmatched.append(pattern)
    if unmatched:
        buffers = [path for path in paths if matches(path, unmatched)]
        raise InputError(
            f"{caller}: no parameter matches {', '.join(map(repr, unmatched))}"
            + (f" ({', '.join(buffers)}: a buffer, which never trains)" if buffers else "")
            + f"; the model's paths start with {', '.join(sorted({path.split('.')[0] for path in trained}))}"
        )
