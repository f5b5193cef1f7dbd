"""Text generation, as far as both backends do it alike: what a call asks for, and what is done for each token.

Letters of the shapes: B prompts, R rows (every prompt in all its copies or beams), P tokens of a prompt, L tokens of
the buffer, S tokens that an encoder reads, V vocabulary.
"""

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from diptych.core import caching, check
from diptych.core.config import CacheShape
from diptych.core.errors import InputError
from diptych.core.generation_config import GenerationConfig
from diptych.core.interfaces import Streamer
from diptych.core.outputs import GenerateOutput, encoded
from diptych.core.pretrained import PreTrained
from diptych.core.semantics import logits, sampling
from diptych.core.semantics.decoding import Numbers, Plan, Processor

_PADDED = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What an encoder reads of a text, token by token."""
_READ = (*_PADDED, "inputs_embeds", "pixel_values", "input_values")
"""What is read, of any kind."""
_BEGUN = ("decoder_input_ids", "decoder_attention_mask")
"""What a decoder begins with behind an encoder."""
_ROWS = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size", "position_ids": "max_position_embeddings"}
_NEW = 20
"""Tokens that are written where nobody says how many."""
_AXES = {
    "inputs_embeds": "batch, tokens, hidden_size",
    "pixel_values": "batch, channels, height, width",
    "input_values": "batch, samples",
}


class Prompt(NamedTuple):
    """What texts begin with, and what they are about: arrays, so that a compiled program takes them."""

    ids: Any = None
    """(B, L), the prompts and padding behind them."""
    mask: Any = None
    """(B, P), False for padding; None if there is none."""
    position_ids: Any = None
    """(B, P) or (1, P); None if the model counts itself."""
    read: Any = None
    """What an encoder is to read, by name."""
    states: Any = None
    """What an encoder made of it, if that is given."""
    read_mask: Any = None
    """(B, S), or None."""
    cache: Any = None
    """A caller's cache."""


class Task(NamedTuple):
    """What a call asks for."""

    plan: Plan
    numbers: Numbers
    prompt: Prompt
    read_length: int | None
    """Tokens that an encoder reads, without what stands behind them."""


