"""BERT (Devlin et al. 2018, arXiv:1810.04805), as published in google-bert/bert-base-uncased."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from diptych.backends.jax import layers, ops
from diptych.backends.jax.cache import LayerCache
from diptych.backends.jax.generation import GenerationMixin
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.backends.jax.stacks import (
    AttentionOutput,
    LayerInputs,
    LayerOutput,
    cross_attention,
    layer_inputs,
    run_layers,
    sees_encoder,
    self_attention,
)
from diptych.core import caching
from diptych.core.calls import Switches, next_token_loss, passes_through, token_loss
from diptych.core.models.bert import BertForPreTrainingOutput, BertLikeConfig, BertStackConfig
from diptych.core.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    SequenceClassifierOutput,
    with_head,
)
from diptych.core.semantics import losses


class BertSelfAttention(nnx.Module):
    def __init__(self, config: BertStackConfig, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        self.crosses = crosses
        self.heads = config.num_attention_heads
        self.query = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.key = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.value = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.attention_probs_dropout_prob)

    def keys(self, states: Float[Array, "B S D"]) -> tuple[Float[Array, "B N S H"], Float[Array, "B N S H"]]:
        """The keys and values of states."""
        return ops.split_heads(self.key(states), self.heads), ops.split_heads(self.value(states), self.heads)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> AttentionOutput:
        query = ops.split_heads(self.query(hidden_states), self.heads)
        if self.crosses:
            return cross_attention(query, self.keys, inputs, past, dropout=self.dropout)
        return self_attention(query, *self.keys(hidden_states), inputs, past, dropout=self.dropout)


class BertOutput(nnx.Module):
    """The output of attention or an MLP: a linear layer, dropout, the residual, layer norm."""

    def __init__(self, config: BertStackConfig, features: int, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(features, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, hidden_states: Float[Array, "B T F"], residual: Float[Array, "B T D"], rngs: Any = None
    ) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.dropout(self.dense(hidden_states), rngs) + residual)


class BertAttention(nnx.Module):
    def __init__(self, config: BertStackConfig, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        self.self = BertSelfAttention(config, crosses=crosses, **init)
        self.output = BertOutput(config, config.hidden_size, **init)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> AttentionOutput:
        attended = self.self(hidden_states, inputs, past)
        return attended._replace(states=self.output(attended.states, hidden_states, inputs.rngs))


class BertIntermediate(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.intermediate_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        return self.activation(self.dense(hidden_states))


class BertLayer(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        self.attention = BertAttention(config, **init)
        crosses = config.add_cross_attention
        self.crossattention = BertAttention(config, crosses=True, **init) if crosses else None
        self.intermediate = BertIntermediate(config, **init)
        self.output = BertOutput(config, config.intermediate_size, **init)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> LayerOutput:
        hidden_states, attention, past = self.attention(hidden_states, inputs, past)
        cross = None
        if self.crossattention is not None and sees_encoder(inputs, past):
            hidden_states, cross, past = self.crossattention(hidden_states, inputs, past)
        hidden_states = self.output(self.intermediate(hidden_states), hidden_states, inputs.rngs)
        return LayerOutput(hidden_states, attention, cross, past)


class BertEmbeddings(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        width, rows, types = config.hidden_size, config.max_position_embeddings, config.token_types
        self.word_embeddings = layers.Embedding(config.vocab_size, width, padding_idx=config.padding_idx, **init)
        self.position_embeddings = layers.Embedding(rows, width, padding_idx=config.padding_position, **init)
        self.token_type_embeddings = layers.Embedding(types, width, **init) if types else None
        self.LayerNorm = layers.LayerNorm(width, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def __call__(
        self,
        words: Float[Array, "B T D"],
        position_ids: Int[Array, "#B T"],
        token_type_ids: Int[Array, "#B T"] | None,
        rngs: Any = None,
    ) -> Float[Array, "B T D"]:
        embeddings = words
        if self.token_type_embeddings is not None and token_type_ids is not None:
            embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(embeddings + self.position_embeddings(position_ids)), rngs)


class BertEncoder(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        self.layer = layers.ModuleList([BertLayer(config, **init) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, cache: Any, *, output_hidden_states: bool
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        return run_layers(
            self.layer,
            hidden_states,
            inputs,
            cache,
            output_hidden_states=output_hidden_states,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class BertPooler(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        return ops.xp.tanh(self.dense(hidden_states[:, 0]))


class BertStackModel(PreTrainedModel):
    """The base of the models without a head."""

    embeddings: BertEmbeddings
    encoder: BertEncoder

    def _run_stack(
        self,
        text: tuple[Any, ...],
        encoder_states: tuple[Any, Any],
        past_key_values: Any,
        use_cache: bool | None,
        switches: Switches,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Checks a call's arguments and runs the stack on them."""
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds = text
        boundary.rngs(resolved["rngs"])
        words, width = self.embeddings.word_embeddings, config.hidden_size
        input_ids, states = boundary.words(input_ids, inputs_embeds, words, size=config.vocab_size, width=width)
        size = (states.shape[0], states.shape[1])
        context = caching.begin(boundary, config.cache_shape, past_key_values, use_cache, attention_mask, size)
        crosses = config.add_cross_attention
        context = caching.with_encoder(boundary, context, *encoder_states, size[0], width=width, crosses=crosses)
        rows, padding = config.max_position_embeddings, config.padding_position
        cache, position_ids = caching.padding_aware_position_ids(
            boundary, context, position_ids, input_ids, size, limit=rows, padding=padding
        )
        types = config.token_types
        token_type_ids = boundary.token_types(token_type_ids, size, size=types) if types else None
        inputs = layer_inputs(context, resolved)
        states = self.embeddings(states, position_ids, token_type_ids, inputs.rngs)
        output = self.encoder(states, inputs, cache, output_hidden_states=resolved["output_hidden_states"])
        return output.replace(past_key_values=caching.finish(output.past_key_values, size[1], use_cache))


