"""A request to `generate`, checked: a plan, the traced options, and the initial arrays.

Letters of the shapes: B prompts, P tokens of a prompt, L columns of the buffer of ids, S tokens that the decoder
attends to in an encoder's output, D width.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from diptych.core import caching, check, inputs
from diptych.core.config import CacheShape
from diptych.core.errors import InputError
from diptych.core.generation.arguments import InputReader, namespace, pad_end, padding_id, position_ids
from diptych.core.generation.options import GenerationConfig
from diptych.core.generation.watching import Watch
from diptych.core.inputs import ATTENTION_MASK, DECODER_ATTENTION_MASK, DECODER_INPUT_IDS, ENCODER_OUTPUTS, ModelInput
from diptych.core.outputs import encoder_output
from diptych.core.semantics import logits, sampling
from diptych.core.semantics.decoding import CustomProcessor, Plan, TracedOptions

_DEFAULT_NEW_TOKENS = 20
"""The number of new tokens if no option limits them."""


class Prompt(NamedTuple):
    """The initial arrays of decoding, which are arguments of a compiled program."""

    ids: Any = None
    """(B, L), the prompts' ids, followed by padding."""
    mask: Any = None
    """(B, P), 0 for padding; None if there is none."""
    position_ids: Any = None
    """(B, P) or (1, P); None if the model counts positions itself."""
    embeds: Any = None
    """(B, P, D), a decoder's prompts as embeddings; None if they are ids."""
    extras: Any = None
    """A decoder's other inputs by name, such as images."""
    encoder_inputs: Any = None
    """The encoder's inputs by name."""
    encoder_states: Any = None
    """(B, S, D), if given in place of the encoder's inputs."""
    encoder_mask: Any = None
    """The mask of the encoder's inputs, or of the given states; None if there is none."""
    cache: Any = None
    """The caller's cache."""


class GenerationRequest(NamedTuple):
    """A checked call of `generate`."""

    plan: Plan
    traced: TracedOptions
    prompt: Prompt
    watch: Watch | None
    """What the caller does between steps."""
    encoder_length: int | None
    """The number of a text encoder's input tokens, without padding to a standard width; None if unknown."""


class _EncoderRequest(NamedTuple):
    """The encoder's part of a request."""

    inputs: dict[str, Any]
    switches: tuple[tuple[str, bool], ...]
    states: Any
    mask: Any
    batch: int
    length: int | None


class _Lengths(NamedTuple):
    """The numbers of tokens and columns of a call."""

    ids: int
    """Tokens of the prompts' ids."""
    context: int
    """Tokens of the decoder's input before the first new one."""
    new: int
    """The limit of new tokens."""
    ids_width: int
    """Columns for the prompts' ids."""
    context_width: int
    """Columns for the context, also in the cache."""
    shared: int
    """The length of the shortest context with this number of columns."""


