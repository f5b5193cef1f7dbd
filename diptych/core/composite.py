"""Composites, for both backends: an encoder and a decoder that are called as one model."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from diptych.core import caching, check, composite_config
from diptych.core.boundary import STATES
from diptych.core.calls import ResolvedSwitches, token_loss
from diptych.core.composite_loading import PartsLoadingMixin, Role
from diptych.core.inputs import ModelInput
from diptych.core.outputs import (
    CausalLMOutputWithCrossAttentions,
    EncoderOutput,
    Seq2SeqLMOutput,
    encoder_output,
    seq2seq,
)
from diptych.core.semantics import labels as targets

_OWN_KEYWORDS = frozenset(
    ("labels", "use_cache", "logits_to_keep", "past_key_values", "encoder_hidden_states", "encoder_attention_mask")
)
"""Keywords of decoders that a composite sets itself."""


class Composite(PartsLoadingMixin):
    """A model of an encoder and of a decoder that attends to the encoder's states and predicts the next token."""

    encoder: Any
    decoder: Any
    enc_to_dec_proj: Any
    """The linear layer between the two widths; None if they are equal."""
    masks_shifted_labels: ClassVar[bool] = False
    """Whether a decoder whose inputs are made from labels leaves pad_token_id out of its attention."""
    returns_projected_states: ClassVar[bool] = False
    """Whether the output's encoder_last_hidden_state has the decoder's width, not the encoder's."""

    def _make_parts(self, config: Any, init: Mapping[str, Any], switches: Mapping[str, bool]) -> None:
        """Builds the encoder and the decoder, without values.

        Args:
            config: of the composite.
            init: the keywords of layers.
            switches: of the encoder's constructor; those that it does not have are ignored.
        """
        for role, (name, part) in composite_config.parts(config).items():
            part_class: Any = self._siblings()(name)
            known = list(inspect.signature(part_class.__init__).parameters) if role == "encoder" else []
            chosen = {name: value for name, value in switches.items() if name in known}
            setattr(self, role, part_class(part, seed=None, **chosen, **init))

    def _call(
        self,
        inputs: Mapping[str, Any],
        *,
        attention_mask: Any,
        decoder_inputs: Mapping[str, Any],
        encoder_outputs: Any,
        past_key_values: Any,
        labels: Any,
        use_cache: bool | None,
        logits_to_keep: Any,
        keywords: Mapping[str, Any],
    ) -> Any:
        """Encodes, decodes and computes the loss: the call of every composite.

        Args:
            inputs: the encoder's, by name; None if not given.
            attention_mask: over the inputs.
            decoder_inputs: the decoder's, by the names of its own call.
            encoder_outputs, past_key_values, labels, use_cache, logits_to_keep: as in the call.
            keywords: other inputs of the encoder, of the decoder (prefixed "decoder_"), and switches.
        """
        for_encoder, for_decoder, switches = self._split_keywords(keywords)
        resolved, boundary = self._part_switches("decoder", switches), self._boundary()
        given = {name: value for name, value in {**inputs, **for_encoder}.items() if value is not None}
        if not given and caching.has_encoder_keys(past_key_values):
            encoded = encoder_output(encoder_outputs)
            if attention_mask is not None:
                _, length = past_key_values.encoder_size
                encoded = encoded.replace(attention_mask=self.encoder.states_mask(attention_mask, length))
        elif encoder_outputs is not None:
            encoded = self._check_encoder_outputs(encoder_outputs, attention_mask)
        else:
            asked = {**self._part_switches("encoder", switches), "rngs": resolved["rngs"]}
            encoded = self._encode({**given, "attention_mask": attention_mask}, asked)
        decoder_inputs = {**decoder_inputs, **for_decoder}
        if labels is not None and decoder_inputs.get("input_ids") is decoder_inputs.get("inputs_embeds") is None:
            decoder_inputs = {**decoder_inputs, **self._shift_right(labels, decoder_inputs.get("attention_mask"))}
        states = self._states_for_decoder(encoded, past_key_values)
        outputs = self._decode(
            states, encoded.attention_mask, decoder_inputs, past_key_values, use_cache, logits_to_keep, resolved
        )
        if self.returns_projected_states and states is not None:
            encoded = encoded.replace(last_hidden_state=states)
        loss = None if labels is None else token_loss(boundary, outputs.logits, labels)
        output = seq2seq(Seq2SeqLMOutput, outputs, encoded, loss=loss, logits=outputs.logits)
        return self._format_output(output, switches.get("return_dict"))

    def _split_keywords(self, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The encoder's keywords, the decoder's without their prefix, and the rest, which must be switches."""
        for_encoder: dict[str, Any] = {}
        for_decoder: dict[str, Any] = {}
        switches: dict[str, Any] = {}
        for name, value in keywords.items():
            inner = name.removeprefix("decoder_")
            if inner in _OWN_KEYWORDS:
                switches[name] = value  # the composite's own, which a part cannot be given
            elif inner != name and inner in self.decoder.call_keywords:
                for_decoder[inner] = value
            elif inner == name and name in self.encoder.call_keywords:
                for_encoder[name] = value
            else:
                switches[name] = value
        return for_encoder, for_decoder, switches

    def _part_switches(self, role: Role, switches: Mapping[str, Any]) -> ResolvedSwitches:
        """The switches for a part: the call's, or else those of the composite's config or of the part's own."""
        resolved, config = self._resolve_switches(switches), getattr(self.config, role)
        if switches.get("output_attentions") is None and config.output_attentions:
            resolved["output_attentions"] = True
        if switches.get("output_hidden_states") is None and config.output_hidden_states:
            resolved["output_hidden_states"] = True
        return resolved

    def _encode(self, inputs: Mapping[str, Any], resolved: Mapping[str, Any]) -> EncoderOutput:
        """Runs the encoder; the output includes the mask of its states."""
        mask = inputs.get("attention_mask")
        given = {name: value for name, value in inputs.items() if value is not None}
        outputs = encoder_output(self.encoder(**given, **resolved))
        return outputs.replace(attention_mask=self.encoder.states_mask(mask, outputs.last_hidden_state.shape[1]))

    def _check_encoder_outputs(self, encoder_outputs: Any, attention_mask: Any) -> EncoderOutput:
        """The caller's encoder outputs, checked, with the mask of the states.

        Args:
            encoder_outputs: a record, a tuple, or the states.
            attention_mask: over the encoder's inputs; by default the record's, which is over the states.

        Raises:
            InputError: there are no states, or they have the wrong dtype or shape.
        """
        given, boundary = encoder_output(encoder_outputs), self._boundary()
        if given.last_hidden_state is None:
            raise check.missing_argument(boundary.caller, "encoder_outputs, to which the decoder attends,")
        states = boundary.floats("encoder_outputs", given.last_hidden_state, STATES)
        check.shape(boundary.caller, "encoder_outputs", states.shape, (*states.shape[:2], self.config.encoder_width))
        mask = given.attention_mask
        if attention_mask is not None:
            mask = self.encoder.states_mask(attention_mask, states.shape[1])
        return given.replace(last_hidden_state=states, attention_mask=mask)

    @property
    def encoder_inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the encoder."""
        return self.encoder.inputs

    def _states_mask(self, attention_mask: Any, length: int) -> Any:
        return self.encoder.states_mask(attention_mask, length)

    def _shift_right(self, labels: Any, decoder_attention_mask: Any) -> dict[str, Any]:
        """The decoder's inputs for predicting labels: the labels shifted right, and their mask."""
        config, boundary = self.config, self._boundary()
        named = {"pad_token_id": config.pad_token_id, "decoder_start_token_id": config.decoder_start_token_id}
        pad, start = targets.required_ids(boundary.caller, **named)
        labels = boundary.label_ids("labels", labels, size=config.vocab_size)
        ids = targets.shift_tokens_right(boundary.xp, labels, pad, start)
        if self.masks_shifted_labels and decoder_attention_mask is None:
            decoder_attention_mask = ids != pad
        return {"input_ids": ids, "attention_mask": decoder_attention_mask}

    def _states_for_decoder(self, encoded: EncoderOutput, past_key_values: Any) -> Any:
        """The encoder's states in the decoder's width; None if the cache holds their keys."""
        if caching.has_encoder_keys(past_key_values):
            return None
        states = self._check_encoder_outputs(encoded, None).last_hidden_state
        return states if self.enc_to_dec_proj is None else self.enc_to_dec_proj(states)

    def _decode(
        self,
        states: Any,
        mask: Any,
        inputs: Mapping[str, Any],
        past_key_values: Any,
        use_cache: bool | None,
        logits_to_keep: Any,
        resolved: ResolvedSwitches,
    ) -> Any:
        """Runs the decoder; it attends to the given states, or to the keys in the cache if there are none."""
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        check.exactly_one(type(self).__name__, decoder_input_ids=ids, decoder_inputs_embeds=embeds)
        keywords = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        keywords |= {**inputs, "past_key_values": past_key_values}
        given = {name: value for name, value in keywords.items() if value is not None}
        return self.decoder(**given, use_cache=use_cache, logits_to_keep=logits_to_keep, **resolved)

    def decode(
        self,
        decoder_input_ids: Any = None,
        encoder_outputs: Any = None,
        encoder_attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **keywords: Any,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Runs the decoder.

        Args:
            encoder_outputs: the output of `encode`, or its states; not needed if the cache holds the encoder's keys.
            encoder_attention_mask: (B, S), 1 = attend, over the encoder's states; by default that of
                encoder_outputs, or else all are attended to.
            decoder_input_ids, decoder_inputs_embeds, decoder_attention_mask, past_key_values, use_cache,
                logits_to_keep: as in the model's call.
            keywords: other inputs of the decoder, prefixed "decoder_", and `Switches`.

        Raises:
            InputError: as in the model's call.
        """
        for_encoder, for_decoder, switches = self._split_keywords(keywords)
        resolved = self._part_switches("decoder", {**for_encoder, **switches})
        encoded = encoder_output(encoder_outputs)
        if not caching.has_encoder_keys(past_key_values):
            encoded = self._check_encoder_outputs(encoder_outputs, None)
        if encoder_attention_mask is not None:
            encoded = encoded.replace(attention_mask=encoder_attention_mask)
        inputs = {
            "input_ids": decoder_input_ids,
            "inputs_embeds": decoder_inputs_embeds,
            "attention_mask": decoder_attention_mask,
            **for_decoder,
        }
        states, mask = self._states_for_decoder(encoded, past_key_values), encoded.attention_mask
        output = self._decode(states, mask, inputs, past_key_values, use_cache, logits_to_keep, resolved)
        return self._format_output(output, switches.get("return_dict"))
