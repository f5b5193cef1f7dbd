"""BERT (Devlin et al. 2018, arXiv:1810.04805), as published in google-bert/bert-base-uncased."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from diptych.backends.jax import cache as caches
from diptych.backends.jax import layers, ops
from diptych.backends.jax.cache import Cache
from diptych.backends.jax.generation import GenerationMixin
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core.models.bert import BertForPreTrainingOutput, BertLikeConfig, BertStackConfig
from diptych.core.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    SequenceClassifierOutput,
    headed,
)
from diptych.core.pretrained import Settled, Switches
from diptych.core.semantics import losses


class BertSelfAttention(nnx.Module):
    def __init__(self, config: BertStackConfig, index: int, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        self.index = index
        self.crosses = crosses
        self.heads = config.num_attention_heads
        self.query = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.key = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.value = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.attention_probs_dropout_prob)

    def keys(self, source: Float[Array, "B S D"]) -> tuple[Float[Array, "B N S H"], Float[Array, "B N S H"]]:
        """The keys and the values of tokens."""
        return ops.split(self.key(source), self.heads), ops.split(self.value(source), self.heads)

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
        query = ops.split(self.query(hidden_states), self.heads)
        if self.crosses:
            cache, key, value = caches.crossed(cache, self.index, encoder_hidden_states, self.keys)
        else:
            cache, key, value = caches.extended(cache, self.index, *self.keys(hidden_states))
        attended, probabilities = ops.attention(
            query, key, value, mask, causal=causal, dropout=self.dropout, rngs=rngs, weights=weights
        )
        return attended, probabilities, cache


class BertOutput(nnx.Module):
    """What follows an attention or an MLP: a linear layer, dropout, the residual, layer norm."""

    def __init__(self, config: BertStackConfig, features: int, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(features, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, hidden_states: Float[Array, "B T F"], residual: Float[Array, "B T D"], rngs: Any = None
    ) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.dropout(self.dense(hidden_states), rngs) + residual)


class BertAttention(nnx.Module):
    def __init__(self, config: BertStackConfig, index: int, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        self.self = BertSelfAttention(config, index, crosses=crosses, **init)
        self.output = BertOutput(config, config.hidden_size, **init)

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
        attended, probabilities, cache = self.self(
            hidden_states, mask, encoder_hidden_states, cache, causal=causal, weights=weights, rngs=rngs
        )
        return self.output(attended, hidden_states, rngs), probabilities, cache


class BertIntermediate(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.intermediate_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        return self.activation(self.dense(hidden_states))


class BertLayer(nnx.Module):
    def __init__(self, config: BertStackConfig, index: int, **init: Unpack[ops.Init]) -> None:
        self.attention = BertAttention(config, index, **init)
        crosses = config.add_cross_attention
        self.crossattention = BertAttention(config, index, crosses=True, **init) if crosses else None
        self.intermediate = BertIntermediate(config, **init)
        self.output = BertOutput(config, config.intermediate_size, **init)

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
        hidden_states, probabilities, cache = self.attention(
            hidden_states, mask, None, cache, causal=causal, weights=weights, rngs=rngs
        )
        crossed = None
        if self.crossattention is not None and caches.crosses(cache, encoder_hidden_states):
            hidden_states, crossed, cache = self.crossattention(
                hidden_states, encoder_mask, encoder_hidden_states, cache, weights=weights, rngs=rngs
            )
        hidden_states = self.output(self.intermediate(hidden_states), hidden_states, rngs)
        return hidden_states, (probabilities, crossed), cache


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
        self.layer = layers.ModuleList([BertLayer(config, index, **init) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

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
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """The last layer's output, all of them after the embeddings, and the probabilities if weights are asked for."""
        states, attentions = [hidden_states], []
        for layer in self.layer:
            run = ops.checkpointed(layer, self.gradient_checkpointing)
            inputs = (hidden_states, mask, encoder_hidden_states, encoder_mask, cache)
            hidden_states, probabilities, cache = run(*inputs, causal=causal, weights=weights, rngs=rngs)
            states.append(hidden_states)
            attentions.append(probabilities)
        selves, crosses = zip(*attentions, strict=True)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=cache,
            hidden_states=tuple(states),
            attentions=selves if weights else None,
            cross_attentions=crosses if weights and crosses[0] is not None else None,
        )


class BertPooler(nnx.Module):
    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        return ops.xp.tanh(self.dense(hidden_states[:, 0]))


