"""BART (Lewis et al. 2019, arXiv:1910.13461), as published in facebook/bart-large."""

from collections.abc import Callable
from typing import Any, Unpack

from jaxtyping import Float, Int
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.cache import Cache, LayerCache
from diptych.backends.torch.generation import GenerationMixin
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.backends.torch.stacks import (
    AttentionOutput,
    LayerInputs,
    LayerOutput,
    cross_attention,
    layer_inputs,
    run_layers,
    sees_encoder,
    self_attention,
)
from diptych.core import caching, check
from diptych.core import outputs as records
from diptych.core.boundary import STATES
from diptych.core.calls import ResolvedSwitches, Switches, passes_through, token_loss
from diptych.core.models.bart import NORM_EPS, OFFSET, BartDecoderConfig, BartLikeConfig
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, EncoderOutput, encoder_output, seq2seq
from diptych.core.semantics import overflow, positions


class BartAttention(nn.Module):
    def __init__(
        self, config: BartDecoderConfig, heads: int, *, crosses: bool = False, **init: Unpack[ops.Init]
    ) -> None:
        super().__init__()
        self.crosses = crosses
        self.heads = heads
        source = config.cross_attention_width if crosses else config.d_model
        self.k_proj = layers.Linear(source, config.d_model, **init)
        self.v_proj = layers.Linear(source, config.d_model, **init)
        self.q_proj = layers.Linear(config.d_model, config.d_model, **init)
        self.out_proj = layers.Linear(config.d_model, config.d_model, **init)
        self.dropout = layers.Dropout(config.attention_dropout)
        self.output_dropout = layers.Dropout(config.dropout)

    def keys(self, states: Float[Tensor, "B S D"]) -> tuple[Float[Tensor, "B N S H"], Float[Tensor, "B N S H"]]:
        """The keys and values of states."""
        return ops.split_heads(self.k_proj(states), self.heads), ops.split_heads(self.v_proj(states), self.heads)

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> AttentionOutput:
        query = ops.split_heads(self.q_proj(hidden_states), self.heads)
        if self.crosses:
            attended = cross_attention(query, self.keys, inputs, past, dropout=self.dropout)
        else:
            attended = self_attention(query, *self.keys(hidden_states), inputs, past, dropout=self.dropout)
        return attended._replace(states=self.output_dropout(self.out_proj(attended.states), inputs.rngs))


