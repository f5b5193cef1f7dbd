"""BERT (Devlin et al. 2018, arXiv:1810.04805), as published in google-bert/bert-base-uncased."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from diptych.backends.jax import layers, ops
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core import check
from diptych.core.models.bert import BertConfig, BertForPreTrainingOutput
from diptych.core.outputs import BaseModelOutput, BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from diptych.core.pretrained import Switches
from diptych.core.semantics import losses, masks, positions


class BertSelfAttention(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.heads = config.num_attention_heads
        self.query = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.key = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.value = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.attention_probs_dropout_prob)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 #T T"] | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T T"] | None]:
        query, key, value = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        return ops.attention(
            query, key, value, mask, heads=self.heads, dropout=self.dropout, rngs=rngs, weights=weights
        )


class BertSelfOutput(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], residual: Float[Array, "B T D"], rngs: Any = None
    ) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.dropout(self.dense(hidden_states), rngs) + residual)


class BertAttention(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.self = BertSelfAttention(config, **init)
        self.output = BertSelfOutput(config, **init)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 #T T"] | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T T"] | None]:
        attended, probabilities = self.self(hidden_states, mask, weights=weights, rngs=rngs)
        return self.output(attended, hidden_states, rngs), probabilities


class BertIntermediate(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.intermediate_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        return self.activation(self.dense(hidden_states))


class BertOutput(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(config.intermediate_size, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, hidden_states: Float[Array, "B T F"], residual: Float[Array, "B T D"], rngs: Any = None
    ) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.dropout(self.dense(hidden_states), rngs) + residual)


class BertLayer(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.attention = BertAttention(config, **init)
        self.intermediate = BertIntermediate(config, **init)
        self.output = BertOutput(config, **init)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 #T T"] | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T T"] | None]:
        attended, probabilities = self.attention(hidden_states, mask, weights=weights, rngs=rngs)
        return self.output(self.intermediate(attended), attended, rngs), probabilities


class BertEmbeddings(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        width = config.hidden_size
        self.word_embeddings = layers.Embedding(config.vocab_size, width, padding_idx=config.padding_idx, **init)
        self.position_embeddings = layers.Embedding(config.max_position_embeddings, width, **init)
        self.token_type_embeddings = layers.Embedding(config.type_vocab_size, width, **init)
        self.LayerNorm = layers.LayerNorm(width, config.layer_norm_eps, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def __call__(
        self,
        words: Float[Array, "B T D"],
        position_ids: Int[Array, "#B T"],
        token_type_ids: Int[Array, "#B T"],
        rngs: Any = None,
    ) -> Float[Array, "B T D"]:
        embeddings = words + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(embeddings), rngs)


class BertEncoder(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.layer = layers.ModuleList([BertLayer(config, **init) for _ in range(config.num_hidden_layers)])

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 #T T"] | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> BaseModelOutput:
        """The last layer's output, all of them after the embeddings, and the probabilities if weights are asked for."""
        states, attentions = [hidden_states], []
        for layer in self.layer:
            hidden_states, probabilities = layer(hidden_states, mask, weights=weights, rngs=rngs)
            states.append(hidden_states)
            attentions.append(probabilities)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states),
            attentions=tuple(attentions) if weights else None,
        )


