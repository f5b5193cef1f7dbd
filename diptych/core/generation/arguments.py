"""The input arrays of `generate`: checked against the model's description of them, and padded at the end."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from diptych.core import check
from diptych.core.boundary import Boundary
from diptych.core.errors import InputError
from diptych.core.inputs import ENCODER_OUTPUTS, INPUT_VALUES, SAMPLE_MASK, ModelInput


class InputReader:
    """Checks and pads the inputs of a model.

    Args:
        model: a `GenerationBase`.
        caller: the prefix of errors.
        given: the model's inputs by name.
    """

    def __init__(self, model: Any, caller: str, given: Mapping[str, Any]) -> None:
        self.model, self.caller, self.given = model, caller, given
        self.ops: Any = model._ops()
        self.boundary: Boundary = model._boundary(caller)
        self.vocabulary: tuple[int, str] = model._vocabulary

    def _check_inputs(
        self, kinds: Mapping[str, ModelInput], config: Any
    ) -> tuple[dict[str, Any], dict[str, int], tuple[tuple[str, bool], ...]]:
        """The given inputs of these kinds, checked; the sizes of their axes, by name; and the switches.

        Masks come last, since their shapes follow from the other inputs.
        """
        named = [kind for kind in kinds.values() if kind.name in self.given]
        arrays: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        switches: list[tuple[str, bool]] = []
        for kind in sorted(named, key=lambda kind: (kind.kind == "mask", not kind.main)):
            if kind.kind == "switch":
                switches.append((kind.name, bool(self.given[kind.name])))
                continue
            if kind.kind == "mask" and ENCODER_OUTPUTS.name in self.given:
                arrays[kind.name] = self.given[kind.name]
                continue
            size, field = self.vocabulary
            if config is not self.model.config or (kind.size or "vocab_size") != "vocab_size":
                size, field = getattr(config, kind.size or "", 0), kind.size or ""
            values = arrays[kind.name] = self._check_input(kind, sizes, size, field)
            check.has_rows(self.caller, kind.name, values.shape)
            wanted = (sizes.get("batch", int(values.shape[0])), *values.shape[1:])
            check.shape(self.caller, kind.name, values.shape, wanted, ", as many rows as the other inputs have")
            # embeddings come after ids, so that a mask has their size if both are given
            sizes.update(zip(kind.axis_names, values.shape, strict=True))
        return arrays, sizes, tuple(switches)

    def _check_input(self, kind: ModelInput, sizes: Mapping[str, int], size: int = 0, field: str = "") -> Any:
        """A caller's array, checked; a numpy array if its values are known, on one device and no floats.

        Args:
            kind: its description.
            sizes: the sizes of axes that are known from other inputs; a mask must have them.
            size, field: the number of ids, and the config's field for it.
        """
        value, name, boundary = self.given[kind.name], kind.name, self.boundary
        if kind.kind == "ids":
            return self.ops.to_numpy(boundary.ids(name, value, kind.axes, size=size, table=field))
        if kind.kind == "mask":
            shape = tuple(sizes[axis] for axis in kind.axis_names if axis in sizes)
            if len(shape) != len(kind.axis_names):
                raise InputError(f"{self.caller}: {name} is given without the input that it masks")
            values = self.ops.to_numpy(boundary.mask(name, value, shape, over=kind.axis_names[1]))
            if kind.axes == SAMPLE_MASK.axes:
                self._check_frames(name, values)
            return values
        if kind.axes == INPUT_VALUES.axes:
            return boundary.sound(name, value, least=getattr(self.model._encoder_config, "least_samples", 1))
        return boundary.floats(name, value, kind.axes)

    def _check_frames(self, name: str, mask: Any) -> None:
        """Each row of a known mask over samples must leave enough for a frame; a compiled program could not tell."""
        if type(mask) is not np.ndarray:
            return
        lengths = getattr(self.model._encoder_config, "feature_lengths", None)
        counts: Any = np.count_nonzero(cast(Any, mask), axis=1)
        frames = counts if lengths is None else lengths(counts)
        if np.min(frames) < 1:
            row = int(np.argmin(frames))
            raise check.no_frame(self.caller, name, int(counts[row]), row)

    def _pad_input(self, kind: ModelInput, values: Any, width: int, pad_token_id: int) -> Any:
        """An input with its token axis padded at the end, if it has one and may be padded.

        Known values go through numpy, which compiles nothing, even if nothing is added, and masks get one dtype, so
        that only widths lead to different programs.
        """
        filler = kind.padding_value(pad_token_id)
        if filler is None or not kind.counts_tokens:
            return values
        values = self.ops.to_numpy(values)
        if kind.kind == "mask" and not self.ops.is_traced(values):
            values = (values != 0).astype(np.int32)
        return pad_end(namespace(self.ops, values), values, width, filler)


def namespace(ops: Any, values: Any) -> Any:
    """The array namespace for these values, which may be None."""
    return np if values is None or isinstance(values, np.ndarray) else ops.xp


def position_ids(xp: Any, ids: Any, mask: Any, length: int) -> Any:
    """(B, P) positions that do not count padding."""
    if mask is None:
        return np.cumsum(np.ones((ids.shape[0], length), ids.dtype), axis=1, dtype=ids.dtype) - 1
    counts = xp.cumsum(xp.astype(mask != 0, ids.dtype), axis=1) - 1
    return xp.where(mask != 0, counts, xp.zeros_like(counts))


def pad_end(xp: Any, values: Any, width: int, filler: int) -> Any:
    """(B, P, …) values -> (B, width, …) with the filler at the end; None stays None."""
    if values is None or values.shape[1] >= width:
        return values
    shape = (values.shape[0], width - values.shape[1], *values.shape[2:])
    return xp.concat([values, xp.full(shape, filler, dtype=values.dtype)], axis=1)


def padding_id(config: Any) -> int:
    """The id that pads texts at the end; RoBERTa recognizes padding by it."""
    pad = config.pad_token_id
    return pad if pad is not None and 0 <= pad < config.vocab_size else 0