class RequestBuilder(InputReader):
    """Checks a call of `generate` and turns it into a request.

    Args:
        model: a `GenerationBase`.
        caller: the prefix of errors.
        options: complete ones, see `GenerationConfig.resolve`.
        given: the model's inputs by name.
        cache: the caller's, or None.
        seed: of the random choices.
        processors: the caller's logits processors.
        watch: what the caller does between steps, or None.
    """

    def __init__(
        self,
        model: Any,
        caller: str,
        options: GenerationConfig,
        given: Mapping[str, Any],
        cache: Any,
        seed: int,
        processors: tuple[CustomProcessor, ...],
        watch: Watch | None,
    ) -> None:
        super().__init__(model, caller, given)
        self.options, self.cache, self.seed, self.processors, self.watch = options, cache, seed, processors, watch
        self.eos = _ids(options.eos_token_id)

    def build(self) -> GenerationRequest:
        """The request.

        Raises:
            InputError: an argument does not fit the model or another one.
            TypeError: the model does not take an argument.
        """
        self._check_option_ids()
        encoder = self._encoder_request() if self.model._has_encoder else None
        if encoder is None:
            ids, mask, embeds, extras, switches = self._prompts()
        else:
            ids, mask = self._decoder_start(encoder.batch)
            embeds, extras, switches = None, {}, encoder.switches
        mask = self._check_padding(mask, embeds, decoder_alone=encoder is None)
        lengths = self._lengths(ids, embeds)
        cached = self._cached_tokens(ids.shape[0], lengths)
        if self.options.encoder_no_repeat_ngram_size and "input_ids" not in self.given:
            raise InputError(f"{self.caller}: encoder_no_repeat_ngram_size needs input_ids")
        xp: Any = namespace(self.ops, ids)
        first = None
        if mask is not None:  # as in transformers, even if the padding is that of embeddings
            of_mask = namespace(self.ops, mask)
            first = of_mask.repeat(of_mask.argmax(mask != 0, axis=1), self._copies, axis=0)
        counts = encoder is None and self.model._call_takes("position_ids")
        positions = position_ids(namespace(self.ops, mask), ids, mask, lengths.context) if counts else None
        if self.model._pads_lengths:
            ids, mask, positions, embeds, extras = self._pad_prompts(xp, ids, mask, positions, embeds, extras, lengths)
        source = ids if encoder is None else encoder.inputs.get("input_ids")
        before, after = logits.build_processors(
            self._processor_options(lengths),
            prompt_length=lengths.ids,
            eos=self.eos,
            source=source,
            source_length=lengths.ids if encoder is None or encoder.length is None else encoder.length,
            first=first,
            constrained=self.watch is not None and self.watch.allowed is not None,
        )
        plan = self._plan(before, after, lengths, cached, switches)
        traced = self._traced_options(before, after, lengths)
        ids = pad_end(xp, ids, lengths.ids_width + plan.capacity - plan.prompt_width, traced.pad_token_id)
        prompt = Prompt(ids, mask, positions, embeds, extras, cache=self.cache)
        if encoder is None:
            return GenerationRequest(plan, traced, prompt, self.watch, None)
        prompt = prompt._replace(
            encoder_inputs=encoder.inputs, encoder_states=encoder.states, encoder_mask=encoder.mask
        )
        return GenerationRequest(plan, traced, prompt, self.watch, encoder.length)

    @property
    def _copies(self) -> int:
        """Rows for each prompt."""
        beams = cast(int, self.options.num_beams)
        return beams if beams > 1 else cast(int, self.options.num_return_sequences)

    def _check_option_ids(self) -> None:
        """Raises an InputError for ids outside the vocabulary among the options that the call uses."""
        size, field = self.vocabulary
        outside: dict[str, Any] = dict(logits.out_of_vocabulary(self.options, size))
        start = ["decoder_start_token_id"] if self.model._has_encoder else []
        for name in ("eos_token_id", "pad_token_id", *start):
            found = [index for index in _ids(getattr(self.options, name)) if not 0 <= index < size]
            if found:
                outside[name] = found[0] if len(found) == 1 else tuple(found)
        if outside:
            listed = ", ".join(f"{name}={value}" for name, value in outside.items())
            raise InputError(f"{self.caller}: {listed}, but {field} allows 0 to {size - 1}")

    # The encoder's inputs.

    def _encoder_request(self) -> _EncoderRequest:
        """The encoder's inputs, or its states."""
        kinds = inputs.by_name(self.model.encoder_inputs)
        names = (*kinds, *(one.name for one in (ENCODER_OUTPUTS, DECODER_INPUT_IDS, DECODER_ATTENTION_MASK)))
        inputs.refuse_unknown(self.caller, self.given, names)
        choices = [name for name, kind in kinds.items() if kind.main] + [ENCODER_OUTPUTS.name]
        main = [name for name in choices if name in self.given]
        if len(main) != 1:
            listed = " and ".join(main) or "none"
            raise InputError(f"{self.caller}: one of {', '.join(choices)} is needed, got {listed}")
        arrays, sizes, switches = self._check_inputs(kinds, self.model._encoder_config)
        mask, states, main_input = arrays.pop(ATTENTION_MASK.name, None), None, kinds.get(main[0], ENCODER_OUTPUTS)
        if main_input is ENCODER_OUTPUTS:
            states, mask = self._given_states(mask)
            sizes = {"batch": states.shape[0], "tokens": states.shape[1]}
        length = sizes["tokens"] if main_input.counts_tokens else None
        if length is not None:
            check.has_tokens(self.caller, length)
            for name in arrays:
                if kinds[name].counts_tokens:
                    check.shape(self.caller, name, arrays[name].shape[:2], (sizes["batch"], length))
        if length is not None and states is None:
            arrays, mask = self._pad_encoder_inputs(kinds, main_input, arrays, mask)
        return _EncoderRequest(arrays, switches, states, mask, sizes["batch"], length)

    def _given_states(self, mask: Any) -> tuple[Any, Any]:
        """The given encoder states, and their mask: from attention_mask, or else from encoder_outputs."""
        given = self.given[ENCODER_OUTPUTS.name]
        states = encoder_output(given).last_hidden_state
        if states is None:
            raise check.missing_argument(self.caller, "encoder_outputs.last_hidden_state")
        axes = ENCODER_OUTPUTS.axes
        states = self.boundary.floats(ENCODER_OUTPUTS.name, states, axes)
        check.has_rows(self.caller, ENCODER_OUTPUTS.name, states.shape)
        if mask is None:
            mask = getattr(given, "attention_mask", None)
        else:
            mask = self.model._states_mask(mask, states.shape[1])
        if mask is not None:
            shape = (states.shape[0], states.shape[1])
            mask = self.ops.to_numpy(self.boundary.mask(ATTENTION_MASK.name, mask, shape))
        return states, mask

    def _pad_encoder_inputs(
        self, kinds: Mapping[str, ModelInput], main: ModelInput, arrays: dict[str, Any], mask: Any
    ) -> tuple[dict[str, Any], Any]:
        """The inputs of a text encoder, padded to a standard width if the backend does so, and their mask.

        With a caller's cache nothing is padded, since the cache may hold the keys of exactly these tokens.
        """
        config, values = self.model._encoder_config, arrays[main.name]
        length, limit = values.shape[1], getattr(config, main.limit or "", None)
        if limit is not None:
            pads, longest = getattr(config, "padding_position", None), length
            if pads is not None:  # padding needs no position of its own
                limit -= pads + 1
                if main.kind == "ids":
                    longest = 0 if self.ops.is_traced(values) else int((values != pads).sum(1).max())
            check.at_most(
                self.caller, "the number of tokens to read", longest, limit, "the number of the encoder's positions"
            )
        if not self.model._pads_lengths or self.cache is not None or ATTENTION_MASK.name not in kinds:
            return arrays, mask
        width = self.model._padded_length(length)
        width = max(width if limit is None else min(width, limit), length)
        mask = np.ones(values.shape[:2]) if mask is None else mask
        pad = padding_id(config)
        padded = {name: self._pad_input(kinds[name], held, width, pad) for name, held in arrays.items()}
        return padded, self._pad_input(ATTENTION_MASK, mask, width, pad)

    # The decoder's prompts.

    def _prompts(self) -> tuple[Any, Any, Any, dict[str, Any], tuple[tuple[str, bool], ...]]:
        """A decoder's prompts: ids (B, P), mask (B, P) or None, embeddings (B, P, D) or None, other arrays, and
        switches."""
        kinds = inputs.by_name(self.model.prompt_inputs)
        inputs.refuse_unknown(self.caller, self.given, kinds)
        start, (size, field) = self.options.bos_token_id, self.vocabulary
        if "input_ids" not in self.given and "inputs_embeds" not in self.given:
            if start is None:
                raise InputError(f"{self.caller}: bos_token_id is needed, or input_ids")
            check.ids_in_range(self.caller, "bos_token_id", (start, start), size, field)
        arrays, sizes, switches = self._check_inputs(kinds, self.model.config)
        batch, mask = sizes.get("batch", 1), arrays.pop(ATTENTION_MASK.name, None)
        ids, embeds = arrays.pop("input_ids", None), arrays.pop("inputs_embeds", None)
        if ids is None:
            ids = np.full((batch, 1), start) if embeds is None else np.zeros((batch, 0), np.int64)
        elif embeds is None or ids.shape[1] == embeds.shape[1]:
            mask = self._inferred_mask(ids) if mask is None else mask
        if embeds is not None:
            check.has_tokens(self.caller, embeds.shape[1])
        elif "input_ids" in self.given:
            check.has_tokens(self.caller, ids.shape[1])
        return ids, mask, embeds, arrays, switches

    def _inferred_mask(self, ids: Any) -> Any:
        """The mask that transformers infers from pad_token_id; None if there is no padding or it isn't known."""
        pad = self.options.pad_token_id
        if pad is None or pad in self.eos or self.ops.is_traced(ids):
            return None
        pads = ids == pad
        return ~pads if pads.any() else None

    def _decoder_start(self, batch: int) -> tuple[Any, Any]:
        """The first tokens of a decoder with an encoder: ids (B, P) that begin with the start token, and their mask."""
        start, (size, field) = self.options.decoder_start_token_id, self.vocabulary
        start = self.options.bos_token_id if start is None else start
        named = "decoder_start_token_id or bos_token_id"
        if start is None:
            raise InputError(f"{self.caller}: {named} is needed")
        check.ids_in_range(self.caller, named, (start, start), size, field)
        if DECODER_INPUT_IDS.name not in self.given:
            ids = np.full((batch, 1), start)
        else:
            ids = self._check_input(DECODER_INPUT_IDS, {}, *self.vocabulary)
            check.has_tokens(self.caller, ids.shape[1])
        mask: Any = None
        if DECODER_ATTENTION_MASK.name in self.given:
            sizes = {"batch": ids.shape[0], "tokens": ids.shape[1]}
            mask = self._check_input(DECODER_ATTENTION_MASK, sizes)
        wanted, why = (batch, ids.shape[1]), ", as many rows as there are to read"
        check.shape(self.caller, DECODER_INPUT_IDS.name, ids.shape, wanted, why)
        if self.model._prepends_start_token and not self.ops.is_traced(ids) and (ids[:, 0] != start).all():
            xp: Any = namespace(self.ops, ids)
            ids = xp.concat([xp.full_like(ids[:, :1], start), ids], axis=1)
            if mask is not None:
                xp = namespace(self.ops, mask)
                mask = xp.concat([xp.ones_like(mask[:, :1]), mask], axis=1)
        return ids, mask

    def _check_padding(self, mask: Any, embeds: Any, *, decoder_alone: bool) -> Any:
        """The mask, or None if there is no padding; warns about padding on the right.

        Raises:
            InputError: there is padding, but no id for it.
        """
        if mask is None or self.ops.is_traced(mask):
            return mask
        if mask.all():
            return None
        name = ATTENTION_MASK.name if decoder_alone else DECODER_ATTENTION_MASK.name
        if self.options.pad_token_id is None and embeds is None:
            raise InputError(f"{self.caller}: {name} has padding, but pad_token_id=None; pass pad_token_id=…")
        if decoder_alone and not mask[:, -1].all():
            warnings.warn(
                f"{self.caller}: attention_mask has padding on the right, after which a decoder would continue; "
                "pad prompts on the left",
                stacklevel=4,
            )
        return mask

    def _pad_prompts(
        self, xp: Any, ids: Any, mask: Any, positions: Any, embeds: Any, extras: dict[str, Any], lengths: _Lengths
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """The arrays of the prompts, padded at the end to their standard widths.

        There is a mask even if there is no padding, so that both cases share a program.
        """
        kinds, width = inputs.by_name(self.model.prompt_inputs), lengths.context_width
        pad = padding_id(getattr(self.model.config, "decoder", self.model.config))
        mask = np.ones((ids.shape[0], lengths.context)) if mask is None else mask
        embeds = None if embeds is None else self._pad_input(inputs.INPUTS_EMBEDS, embeds, width, pad)
        padded = {name: self._pad_input(kinds[name], values, width, pad) for name, values in extras.items()}
        mask = self._pad_input(ATTENTION_MASK, mask, width, pad)
        positions = pad_end(namespace(self.ops, positions), positions, width, 0)
        return pad_end(xp, ids, lengths.ids_width, pad), mask, positions, embeds, padded

    # Lengths.

    def _lengths(self, ids: Any, embeds: Any) -> _Lengths:
        """The numbers of tokens and columns.

        Raises:
            InputError: the decoder has too few positions.
        """
        options, positions = self.options, self._positions
        length = ids.shape[1]
        context = length if embeds is None else embeds.shape[1]
        room = f"the decoder has positions for {positions}"
        if context > positions:
            raise InputError(f"{self.caller}: the prompt has {context} tokens, but {room}")
        if options.max_new_tokens is not None:
            new = options.max_new_tokens
        elif options.max_length is None:
            new = min(_DEFAULT_NEW_TOKENS, positions - context)
        else:  # as in transformers, which also counts ids of another length than the embeddings
            new = options.max_length - context - (0 if length in (0, context) else length)
        total = context + new
        if new < 1:
            raise InputError(
                f"{self.caller}: the prompt has {context} tokens, but max_length={total}; max_new_tokens adds to it"
            )
        if total - 1 > positions:
            raise InputError(f"{self.caller}: max_length={total} means reading {total - 1} tokens, but {room}")
        ids_width, context_width, shared = length, context, context
        if self.cache is None:
            ids_width, context_width = self._width(length) if length else 0, self._width(context)
            while shared > 1 and self._width(shared - 1) == context_width:
                shared -= 1
        return _Lengths(length, context, new, ids_width, context_width, shared)

    def _width(self, length: int) -> int:
        """The number of columns for prompts of this length."""
        return min(self.model._padded_length(length), self._positions)

    @property
    def _positions(self) -> int:
        """The number of the decoder's positions."""
        return cast(CacheShape, self.model.config.cache_shape).positions

    def _cached_tokens(self, rows: int, lengths: _Lengths) -> int:
        """The number of prompt tokens that are already in the caller's cache."""
        if self.cache is None:
            return 0
        caching.check_cache(self.boundary, self.model.config.cache_shape, self.cache, rows)
        length = self.cache.length
        if self.ops.is_traced(length):
            raise InputError(
                f"{self.caller}: past_key_values is traced, so its length is unknown; call generate outside of jax.jit"
            )
        cached = int(length)
        if cached >= lengths.context:
            raise InputError(
                f"{self.caller}: past_key_values has seen {cached} tokens, but the prompt has {lengths.context}"
            )
        last = lengths.context + lengths.new - 1
        check.at_least(self.caller, "past_key_values.capacity", self.cache.capacity, last, "max_length - 1")
        return cached

    # Options.

    def _processor_options(self, lengths: _Lengths) -> GenerationConfig:
        """The options with the resulting length limits, which include prompts if they are ids."""
        least = cast(int, self.options.min_length)
        if self.options.min_new_tokens is not None:
            least = 0  # as in transformers, where min_length is then ignored
        elif lengths.ids != lengths.context:
            least = max(least - lengths.context, 0)
        return self.options.replace(max_length=lengths.ids + lengths.new, min_length=least)

    def _plan(
        self, before: Any, after: Any, lengths: _Lengths, cached: int, switches: tuple[tuple[str, bool], ...]
    ) -> Plan:
        options = self.options
        return Plan(
            num_beams=cast(int, options.num_beams),
            copies=self._copies,
            num_return_sequences=cast(int, options.num_return_sequences),
            do_sample=bool(options.do_sample),
            early_stopping=cast("bool | str", options.early_stopping),
            processors_before=tuple(processor for processor, _ in before),
            custom_processors=self.processors,
            processors_after=tuple(processor for processor, _ in after),
            output_logits=bool(options.output_logits),
            output_scores=bool(options.output_scores),
            output_attentions=bool(options.output_attentions),
            output_hidden_states=bool(options.output_hidden_states),
            input_switches=switches,
            prompt_width=lengths.context_width,
            capacity=lengths.context_width + self.model._padded_length(lengths.new),
            cached=cached,
            shared=lengths.shared,
            padded=self.model._pads_lengths,
            watched=self.watch is not None,
        )

    def _traced_options(self, before: Any, after: Any, lengths: _Lengths) -> TracedOptions:
        pad = self.options.pad_token_id
        return TracedOptions(
            prompt_length=np.int32(lengths.ids),
            context_length=np.int32(lengths.context),
            max_length=np.int32(lengths.ids + lengths.new),
            pad_token_id=np.int32((self.eos or (0,))[0] if pad is None else pad),
            eos_token_ids=np.array(self.eos, np.int32),
            seed=np.array(sampling.seed_words(self.seed), np.int32),
            length_penalty=np.float64(cast(float, self.options.length_penalty)),
            before=tuple(values for _, values in before),
            after=tuple(values for _, values in after),
        )


def _ids(value: Any) -> tuple[int, ...]:
    """A tuple of one id, several or none."""
    return () if value is None else cast("tuple[int, ...]", value if isinstance(value, tuple) else (value,))