class Generates(PreTrained):
    """A model that writes texts."""

    _exact: ClassVar[bool]
    """Whether no room is made for more tokens than there are."""

    @staticmethod
    @abstractmethod
    def _room(length: int) -> int:
        """How many tokens are made room for, where there are so many."""

    @abstractmethod
    def _run(self, task: Task, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        """Does what a call asks for."""

    def generate(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        pixel_values: Any = None,
        input_values: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        generation_config: Any = None,
        seed: int = 0,
        streamer: Streamer | None = None,
        logits_processors: Sequence[Processor] | None = (),
        compile: bool = False,
        **options: Any,
    ) -> GenerateOutput:
        """Writes texts, token after token: the same ones in both backends, those of transformers 5.23.

        Args:
            input_ids: (B, P) integers: the prompts of a decoder, or what an encoder is to read. Without prompts a
                decoder begins with bos_token_id.
            attention_mask: (B, P), 0 for padding, which stands on the left of a decoder's prompts. Without it, a
                decoder takes pad_token_id for padding where it is no end of text.
            pixel_values, input_values: images (B, C, Y, X) or sound (B, samples) in place of a text to read.
            encoder_outputs: what `encode` returned, or (B, S, D) states, in place of anything to read.
            past_key_values: a cache that has seen the prompts' first tokens, with room for all but the last to come.
            generation_config: options in place of the model's own; it fills in those that are left out.
            seed: of do_sample's random choices; the same one gives the same tokens.
            streamer: is given the prompts and then the tokens as they come, as numpy arrays; not with beams.
            logits_processors: rules of your own, `f(xp, input_ids (R, L), scores (R, V), length) -> scores`, applied
                before temperature and the other rules of sampling; tokens from `length` on mean nothing. A JAX program
                is compiled once for each object.
            compile: whether torch compiles the step of a token; JAX always does.
            options: any of `GenerationConfig`; or decoder_input_ids and decoder_attention_mask (B, P), the beginning
                of what a decoder with an encoder writes, token_type_ids, position_ids and inputs_embeds for an encoder.

        Raises:
            InputError: an argument has another dtype, shape or range, an id that the call uses lies outside the
                vocabulary, or the model has no room for so many tokens.
            TypeError: an option is unknown.
        """
        where = f"{type(self).__name__}.generate"
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}
        arguments |= {"input_values": input_values, "encoder_outputs": encoder_outputs}
        arguments |= {name: options.pop(name) for name in (*_READ, *_BEGUN) if name in options}
        asked = GenerationConfig.coerced(generation_config).over(self.generation_config).settled(**options)
        if self.config.cache_shape is None:
            raise InputError(f"{where}: the model is no decoder; its config needs is_decoder=True")
        if cast(Any, self).training:
            raise InputError(f"{where}: the model is in train mode, in which it drops values; call model.eval() first")
        if isinstance(seed, bool) or not isinstance(seed, Integral):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"{where}: seed={seed!r} must be a whole number")
        if streamer is not None and not isinstance(streamer, Streamer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"{where}: streamer is a {type(streamer).__name__}, but put(value) and end() are needed")
        if not isinstance(compile, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"{where}: compile={compile!r} must be True or False")
        processors: Any = () if logits_processors is None else logits_processors
        if not isinstance(processors, list | tuple) or not all(map(callable, cast(Sequence[Any], processors))):
            raise InputError(f"{where}: logits_processors={logits_processors!r} must be a list of functions")
        if streamer is not None and cast(int, asked.num_beams) > 1:
            raise InputError(f"{where}: num_beams={asked.num_beams}, but a streamer needs num_beams=1")
        given = {name: value for name, value in arguments.items() if value is not None}
        self._check_ids(where, asked)
        task = self._task(where, asked, given, past_key_values, int(seed), tuple(cast(Sequence[Any], processors)))
        return self._run(task, streamer, compile)

    def _takes(self, name: str) -> bool:
        """Whether the model's call has a keyword."""
        call = getattr(type(self), "forward", type(self).__call__)  # torch's own __call__ has none by name
        return name in inspect.signature(call).parameters

    @property
    def _reads(self) -> bool:
        """Whether an encoder reads what the texts are about."""
        return hasattr(self, "encode")

    def _check_ids(self, where: str, asked: GenerationConfig) -> None:
        """Raises an InputError for ids outside the vocabulary that the call uses."""
        size = self.config.vocab_size
        outside: dict[str, Any] = dict(logits.out_of_vocabulary(asked, size))
        for name in ("eos_token_id", "pad_token_id", *(["decoder_start_token_id"] if self._reads else [])):
            found = [index for index in _ids(getattr(asked, name)) if not 0 <= index < size]
            if found:
                outside[name] = found[0] if len(found) == 1 else tuple(found)
        if outside:
            listed = ", ".join(f"{name}={value}" for name, value in outside.items())
            raise InputError(f"{where}: {listed}, but vocab_size allows 0 to {size - 1}")

    def _task(
        self,
        where: str,
        asked: GenerationConfig,
        given: Mapping[str, Any],
        cache: Any,
        seed: int,
        processors: tuple[Processor, ...],
    ) -> Task:
        """What is to be done, checked."""
        read, (batch, read_length) = self._reading(where, given, cache) if self._reads else (Prompt(), (None, None))
        ids, mask = self._beginning(where, asked, given, batch)
        length = ids.shape[1]
        asked = self._limited(where, asked, length)
        limit, positions = cast(int, asked.max_length), cast(CacheShape, self.config.cache_shape).positions
        fed = self._fed(where, cache, ids.shape[0], length, limit)
        if self._reads and asked.encoder_no_repeat_ngram_size and "input_ids" not in given:
            raise InputError(f"{where}: encoder_no_repeat_ngram_size needs input_ids")

        def room(count: int) -> int:
            return min(self._room(count), positions)

        width = room(length) if cache is None else length
        shared = length
        while shared > 1 and cache is None and room(shared - 1) == width:
            shared -= 1
        beams, eos = cast(int, asked.num_beams), _ids(asked.eos_token_id)
        copies = beams if beams > 1 else cast(int, asked.num_return_sequences)
        xp: Any = np if _seen(ids) else self._ops().xp
        position_ids = _counted(xp, ids, mask) if self._takes("position_ids") and not self._reads else None
        first = xp.repeat(xp.argmax(mask != 0, axis=1), copies, axis=0) if mask is not None else None
        if not self._exact:  # a mask whether or not there is padding, so that it makes no other program
            mask = _padded(xp, xp.ones_like(ids) if mask is None else mask, width, 0)
            position_ids = _padded(xp, position_ids, width, 0)
            ids = _padded(xp, ids, width, _filler(self.config, "decoder"))
        source = cast(dict[str, Any], read.read or {}).get("input_ids") if self._reads else ids
        source_length = read_length or length
        before, after = logits.built(
            asked, prompt_length=length, eos=eos, source=source, source_length=source_length, first=first
        )
        plan = Plan(
            beams=beams,
            copies=copies,
            returned=cast(int, asked.num_return_sequences),
            samples=bool(asked.do_sample),
            early_stopping=cast("bool | str", asked.early_stopping),
            before=tuple(rule for rule, _ in before),
            processors=processors,
            after=tuple(rule for rule, _ in after),
            logits=bool(asked.output_logits),
            scores=bool(asked.output_scores),
            attentions=bool(asked.output_attentions),
            hidden_states=bool(asked.output_hidden_states),
            width=width,
            capacity=width + self._room(limit - length),
            fed=fed,
            shared=shared,
            exact=self._exact,
        )
        pad = asked.pad_token_id
        numbers = Numbers(
            prompt_length=np.int32(length),
            max_length=np.int32(limit),
            pad=np.int32((eos or (0,))[0] if pad is None else pad),
            eos=np.array(eos, np.int32),
            seed=np.array(sampling.words(seed), np.int32),
            length_penalty=np.float64(cast(float, asked.length_penalty)),
            before=tuple(found for _, found in before),
            after=tuple(found for _, found in after),
        )
        ids = _padded(xp, ids, plan.capacity, numbers.pad)
        prompt = read._replace(ids=ids, mask=mask, position_ids=position_ids, cache=cache)
        return Task(plan, numbers, prompt, read_length)

    def _limited(self, where: str, asked: GenerationConfig, length: int) -> GenerationConfig:
        """The options with a max_length that prompts of this length leave room for."""
        positions = cast(CacheShape, self.config.cache_shape).positions
        room = f"the decoder has positions for {positions}"
        if length > positions:
            raise InputError(f"{where}: the prompt has {length} tokens, but {room}")
        if asked.max_new_tokens is not None:
            limit = length + asked.max_new_tokens
        else:
            limit = min(length + _NEW, positions) if asked.max_length is None else asked.max_length
        if limit <= length:
            raise InputError(
                f"{where}: the prompt has {length} tokens, but max_length={limit}; max_new_tokens adds to it"
            )
        if limit - 1 > positions:
            raise InputError(f"{where}: max_length={limit} means reading {limit - 1} tokens, but {room}")
        # as in transformers, where min_length then counts for nothing
        least = asked.min_length if asked.min_new_tokens is None else 0
        return asked.replace(max_length=limit, min_length=least)

    def _beginning(
        self, where: str, asked: GenerationConfig, given: Mapping[str, Any], batch: int | None
    ) -> tuple[Any, Any]:
        """The ids (B, P) that the decoder begins with, and their mask (B, P) or None, on the host where they can be."""
        ops, size = self._ops(), self.config.vocab_size
        if batch is None:
            self._refuse(where, given, ("input_ids", "attention_mask"))
            name, named, first, start = "input_ids", "attention_mask", asked.bos_token_id, "bos_token_id"
        else:
            (name, named), first = _BEGUN, asked.decoder_start_token_id
            first, start = asked.bos_token_id if first is None else first, "decoder_start_token_id or bos_token_id"
        ids: Any = given.get(name)
        if ids is None or batch is not None:
            if first is None:
                raise InputError(f"{where}: {start} is needed" + (", or input_ids" if batch is None else ""))
            check.ids_in_range(where, start, (first, first), size, "vocab_size")
        mask: Any = given.get(named)
        if ids is None:
            ids = np.full((batch or 1, 1), first)
        else:
            ids = ops.host(self._boundary(where).ids(name, ids, size=size, table="vocab_size"))
            check.has_tokens(where, ids.shape[1])
        if mask is not None:
            mask = ops.host(self._boundary(where).mask(named, mask, ids.shape))
        elif batch is None and _seen(ids) and asked.pad_token_id is not None:
            # what transformers takes for padding, where a caller does not say
            pads = ids == asked.pad_token_id
            mask = ~pads if pads.any() and asked.pad_token_id not in _ids(asked.eos_token_id) else None
        xp: Any = np if _seen(ids) else ops.xp
        if batch is not None:
            check.shape(where, name, ids.shape, (batch, ids.shape[1]), ", as many rows as there are to read")
            if _seen(ids) and (ids[:, 0] != first).all():
                ids = xp.concat([xp.full_like(ids[:, :1], first), ids], axis=1)
                mask = None if mask is None else xp.concat([xp.ones_like(mask[:, :1]), mask], axis=1)
        if mask is not None and _seen(mask):
            if mask.all():
                mask = None
            elif asked.pad_token_id is None:
                raise InputError(f"{where}: {named} says that there is padding, but pad_token_id=None; give it")
            elif batch is None and not mask[:, -1].all():
                warnings.warn(
                    f"{where}: attention_mask has padding on the right, behind which a decoder goes on writing; "
                    "prompts are to be padded on the left",
                    stacklevel=4,
                )
        return ids, mask

    def _reading(self, where: str, given: Mapping[str, Any], cache: Any) -> tuple[Prompt, tuple[int, int]]:
        """What an encoder is to read or has read, and its rows and tokens."""
        ops, boundary, known = self._ops(), self._boundary(where), inspect.signature(cast(Any, self).encode).parameters
        self._refuse(where, given, (*(name for name in _READ if name in known), "encoder_outputs", *_BEGUN))
        choices = [name for name in ("input_ids", *_AXES) if name in known] + ["encoder_outputs"]
        main = [name for name in choices if name in given]
        if len(main) != 1:
            listed = " and ".join(main) or "none"
            raise InputError(f"{where}: one of {', '.join(choices)} is needed, got {listed}")
        part, states, read = getattr(self.config, "encoder", self.config), None, dict[str, Any]()
        for name in (name for name in _READ if name in given and name != "attention_mask"):
            if name in _AXES:
                read[name] = boundary.floats(name, given[name], _AXES[name])
            else:
                size, table = getattr(part, _ROWS[name]), _ROWS[name]
                ids = boundary.ids(name, given[name], size=size, table=table)
                read[name] = ops.host(ids)
        if main == ["encoder_outputs"]:
            states = encoded(given["encoder_outputs"]).last_hidden_state
            if states is None:
                raise check.needed(where, "encoder_outputs.last_hidden_state")
            states = boundary.floats("encoder_outputs", states, "batch, tokens, hidden_size")
        shape = tuple((read[main[0]] if states is None else states).shape[:2])
        check.has_tokens(where, shape[1])
        mask = given.get("attention_mask")
        if mask is not None:
            mask = ops.host(boundary.mask("attention_mask", mask, shape))
        if main == ["input_ids"]:
            for name in read:
                check.shape(where, name, read[name].shape, shape)
            read, mask = self._in_room(where, part, read, mask, exact=self._exact or cache is not None)
        return Prompt(read=read, states=states, read_mask=mask), shape

    def _in_room(
        self, where: str, part: Any, read: dict[str, Any], mask: Any, *, exact: bool
    ) -> tuple[dict[str, Any], Any]:
        """What an encoder reads of texts, with padding behind where room is made for more tokens.

        A cache may have seen them, and then as many as they are.
        """
        ids, limit = read["input_ids"], cast(int, part.max_position_embeddings)
        pads, length = getattr(part, "padding_position", None), ids.shape[1]
        longest = length
        if pads is not None:
            limit, longest = limit - pads - 1, int((ids != pads).sum(1).max()) if _seen(ids) else 0
        check.at_most(where, "the number of tokens to read", longest, limit, "the number of the encoder's positions")
        width = max(min(self._room(length), limit), length)
        if exact:
            return read, mask
        xp: Any = np if _seen(ids) else self._ops().xp
        mask = _padded(xp, xp.ones_like(ids) if mask is None else mask, width, 0)
        fillers = {"input_ids": _filler(self.config, "encoder")}
        return {name: _padded(xp, values, width, fillers.get(name, 0)) for name, values in read.items()}, mask

    def _fed(self, where: str, cache: Any, rows: int, length: int, limit: int) -> int:
        """How many tokens of the prompts a caller's cache has seen."""
        if cache is None:
            return 0
        caching.checked_cache(self._boundary(where), self.config.cache_shape, cache, rows)
        held = self._ops().host(cache.length)
        if not isinstance(held, int | np.ndarray):
            raise InputError(f"{where}: past_key_values comes out of a trace, in which its length cannot be seen")
        seen = int(cast(int, held))
        if seen >= length:
            raise InputError(f"{where}: past_key_values has seen {seen} tokens, but the prompt has {length}")
        check.at_least(where, "past_key_values.capacity", cache.capacity, limit - 1, "max_length - 1")
        return seen

    def _refuse(self, where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
        """Raises a TypeError for arguments that this model does not take."""
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TypeError(
                f"{where}: {', '.join(unknown)} is nothing that the model takes; it takes {', '.join(known)}"
            )


def _seen(values: Any) -> bool:
    """Whether the values can be seen: they cannot in a program that JAX traces."""
    return isinstance(values, np.ndarray)


def _ids(value: Any) -> tuple[int, ...]:
    """One id, several or none."""
    return () if value is None else cast("tuple[int, ...]", value if isinstance(value, tuple) else (value,))


def _counted(xp: Any, ids: Any, mask: Any) -> Any:
    """(B, P) ids and their mask -> (B, P) positions in which padding does not count."""
    counts = xp.cumsum(xp.ones_like(ids) if mask is None else xp.astype(mask != 0, ids.dtype), axis=1) - 1
    return counts if mask is None else xp.where(mask != 0, counts, xp.zeros_like(counts))


def _padded(xp: Any, values: Any, width: int, filler: int) -> Any:
    """(B, P) values -> (B, width) with the filler behind them."""
    if values is None or values.shape[1] >= width:
        return values
    behind = xp.full_like(xp.repeat(values[:, :1], width - values.shape[1], axis=1), filler)
    return xp.concat([values, behind], axis=1)


def _filler(config: Any, part: str) -> int:
    """The id that stands behind the texts of a part: its padding, whose position RoBERTa knows by it."""
    config = getattr(config, part, config)
    pad = config.pad_token_id
    return pad if pad is not None and 0 <= pad < config.vocab_size else 0