class BertStackModel(PreTrainedModel):
    """What the models without a head share."""

    embeddings: BertEmbeddings
    encoder: BertEncoder

    def _encoded(
        self, inputs: tuple[Any, ...], memory: tuple[Any, Any], past: tuple[Any, bool | None], switches: Settled
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """What the stack makes of a caller's arguments, which are checked."""
        where, like, config = type(self).__name__, self._like(), self.config
        input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds = inputs
        rngs, weights = switches["rngs"], switches["output_attentions"]
        ops.boundary_rngs(where, rngs)
        words, width = self.embeddings.word_embeddings, config.hidden_size
        input_ids, inputs_embeds = ops.boundary_words(
            where, input_ids, inputs_embeds, words, like, size=config.vocab_size, width=width
        )
        size = (inputs_embeds.shape[0], inputs_embeds.shape[1])
        opened = caches.opened(where, config.cache_shape, *past, attention_mask, size, like)
        crosses = config.add_cross_attention
        seen = caches.crossed_size(opened.cache)
        memory = ops.boundary_memory(where, *memory, size[0], like, width=width, crosses=crosses, seen=seen)
        types, rows, pads = config.token_types, config.max_position_embeddings, config.padding_position
        cache, position_ids = caches.placed(where, opened, position_ids, input_ids, size, like, limit=rows, pads=pads)
        token_type_ids = ops.boundary_types(where, token_type_ids, size, like, types) if types else None

        hidden_states = self.embeddings(inputs_embeds, position_ids, token_type_ids, rngs)
        encoded = self.encoder(
            hidden_states, opened.mask, *memory, cache, causal=opened.causal, weights=weights, rngs=rngs
        )
        states = encoded.hidden_states if switches["output_hidden_states"] else None
        cache = caches.closed(encoded.past_key_values, size[1], past[1])
        return encoded.replace(hidden_states=states, past_key_values=cache)


class BertModel(BertStackModel):
    """The encoder, or decoder if the config says so; with a tanh layer over its first token, which can be left out."""

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
        """Reads a batch of texts.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place.
            attention_mask: (B, T), 1 = attend, or with a cache of all tokens up to these; all are without it.
            token_type_ids: (B, T) or (1, T), 0 without it.
            position_ids: (B, T) or (1, T), counted without it.
            encoder_hidden_states: (B, S, D), which a decoder with cross-attention attends to.
            encoder_attention_mask: (B, S), 1 = attend; all are attended to without it.
            past_key_values: a decoder's cache of the tokens before these; `init_cache` makes one.
            use_cache: whether the cache comes back, as one that is given does without it; True makes one if need be.
            switches: as every model's call has them.

        Raises:
            InputError: an argument has another dtype or shape, an id is out of range, or the cache is full.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        memory, past = (encoder_hidden_states, encoder_attention_mask), (past_key_values, use_cache)
        encoded = self._encoded(inputs, memory, past, self._inner(switches))
        pooled = None if self.pooler is None else self.pooler(encoded.last_hidden_state)
        output = BaseModelOutputWithPoolingAndCrossAttentions(**encoded, pooler_output=pooled)
        return self._returned(output, switches.get("return_dict"))


class BertPredictionHeadTransform(nnx.Module):
    def __init__(self, config: BertLikeConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class BertWords(nnx.Module):
    """The output layer over the vocabulary: tied to the word embeddings, or a matrix of its own."""

    def __init__(self, config: BertStackConfig, **init: Unpack[ops.Init]) -> None:
        # the bias beside the word embeddings has a name of its own; a matrix of its own brings its own bias
        tied = config.tie_word_embeddings
        self.decoder = None if tied else layers.Linear(config.hidden_size, config.vocab_size, **init)
        self.bias = layers.parameter((config.vocab_size,), **init) if tied else None

    def scores(self, hidden_states: Float[Array, "B T D"], words: layers.Embedding) -> Float[Array, "B T V"]:
        """The logits of every word."""
        if self.decoder is not None:
            return self.decoder(hidden_states)
        logits = words.attend(hidden_states)
        return logits + layers.value(self.bias, logits)[None, None]


class BertLMPredictionHead(BertWords):
    def __init__(self, config: BertLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, **init)
        self.transform = BertPredictionHeadTransform(config, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"], words: layers.Embedding) -> Float[Array, "B T V"]:
        return self.scores(self.transform(hidden_states), words)


class BertHeads(nnx.Module):
    def __init__(self, config: BertLikeConfig, *, relation: bool = False, **init: Unpack[ops.Init]) -> None:
        self.predictions = BertLMPredictionHead(config, **init)
        self.seq_relationship = layers.Linear(config.hidden_size, 2, **init) if relation else None

    def __call__(self, hidden_states: Float[Array, "B T D"], words: layers.Embedding) -> Float[Array, "B T V"]:
        return self.predictions(hidden_states, words)

    def related(self, pooled: Float[Array, "B D"]) -> Any:
        """The logits of whether the second text follows the first; nothing without the layer for it."""
        return None if self.seq_relationship is None else self.seq_relationship(pooled)


class BertForPreTraining(PreTrainedModel):
    """The encoder with the two heads of its pretraining: masked words and next sentence."""

    def __init__(self, config: BertLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, seed=None, **init)
        self.cls = BertHeads(config, relation=True, **init)
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        next_sentence_label: Any = None,
        **switches: Unpack[Switches],
    ) -> BertForPreTrainingOutput | tuple[Any, ...]:
        """As `BertModel`, and:

        Args:
            labels: (B, T) word ids, -100 where none is asked for.
            next_sentence_label: (B,), 0 if the second text follows the first, 1 if it is random.
        """
        where = type(self).__name__
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs: Any = self.bert(*inputs, **self._inner(switches))
        prediction_logits = self.cls(outputs.last_hidden_state, self.bert.embeddings.word_embeddings)
        relation_logits = self.cls.related(outputs.pooler_output)
        loss = None
        if labels is not None and next_sentence_label is not None:
            labels = ops.boundary_labels(where, "labels", labels, prediction_logits)
            relations = ops.boundary_labels(where, "next_sentence_label", next_sentence_label, relation_logits)
            loss = losses.cross_entropy(ops.xp, prediction_logits, labels)
            loss = loss + losses.cross_entropy(ops.xp, relation_logits, relations)
        logits = {"prediction_logits": prediction_logits, "seq_relationship_logits": relation_logits}
        output = headed(BertForPreTrainingOutput, outputs, loss=loss, **logits)
        return self._returned(output, switches.get("return_dict"))


class BertWordsModel(PreTrainedModel):
    """What the models share that predict words."""

    def __init__(self, config: BertLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, add_pooling_layer=False, seed=None, **init)
        self.cls = BertHeads(config, **init)
        self._finish(build)

    def _tower(self) -> BertModel:
        return self.bert

    def _predicted(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return self.cls(hidden_states, self.bert.embeddings.word_embeddings)


class BertLMHeadModel(GenerationMixin, BertWordsModel):
    """The decoder with a head that predicts the next word."""

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        labels: Any = None,
        past_key_values: Any = None,
        *,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **switches: Unpack[Switches],
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `BertModel`, and:

        Args:
            labels: (B, T) words, -100 = not counted; each token predicts the next one's.
            logits_to_keep: of how many last tokens the logits come, 0 for all, or the places of some.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        memory, past = (encoder_hidden_states, encoder_attention_mask), past_key_values
        outputs: Any = self._tower()(*inputs, *memory, past, use_cache=use_cache, **self._inner(switches))
        logits = self._predicted(ops.kept(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.causal(ops.xp, logits, labels)
        output = headed(CausalLMOutputWithCrossAttentions, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))


class BertForMaskedLM(BertWordsModel):
    """The encoder with a head that predicts masked words."""

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        **switches: Unpack[Switches],
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """As `BertModel`, and `labels`: (B, T) word ids, -100 where none is asked for."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs: Any = self._tower()(*inputs, **self._inner(switches))
        logits = self._predicted(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.cross_entropy(ops.xp, logits, labels)
        output = headed(MaskedLMOutput, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))


class BertForSequenceClassification(PreTrainedModel):
    """The encoder with a linear layer over its pooled first token."""

    def __init__(self, config: BertLikeConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, seed=None, **init)
        self.dropout = layers.Dropout(config.head_dropout_prob)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init)
        self._finish(build)

    def _tower(self) -> BertModel:
        return self.bert

    def _classified(self, outputs: BaseModelOutputWithPoolingAndCrossAttentions, rngs: Any) -> Float[Array, "B V"]:
        return self.classifier(self.dropout(outputs.pooler_output, rngs))

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        **switches: Unpack[Switches],
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `BertModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for several labels; (B,) or (B, num_labels) to regress.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs: Any = self._tower()(*inputs, **self._inner(switches))
        logits = self._classified(outputs, switches.get("rngs"))
        loss = None
        if labels is not None:
            kind = self.config.problem_type
            labels = ops.boundary_targets(type(self).__name__, "labels", labels, logits, kind)
            loss = losses.classification(ops.xp, logits, labels, kind)
        output = headed(SequenceClassifierOutput, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))
