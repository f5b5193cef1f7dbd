"""Composites of an image encoder and a text decoder, as published in nlpconnect/vit-gpt2-image-captioning."""

from typing import Any

from diptych.backends.torch.composite import CompositeModel
from diptych.core.outputs import EncoderOutput, Seq2SeqLMOutput


class VisionEncoderDecoderModel(CompositeModel):
    """An image encoder, and a decoder that attends to its states and predicts the next token."""

    @property
    def _prepends_start_token(self) -> bool:
        """Whether prompts get a start token; those of Donut's decoders begin with a token that names a task."""
        return "donut" not in self.config.encoder.model_type

    def forward(
        self,
        pixel_values: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Any = None,
        *,
        labels: Any = None,
        decoder_token_type_ids: Any = None,
        decoder_position_ids: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Encodes a batch of images, and decodes a batch of token sequences that attends to it.

        Args:
            pixel_values: (B, C, Y, X) floats.
            encoder_outputs: the encoder's output of an earlier call, or its states (B, S, D), in place of images;
                neither is needed if the cache holds the encoder's keys.
            decoder_input_ids: (B, T) integers; or else:
            decoder_inputs_embeds: (B, T, D) floats in their place.
            decoder_attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are.
            decoder_token_type_ids, decoder_position_ids: of the decoder, if it takes them.
            labels: (B, T) target token ids, -100 = ignored; shifted right, after decoder_start_token_id, they are the
                decoder's inputs if none are given.
            past_key_values: the decoder's cache of the earlier tokens; `init_cache` makes one.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
            switches: see `Switches`; and other inputs of the encoder, such as interpolate_pos_encoding.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        decoder_inputs = {"input_ids": decoder_input_ids, "inputs_embeds": decoder_inputs_embeds}
        decoder_inputs |= {"attention_mask": decoder_attention_mask, "token_type_ids": decoder_token_type_ids}
        return self._call(
            {"pixel_values": pixel_values},
            attention_mask=None,
            decoder_inputs={**decoder_inputs, "position_ids": decoder_position_ids},
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            keywords=switches,
        )

    def encode(self, pixel_values: Any = None, **switches: Any) -> EncoderOutput | tuple[Any, ...]:
        """Runs the encoder; arguments as for the model's call."""
        for_encoder, for_decoder, switches = self._split_keywords(switches)
        # keywords of the decoder are unknown here
        switches |= {f"decoder_{name}": value for name, value in for_decoder.items()}
        resolved = self._part_switches("encoder", switches)
        outputs = self._encode({"pixel_values": pixel_values, **for_encoder}, resolved)
        return self._format_output(outputs, switches.get("return_dict"))
