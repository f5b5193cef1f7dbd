"""BART (Lewis et al. 2019, arXiv:1910.13461), as published in facebook/bart-large."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from diptych.backends.jax import cache as caches
from diptych.backends.jax import layers, ops
from diptych.backends.jax.cache import Cache
from diptych.backends.jax.generation import GenerationMixin
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core import check
from diptych.core import outputs as records
from diptych.core.models.bart import NORM_EPS, OFFSET, BartLikeConfig
from diptych.core.outputs import BaseModelOutput, encoded, headed, seq2seq
from diptych.core.pretrained import Settled, Switches
from diptych.core.semantics import losses, overflow, positions


class BartAttention(nnx.Module):
    def __init__(
        self, config: BartLikeConfig, heads: int, index: int, *, crosses: bool = False, **init: Unpack[ops.Init]
    ) -> None:
        self.index = index
        self.crosses = crosses
        self.heads = heads
        self.k_proj = layers.Linear(config.d_model, config.d_model, **init)
        self.v_proj = layers.Linear(config.d_model, config.d_model, **init)
        self.q_proj = layers.Linear(config.d_model, config.d_model, **init)
        self.out_proj = layers.Linear(config.d_model, config.d_model, **init)
        self.dropout = layers.Dropout(config.attention_dropout)
        self.output_dropout = layers.Dropout(config.dropout)

    def keys(self, source: Float[Array, "B S D"]) -> tuple[Float[Array, "B N S H"], Float[Array, "B N S H"]]:
        """The keys and the values of tokens."""
        return ops.split(self.k_proj(source), self.heads), ops.split(self.v_proj(source), self.heads)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#K 1 #T S"] | None,
        encoder_hidden_states: Float[Array, "B U D"] | None = None,
        cache: Cache | None = None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None, Cache | None]:
        query = ops.split(self.q_proj(hidden_states), self.heads)
        if self.crosses:
            cache, key, value = caches.crossed(cache, self.index, encoder_hidden_states, self.keys)
        else:
            cache, key, value = caches.extended(cache, self.index, *self.keys(hidden_states))
        attended, probabilities = ops.attention(
            query, key, value, mask, causal=causal, dropout=self.dropout, rngs=rngs, weights=weights
        )
        return self.output_dropout(self.out_proj(attended), rngs), probabilities, cache


class BartLayer(nnx.Module):
    """What the layers of both stacks have: attention to their own tokens, and an MLP."""

    def __init__(self, config: BartLikeConfig, heads: int, features: int, index: int, **init: Unpack[ops.Init]) -> None:
        self.pre_norm = config.pre_norm
        self.self_attn = BartAttention(config, heads, index, **init)
        self.self_attn_layer_norm = layers.LayerNorm(config.d_model, NORM_EPS, **init)
        self.activation = ops.ACTIVATIONS[config.activation_function]
        self.activation_dropout = layers.Dropout(config.activation_dropout)
        self.fc1 = layers.Linear(config.d_model, features, **init)
        self.fc2 = layers.Linear(features, config.d_model, **init)
        self.dropout = layers.Dropout(config.dropout)
        self.final_layer_norm = layers.LayerNorm(config.d_model, NORM_EPS, **init)

    def before(self, norm: layers.LayerNorm, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What a block of the layer reads: MBart's norms stand before it."""
        return norm(hidden_states) if self.pre_norm else hidden_states

    def after(self, norm: layers.LayerNorm, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What a block and its residual leave: BART's norms stand behind them."""
        return hidden_states if self.pre_norm else norm(hidden_states)

    def mlp(self, hidden_states: Float[Array, "B T D"], rngs: Any) -> Float[Array, "B T D"]:
        """The layer's second block."""
        features = self.activation(self.fc1(self.before(self.final_layer_norm, hidden_states)))
        added = self.dropout(self.fc2(self.activation_dropout(features, rngs)), rngs)
        return self.after(self.final_layer_norm, hidden_states + added)


class BartEncoderLayer(BartLayer):
    def __init__(self, config: BartLikeConfig, index: int, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, config.encoder_attention_heads, config.encoder_ffn_dim, index, **init)
        self.layerdrop = layers.LayerDrop(config.encoder_layerdrop)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 #T S"] | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
        """The output, and the probabilities if weights are asked for."""
        states = self.before(self.self_attn_layer_norm, hidden_states)
        added, probabilities, _ = self.self_attn(states, mask, weights=weights, rngs=rngs)
        states = self.mlp(self.after(self.self_attn_layer_norm, hidden_states + added), rngs)
        states = overflow.bounded(ops.xp, states, always=self.pre_norm)
        return self.layerdrop(hidden_states, states, rngs), probabilities


class BartDecoderLayer(BartLayer):
    def __init__(self, config: BartLikeConfig, index: int, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, config.decoder_attention_heads, config.decoder_ffn_dim, index, **init)
        self.encoder_attn = BartAttention(config, config.decoder_attention_heads, index, crosses=True, **init)
        self.encoder_attn_layer_norm = layers.LayerNorm(config.d_model, NORM_EPS, **init)
        self.layerdrop = layers.LayerDrop(config.decoder_layerdrop)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 #T S"] | None,
        encoder_hidden_states: Float[Array, "B U D"] | None = None,
        encoder_mask: Bool[Array, "#K 1 1 U"] | None = None,
        cache: Cache | None = None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "B N T _"] | None, ...], Cache | None]:
        """The output, the probabilities of self- and cross-attention, and the cache with these tokens."""
        states = self.before(self.self_attn_layer_norm, hidden_states)
        added, probabilities, cache = self.self_attn(
            states, mask, None, cache, causal=causal, weights=weights, rngs=rngs
        )
        states, crossed = self.after(self.self_attn_layer_norm, hidden_states + added), None
        if caches.crosses(cache, encoder_hidden_states):
            query = self.before(self.encoder_attn_layer_norm, states)
            added, crossed, cache = self.encoder_attn(
                query, encoder_mask, encoder_hidden_states, cache, weights=weights, rngs=rngs
            )
            states = self.after(self.encoder_attn_layer_norm, states + added)
        return self.layerdrop(hidden_states, self.mlp(states, rngs), rngs), (probabilities, crossed), cache


