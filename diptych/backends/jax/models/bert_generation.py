"""BertGeneration (Rothe et al. 2019, arXiv:1907.12461), as in google/bert_for_seq_generation_L-24_bbc_encoder."""

from typing import Any, Unpack

from jax import Array
from jaxtyping import Float

from diptych.backends.jax import layers, ops
from diptych.backends.jax.generation import GenerationMixin
from diptych.backends.jax.models.bert import BertEmbeddings, BertEncoder, BertStackModel, BertWords
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core.models.bert_generation import BertGenerationConfig
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions, headed
from diptych.core.pretrained import Switches
from diptych.core.semantics import losses


class BertGenerationEncoder(BertStackModel):
    """BERT without token types and pooler; a decoder, if the config says so."""

    def __init__(self, config: BertGenerationConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.embeddings = BertEmbeddings(config, **init)
        self.encoder = BertEncoder(config, **init)
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        past_key_values: Any = None,
        *,
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """As `BertModel`, but for `token_type_ids`."""
        inputs = (input_ids, attention_mask, None, position_ids, inputs_embeds)
        memory, past = (encoder_hidden_states, encoder_attention_mask), (past_key_values, use_cache)
        return self._returned(self._encoded(inputs, memory, past, self._inner(switches)), switches.get("return_dict"))


class BertGenerationOnlyLMHead(BertWords):
    def __call__(self, hidden_states: Float[Array, "B T D"], words: layers.Embedding) -> Float[Array, "B T V"]:
        return self.scores(hidden_states, words)


class BertGenerationDecoder(GenerationMixin, PreTrainedModel):
    """The decoder with a head that predicts the next word."""

    def __init__(self, config: BertGenerationConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertGenerationEncoder(config, seed=None, **init)
        self.lm_head = BertGenerationOnlyLMHead(config, **init)
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
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
        """As `BertGenerationEncoder`, and:

        Args:
            labels: (B, T) words, -100 = not counted; each token predicts the next one's.
            logits_to_keep: of how many last tokens the logits come, 0 for all, or the places of some.
        """
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds)
        memory, past = (encoder_hidden_states, encoder_attention_mask), past_key_values
        outputs: Any = self.bert(*inputs, *memory, past, use_cache=use_cache, **self._inner(switches))
        states = ops.kept(outputs.last_hidden_state, logits_to_keep)
        logits = self.lm_head(states, self.bert.embeddings.word_embeddings)
        loss = None
        if labels is not None:
            labels = ops.boundary_labels(type(self).__name__, "labels", labels, logits)
            loss = losses.causal(ops.xp, logits, labels)
        output = headed(CausalLMOutputWithCrossAttentions, outputs, loss=loss, logits=logits)
        return self._returned(output, switches.get("return_dict"))