class BartLayer(nn.Module):
    """The base of both stacks' layers: self-attention and an MLP."""

    def __init__(self, config: BartDecoderConfig, heads: int, features: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = BartAttention(config, heads, **init)
        self.self_attn_layer_norm = layers.LayerNorm(config.d_model, NORM_EPS, **init)
        self.activation = ops.ACTIVATIONS[config.activation_function]
        self.activation_dropout = layers.Dropout(config.activation_dropout)
        self.fc1 = layers.Linear(config.d_model, features, **init)
        self.fc2 = layers.Linear(features, config.d_model, **init)
        self.dropout = layers.Dropout(config.dropout)
        self.final_layer_norm = layers.LayerNorm(config.d_model, NORM_EPS, **init)

    def before(self, norm: Callable[[Tensor], Tensor], hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The input of a block: normalized in MBart."""
        return norm(hidden_states) if self.pre_norm else hidden_states

    def after(self, norm: Callable[[Tensor], Tensor], hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The sum of a block's output and its residual: normalized in BART."""
        return hidden_states if self.pre_norm else norm(hidden_states)

    def mlp(self, hidden_states: Float[Tensor, "B T D"], rngs: Any) -> Float[Tensor, "B T D"]:
        """The layer's second block."""
        features = self.activation(self.fc1(self.before(self.final_layer_norm, hidden_states)))
        added = self.dropout(self.fc2(self.activation_dropout(features, rngs)), rngs)
        return self.after(self.final_layer_norm, hidden_states + added)


class BartEncoderLayer(BartLayer):
    def __init__(self, config: BartLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, config.encoder_attention_heads, config.encoder_ffn_dim, **init)
        self.layerdrop = layers.LayerDrop(config.encoder_layerdrop)

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: None = None) -> LayerOutput:
        normed = self.before(self.self_attn_layer_norm, hidden_states)
        attended, attention, _ = self.self_attn(normed, inputs)
        states = self.mlp(self.after(self.self_attn_layer_norm, hidden_states + attended), inputs.rngs)
        states = overflow.clip_float16(ops.xp, states, always=self.pre_norm)
        return LayerOutput(self.layerdrop(hidden_states, states, inputs.rngs), attention)


class BartDecoderLayer(BartLayer):
    def __init__(self, config: BartDecoderConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, config.decoder_attention_heads, config.decoder_ffn_dim, **init)
        self.encoder_attn = BartAttention(config, config.decoder_attention_heads, crosses=True, **init)
        self.encoder_attn_layer_norm = layers.LayerNorm(config.d_model, NORM_EPS, **init)
        self.layerdrop = layers.LayerDrop(config.decoder_layerdrop)

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> LayerOutput:
        normed = self.before(self.self_attn_layer_norm, hidden_states)
        attended, attention, past = self.self_attn(normed, inputs, past)
        states, cross = self.after(self.self_attn_layer_norm, hidden_states + attended), None
        if sees_encoder(inputs, past):
            normed = self.before(self.encoder_attn_layer_norm, states)
            attended, cross, past = self.encoder_attn(normed, inputs, past)
            states = self.after(self.encoder_attn_layer_norm, states + attended)
        states = self.layerdrop(hidden_states, self.mlp(states, inputs.rngs), inputs.rngs)
        return LayerOutput(states, attention, cross, past)


class BartStack(nn.Module):
    """The base of the encoder and the decoder; it has its own token embeddings if `words` is True."""

    layers: layers.ModuleList

    def __init__(self, config: BartLikeConfig, *, words: bool, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        size, width, rows = config.vocab_size, config.d_model, config.max_position_embeddings
        self.embed_tokens = layers.Embedding(size, width, padding_idx=config.padding_idx, **init) if words else None
        self.embed_positions = layers.Embedding(rows + OFFSET, width, **init)
        self.layernorm_embedding = layers.LayerNorm(width, NORM_EPS, **init)
        self.layer_norm = layers.LayerNorm(width, NORM_EPS, **init) if config.pre_norm else None
        self.dropout = layers.Dropout(config.dropout)
        self.gradient_checkpointing = False

    def forward(
        self,
        words: Float[Tensor, "B T D"],
        position_ids: Int[Tensor, "#B T"],
        inputs: LayerInputs,
        cache: Cache | None = None,
        *,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        states = self.layernorm_embedding(words + self.embed_positions(position_ids + OFFSET))
        return run_layers(
            self.layers,
            self.dropout(states, inputs.rngs),
            inputs,
            cache,
            output_hidden_states=output_hidden_states,
            gradient_checkpointing=self.gradient_checkpointing,
            final=self.layer_norm,
        )


class BartEncoder(BartStack):
    def __init__(self, config: BartLikeConfig, *, words: bool, **init: Unpack[ops.Init]) -> None:
        config.check_encoder()
        super().__init__(config, words=words, **init)
        self.layers = layers.ModuleList([BartEncoderLayer(config, **init) for _ in range(config.encoder_layers)])


class BartDecoder(BartStack):
    def __init__(self, config: BartLikeConfig, *, words: bool, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, words=words, **init)
        self.layers = layers.ModuleList([BartDecoderLayer(config, **init) for _ in range(config.decoder_layers)])


class BartPreTrainedModel(PreTrainedModel):
    """The base of all BART models: checks a call's arguments and passes them to the stacks."""

    def _embed(self, ids: Any, embeds: Any, table: Any, prefix: str = "") -> tuple[Any, Float[Tensor, "B T D"]]:
        """The ids and their scaled embeddings, or None and the caller's embeddings, which are already scaled."""
        config, scale = self.config, self.config.embedding_scale
        scaled = table if scale == 1.0 else lambda ids: table(ids) * scale
        size, width = config.vocab_size, config.d_model
        return self._boundary().words(ids, embeds, scaled, size=size, width=width, prefix=prefix)

    def _shift_right(self, name: str, ids: Any) -> Int[Tensor, "B T"]:
        """The decoder's inputs for predicting these ids: the ids shifted right."""
        ids = self._boundary().label_ids(name, ids, size=self.config.vocab_size)
        return self.config.shift_right(ops.xp, ids, type(self).__name__)

    def _decode(
        self,
        decoder: BartDecoder,
        words: Float[Tensor, "B T D"],
        attention_mask: Any,
        encoder_states: tuple[Any, Any],
        past: tuple[Any, bool | None],
        resolved: ResolvedSwitches,
        prefix: str = "",
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Runs the decoder on embeddings."""
        boundary, config = self._boundary(), self.config
        size, limit = (words.shape[0], words.shape[1]), config.max_position_embeddings
        context = caching.begin(boundary, config.cache_shape, *past, attention_mask, size, prefix=prefix)
        width = config.d_model
        context = caching.with_encoder(boundary, context, *encoder_states, size[0], width=width, crosses=True)
        inputs = layer_inputs(context, resolved)
        position_ids = caching.position_ids(boundary, None, context.start, size, limit=limit)
        switch = resolved["output_hidden_states"]
        output = decoder(words, position_ids, inputs, context.cache, output_hidden_states=switch)
        return output.replace(past_key_values=caching.finish(output.past_key_values, size[1], past[1]))


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
        *,
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> records.Seq2SeqModelOutput | tuple[Any, ...]:
        """Encodes a batch of token sequences, and decodes another one that attends to it.

        Args:
            input_ids: (B, S) integers for the encoder, or else:
            inputs_embeds: (B, S, D) floats in their place, already scaled if the config has scale_embedding.
            attention_mask: (B, S), 1 = attend; by default all are attended to.
            decoder_input_ids: (B, T) integers; by default input_ids shifted right; or else:
            decoder_inputs_embeds: (B, T, D) floats in their place.
            decoder_attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are.
            encoder_outputs: the encoder's output of an earlier call, or its states (B, S, D), in place of the encoder's
                inputs; neither is needed if the cache holds the encoder's keys.
            past_key_values: the decoder's cache of the earlier tokens; `init_cache` makes one.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        resolved, boundary = self._resolve_switches(switches), self._boundary()
        boundary.rngs(resolved["rngs"])
        encoded = encoder_output(encoder_outputs)
        if encoded.last_hidden_state is not None:
            encoded = encoded.replace(
                last_hidden_state=boundary.floats("encoder_outputs", encoded.last_hidden_state, STATES)
            )
        elif not caching.has_encoder_keys(past_key_values) or not (input_ids is inputs_embeds is None):
            if encoder_outputs is not None:
                raise check.missing_argument(boundary.caller, "encoder_outputs.last_hidden_state")
            encoded = self._encode(input_ids, inputs_embeds, attention_mask, resolved)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise check.missing_argument(boundary.caller, "decoder_input_ids or decoder_inputs_embeds")
            decoder_input_ids = self._shift_right("input_ids", input_ids)
        table = self.decoder.embed_tokens if self.shared is None else self.shared
        _, words = self._embed(decoder_input_ids, decoder_inputs_embeds, table, "decoder_")
        mask = encoded.attention_mask if attention_mask is None else attention_mask
        encoder_states, past = (encoded.last_hidden_state, mask), (past_key_values, use_cache)
        output = self._decode(self.decoder, words, decoder_attention_mask, encoder_states, past, resolved, "decoder_")
        output = seq2seq(records.Seq2SeqModelOutput, output, encoded, last_hidden_state=output.last_hidden_state)
        return self._format_output(output, switches.get("return_dict"))

    def _encode(
        self, input_ids: Any, inputs_embeds: Any, attention_mask: Any, resolved: ResolvedSwitches
    ) -> EncoderOutput:
        """Checks a batch of token sequences and runs the encoder on it."""
        boundary, limit = self._boundary(), self.config.max_position_embeddings
        table = self.encoder.embed_tokens if self.shared is None else self.shared
        _, words = self._embed(input_ids, inputs_embeds, table)
        size = (words.shape[0], words.shape[1])
        context = caching.begin(boundary, None, None, None, attention_mask, size)
        position_ids = caching.position_ids(boundary, None, 0, size, limit=limit)
        inputs, switch = layer_inputs(context, resolved), resolved["output_hidden_states"]
        return encoder_output(self.encoder(words, position_ids, inputs, output_hidden_states=switch))


class BartForConditionalGeneration(GenerationMixin, BartPreTrainedModel):
    """The encoder and the decoder with a head that predicts the next token."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = self._siblings()(config.base)(config, seed=None, **init)
        self.final_logits_bias = layers.buffer((1, config.vocab_size), **init)
        tied, width = config.tie_word_embeddings, config.d_model
        self.lm_head = None if tied else layers.Linear(width, config.vocab_size, bias=False, **init)
        self._finish(build)

    @passes_through(BartModel)
    def forward(
        self, *inputs: Any, labels: Any = None, logits_to_keep: Any = 0, **keywords: Any
    ) -> records.Seq2SeqLMOutput | tuple[Any, ...]:
        """As `BartModel`, and:

        Args:
            labels: (B, T) target token ids, -100 = ignored; shifted right, they are the decoder's inputs if none are
                given.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
        """
        given = self._bind_arguments(inputs, keywords)
        if labels is not None and given.get("decoder_input_ids") is None and given.get("decoder_inputs_embeds") is None:
            given["decoder_input_ids"] = self._shift_right("labels", labels)
        outputs: Any = self.model(**self._base_keywords((), given))
        states = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
        words, size = self.model.shared, self.config.vocab_size
        logits = layers.tied_logits(states, words, size) if self.lm_head is None else self.lm_head(states)
        logits = logits + layers.value(self.final_logits_bias, logits)[None]
        return self._with_head(records.Seq2SeqLMOutput, outputs, logits, labels, token_loss, keywords)

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        **switches: Unpack[Switches],
    ) -> EncoderOutput | tuple[Any, ...]:
        """Runs the encoder; arguments as for the model's call."""
        output = self.model._encode(input_ids, inputs_embeds, attention_mask, self._resolve_switches(switches))
        return self._format_output(output.replace(attention_mask=attention_mask), switches.get("return_dict"))


class BartClassificationHead(nn.Module):
    def __init__(self, config: BartLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.dropout = layers.Dropout(config.classifier_dropout)
        self.dense = layers.Linear(config.d_model, config.d_model, **init)
        self.inner_dropout = layers.Dropout(config.classifier_dropout)
        self.out_proj = layers.Linear(config.d_model, config.num_labels, **init)

    def forward(self, states: Float[Tensor, "B D"], rngs: Any = None) -> Float[Tensor, "B V"]:
        states = ops.xp.tanh(self.dense(self.dropout(states, rngs)))
        return self.out_proj(self.inner_dropout(states, rngs))


class BartForSequenceClassification(BartPreTrainedModel):
    """The encoder and the decoder with a classifier over the last end-of-sequence token."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = self._siblings()(config.base)(config, seed=None, **init)
        self.classification_head = BartClassificationHead(config, **init)
        self._finish(build)

    @passes_through(BartModel, without=("past_key_values",))
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        *,
        labels: Any = None,
        **keywords: Any,
    ) -> records.Seq2SeqSequenceClassifierOutput | tuple[Any, ...]:
        """As `BartModel`; the decoder's sequences must be as long as `input_ids`, by default these shifted right.

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.

        Raises:
            InputError: there are no input_ids, or a sequence has no eos_token_id.
        """
        inner, boundary, end = self._base_keywords((), keywords), self._boundary(), self.config.eos_token_id
        if input_ids is None or not isinstance(end, int):
            raise check.missing_argument(
                boundary.caller, "input_ids" if input_ids is None else "an eos_token_id of the config's"
            )
        ids = boundary.label_ids("input_ids", input_ids, size=self.config.vocab_size)
        check.has_tokens(boundary.caller, ids.shape[1])
        index, found = positions.last_end(ops.xp, ids, end)
        if (bounds := ops.min_max(found)) is not None:
            named = f"the number of end-of-sequence tokens ({end}) per row"
            check.at_least(boundary.caller, named, bounds[0], 1, "the number needed")
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._shift_right("input_ids", ids)
        outputs: Any = self.model(
            input_ids=None if inputs_embeds is not None or encoder_outputs is not None else ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            encoder_outputs=encoder_outputs,
            decoder_input_ids=decoder_input_ids,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_attention_mask=decoder_attention_mask,
            **inner,
        )
        states = outputs.last_hidden_state
        check.shape(boundary.caller, "decoder_input_ids", states.shape[:2], ids.shape, ", as input_ids have it")
        states = ops.xp.where((found > 0)[:, None], ops.gather_rows(states, index), ops.xp.nan)
        logits = self.classification_head(states, keywords.get("rngs"))
        record = records.Seq2SeqSequenceClassifierOutput
        return self._with_head(record, outputs, logits, labels, self._class_loss, keywords)


class BartDecoderWrapper(nn.Module):
    """A level of the published parameter names."""

    def __init__(self, config: BartLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.decoder = BartDecoder(config, words=True, **init)


class BartForCausalLM(GenerationMixin, BartPreTrainedModel):
    """The decoder alone with a head that predicts the next token."""

    def __init__(self, config: BartLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = BartDecoderWrapper(config, **init)
        tied, width = config.tie_word_embeddings, config.d_model
        self.lm_head = None if tied else layers.Linear(width, config.vocab_size, bias=False, **init)
        self._finish(build)

    def forward(
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
    ) -> records.CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Decodes a batch of token sequences.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place, already scaled if the config has scale_embedding.
            attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are attended to.
            encoder_hidden_states: (B, S, the config's cross_attention_width) to attend to; if None, cross-attention is
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
        resolved = self._resolve_switches(switches)
        self._boundary().rngs(resolved["rngs"])
        decoder: Any = self.model.decoder
        words, head = decoder.embed_tokens, self._head
        ids, embeddings = self._embed(input_ids, inputs_embeds, words)
        encoder_states, past = (encoder_hidden_states, encoder_attention_mask), (past_key_values, use_cache)
        outputs = self._run_decoder(ids, embeddings, attention_mask, encoder_states, past, resolved)
        states = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = layers.tied_logits(states, words, self.config.vocab_size) if head is None else head(states)
        record = records.CausalLMOutputWithCrossAttentions
        return self._with_head(record, outputs, logits, labels, token_loss, switches)

    @property
    def _head(self) -> Any:
        """The output layer; None if it is tied to the word embeddings."""
        return self.lm_head

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
        return self._decode(decoder, words, attention_mask, encoder_states, past, resolved)