class BartStack(nnx.Module):
    """What the encoder and the decoder have before and behind their layers; a table of words where none is shared."""

    def __init__(self, config: BartLikeConfig, *, words: bool, **init: Unpack[ops.Init]) -> None:
        size, width, rows = config.vocab_size, config.d_model, config.max_position_embeddings
        self.embed_tokens = layers.Embedding(size, width, padding_idx=config.padding_idx, **init) if words else None
        self.embed_positions = layers.Embedding(rows + OFFSET, width, **init)
        self.layernorm_embedding = layers.LayerNorm(width, NORM_EPS, **init)
        self.layer_norm = layers.LayerNorm(width, NORM_EPS, **init) if config.pre_norm else None
        self.dropout = layers.Dropout(config.dropout)
        self.gradient_checkpointing = False

    def embedded(
        self, words: Float[Array, "B T D"], position_ids: Int[Array, "#B T"], rngs: Any
    ) -> Float[Array, "B T D"]:
        """What the first layer reads."""
        states = words + self.embed_positions(position_ids + OFFSET)
        return self.dropout(self.layernorm_embedding(states), rngs)

    def last(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The last layer's output, behind MBart's last norm."""
        return hidden_states if self.layer_norm is None else self.layer_norm(hidden_states)


class BartEncoder(BartStack):
    def __init__(self, config: BartLikeConfig, *, words: bool, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, words=words, **init)
        count = config.encoder_layers
        self.layers = layers.ModuleList([BartEncoderLayer(config, index, **init) for index in range(count)])

    def __call__(
        self,
        words: Float[Array, "B T D"],
        position_ids: Int[Array, "#B T"],
        mask: Bool[Array, "#B 1 #T S"] | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> BaseModelOutput:
        """The states of the last layer and all before, and the probabilities if weights are asked for."""
        hidden_states = self.embedded(words, position_ids, rngs)
        states, attentions = [hidden_states], []
        for layer in self.layers:
            run = ops.checkpointed(layer, self.gradient_checkpointing)
            hidden_states, probabilities = run(hidden_states, mask, weights=weights, rngs=rngs)
            states.append(hidden_states)
            attentions.append(probabilities)
        last = states[-1] = self.last(hidden_states)
        return BaseModelOutput(
            last_hidden_state=last, hidden_states=tuple(states), attentions=tuple(attentions) if weights else None
        )


class BartDecoder(BartStack):
    def __init__(self, config: BartLikeConfig, *, words: bool, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, words=words, **init)
        count = config.decoder_layers
        self.layers = layers.ModuleList([BartDecoderLayer(config, index, **init) for index in range(count)])

    def __call__(
        self,
        words: Float[Array, "B T D"],
        position_ids: Int[Array, "#B T"],
        mask: Bool[Array, "#B 1 #T S"] | None,
        encoder_hidden_states: Float[Array, "B U D"] | None = None,
        encoder_mask: Bool[Array, "#K 1 1 U"] | None = None,
        cache: Cache | None = None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> records.BaseModelOutputWithPastAndCrossAttentions:
        """The states of the last layer and all before, the cache, and the probabilities if weights are asked for."""
        hidden_states = self.embedded(words, position_ids, rngs)
        states, attentions = [hidden_states], []
        for layer in self.layers:
            run = ops.checkpointed(layer, self.gradient_checkpointing)
            inputs = (hidden_states, mask, encoder_hidden_states, encoder_mask, cache)
            hidden_states, probabilities, cache = run(*inputs, causal=causal, weights=weights, rngs=rngs)
            states.append(hidden_states)
            attentions.append(probabilities)
        last = states[-1] = self.last(hidden_states)
        selves, crosses = zip(*attentions, strict=True)
        return records.BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=last,
            past_key_values=cache,
            hidden_states=tuple(states),
            attentions=selves if weights else None,
            cross_attentions=crosses if weights and crosses[0] is not None else None,
        )


class BartPreTrainedModel(PreTrainedModel):
    """How a caller's arguments reach the stacks, which are given what is checked."""

    def _words(self, ids: Any, embeds: Any, table: Any, prefix: str = "") -> Float[Array, "B T D"]:
        """The scaled embeddings of ids, or a caller's, which are scaled already."""
        where, config, scale = type(self).__name__, self.config, self.config.embedding_scale
        scaled = table if scale == 1.0 else lambda ids: table(ids) * scale
        sizes = {"size": config.vocab_size, "width": config.d_model}
        return ops.boundary_words(where, ids, embeds, scaled, self._like(), **sizes, prefix=prefix)[1]

    def _shifted(self, name: str, ids: Any) -> Int[Array, "B T"]:
        """What the decoder reads while it is taught to write a caller's ids."""
        where, config = type(self).__name__, self.config
        ids = ops.boundary_text(where, name, ids, self._like(), size=config.vocab_size)
        return config.shifted(ops.xp, ids, where)

    def _decoded(
        self,
        decoder: BartDecoder,
        words: Float[Array, "B T D"],
        attention_mask: Any,
        memory: tuple[Any, Any],
        past: tuple[Any, bool | None],
        switches: Settled,
        prefix: str = "",
    ) -> records.BaseModelOutputWithPastAndCrossAttentions:
        """What the decoder makes of embeddings."""
        where, like, config = type(self).__name__, self._like(), self.config
        size, limit = (words.shape[0], words.shape[1]), config.max_position_embeddings
        opened = caches.opened(where, config.cache_shape, *past, attention_mask, size, like, prefix=prefix)
        seen = caches.crossed_size(opened.cache)
        memory = ops.boundary_memory(where, *memory, size[0], like, width=config.d_model, crosses=True, seen=seen)
        position_ids = caches.position_ids(where, None, opened.start, size, like, limit=limit)
        switched = {"weights": switches["output_attentions"], "rngs": switches["rngs"]}
        output = decoder(words, position_ids, opened.mask, *memory, opened.cache, causal=opened.causal, **switched)
        states = output.hidden_states if switches["output_hidden_states"] else None
        cache = caches.closed(output.past_key_values, size[1], past[1])
        return output.replace(hidden_states=states, past_key_values=cache)


class BartModel(BartPreTrainedModel):
    """The encoder and the decoder, without a head."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        tied = config.tie_word_embeddings
        size, width, pad = config.vocab_size, config.d_model, config.padding_idx
        self.shared = layers.Embedding(size, width, padding_idx=pad, **init) if tied else None
        self.encoder = BartEncoder(config, words=not tied, **init)
        self.decoder = BartDecoder(config, words=not tied, **init)
        self._finish(build)

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
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> records.Seq2SeqModelOutput | tuple[Any, ...]:
        """Reads a batch of texts, and for each another one from left to right.

        Args:
            input_ids: (B, S) integers to read, or else:
            inputs_embeds: (B, S, D) floats in their place, scaled if the config scales.
            attention_mask: (B, S), 1 = attend; all are without it.
            decoder_input_ids: (B, T) integers; without them input_ids, each a place later; or else:
            decoder_inputs_embeds: (B, T, D) floats in their place.
            decoder_attention_mask: (B, T), 1 = attend, or with a cache of all tokens up to these; all are without it.
            encoder_outputs: what an earlier call returned of the encoder, or (B, S, D) states, in place of a text to
                read; a cache that has seen the states needs neither.
            past_key_values: the decoder's cache of the tokens before these; `init_cache` makes one.
            use_cache: whether the cache comes back, as one that is given does without it; True makes one if need be.
            switches: as every model's call has them.

        Raises:
            InputError: an argument has another dtype or shape, an id is out of range, or the cache is full.
        """
        where, settled = type(self).__name__, self._inner(switches)
        ops.boundary_rngs(where, settled["rngs"])
        read = encoded(encoder_outputs)
        if encoder_outputs is None:
            seen = input_ids is None and inputs_embeds is None and caches.crosses(past_key_values, None)
            read = read if seen else self._read(input_ids, inputs_embeds, attention_mask, settled)
        elif read.last_hidden_state is None:
            raise check.needed(where, "encoder_outputs.last_hidden_state")
        else:
            axes, states = "batch, tokens, hidden_size", read.last_hidden_state
            states = ops.boundary_floats(where, "encoder_outputs", states, axes, self._like())
            read = read.replace(last_hidden_state=states)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise check.needed(where, "decoder_input_ids or decoder_inputs_embeds")
            decoder_input_ids = self._shifted("input_ids", input_ids)
        table = self.decoder.embed_tokens if self.shared is None else self.shared
        words = self._words(decoder_input_ids, decoder_inputs_embeds, table, "decoder_")
        memory, past = (read.last_hidden_state, attention_mask), (past_key_values, use_cache)
        output = self._decoded(self.decoder, words, decoder_attention_mask, memory, past, settled, "decoder_")
        output = seq2seq(records.Seq2SeqModelOutput, output, read, last_hidden_state=output.last_hidden_state)
        return self._returned(output, switches.get("return_dict"))

    def _read(self, input_ids: Any, inputs_embeds: Any, attention_mask: Any, switches: Settled) -> BaseModelOutput:
        """What the encoder makes of a text."""
        where, like, limit = type(self).__name__, self._like(), self.config.max_position_embeddings
        words = self._words(input_ids, inputs_embeds, self.encoder.embed_tokens if self.shared is None else self.shared)
        size = (words.shape[0], words.shape[1])
        opened = caches.opened(where, None, None, None, attention_mask, size, like)
        position_ids = caches.position_ids(where, None, 0, size, like, limit=limit)
        weights, rngs = switches["output_attentions"], switches["rngs"]
        output = self.encoder(words, position_ids, opened.mask, weights=weights, rngs=rngs)
        return output if switches["output_hidden_states"] else output.replace(hidden_states=None)


class BartForConditionalGeneration(GenerationMixin, BartPreTrainedModel):
    """The encoder and the decoder with a head that predicts the next word."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = self._siblings()(config.base)(config, seed=None, **init)
        self.final_logits_bias = layers.buffer((1, config.vocab_size), **init)
        tied, width = config.tie_word_embeddings, config.d_model
        self.lm_head = None if tied else layers.Linear(width, config.vocab_size, bias=False, **init)
        self._finish(build)

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
        labels: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> records.Seq2SeqLMOutput | tuple[Any, ...]:
        """As `BartModel`, and:

        Args:
            labels: (B, T) words to write, -100 = not counted; each a place later, they are what the decoder reads if
                the call gives it nothing.
            logits_to_keep: of how many last tokens the logits come, 0 for all, or the places of some.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._shifted("labels", labels)
        inputs = (input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs)
        past, embeds = past_key_values, (inputs_embeds, decoder_inputs_embeds)
        outputs: Any = self.model(*inputs, past, *embeds, use_cache=use_cache, **self._inner(switches))
        states = ops.kept(outputs.last_hidden_state, logits_to_keep)
        logits = self.model.shared.attend(states) if self.lm_head is None else self.lm_head(states)
        logits = logits + layers.value(self.final_logits_bias, logits)[None]
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.cross_entropy(ops.xp, logits, labels)
        output = headed(records.Seq2SeqLMOutput, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        **switches: Unpack[Switches],
    ) -> BaseModelOutput | tuple[Any, ...]:
        """What the encoder makes of a batch of texts; the arguments are those of the model's call."""
        output = self.model._read(input_ids, inputs_embeds, attention_mask, self._inner(switches))
        return self._returned(output, switches.get("return_dict"))


class BartClassificationHead(nnx.Module):
    def __init__(self, config: BartLikeConfig, **init: Unpack[ops.Init]) -> None:
        self.dropout = layers.Dropout(config.classifier_dropout)
        self.dense = layers.Linear(config.d_model, config.d_model, **init)
        self.inner_dropout = layers.Dropout(config.classifier_dropout)
        self.out_proj = layers.Linear(config.d_model, config.num_labels, **init)

    def __call__(self, states: Float[Array, "B D"], rngs: Any = None) -> Float[Array, "B V"]:
        states = ops.xp.tanh(self.dense(self.dropout(states, rngs)))
        return self.out_proj(self.inner_dropout(states, rngs))


class BartForSequenceClassification(BartPreTrainedModel):
    """The encoder and the decoder with a classifier over the last end of text."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = self._siblings()(config.base)(config, seed=None, **init)
        self.classification_head = BartClassificationHead(config, **init)
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        labels: Any = None,
        *,
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> records.Seq2SeqSequenceClassifierOutput | tuple[Any, ...]:
        """As `BartModel`, whose text to write must be as long as `input_ids`, if it isn't made of them; and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for several labels; (B,) or (B, num_labels) to regress.

        Raises:
            InputError: there are no input_ids, or one of the texts has no end.
        """
        where, end = type(self).__name__, self.config.eos_token_id
        if input_ids is None or not isinstance(end, int):
            raise check.needed(where, "input_ids" if input_ids is None else "an eos_token_id of the config's")
        ids = ops.boundary_text(where, "input_ids", input_ids, self._like(), size=self.config.vocab_size)
        check.has_tokens(where, ids.shape[1])
        index, found = positions.last_end(ops.xp, ids, end)
        bounds = ops.bounds(found)
        if bounds is not None:
            check.at_least(where, f"the number of ends of text ({end}) in a row", bounds[0], 1, "the number needed")
        read = None if inputs_embeds is not None or encoder_outputs is not None else ids
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._shifted("input_ids", ids)
        inputs = (read, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs)
        embeds = (inputs_embeds, decoder_inputs_embeds)
        outputs: Any = self.model(*inputs, None, *embeds, use_cache=use_cache, **self._inner(switches))
        states = outputs.last_hidden_state
        check.shape(where, "the decoder's text", states.shape[:2], ids.shape, ", as input_ids have it")
        states = ops.xp.where((found > 0)[:, None], ops.at_row(states, index), ops.xp.nan)
        logits = self.classification_head(states, switches.get("rngs"))
        loss = None
        if labels is not None:
            kind = self.config.problem_type
            labels = ops.boundary_targets(where, "labels", labels, logits, kind)
            loss = losses.classification(ops.xp, logits, labels, kind)
        output = headed(records.Seq2SeqSequenceClassifierOutput, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))


class BartDecoderWrapper(nnx.Module):
    """A level of the published names."""

    def __init__(self, config: BartLikeConfig, **init: Unpack[ops.Init]) -> None:
        self.decoder = BartDecoder(config, words=True, **init)


class BartForCausalLM(GenerationMixin, BartPreTrainedModel):
    """The decoder alone with a head that predicts the next word."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = BartDecoderWrapper(config, **init)
        tied, width = config.tie_word_embeddings, config.d_model
        self.lm_head = None if tied else layers.Linear(width, config.vocab_size, bias=False, **init)
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> records.CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Reads a batch of texts from left to right.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place, scaled if the config scales.
            attention_mask: (B, T), 1 = attend, or with a cache of all tokens up to these; all are without it.
            encoder_hidden_states: (B, S, D) to attend to; without them there is no cross-attention.
            encoder_attention_mask: (B, S), 1 = attend; all are attended to without it.
            past_key_values: a cache of the tokens before these; `init_cache` makes one.
            labels: (B, T) words, -100 = not counted; each token predicts the label in its own place.
            logits_to_keep: of how many last tokens the logits come, 0 for all, or the places of some.
            use_cache: whether the cache comes back, as one that is given does without it; True makes one if need be.
            switches: as every model's call has them.

        Raises:
            InputError: an argument has another dtype or shape, an id is out of range, or the cache is full.
        """
        settled = self._inner(switches)
        decoder: Any = self.model.decoder
        ops.boundary_rngs(type(self).__name__, settled["rngs"])
        words = self._words(input_ids, inputs_embeds, decoder.embed_tokens)
        memory, past = (encoder_hidden_states, encoder_attention_mask), (past_key_values, use_cache)
        outputs = self._decoded(decoder, words, attention_mask, memory, past, settled)
        states = ops.kept(outputs.last_hidden_state, logits_to_keep)
        logits = decoder.embed_tokens.attend(states) if self.lm_head is None else self.lm_head(states)
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.cross_entropy(ops.xp, logits, labels)
        output = headed(records.CausalLMOutputWithCrossAttentions, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))
