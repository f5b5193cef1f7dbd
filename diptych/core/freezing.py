"""Freezing parameters by published path, in both backends."""

from collections.abc import Callable, Iterable, Mapping
from typing import Self

from diptych.core.checkpoint.dialects import matches
from diptych.core.checkpoint.slots import Slot
from diptych.core.errors import InputError
from diptych.core.live_config import ConfigMixin
from diptych.core.registry import word_embeddings


class Freezable(ConfigMixin):
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
        caller = f"{type(self).__name__}.{verb}"
        _check_patterns(caller, patterns, [slot.path for slot in leaves], parameters, self._tied_outputs)
        for slot, leaf in parameters.items():
            if not patterns or matches(slot.path, patterns):
                self._set_frozen(leaf, frozen)
        return self

    def _tied_outputs(self) -> dict[str, str]:
        """The path of each output layer that is tied -> the embedding table whose weight it is."""
        found: dict[str, str] = {}
        for path, model in {"": self, **self._inner_models()}.items():
            prefix, tables = path and f"{path}.", word_embeddings(type(model))
            modules = [name for name, _ in model._submodules()]
            if tables is not None and tables.output is not None and tables.output not in modules:
                table = next(name for name in tables.inputs if name in modules)
                found[f"{prefix}{tables.output}"] = f"{prefix}{table}"
        return found


def _check_patterns(
    caller: str,
    patterns: tuple[object, ...],
    paths: list[str],
    parameters: Iterable[Slot],
    find_tied: Callable[[], Mapping[str, str]],
) -> None:
    """Refuses patterns that match no parameter.

    Args:
        caller: the prefix of errors.
        patterns: the caller's.
        paths: of parameters and buffers.
        parameters: those that can be frozen.
        find_tied: finds the output layers that are tied, and the tables that they are tied to.
    """
    trained = [slot.path for slot in parameters]
    unmatched: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"{caller}: {pattern!r} is not a path; give each path as a separate argument")
        if not any(matches(path, (pattern,)) for path in trained):
            unmatched.append(pattern)
    if unmatched:
        buffers = [path for path in paths if matches(path, unmatched)]
        tied = [
            f"{output} is tied to {table}, whose weight can be frozen"
            for output, table in find_tied().items()
            if any(f"{output}.weight".endswith((name, f"{name}.weight")) for name in unmatched)
        ]
        raise InputError(
            f"{caller}: no parameter matches {', '.join(map(repr, unmatched))}"
            + (f" ({', '.join(buffers)}: a buffer, which never trains)" if buffers else "")
            + "".join(f" ({one})" for one in tied)
            + f"; the model's paths start with {', '.join(sorted({path.split('.')[0] for path in trained}))}"
        )