class BertModel(BertStackModel):
    """The encoder, or decoder if the config has is_decoder; with an optional pooler over the first token."""

    def __init__(self, config: BertStackConfig, *, add_pooling_layer: bool = True, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.embeddings = BertEmbeddings(config, **init)
        self.encoder = BertEncoder(config, **init)
        self.pooler = BertPooler(config, **init) if add_pooling_layer else None
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        *,
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """Encodes a batch of token sequences.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place.
            attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are attended to.
            token_type_ids: (B, T) or (1, T); 0 by default.
            position_ids: (B, T) or (1, T); counted by default.
            encoder_hidden_states: (B, S, D), to which a decoder with cross-attention attends.
            encoder_attention_mask: (B, S), 1 = attend; by default all are attended to.
            past_key_values: a decoder's cache of the earlier tokens; `init_cache` makes one.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or the cache is full.
        """
        text = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoder_states = (encoder_hidden_states, encoder_attention_mask)
        outputs = self._run_stack(text, encoder_states, past_key_values, use_cache, switches)
        pooled = None if self.pooler is None else self.pooler(outputs.last_hidden_state)
        output = BaseModelOutputWithPoolingAndCrossAttentions(**dict(outputs.items()), pooler_output=pooled)
        return self._format_output(output, switches.get("return_dict"))


class BertPredictionHeadTransform(nnx.Module):
    def __init__(self, config: BertLikeConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class BertWords(nnx.Module):
    """The output layer over the vocabulary: tied to the word embeddings, or a separate matrix."""

    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        # tied to the word embeddings, the layer has only a bias; otherwise it is a linear layer with its own bias
        tied = config.tie_word_embeddings
        self.decoder = None if tied else layers.Linear(config.hidden_size, config.vocab_size, **init)
        self.bias: Any = layers.parameter((config.vocab_size,), **init) if tied else None

    def scores(self, hidden_states: Float[Array, "B T D"], words: nnx.Module) -> Float[Array, "B T V"]:
        """The logits over the vocabulary."""
        if self.decoder is not None:
            return self.decoder(hidden_states)
        logits = layers.tied_logits(hidden_states, words, self.bias.shape[0])
        return logits + layers.value(self.bias, logits)[None, None]


class BertLMPredictionHead(BertWords):
    def __init__(self, config: BertLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, **init)
        self.transform = BertPredictionHeadTransform(config, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"], words: nnx.Module) -> Float[Array, "B T V"]:
        return self.scores(self.transform(hidden_states), words)


class BertHeads(nnx.Module):
    def __init__(self, config: BertLikeConfig, *, relation: bool = False, **init: Unpack[ops.Init]) -> None:
        self.predictions = BertLMPredictionHead(config, **init)
        self.seq_relationship = layers.Linear(config.hidden_size, 2, **init) if relation else None

    def __call__(self, hidden_states: Float[Array, "B T D"], words: nnx.Module) -> Float[Array, "B T V"]:
        return self.predictions(hidden_states, words)

    def next_sentence_logits(self, pooled: Float[Array, "B D"]) -> Any:
        """The logits of next-sentence prediction; None if the layer is missing."""
        return None if self.seq_relationship is None else self.seq_relationship(pooled)


class BertForPreTraining(PreTrainedModel):
    """The encoder with the two pretraining heads: masked words and next sentence."""

    def __init__(self, config: BertLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, seed=None, **init)
        self.cls = BertHeads(config, relation=True, **init)
        self._finish(build)

    @passes_through(BertModel)
    def __call__(
        self, *inputs: Any, labels: Any = None, next_sentence_label: Any = None, **keywords: Any
    ) -> BertForPreTrainingOutput | tuple[Any, ...]:
        """As `BertModel`, and:

        Args:
            labels: (B, T) token ids, -100 = ignored.
            next_sentence_label: (B,), 0 if the second text follows the first, 1 if it is random.
        """
        outputs: Any = self.bert(**self._base_keywords(inputs, keywords))
        predictions = self.cls(outputs.last_hidden_state, self.bert.embeddings.word_embeddings)
        relations = self.cls.next_sentence_logits(outputs.pooler_output)
        loss = None
        if labels is not None and next_sentence_label is not None:
            boundary = self._boundary()
            following = boundary.labels("next_sentence_label", next_sentence_label, relations)
            loss = token_loss(boundary, predictions, labels)
            loss = loss + losses.cross_entropy(ops.xp, relations, following)
        logits = {"prediction_logits": predictions, "seq_relationship_logits": relations}
        output = with_head(BertForPreTrainingOutput, outputs, loss=loss, **logits)
        return self._format_output(output, keywords.get("return_dict"))


class BertWordsModel(PreTrainedModel):
    """The base of the models that predict words."""

    def __init__(self, config: BertLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, add_pooling_layer=False, seed=None, **init)
        self.cls = BertHeads(config, **init)
        self._finish(build)

    def _base(self) -> BertModel:
        return self.bert

    def _logits(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return self.cls(hidden_states, self.bert.embeddings.word_embeddings)


class BertLMHeadModel(GenerationMixin, BertWordsModel):
    """The decoder with a head that predicts the next token."""

    @passes_through(BertModel)
    def __call__(
        self, *inputs: Any, labels: Any = None, logits_to_keep: Any = 0, **keywords: Any
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `BertModel`, and:

        Args:
            labels: (B, T) token ids, -100 = ignored; each token predicts the next one.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
        """
        outputs: Any = self._base()(**self._base_keywords(inputs, keywords))
        logits = self._logits(self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep))
        return self._with_head(CausalLMOutputWithCrossAttentions, outputs, logits, labels, next_token_loss, keywords)


class BertForMaskedLM(BertWordsModel):
    """The encoder with a head that predicts masked words."""

    @passes_through(BertModel)
    def __call__(self, *inputs: Any, labels: Any = None, **keywords: Any) -> MaskedLMOutput | tuple[Any, ...]:
        """As `BertModel`, and `labels`: (B, T) token ids, -100 = ignored."""
        outputs: Any = self._base()(**self._base_keywords(inputs, keywords))
        logits = self._logits(outputs.last_hidden_state)
        return self._with_head(MaskedLMOutput, outputs, logits, labels, token_loss, keywords)


class BertForSequenceClassification(PreTrainedModel):
    """The encoder with a linear layer over its pooled first token."""

    def __init__(self, config: BertLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, seed=None, **init)
        self.dropout = layers.Dropout(config.head_dropout_prob)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init)
        self._finish(build)

    def _base(self) -> BertModel:
        return self.bert

    def _logits(self, outputs: BaseModelOutputWithPoolingAndCrossAttentions, rngs: Any) -> Float[Array, "B V"]:
        return self.classifier(self.dropout(outputs.pooler_output, rngs))

    @passes_through(BertModel)
    def __call__(self, *inputs: Any, labels: Any = None, **keywords: Any) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `BertModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.
        """
        outputs: Any = self._base()(**self._base_keywords(inputs, keywords))
        logits = self._logits(outputs, keywords.get("rngs"))
        return self._with_head(SequenceClassifierOutput, outputs, logits, labels, self._class_loss, keywords)
