"""The boundary of a call: checks callers' arrays, for both backends, and converts them to the model's arrays.

Backends differ only in a few functions of `ops`: `concrete_array`, `dtype_name`, `min_max`, `as_ids`, `as_labels`,
`as_floats`, `on_device`, `steps` and `check_rngs`.

Letters of the shapes: B batch, T target length, S source length, D width, V vocabulary, C Y X images, I images per row,
L states of an image.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from diptych.core import check
from diptych.core.errors import InputError
from diptych.core.semantics import labels as patch_labels
from diptych.core.semantics import losses, masks

Size = tuple[int, int]
"""Rows and tokens of a batch."""

TOKENS = "batch, tokens"
STATES = "batch, tokens, hidden_size"
IMAGES = "batch, channels, height, width"
IMAGE_SEQUENCES = "batch, images, channels, height, width"
IMAGE_STATES = "batch, images, states, width"
SAMPLES = "batch, samples"


class Boundary:
    """Checks the arguments of one call.

    Args:
        ops: the backend's functions.
        cache_class: the backend's cache.
        caller: the prefix of error messages, such as the model's class.
        like: an array or shape with the model's dtype and, in torch, its device.

    Every method raises an InputError that names the caller and the argument, the value found and the one needed.
    """

    def __init__(self, ops: Any, cache_class: Any, caller: str, like: Any) -> None:
        self.ops = ops
        self.cache_class = cache_class
        self.caller = caller
        self.like = like

    @property
    def xp(self) -> Any:
        """The backend's array namespace."""
        return self.ops.xp

    def switch(self, name: str, value: Any) -> bool:
        """A keyword that is True or False, or None for False."""
        check.switch(self.caller, name, value)
        return bool(value)

    def ids(self, name: str, value: Any, axes: str = TOKENS, *, size: int, table: str) -> Any:
        """Integer ids with the given axes, below `size`, which the config calls `table`."""
        ids = self._integers(name, value)
        check.rank(self.caller, name, ids.shape, axes)
        check.ids_in_range(self.caller, name, self.ops.min_max(ids), size, table)
        return self.ops.as_ids(ids, self.like)

    def row_ids(self, name: str, value: Any, shape: Size, *, size: int, table: str) -> Any:
        """Ids of shape (B, T), or (1, T) for all rows."""
        ids = self.ids(name, value, size=size, table=table)
        rows = 1 if ids.shape[0] == 1 else shape[0]
        check.shape(self.caller, name, ids.shape, (rows, shape[1]), ", as many as there are tokens")
        return ids

    def floats(self, name: str, value: Any, axes: str) -> Any:
        """Floats with the given axes, in the model's dtype."""
        values = self.ops.concrete_array(self.caller, name, value)
        found = self.ops.dtype_name(values)
        if not found.startswith(("float", "bfloat")):
            raise InputError(f"{self.caller}: {name} has dtype {found}, but floats are needed")
        check.rank(self.caller, name, values.shape, axes)
        return self.ops.as_floats(values, self.like)

    def mask(
        self, name: str, value: Any, shape: tuple[int, ...], *, widths: tuple[int, ...] = (), over: str = "tokens"
    ) -> Any:
        """An attention mask: 1 for what is attended to, 0 for what is not.

        Args:
            name, value: the argument.
            shape: (B, T), or (B, T, I) where each token has a mask over images.
            widths: other lengths than T that are allowed, for masks that include earlier tokens.
            over: what T counts.
        """
        values = self.ops.concrete_array(self.caller, name, value)
        if len(values.shape) == 2 and values.shape[1] in widths:
            shape = (shape[0], values.shape[1])
        counted = over if len(shape) == 2 else f"{over} and images"
        check.shape(self.caller, name, values.shape, shape, f", as many as there are {counted}")
        self._refuse_other_values(name, values)
        return self.ops.on_device(values, self.like)

    def _refuse_other_values(self, name: str, mask: Any) -> None:
        """Raises an InputError for a mask of other values than 0 and 1, unless they are unknown under a transform."""
        if self.ops.has_other_values(mask, (0, 1)):
            raise InputError(
                f"{self.caller}: {name} must hold 1 for what is attended to and 0 for the rest, but has other values; "
                "additive masks are not supported"
            )

    def words(
        self,
        input_ids: Any,
        inputs_embeds: Any,
        embed: Callable[[Any], Any],
        *,
        size: int,
        width: int,
        prefix: str = "",
        table: str = "vocab_size",
    ) -> tuple[Any, Any]:
        """Token ids and their embeddings, or the embeddings that the caller passes in place of ids.

        Args:
            input_ids, inputs_embeds: the arguments, exactly one of which must be given.
            embed: the embedding of ids.
            size: the number of ids.
            width: D, `hidden_size`.
            prefix: precedes the arguments' names, "decoder_" for a decoder's.
            table: the config's expression for `size`.

        Returns:
            The ids (B, T), or None, and the embeddings (B, T, D).
        """
        ids, embeds = f"{prefix}input_ids", f"{prefix}inputs_embeds"
        check.exactly_one(self.caller, **{ids: input_ids, embeds: inputs_embeds})
        if input_ids is not None:
            input_ids = self.ids(ids, input_ids, size=size, table=table)
            check.has_tokens(self.caller, input_ids.shape[1])
            return input_ids, embed(input_ids)
        inputs_embeds = self.floats(embeds, inputs_embeds, STATES)
        check.has_tokens(self.caller, inputs_embeds.shape[1])
        check.shape(self.caller, embeds, inputs_embeds.shape, (*inputs_embeds.shape[:2], width))
        return None, inputs_embeds

    def token_types(self, value: Any, shape: Size, *, size: int) -> Any:
        """Token types of shape (B, T) or (1, T); by default all are type 0."""
        if value is None:
            return self.xp.zeros_like(self.ops.steps(shape[1], self.like))[None]
        return self.row_ids("token_type_ids", value, shape, size=size, table="type_vocab_size")

    def encoder_states(
        self, states: Any, attention_mask: Any, batch: int, *, width: int, crosses: bool, cached: Size | None
    ) -> tuple[Any, Any]:
        """What a decoder attends to: the encoder's states (B, S, D) and the mask (B, 1, 1, S) over them.

        Args:
            states: `encoder_hidden_states`, or None.
            attention_mask: `encoder_attention_mask` (B, S), or None.
            batch: the decoder's batch size.
            width: D.
            crosses: whether the decoder has cross-attention.
            cached: the batch size and length of the cached encoder keys, which are used instead; None if none.
        """
        if states is not None:
            if not crosses:
                raise InputError(
                    f"{self.caller}: encoder_hidden_states are given, but the config has add_cross_attention=False"
                )
            states = self.floats("encoder_hidden_states", states, STATES)
            check.shape(self.caller, "encoder_hidden_states", states.shape, (batch, states.shape[1], width))
        if attention_mask is None:
            return states, None
        size = cached if states is None or cached is not None else (batch, states.shape[1])
        if size is None:
            raise InputError(f"{self.caller}: encoder_attention_mask is given, but no encoder_hidden_states")
        return states, masks.padding(self.xp, self.mask("encoder_attention_mask", attention_mask, size))

    def images(self, value: Any, *, channels: int, size: Size | None, least: Size = (1, 1)) -> Any:
        """`pixel_values` (B, C, Y, X).

        Args:
            value: the argument.
            channels: C.
            size: (Y, X) that the images must have; None takes any.
            least: the minimum (Y, X), the size of a patch.
        """
        return self._pixels(value, IMAGES, channels, size, least)

    def image_sequences(self, value: Any, *, channels: int, size: Size | None, least: Size = (1, 1)) -> Any:
        """`pixel_values` (B, I, C, Y, X), several images per row; otherwise as `images`."""
        return self._pixels(value, IMAGE_SEQUENCES, channels, size, least)

    def image_states(self, name: str, value: Any, *, width: int) -> Any:
        """States of several images per row, (B, I, L, D), with D = `width`."""
        states = self.floats(name, value, IMAGE_STATES)
        check.shape(self.caller, name, states.shape, (*states.shape[:3], width))
        if 0 in states.shape:
            raise InputError(f"{self.caller}: {name} has shape {tuple(states.shape)}, but at least one state is needed")
        return states

    def image_mask(self, name: str, value: Any, shape: Size, images: int | None, states: int) -> Any:
        """A mask over images as one over their states: Bool (B, 1, T, S), True where a token may see a state.

        Args:
            name, value: the argument, (B, T, I), 1 = attend.
            shape: (B, T).
            images: I; None if only the number of all states is known, from a cache.
            states: S, of all images.
        """
        mask = self.ops.concrete_array(self.caller, name, value)
        check.rank(self.caller, name, mask.shape, "batch, tokens, images")
        if images is None:
            images = int(mask.shape[2])
            if images < 1 or states % images:
                raise InputError(
                    f"{self.caller}: {name} has shape {tuple(mask.shape)}, but past_key_values has the keys of "
                    f"{states} states of images, which is no multiple of {images}"
                )
        mask = self.mask(name, value, (*shape, images)) != 0
        return self.xp.repeat(mask, states // images, axis=2)[:, None]

    def _pixels(self, value: Any, axes: str, channels: int, size: Size | None, least: Size) -> Any:
        name = "pixel_values"
        if value is None:
            raise check.missing_argument(self.caller, name)
        pixels = self.floats(name, value, axes)
        check.has_pixels(self.caller, name, pixels.shape)
        *leading, first, height, width = pixels.shape
        if width == channels != first:
            raise InputError(
                f"{self.caller}: {name} has shape {tuple(pixels.shape)}, whose channels seem to be last, but ({axes}) "
                "is needed; move the last axis, as in numpy.moveaxis(pixel_values, -1, -3)"
            )
        check.shape(self.caller, name, pixels.shape, (*leading, channels, height, width))
        if size is not None:
            why = ", or interpolate_pos_encoding=True"
            check.shape(self.caller, name, pixels.shape, (*leading, channels, *size), why)
        for side, found, limit in (("height", height, least[0]), ("width", width, least[1])):
            check.at_least(self.caller, f"pixel_values' {side}", found, limit, "patch_size")
        return pixels

    def masked_patches(self, value: Any, size: Size, mask_token: Any) -> Any:
        """`bool_masked_pos` as Bool (B, P), True for the patches that the mask token replaces.

        Args:
            value: the argument.
            size: (B, P).
            mask_token: the model's, or None if it has none.
        """
        name = "bool_masked_pos"
        if mask_token is None:
            raise InputError(
                f"{self.caller}: {name} is given, but the model has no mask token; make or load it with "
                "use_mask_token=True"
            )
        return self.selection(name, value, size, "patch")

    def masked_frames(self, value: Any, size: Size, embedding: Any) -> Any:
        """`mask_time_indices` as Bool (B, T), True for the frames that the mask embedding replaces.

        Args:
            value: the argument.
            size: (B, T).
            embedding: the model's, or None if it has none.
        """
        name = "mask_time_indices"
        if embedding is None:
            raise InputError(
                f"{self.caller}: {name} is given, but the model has no masked_spec_embed, since the config's "
                "mask_time_prob and mask_feature_prob are 0"
            )
        return self.selection(name, value, size, "frame")

    def selection(self, name: str, value: Any, size: Size, place: str) -> Any:
        """Numbers, one for each place, as Bool: True where they aren't zero."""
        values = self.ops.concrete_array(self.caller, name, value)
        check.shape(self.caller, name, values.shape, size, f", a number for each {place}")
        return self.ops.on_device(values, self.like) != 0

    def patch_labels(self, name: str, value: Any, logits: Any, masked: Any) -> Any:
        """Labels (B, P) of patches, from those of the masked ones alone; -100 is ignored in the loss.

        Args:
            name, value: the argument, (M,) class ids, row by row.
            logits: (B, P, V).
            masked: Bool (B, P), True for M patches.
        """
        labels = self._integers(name, value)
        check.rank(self.caller, name, labels.shape, "masked patches")
        count = self.ops.min_max(self.xp.sum(self.xp.astype(masked, self.xp.int32))[None])
        if count is not None:
            check.shape(self.caller, name, labels.shape, (count[0],), ", one for each masked patch")
        labels = self._in_vocabulary(name, labels, logits.shape[-1], "the output")
        return patch_labels.of_patches(self.xp, labels, masked)

    def sound(self, name: str, value: Any, *, least: int = 1) -> Any:
        """Audio samples (B, samples), all finite, at least `least` of them, of which one state is made."""
        if value is None:
            raise check.missing_argument(self.caller, name)
        values = self.ops.concrete_array(self.caller, name, value)
        samples = self.floats(name, values, SAMPLES)
        check.has_rows(self.caller, name, samples.shape)
        if samples.shape[1] < least:
            raise InputError(
                f"{self.caller}: {name} has {samples.shape[1]} samples, but at least {least} are needed for a state"
            )
        if self.ops.all_finite(values) is False:
            raise InputError(f"{self.caller}: {name} holds NaN or infinite samples; repair or drop the recording")
        return samples

    def frame_mask(
        self, name: str, value: Any, length: int, lengths: Callable[[Any], Any], *, samples: Size | None = None
    ) -> Any:
        """The mask over samples as a Bool mask (B, T) over the frames that they make, which come first in each row.

        Args:
            name, value: the argument, (B, samples); how many are 1 counts, not which.
            length: T.
            lengths: the number of frames for a number of samples.
            samples: the shape of the samples; by default any with T frames.
        """
        values = self.ops.concrete_array(self.caller, name, value)
        if samples is not None:
            check.shape(self.caller, name, values.shape, samples, ", as many as there are samples")
        check.rank(self.caller, name, values.shape, SAMPLES)
        if (covered := lengths(int(values.shape[1]))) != length:
            raise InputError(
                f"{self.caller}: {name} covers {values.shape[1]} samples, which make {max(covered, 0)} frames, but "
                f"there are {length}; a mask over samples is needed"
            )
        self._refuse_other_values(name, values)
        counts = self.xp.sum(self.xp.astype(self.ops.on_device(values, self.like) != 0, self.xp.int32), axis=1)
        frames = lengths(counts)
        bounds = self.ops.min_max(frames)
        if bounds is not None and bounds[0] < 1:
            row = int(self.xp.argmin(frames))
            raise check.no_frame(self.caller, name, int(counts[row]), row)
        return self.ops.steps(length, frames)[None, :] < frames[:, None]

    def leading_lengths(self, name: str, mask: Any) -> Any:
        """How many samples (B,) each row of a mask (B, samples) has, which must come before its padding."""
        attends = self.ops.on_device(self.ops.concrete_array(self.caller, name, mask), self.like) != 0
        counts = self.xp.sum(self.xp.astype(attends, self.xp.int32), axis=1)
        leading = self.ops.steps(attends.shape[1], counts)[None, :] < counts[:, None]
        misplaced = self.xp.sum(self.xp.astype(attends != leading, self.xp.int32), axis=1)
        bounds = self.ops.min_max(misplaced)
        if bounds is not None and bounds[1] > 0:
            row = int(self.xp.argmax(misplaced))
            raise InputError(
                f"{self.caller}: {name} has padding before samples in row {row}; ignore_padding=True needs all padding "
                "at the end of a row"
            )
        return counts

    def negatives(self, value: Any, size: Size, masked: Any) -> Any:
        """`sampled_negative_indices` (B, T, K), each below B * T.

        Args:
            value: the argument.
            size: (B, T).
            masked: `mask_time_indices`, or None.
        """
        name = "sampled_negative_indices"
        if masked is None:
            raise InputError(
                f"{self.caller}: {name} are given, but mask_time_indices, the masked frames, are needed too"
            )
        ids = self.ids(name, value, "batch, frames, negatives", size=size[0] * size[1], table="the frames of all rows")
        check.shape(self.caller, name, ids.shape, (*size, ids.shape[2]))
        return ids

    def ctc_labels(self, name: str, value: Any, logits: Any) -> Any:
        """Labels (B, L) of a text for each row of logits (B, T, V); -100 is left out."""
        labels = self._integers(name, value)
        check.rank(self.caller, name, labels.shape, "batch, labels")
        check.shape(self.caller, name, labels.shape, (logits.shape[0], max(1, labels.shape[1])))
        return self._in_vocabulary(name, labels, logits.shape[-1], "the output")

    def labels(self, name: str, value: Any, logits: Any) -> Any:
        """Class or token ids, one for each row of logits; -100 is ignored in the loss."""
        labels = self._integers(name, value)
        check.shape(self.caller, name, labels.shape, logits.shape[:-1])
        return self._in_vocabulary(name, labels, logits.shape[-1], "the output")

    def label_ids(self, name: str, value: Any, *, size: int) -> Any:
        """Labels (B, T) that become a decoder's inputs; -100 becomes padding."""
        labels = self._integers(name, value)
        check.rank(self.caller, name, labels.shape, TOKENS)
        return self._in_vocabulary(name, labels, size, "vocab_size")

    def targets(self, name: str, value: Any, logits: Any, problem_type: str | None) -> Any:
        """Labels of a classifier or targets of a regression, depending on the problem type."""
        labels = self.ops.concrete_array(self.caller, name, value)
        floating = self.ops.dtype_name(labels).startswith(("float", "bfloat"))
        problem = losses.problem(logits.shape[-1], floating, problem_type)
        if problem == "single_label_classification":
            return self.labels(name, labels, logits)
        check.targets(self.caller, name, labels.shape, logits.shape, problem)
        return self.ops.on_device(labels, self.like)

    def tokens_to_keep(self, value: Any, length: int) -> Any:
        """`logits_to_keep`: how many of the last tokens get logits (0 for all), or the positions of those that do."""
        name = "logits_to_keep"
        if not isinstance(value, bool) and isinstance(value, int | np.integer):
            if value < 0:
                raise InputError(f"{self.caller}: {name}={value}, but 0 (all tokens) or more is needed")
            return int(cast(int, value))
        if isinstance(value, bool) or value is None or isinstance(value, float | str):
            raise InputError(f"{self.caller}: {name}={value!r}, but a whole number or an array of positions is needed")
        positions = self._integers(name, value)
        if len(positions.shape) == 0:  # a scalar array
            bounds = self.ops.min_max(positions[None])
            if bounds is not None:
                return self.tokens_to_keep(bounds[0], length)
        check.rank(self.caller, name, positions.shape, "positions")
        bounds = self.ops.min_max(positions)
        if bounds is not None and not (-length <= bounds[0] and bounds[1] < length):
            raise InputError(
                f"{self.caller}: {name} holds {bounds[0] if bounds[0] < -length else bounds[1]}, but there are "
                f"{length} tokens"
            )
        return self.ops.as_ids(positions, self.like)

    def rngs(self, value: Any) -> None:
        """Checks the source of randomness: a key in JAX, None in torch."""
        self.ops.check_rngs(self.caller, value)

    def _integers(self, name: str, value: Any) -> Any:
        values = self.ops.concrete_array(self.caller, name, value)
        check.integer_dtype(self.caller, name, self.ops.dtype_name(values))
        return values

    def _in_vocabulary(self, name: str, labels: Any, size: int, table: str) -> Any:
        check.ids_in_range(self.caller, name, self.ops.min_max(labels, ignored=losses.IGNORED), size, table)
        return self.ops.as_labels(labels, self.like)
