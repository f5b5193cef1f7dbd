"""`generate`, and its methods that a family may override: the inputs, and the arguments of each step.

Letters of the shapes: B prompts, R rows (all copies or beams of every prompt), P tokens of a prompt, L columns of
the buffer of ids, S tokens that the decoder attends to in an encoder's output, D width, V vocabulary, C Y X images.
"""

import functools
import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, cast

from diptych.core import inputs
from diptych.core.errors import InputError
from diptych.core.generation.options import GenerationConfig
from diptych.core.generation.request import GenerationRequest, Prompt, RequestBuilder
from diptych.core.generation.watching import AllowedTokens, StoppingCriterion, make_watch
from diptych.core.inputs import ModelInput
from diptych.core.interfaces import Streamer, Tokenizer
from diptych.core.outputs import EncoderOutput, GenerateOutput
from diptych.core.pretrained import PreTrained
from diptych.core.semantics.decoding import CustomProcessor, Plan, TracedOptions


class GenerationBase(PreTrained):
    """A model that generates text: a decoder, or an encoder and a decoder."""

    # Implemented by each backend.

    _pads_lengths: ClassVar[bool]
    """Whether prompts are padded at the end to a standard width."""

    @staticmethod
    @abstractmethod
    def _padded_length(length: int) -> int:
        """The number of columns for this many tokens."""

    @abstractmethod
    def _run(self, request: GenerationRequest, streamer: Streamer | None, compile: bool) -> GenerateOutput:
        """Executes a request."""

    # Families may override these.

    @property
    def _prepends_start_token(self) -> bool:
        """Whether decoder_start_token_id is prepended to decoder_input_ids, unless a row begins with it."""
        return True

    @property
    def encoder_inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the encoder, by default the text inputs of `encode`; none for a decoder alone."""
        if not self._has_encoder:
            return ()
        return inputs.text_inputs(_keywords(type(self), "encode"), self._encoder_config)

    @property
    def prompt_inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of a decoder alone: prompts as ids or embeddings, their mask, and any others."""
        standard = (inputs.INPUT_IDS, inputs.ATTENTION_MASK, inputs.INPUTS_EMBEDS)
        return tuple(one for one in standard if self._call_takes(one.name))

    @property
    def _vocabulary(self) -> tuple[int, str]:
        """The number of token ids, which is the width of the logits, and the config's expression for it."""
        size, additional = self.config.vocab_size, getattr(self.config, "additional_vocab_size", 0)
        return (size + additional, "vocab_size + additional_vocab_size") if additional else (size, "vocab_size")

    @property
    def _encoder_config(self) -> Any:
        """The config of the encoder."""
        return getattr(self.config, "encoder", self.config)

    def _states_mask(self, attention_mask: Any, length: int) -> Any:
        """The mask of the encoder's states, from the caller's mask of its inputs."""
        return attention_mask

    def _encode_for_generation(self, *, attention_mask: Any = None, **given: Any) -> tuple[Any, Any]:
        """The encoder's states (B, S, D), and their mask (B, S) or None.

        An encoder whose states have another length than its input returns their mask as `attention_mask`.

        Args:
            attention_mask: of the input; None if there is none, or the encoder takes none.
            given: the encoder's other inputs by name.
        """
        if attention_mask is not None:
            given["attention_mask"] = attention_mask
        model = cast(Any, self)
        outputs = model.encode(**given, output_attentions=False, output_hidden_states=False, return_dict=True)
        mask = getattr(outputs, "attention_mask", None)
        return outputs.last_hidden_state, attention_mask if mask is None else mask

    def _first_step_inputs(
        self, plan: Plan, traced: TracedOptions, prompt: Prompt
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The keywords of the first call, without cache and switches, and additional keywords of later calls.

        Part of the compiled program. A family adds what it computes once, such as the states of images.
        """
        tokens: dict[str, Any] = {"ids": prompt.ids[:, plan.cached : plan.prompt_width]}
        tokens["mask"] = None if prompt.mask is None else prompt.mask[:, plan.cached :]
        if self._has_encoder:
            states, mask = prompt.encoder_states, prompt.encoder_mask
            if states is None:
                switches = dict(plan.input_switches)
                states, mask = self._encode_for_generation(**prompt.encoder_inputs, attention_mask=mask, **switches)
            first = {"decoder_input_ids": tokens["ids"], "decoder_attention_mask": tokens["mask"]}
            later = {"encoder_outputs": EncoderOutput(attention_mask=mask)}
            return {**first, "encoder_outputs": EncoderOutput(last_hidden_state=states, attention_mask=mask)}, later
        first = {"attention_mask": tokens["mask"], **dict(plan.input_switches)}
        if prompt.embeds is None:
            first["input_ids"] = tokens["ids"]
        else:
            first["inputs_embeds"] = prompt.embeds[:, plan.cached :]
        if prompt.position_ids is not None:
            first["position_ids"] = prompt.position_ids[:, plan.cached :]
        kinds = inputs.by_name(self.prompt_inputs)
        for name, values in prompt.extras.items():
            first[name] = values[:, plan.cached :] if kinds[name].counts_tokens else values
        return first, {}

    def _next_step_inputs(
        self, plan: Plan, traced: TracedOptions, prompt: Prompt, context: Mapping[str, Any], tokens: Any, cache: Any
    ) -> dict[str, Any]:
        """The keywords of a later call, without cache and switches; part of the compiled program.

        Args:
            plan, traced, prompt: as for the first call.
            context: the additional keywords from `_first_step_inputs`, with one row for each prompt.
            tokens: (R, 1), the newest tokens.
            cache: of all tokens before them.
        """
        if self._has_encoder:
            return {"decoder_input_ids": tokens, **context}
        if prompt.position_ids is None:
            return {"input_ids": tokens, **context}
        xp = self._ops().xp
        last = self._last_prompt_row(traced, prompt.position_ids)[:, 0]
        positions = xp.repeat(last, plan.copies, axis=0) + (cache.length - traced.context_length + 1)
        return {"input_ids": tokens, "position_ids": positions[:, None], **context}

    def _last_prompt_row(self, traced: TracedOptions, values: Any) -> Any:
        """(B, P, …) values -> (B, 1, …): the values of the prompts' last token, before any padding at the end."""
        ops = self._ops()
        here = ops.steps(values.shape[1], values) == traced.context_length - 1
        here = ops.xp.reshape(here, (1, -1, *(1 for _ in values.shape[2:])))
        selected = ops.xp.where(here, values, ops.xp.zeros_like(values))
        return ops.xp.sum(selected, axis=1, keepdims=True, dtype=values.dtype)

    # The rest is the same for all models.

    @property
    def _has_encoder(self) -> bool:
        """Whether the model has an encoder."""
        return hasattr(self, "encode")

    def _call_takes(self, name: str) -> bool:
        """Whether the model's call has a keyword."""
        # torch's __call__ has no named parameters
        return name in _keywords(type(self), "forward" if hasattr(type(self), "forward") else "__call__")

    def generate(
        self,
        inputs: Any = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        pixel_values: Any = None,
        input_values: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        generation_config: Any = None,
        seed: int = 0,
        streamer: Streamer | None = None,
        logits_processors: Sequence[CustomProcessor] | None = (),
        stopping_criteria: Sequence[StoppingCriterion] | None = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        tokenizer: Tokenizer | None = None,
        compile: bool = False,
        **options: Any,
    ) -> GenerateOutput:
        """Generates text token by token: the same tokens in both backends, those of transformers 5.23.

        Args:
            inputs: the model's main input, in place of input_ids, pixel_values or input_values.
            input_ids: (B, P) integers: the prompts of a decoder, or the input of an encoder. A decoder without prompts
                starts from bos_token_id.
            attention_mask: (B, P), 0 for padding, which belongs on the left of a decoder's prompts. By default, a
                decoder treats pad_token_id as padding unless it is also an eos_token_id.
            inputs_embeds: (B, P, D) floats in place of input_ids; a decoder's sequences then hold only the new tokens,
                unless input_ids are given too, with which the sequences begin.
            pixel_values, input_values: images (B, C, Y, X) or audio (B, samples), for models that take them.
            encoder_outputs: the output of `encode`, or (B, S, D) states, in place of the encoder's inputs.
            past_key_values: a cache of the prompts' first tokens, with room for all tokens but the last new one.
            generation_config: options that take precedence over the model's own; unset ones are taken from the model.
            seed: of do_sample's random choices; the same seed gives the same tokens.
            streamer: receives the prompts and then the tokens as they are generated, as numpy arrays; not with beams.
            logits_processors: custom ones, `f(xp, input_ids (R, L), scores (R, V), length) -> scores`, applied before
                temperature and the other sampling processors; columns of input_ids from `length` on are undefined.
                JAX compiles a program for each object.
            stopping_criteria: functions `f(input_ids (R, T), scores) -> (R,)` that say after each token which rows end;
                for the candidates of a beam search too. Ids are a tensor in torch and a numpy array in JAX. scores are
                those of all steps if output_scores asks for them, or else None. JAX runs one program per token.
            prefix_allowed_tokens_fn: `f(number of the prompt, input_ids (T,)) -> ids`, the tokens that may come next;
                ids as above, and one program per token in JAX.
            tokenizer: the model's, for the option stop_strings.
            compile: whether torch compiles the decoding step; JAX always does.
            options: any of `GenerationConfig`; or other inputs of the model: decoder_input_ids and
                decoder_attention_mask (B, P), the first tokens of a decoder with an encoder, token_type_ids and
                position_ids of an encoder, and any others of the family.

        Raises:
            InputError: an argument has the wrong dtype, shape or range, an id that the call uses is outside the
                vocabulary, or the model has too few positions.
            TypeError: an option or an input is unknown to the model.
        """
        arguments = {"inputs": inputs, "input_ids": input_ids, "attention_mask": attention_mask}
        arguments |= {"inputs_embeds": inputs_embeds, "pixel_values": pixel_values, "input_values": input_values}
        request = self._check_generation(
            {**arguments, "encoder_outputs": encoder_outputs, **options},
            generation_config=generation_config,
            past_key_values=past_key_values,
            seed=seed,
            streamer=streamer,
            logits_processors=logits_processors,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            tokenizer=tokenizer,
            compile=compile,
        )
        return self._run(request, streamer, compile)

    def _check_generation(
        self,
        options: Mapping[str, Any],
        *,
        generation_config: Any = None,
        past_key_values: Any = None,
        seed: int = 0,
        streamer: Streamer | None = None,
        logits_processors: Sequence[CustomProcessor] | None = (),
        stopping_criteria: Sequence[StoppingCriterion] | None = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        tokenizer: Tokenizer | None = None,
        compile: bool = False,
    ) -> GenerationRequest:
        """The request of a call; `options` has the inputs of the model too. Errors are those of `generate`."""
        caller = f"{type(self).__name__}.generate"
        options = self._name_main_input(caller, options)
        _refuse_foreign(caller, options)
        names = {*inputs.STANDARD_NAMES, *inputs.by_name(self.encoder_inputs), *inputs.by_name(self.prompt_inputs)}
        arguments = {name: options.pop(name) for name in [*options] if name in names}
        settled = GenerationConfig.from_any(generation_config).with_fallback(self.generation_config).resolve(**options)
        if self.config.cache_shape is None:
            raise InputError(f"{caller}: the model is not a decoder; its config needs is_decoder=True")
        if cast(Any, self).training:
            raise InputError(f"{caller}: the model is in train mode, which applies dropout; call model.eval() first")
        processors = _check_processors(caller, logits_processors)
        _check_call(caller, seed, streamer, compile)
        if streamer is not None and cast(int, settled.num_beams) > 1:
            raise InputError(f"{caller}: num_beams={settled.num_beams}, but a streamer needs num_beams=1")
        own = {"criteria": stopping_criteria, "allowed": prefix_allowed_tokens_fn, "tokenizer": tokenizer}
        watch = make_watch(caller, settled, self._ops(), self._vocabulary[0], **own)
        given = {name: value for name, value in arguments.items() if value is not None}
        return RequestBuilder(self, caller, settled, given, past_key_values, int(seed), processors, watch).build()

    def _name_main_input(self, caller: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of a call, in which the value of `inputs` has the name of the model's main input.

        Raises:
            InputError: it is given under both names.
        """
        found = dict(options)
        value = found.pop("inputs", None)
        if value is not None:
            name = next(one.name for one in self.encoder_inputs or self.prompt_inputs if one.main)
            if found.get(name) is not None:
                raise InputError(f"{caller}: inputs and {name} are the same; give one of them")
            found[name] = value
        return found


_INSTEAD: Mapping[str, str] = {
    "logits_processor": "logits_processors=[…] takes functions f(xp, input_ids, scores, length) -> scores",
    "params": "the model holds its parameters",
    "prng_key": "seed=… is a whole number",
    "trace": "it is always compiled",
    "assistant_model": "there is no assisted generation",
    "assistant_tokenizer": "there is no assisted generation",
    "negative_prompt_ids": "there is no guidance by another prompt",
    "negative_prompt_attention_mask": "there is no guidance by another prompt",
    "synced_gpus": "there is no ZeRO stage 3",
    "custom_generate": "a loop of one's own calls decode and init_cache",
    "use_model_defaults": "the model's own options are always taken where the call gives none",
}
"""Keywords of `generate` in transformers that are not ours -> what there is instead."""


def _refuse_foreign(caller: str, options: Mapping[str, Any]) -> None:
    """Raises a TypeError for keywords of transformers that have another name here, or no counterpart."""
    wrong = [f"{name} ({_INSTEAD[name]})" for name in options if name in _INSTEAD]
    if wrong:
        raise TypeError(f"{caller} has no keyword {', '.join(wrong)}")


@functools.cache
def _keywords(model_class: type, method: str) -> frozenset[str]:
    """The names of a method's parameters."""
    return frozenset(inspect.signature(getattr(model_class, method)).parameters)


def _check_processors(caller: str, processors: Any) -> tuple[CustomProcessor, ...]:
    """The caller's logits processors, checked.

    Raises:
        InputError: they are not a list of functions.
    """
    found: Any = () if processors is None else processors
    if not isinstance(found, list | tuple) or not all(map(callable, cast(Sequence[Any], found))):
        raise InputError(f"{caller}: logits_processors={processors!r} must be a list of functions")
    return tuple(cast(Sequence[Any], found))


def _check_call(caller: str, seed: Any, streamer: Any, compile: Any) -> None:
    """Raises an InputError for a seed, streamer or switch of the wrong type."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"{caller}: seed={seed!r} must be a whole number")
    if streamer is not None and not isinstance(streamer, Streamer):
        raise InputError(f"{caller}: streamer is a {type(streamer).__name__}, but put(value) and end() are needed")
    if not isinstance(compile, bool):
        raise InputError(f"{caller}: compile={compile!r} must be True or False")
