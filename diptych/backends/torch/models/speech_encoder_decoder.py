"""Composites of a speech encoder and a text decoder, as published in facebook/wav2vec2-xls-r-300m-en-to-15."""

from typing import Any, ClassVar

from diptych.backends.torch.composite import CompositeModel
from diptych.core.errors import InputError
from diptych.core.outputs import EncoderOutput, Seq2SeqLMOutput


class SpeechEncoderDecoderModel(CompositeModel):
    """A speech encoder, and a decoder that attends to its states and predicts the next token."""

    returns_projected_states: ClassVar[bool] = True

    def freeze_feature_encoder(self) -> None:
        """Excludes the convolutions over the samples from training."""
        self.encoder.freeze_feature_encoder()

    def forward(
        self,
        inputs: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Any = None,
        *,
        input_values: Any = None,
        labels: Any = None,
        decoder_token_type_ids: Any = None,
        decoder_position_ids: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Encodes a batch of recordings, and decodes a batch of token sequences that attends to it.

        Args:
            inputs, input_values: (B, samples) floats, under one of the two names.
            attention_mask: (B, samples), 1 = attend, over samples also beside encoder_outputs; the decoder attends to
                the states that these samples give.
            encoder_outputs: the encoder's output of an earlier call, or its states (B, S, D), before the projection to
                the decoder's width, in place of recordings; neither is needed if the cache holds the encoder's keys.
            decoder_input_ids: (B, T) integers; or else:
            decoder_inputs_embeds: (B, T, D) floats in their place.
            decoder_attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are.
            decoder_token_type_ids, decoder_position_ids: of the decoder, if it takes them.
            labels: (B, T) target token ids, -100 = ignored; shifted right, after decoder_start_token_id, they are the
                decoder's inputs if none are given.
            past_key_values: the decoder's cache of the earlier tokens; `init_cache` makes one.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
            switches: see `Switches`; and other inputs of the encoder, such as mask_time_indices, ignore_padding, or
                freeze_feature_encoder=True, with which the convolutions over the samples get no gradient.

        Returns:
            A record whose encoder_last_hidden_state has been projected to the decoder's width.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        decoder_inputs = {"input_ids": decoder_input_ids, "inputs_embeds": decoder_inputs_embeds}
        decoder_inputs |= {"attention_mask": decoder_attention_mask, "token_type_ids": decoder_token_type_ids}
        return self._call(
            {"input_values": self._samples(inputs, input_values)},
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
        self, inputs: Any = None, attention_mask: Any = None, *, input_values: Any = None, **switches: Any
    ) -> EncoderOutput | tuple[Any, ...]:
        """Runs the encoder; arguments as for the model's call. The states are those before the projection."""
        for_encoder, for_decoder, switches = self._split_keywords(switches)
        # keywords of the decoder are unknown here
        switches |= {f"decoder_{name}": value for name, value in for_decoder.items()}
        resolved = self._part_switches("encoder", switches)
        given = {"input_values": self._samples(inputs, input_values), "attention_mask": attention_mask}
        outputs = self._encode({**given, **for_encoder}, resolved)
        return self._format_output(outputs, switches.get("return_dict"))

    def _samples(self, inputs: Any, input_values: Any) -> Any:
        """The samples, under either of their names.

        Raises:
            InputError: both are given.
        """
        if inputs is not None and input_values is not None:
            raise InputError(f"{type(self).__name__}: inputs and input_values are the same; give one of them")
        return input_values if inputs is None else inputs
