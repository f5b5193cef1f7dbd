"""TrOCR's decoder (Li et al. 2021, arXiv:2109.10282), as in microsoft/trocr-base-handwritten: BART's, with options."""

from typing import Any, Unpack

from jaxtyping import Float, Int
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.cache import Cache
from diptych.backends.torch.models.bart import BartDecoderLayer, BartForCausalLM
from diptych.backends.torch.pretrained import Build
from diptych.backends.torch.stacks import LayerInputs, layer_inputs, run_layers
from diptych.core import caching
from diptych.core.calls import ResolvedSwitches
from diptych.core.models.bart import NORM_EPS, OFFSET
from diptych.core.models.trocr import TrOCRConfig
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions
from diptych.core.semantics import positions


class TrOCRDecoder(nn.Module):
    """BART's decoder, whose positions may be sinusoidal and whose embeddings need no norm."""

    def __init__(self, config: TrOCRConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        size, width, learned = config.vocab_size, config.d_model, config.use_learned_position_embeddings
        self.padding_position: Any = config.padding_position
        self.embed_tokens = layers.Embedding(size, width, padding_idx=config.padding_idx, **init)
        rows = config.max_position_embeddings + OFFSET
        self.embed_positions = layers.Embedding(rows, width, **init) if learned else None
        self.layernorm_embedding = layers.LayerNorm(width, NORM_EPS, **init) if config.layernorm_embedding else None
        self.layers = layers.ModuleList([BartDecoderLayer(config, **init) for _ in range(config.decoder_layers)])
        self.dropout = layers.Dropout(config.dropout)
        self.gradient_checkpointing = False

    def positions(self, position_ids: Int[Tensor, "#B T"], words: Float[Tensor, "B T D"]) -> Float[Tensor, "#B T D"]:
        """The embeddings of positions, in the dtype of the words' embeddings."""
        if self.embed_positions is not None:
            return self.embed_positions(position_ids + OFFSET)
        frequencies = positions.sinusoid_frequencies(words.shape[-1])
        constants = ops.constant(frequencies, ops.xp.astype(position_ids, ops.xp.float32))
        return positions.sinusoidal(ops.xp, position_ids, constants, words, self.padding_position)

    def forward(
        self,
        embeddings: Float[Tensor, "B T D"],
        inputs: LayerInputs,
        cache: Cache | None,
        *,
        output_hidden_states: bool,
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


class TrOCRDecoderWrapper(nn.Module):
    """A level of the published parameter names."""

    def __init__(self, config: TrOCRConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.decoder = TrOCRDecoder(config, **init)


class TrOCRForCausalLM(BartForCausalLM):
    """The decoder with a head that predicts the next token; no `inputs_embeds` count as padding."""

    def __init__(self, config: TrOCRConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = TrOCRDecoderWrapper(config, **init)
        tied, width = config.tie_word_embeddings, config.d_model
        self.output_projection = None if tied else layers.Linear(width, config.vocab_size, bias=False, **init)
        self._finish(build)

    @property
    def _head(self) -> Any:
        """The output layer; None if it is tied to the word embeddings."""
        return self.output_projection

    def _run_decoder(
        self,
        ids: Any,
        words: Float[Tensor, "B T D"],
        attention_mask: Any,
        encoder_states: tuple[Any, Any],
        past: tuple[Any, bool | None],
        resolved: ResolvedSwitches,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Runs the decoder on embeddings; ids (B, T) are those of the tokens, or None."""
        decoder: Any = self.model.decoder
        boundary, config = self._boundary(), self.config
        size = (words.shape[0], words.shape[1])
        context = caching.begin(boundary, config.cache_shape, *past, attention_mask, size)
        width = config.cross_attention_width
        context = caching.with_encoder(boundary, context, *encoder_states, size[0], width=width, crosses=True)
        padding = config.padding_position
        limit = config.max_position_embeddings if padding is None else positions.SINUSOIDAL_LIMIT
        cache, position_ids = caching.padding_aware_position_ids(
            boundary, context, None, ids, size, limit=limit, padding=padding
        )
        embeddings = words + decoder.positions(position_ids, words)
        inputs, switch = layer_inputs(context, resolved), resolved["output_hidden_states"]
        output = decoder(embeddings, inputs, cache, output_hidden_states=switch)
        return output.replace(past_key_values=caching.finish(output.past_key_values, size[1], past[1]))
