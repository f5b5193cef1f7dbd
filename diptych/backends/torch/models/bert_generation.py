"""BertGeneration (Rothe et al. 2019, arXiv:1907.12461), as in google/bert_for_seq_generation_L-24_bbc_encoder."""

from typing import Any, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from diptych.backends.torch.generation import GenerationMixin
from diptych.backends.torch.models.bert import BertEmbeddings, BertEncoder, BertStackModel, BertWords
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.core.calls import Switches, next_token_loss, passes_through
from diptych.core.models.bert_generation import BertGenerationConfig
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions


class BertGenerationEncoder(BertStackModel):
    """BERT without token types or a pooler; a decoder if the config has is_decoder."""

    def __init__(self, config: BertGenerationConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.embeddings = BertEmbeddings(config, **init)
        self.encoder = BertEncoder(config, **init)
        self._finish(build)

    def forward(
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
        """As `BertModel`, without `token_type_ids`."""
        text = (input_ids, attention_mask, None, position_ids, inputs_embeds)
        encoder_states = (encoder_hidden_states, encoder_attention_mask)
        output = self._run_stack(text, encoder_states, past_key_values, use_cache, switches)
        return self._format_output(output, switches.get("return_dict"))


class BertGenerationOnlyLMHead(BertWords):
    def forward(self, hidden_states: Float[Tensor, "B T D"], words: nn.Module) -> Float[Tensor, "B T V"]:
        return self.scores(hidden_states, words)


class BertGenerationDecoder(GenerationMixin, PreTrainedModel):
    """The decoder with a head that predicts the next token."""

    def __init__(self, config: BertGenerationConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.bert = BertGenerationEncoder(config, seed=None, **init)
        self.lm_head = BertGenerationOnlyLMHead(config, **init)
        self._finish(build)

    @passes_through(BertGenerationEncoder)
    def forward(
        self, *inputs: Any, labels: Any = None, logits_to_keep: Any = 0, **keywords: Any
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `BertGenerationEncoder`, and:

        Args:
            labels: (B, T) token ids, -100 = ignored; each token predicts the next one.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
        """
        outputs: Any = self.bert(**self._base_keywords(inputs, keywords))
        states = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = self.lm_head(states, self.bert.embeddings.word_embeddings)
        return self._with_head(CausalLMOutputWithCrossAttentions, outputs, logits, labels, next_token_loss, keywords)
