"""Composites of a text encoder and a text decoder (Rothe et al. 2019, arXiv:1907.12461)."""

from typing import Any, Unpack

from diptych.backends.torch import cache as caches
from diptych.backends.torch import layers, ops
from diptych.backends.torch.generation import GenerationMixin
from diptych.backends.torch.pretrained import Build, CompositeModel
from diptych.core import check
from diptych.core.errors import ConfigError
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.outputs import (
    BaseModelOutput,
    CausalLMOutputWithCrossAttentions,
    Seq2SeqLMOutput,
    encoded,
    seq2seq,
)
from diptych.core.pretrained import Switches
from diptych.core.registry import serving
from diptych.core.semantics import labels as written
from diptych.core.semantics import losses


class EncoderDecoderModel(GenerationMixin, CompositeModel):
    """An encoder, and a decoder that attends to its states and predicts the next word."""

    def __init__(self, config: EncoderDecoderConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        if config.tie_encoder_decoder:
            raise ConfigError(
                f"{type(self).__name__}: tie_encoder_decoder=True says how a file is read; a model is built without it"
            )
        find, wide, narrow = self._siblings(), config.encoder_width, config.decoder_width
        self.encoder = find(serving("encoder", config.encoder))(config.encoder, seed=None, **init)
        self.decoder = find(serving("decoder", config.decoder))(config.decoder, seed=None, **init)
        self.enc_to_dec_proj = layers.Linear(wide, narrow, **init) if wide != narrow else None
        self._finish(build)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        decoder_token_type_ids: Any = None,
        decoder_position_ids: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Reads a batch of texts, and for each another one from left to right, whose next words it predicts.

        Args:
            input_ids: (B, S) integers to read, or else:
            inputs_embeds: (B, S, D) floats in their place.
            attention_mask: (B, S), 1 = attend; all are without it.
            token_type_ids, position_ids: of the encoder, where it has such.
            encoder_outputs: what an earlier call returned of the encoder, or (B, S, D) states, in place of a text to
                read; a cache that has seen the states needs neither.
            decoder_input_ids: (B, T) integers; or else:
            decoder_inputs_embeds: (B, T, D) floats in their place.
            decoder_attention_mask: (B, T), 1 = attend, or with a cache of all tokens up to these; all are without it.
            decoder_token_type_ids, decoder_position_ids: of the decoder, where it has such.
            labels: (B, T) words to write, -100 = not counted. Each a place later, behind decoder_start_token_id, they
                are what the decoder reads if the call gives it nothing; it then attends to no pad_token_id.
            past_key_values: the decoder's cache of the tokens before these; `init_cache` makes one.
            use_cache: whether the cache comes back, as one that is given does without it; True makes one if need be.
            logits_to_keep: of how many last tokens the logits come, 0 for all, or the places of some.
            switches: as every model's call has them.

        Raises:
            InputError: an argument has another dtype or shape, an id is out of range, or the cache is full.
        """
        where, settled, config = type(self).__name__, self._inner(switches), self.config
        read = encoded(None) if encoder_outputs is None else self._given(encoder_outputs)
        ids, embeds = input_ids, inputs_embeds
        if encoder_outputs is None and not (ids is None and embeds is None and caches.crosses(past_key_values, None)):
            read = encoded(self.encode(ids, attention_mask, embeds, token_type_ids, position_ids, **settled))
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            named = {"pad_token_id": config.pad_token_id, "decoder_start_token_id": config.decoder_start_token_id}
            pad, start = written.needed(where, **named)
            labels = ops.boundary_text(where, "labels", labels, self._like(), size=config.vocab_size)
            decoder_input_ids = written.shift_tokens_right(ops.xp, labels, pad, start)
            if decoder_attention_mask is None:
                decoder_attention_mask = decoder_input_ids != pad
        inputs = (decoder_input_ids, read, attention_mask, decoder_attention_mask, past_key_values)
        more = (decoder_inputs_embeds, decoder_token_type_ids, decoder_position_ids)
        kept = {"use_cache": use_cache, "logits_to_keep": logits_to_keep}
        outputs: Any = self.decode(*inputs, *more, **kept, **settled)
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(where, "labels", labels, outputs.logits)
            loss = losses.cross_entropy(ops.xp, outputs.logits, labels)
        output = seq2seq(Seq2SeqLMOutput, outputs, read, loss=loss, logits=outputs.logits)
        return self._returned(output, switches.get("return_dict"))

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        **switches: Unpack[Switches],
    ) -> BaseModelOutput | tuple[Any, ...]:
        """What the encoder makes of a batch of texts; the arguments are those of the model's call."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        inputs |= {"token_type_ids": token_type_ids, "position_ids": position_ids}
        given = {name: value for name, value in inputs.items() if value is not None}
        return self._returned(encoded(self.encoder(**given, **self._inner(switches))), switches.get("return_dict"))

    def decode(
        self,
        decoder_input_ids: Any = None,
        encoder_outputs: Any = None,
        encoder_attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Any = None,
        decoder_token_type_ids: Any = None,
        decoder_position_ids: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """What the decoder predicts behind the tokens of a batch of texts.

        Args:
            encoder_outputs: what `encode` returned, or its states; a cache that has seen them needs none.
            encoder_attention_mask: (B, S), 1 = attend; all are attended to without it.
            decoder_input_ids, decoder_inputs_embeds, decoder_attention_mask, decoder_token_type_ids,
                decoder_position_ids, past_key_values, use_cache, logits_to_keep: as the model's call takes them.
            switches: as every model's call has them.

        Raises:
            InputError: as the model's call.
        """
        where, width = type(self).__name__, self.config.encoder_width
        check.exactly_one(where, decoder_input_ids=decoder_input_ids, decoder_inputs_embeds=decoder_inputs_embeds)
        states = None if caches.crosses(past_key_values, None) else self._given(encoder_outputs).last_hidden_state
        if states is not None:
            check.shape(where, "encoder_outputs", states.shape, (*states.shape[:2], width))
            states = states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(states)
        inputs = {
            "input_ids": decoder_input_ids,
            "inputs_embeds": decoder_inputs_embeds,
            "attention_mask": decoder_attention_mask,
            "token_type_ids": decoder_token_type_ids,
            "position_ids": decoder_position_ids,
            "encoder_hidden_states": states,
            "encoder_attention_mask": encoder_attention_mask,
            "past_key_values": past_key_values,
        }
        given = {name: value for name, value in inputs.items() if value is not None}
        kept = {"use_cache": use_cache, "logits_to_keep": logits_to_keep}
        output: Any = self.decoder(**given, **kept, **self._inner(switches))
        return self._returned(output, switches.get("return_dict"))

    def _given(self, encoder_outputs: Any) -> BaseModelOutput:
        """What a caller gives of the encoder, its states checked.

        Raises:
            InputError: there are no states, or they are no floats of three axes.
        """
        where, given = type(self).__name__, encoded(encoder_outputs)
        if given.last_hidden_state is None:
            raise check.needed(where, "encoder_outputs, what the decoder attends to,")
        name, axes = "encoder_outputs", "batch, tokens, hidden_size"
        states = ops.boundary_floats(where, name, given.last_hidden_state, axes, self._like())
        return given.replace(last_hidden_state=states)
