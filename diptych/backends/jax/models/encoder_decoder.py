"""Composites of a text encoder and a text decoder (Rothe et al. 2019, arXiv:1907.12461)."""

from typing import Any, ClassVar, Unpack

from diptych.backends.jax.composite import CompositeModel
from diptych.core.calls import Switches
from diptych.core.outputs import EncoderOutput, Seq2SeqLMOutput


class EncoderDecoderModel(CompositeModel):
    """A text encoder, and a decoder that attends to its states and predicts the next token."""

    masks_shifted_labels: ClassVar[bool] = True

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        *,
        labels: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        decoder_token_type_ids: Any = None,
        decoder_position_ids: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Encodes a batch of token sequences, and decodes another one that attends to it.

        Args:
            input_ids: (B, S) integers for the encoder, or else:
            inputs_embeds: (B, S, D) floats in their place.
            attention_mask: (B, S), 1 = attend; by default all are attended to.
            token_type_ids, position_ids: of the encoder, if it takes them.
            encoder_outputs: the encoder's output of an earlier call, or its states (B, S, D), in place of the encoder's
                inputs; neither is needed if the cache holds the encoder's keys.
            decoder_input_ids: (B, T) integers; or else:
            decoder_inputs_embeds: (B, T, D) floats in their place.
            decoder_attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are.
            decoder_token_type_ids, decoder_position_ids: of the decoder, if it takes them.
            labels: (B, T) target token ids, -100 = ignored; shifted right, after decoder_start_token_id, they are the
                decoder's inputs if none are given, and pad_token_id is then not attended to.
            past_key_values: the decoder's cache of the earlier tokens; `init_cache` makes one.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        inputs |= {"token_type_ids": token_type_ids, "position_ids": position_ids}
        decoder_inputs = {"input_ids": decoder_input_ids, "inputs_embeds": decoder_inputs_embeds}
        decoder_inputs |= {"attention_mask": decoder_attention_mask, "token_type_ids": decoder_token_type_ids}
        return self._call(
            inputs,
            attention_mask=attention_mask,
            decoder_inputs={**decoder_inputs, "position_ids": decoder_position_ids},
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            keywords=switches,
        )

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        **switches: Unpack[Switches],
    ) -> EncoderOutput | tuple[Any, ...]:
        """Runs the encoder; arguments as for the model's call."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        inputs |= {"token_type_ids": token_type_ids, "position_ids": position_ids}
        return self._format_output(
            self._encode(inputs, self._part_switches("encoder", switches)), switches.get("return_dict")
        )