class BertPooler(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        return ops.xp.tanh(self.dense(hidden_states[:, 0]))


class BertModel(PreTrainedModel):
    """The encoder, with the tanh layer over its first token unless `add_pooling_layer=False`."""

    def __init__(self, config: BertConfig, *, add_pooling_layer: bool = True, **build: Unpack[Build]) -> None:
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
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        rngs: Any = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encodes a batch of texts.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place.
            attention_mask: (B, T), 1 = attend; all are attended to without it.
            token_type_ids: (B, T) or (1, T), 0 without it.
            position_ids: (B, T) or (1, T), counted from 0 without it.
            output_attentions, output_hidden_states: whether these come too; the config's word without it.
            return_dict: False returns the record's `to_tuple()`.
            rngs: in JAX a key, needed in train mode; in torch None.

        Raises:
            InputError: an argument has another dtype or shape, or an id is out of range.
        """
        where, words = type(self).__name__, self.embeddings.word_embeddings
        check.exactly_one(where, input_ids=input_ids, inputs_embeds=inputs_embeds)
        ops.boundary_rngs(where, rngs)
        like = self._like()
        if input_ids is not None:
            size = self.config.vocab_size
            input_ids = ops.boundary_ids(
                where, "input_ids", input_ids, "batch, tokens", like, size=size, table="vocab_size"
            )
            inputs_embeds = words(input_ids)
        else:
            inputs_embeds = ops.boundary_floats(
                where, "inputs_embeds", inputs_embeds, "batch, tokens, hidden_size", like
            )
        batch, length, width = inputs_embeds.shape
        check.has_tokens(where, length)
        check.shape(where, "inputs_embeds", (batch, length, width), (batch, length, self.config.hidden_size))
        position_ids = self._ids("position_ids", position_ids, batch, length, self.config.max_position_embeddings, like)
        token_type_ids = self._ids("token_type_ids", token_type_ids, batch, length, self.config.type_vocab_size, like)
        mask = None
        if attention_mask is not None:
            attention_mask = ops.boundary_mask(where, "attention_mask", attention_mask, (batch, length), like)
            mask = masks.padding(ops.xp, attention_mask)

        weights = self._option("output_attentions", output_attentions)
        hidden_states = self.embeddings(inputs_embeds, position_ids, token_type_ids, rngs)
        encoded = self.encoder(hidden_states, mask, weights=weights, rngs=rngs)
        output = BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=None if self.pooler is None else self.pooler(encoded.last_hidden_state),
            hidden_states=encoded.hidden_states if self._option("output_hidden_states", output_hidden_states) else None,
            attentions=encoded.attentions,
        )
        return self._returned(output, return_dict)

    def _ids(self, name: str, given: Any, batch: int, length: int, size: int, like: Any) -> Array:
        """Position or token type ids: the caller's, checked, or the usual ones."""
        where = type(self).__name__
        steps = ops.steps(length, like)
        if given is None and name == "position_ids":
            check.at_most(where, "the number of tokens", length, size, "max_position_embeddings")
            return positions.sequential(ops.xp, steps)
        if given is None:
            return ops.xp.zeros_like(steps)[None]
        table = "max_position_embeddings" if name == "position_ids" else "type_vocab_size"
        ids = ops.boundary_ids(where, name, given, "batch, tokens", like, size=size, table=table)
        rows = 1 if ids.shape[0] == 1 else batch
        check.shape(where, name, ids.shape, (rows, length), ", as many as there are tokens")
        return ids


class BertPredictionHeadTransform(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.LayerNorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class BertLMPredictionHead(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.transform = BertPredictionHeadTransform(config, **init)
        # the bias beside the word embeddings has a name of its own; a matrix of its own brings its own bias
        tied = config.tie_word_embeddings
        self.decoder = None if tied else layers.Linear(config.hidden_size, config.vocab_size, **init)
        self.bias = layers.parameter((config.vocab_size,), **init) if tied else None

    def __call__(self, hidden_states: Float[Array, "B T D"], words: layers.Embedding) -> Float[Array, "B T V"]:
        hidden_states = self.transform(hidden_states)
        if self.decoder is not None:
            return self.decoder(hidden_states)
        logits = words.attend(hidden_states)
        return logits + layers.value(self.bias, logits)[None, None]


class BertOnlyMLMHead(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.predictions = BertLMPredictionHead(config, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"], words: layers.Embedding) -> Float[Array, "B T V"]:
        return self.predictions(hidden_states, words)


class BertPreTrainingHeads(nnx.Module):
    def __init__(self, config: BertConfig, **init: Unpack[ops.Init]) -> None:
        self.predictions = BertLMPredictionHead(config, **init)
        self.seq_relationship = layers.Linear(config.hidden_size, 2, **init)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], pooled: Float[Array, "B D"], words: layers.Embedding
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B 2"]]:
        return self.predictions(hidden_states, words), self.seq_relationship(pooled)


class BertForPreTraining(PreTrainedModel):
    """The encoder with the two heads of its pretraining: masked words and next sentence."""

    def __init__(self, config: BertConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, seed=None, **init)
        self.cls = BertPreTrainingHeads(config, **init)
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
        words = self.bert.embeddings.word_embeddings
        prediction_logits, relation_logits = self.cls(outputs.last_hidden_state, outputs.pooler_output, words)
        loss = None
        if labels is not None and next_sentence_label is not None:
            labels = ops.boundary_labels(where, "labels", labels, prediction_logits)
            relations = ops.boundary_labels(where, "next_sentence_label", next_sentence_label, relation_logits)
            loss = losses.cross_entropy(ops.xp, prediction_logits, labels)
            loss = loss + losses.cross_entropy(ops.xp, relation_logits, relations)
        output = BertForPreTrainingOutput(
            loss=loss,
            prediction_logits=prediction_logits,
            seq_relationship_logits=relation_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self._returned(output, switches.get("return_dict"))


class BertForMaskedLM(PreTrainedModel):
    """The encoder with a head that predicts masked words."""

    def __init__(self, config: BertConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, add_pooling_layer=False, seed=None, **init)
        self.cls = BertOnlyMLMHead(config, **init)
        self._finish(build)

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
        """As `BertModel`, and:

        Args:
            labels: (B, T) word ids, -100 where none is asked for.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs: Any = self.bert(*inputs, **self._inner(switches))
        logits = self.cls(outputs.last_hidden_state, self.bert.embeddings.word_embeddings)
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.cross_entropy(ops.xp, logits, labels)
        output = MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return self._returned(output, switches.get("return_dict"))


class BertForSequenceClassification(PreTrainedModel):
    """The encoder with a linear layer over its pooled first token."""

    def __init__(self, config: BertConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertModel(config, seed=None, **init)
        self.dropout = layers.Dropout(config.head_dropout_prob)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init)
        self._finish(build)

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
        outputs: Any = self.bert(*inputs, **self._inner(switches))
        logits = self.classifier(self.dropout(outputs.pooler_output, switches.get("rngs")))
        loss = None
        if labels is not None:
            kind = self.config.problem_type
            labels = ops.boundary_targets(type(self).__name__, "labels", labels, logits, kind)
            loss = losses.classification(ops.xp, logits, labels, kind)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return self._returned(output, switches.get("return_dict"))
