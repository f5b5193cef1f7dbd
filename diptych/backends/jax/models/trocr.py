"""TrOCR's decoder (Li et al. 2021, arXiv:2109.10282), as in microsoft/trocr-base-handwritten: BART's, with options."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from diptych.backends.jax import layers, ops
from diptych.backends.jax.cache import Cache
from diptych.backends.jax.generation import GenerationMixin
from diptych.backends.jax.models.bart import BartDecoderLayer, BartPreTrainedModel
from diptych.backends.jax.pretrained import Build
from diptych.backends.jax.stacks import LayerInputs, layer_inputs, run_layers
from diptych.core import caching
from diptych.core.calls import Switches, token_loss
from diptych.core.models.bart import NORM_EPS, OFFSET
from diptych.core.models.trocr import TrOCRConfig
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions
from diptych.core.semantics import positions


class TrOCRDecoder(nnx.Module):
    """BART's decoder, whose positions may be sinusoidal and whose embeddings need no norm."""

    def __init__(self, config: TrOCRConfig, **init: Unpack[ops.Init]) -> None:
        size, width, learned = config.vocab_size, config.d_model, config.use_learned_position_embeddings
        self.padding_position: Any = config.padding_position
        self.embed_tokens = layers.Embedding(size, width, padding_idx=config.padding_idx, **init)
        rows = config.max_position_embeddings + OFFSET
        self.embed_positions = layers.Embedding(rows, width, **init) if learned else None
        self.layernorm_embedding = layers.LayerNorm(width, NORM_EPS, **init) if config.layernorm_embedding else None
        self.layers = layers.ModuleList([BartDecoderLayer(config, **init) for _ in range(config.decoder_layers)])
        self.dropout = layers.Dropout(config.dropout)
        self.gradient_checkpointing = False

    def positions(self, position_ids: Int[Array, "#B T"], words: Float[Array, "B T D"]) -> Float[Array, "#B T D"]:
        """The embeddings of positions, in the dtype of the words' embeddings."""
        if self.embed_positions is not None:
            return self.embed_positions(position_ids + OFFSET)
        frequencies = positions.sinusoid_frequencies(words.shape[-1])
        constants = ops.constant(frequencies, ops.xp.astype(position_ids, ops.xp.float32))
        return positions.sinusoidal(ops.xp, position_ids, constants, words, self.padding_position)

    def __call__(
        self, embeddings: Float[Array, "B T D"], inputs: LayerInputs, cache: Cache | None, *, output_hidden_states: bool
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        states = embeddings if self.layernorm_embedding is None else self.layernorm_embedding(embeddings)
        return run_layers(
            self.layers,
            self.dropout(states, inputs.rngs),
            inputs,
            cache,
            output_hidden_states=output_hidden_states,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class TrOCRDecoderWrapper(nnx.Module):
    """A level of the published parameter names."""

    def __init__(self, config: TrOCRConfig, **init: Unpack[ops.Init]) -> None:
        self.decoder = TrOCRDecoder(config, **init)


class TrOCRForCausalLM(GenerationMixin, BartPreTrainedModel):
    """The decoder with a head that predicts the next token."""

    def __init__(self, config: TrOCRConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = TrOCRDecoderWrapper(config, **init)
        tied, width = config.tie_word_embeddings, config.d_model
        self.output_projection = None if tied else layers.Linear(width, config.vocab_size, bias=False, **init)
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        *,
        labels: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Decodes a batch of token sequences.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place, already scaled if the config has scale_embedding; none of
                them is padding.
            attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are attended to.
            encoder_hidden_states: (B, S, cross_attention_hidden_size) to attend to; if None, cross-attention is
                skipped.
            encoder_attention_mask: (B, S), 1 = attend; by default all are attended to.
            past_key_values: a cache of the earlier tokens; `init_cache` makes one.
            labels: (B, T) token ids, -100 = ignored; each token predicts the label at its own position.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        decoder: Any = self.model.decoder
        boundary.rngs(resolved["rngs"])
        ids, words = self._embed(input_ids, inputs_embeds, decoder.embed_tokens)
        size = (words.shape[0], words.shape[1])
        context = caching.begin(boundary, config.cache_shape, past_key_values, use_cache, attention_mask, size)
        encoder_states, width = (encoder_hidden_states, encoder_attention_mask), config.cross_attention_width
        context = caching.with_encoder(boundary, context, *encoder_states, size[0], width=width, crosses=True)
        padding = config.padding_position
        limit = config.max_position_embeddings if padding is None else positions.SINUSOIDAL_LIMIT
        cache, position_ids = caching.padding_aware_position_ids(
            boundary, context, None, ids, size, limit=limit, padding=padding
        )
        embeddings = words + decoder.positions(position_ids, words)
        inputs, switch = layer_inputs(context, resolved), resolved["output_hidden_states"]
        outputs = decoder(embeddings, inputs, cache, output_hidden_states=switch)
        outputs = outputs.replace(past_key_values=caching.finish(outputs.past_key_values, size[1], use_cache))
        states = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
        words, head = decoder.embed_tokens, self.output_projection
        logits = layers.tied_logits(states, words, config.vocab_size) if head is None else head(states)
        return self._with_head(CausalLMOutputWithCrossAttentions, outputs, logits, labels, token_loss, switches)
