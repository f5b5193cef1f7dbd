"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), as published in FacebookAI/roberta-base."""

from typing import Any, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.models.bert import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    BertWords,
)
from diptych.backends.torch.pretrained import Build
from diptych.core.models.roberta import RobertaConfig
from diptych.core.outputs import BaseModelOutputWithPoolingAndCrossAttentions


class RobertaModel(BertModel):
    """BERT's layers, with positions that skip padding, which is recognized by its id, not by the mask."""


class RobertaLMHead(BertWords):
    def __init__(self, config: RobertaConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, **init)
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"], words: nn.Module) -> Float[Tensor, "B T V"]:
        # always gelu, whatever hidden_act is
        return self.scores(self.layer_norm(ops.ACTIVATIONS["gelu"](self.dense(hidden_states))), words)


class RobertaClassificationHead(nn.Module):
    def __init__(self, config: RobertaConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.dense = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.head_dropout_prob)
        self.inner_dropout = layers.Dropout(config.head_dropout_prob)
        self.out_proj = layers.Linear(config.hidden_size, config.num_labels, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"], rngs: Any = None) -> Float[Tensor, "B V"]:
        first = self.dropout(hidden_states[:, 0], rngs)
        return self.out_proj(self.inner_dropout(ops.xp.tanh(self.dense(first)), rngs))


class RobertaForCausalLM(BertLMHeadModel):
    """The decoder with a head that predicts the next token."""

    def __init__(self, config: RobertaConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.roberta = RobertaModel(config, add_pooling_layer=False, seed=None, **init)
        self.lm_head = RobertaLMHead(config, **init)
        self._finish(build)

    def _base(self) -> BertModel:
        return self.roberta

    def _logits(self, hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        return self.lm_head(hidden_states, self.roberta.embeddings.word_embeddings)


class RobertaForMaskedLM(BertForMaskedLM):
    """The encoder with a head that predicts masked words."""

    def __init__(self, config: RobertaConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.roberta = RobertaModel(config, add_pooling_layer=False, seed=None, **init)
        self.lm_head = RobertaLMHead(config, **init)
        self._finish(build)

    def _base(self) -> BertModel:
        return self.roberta

    def _logits(self, hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        return self.lm_head(hidden_states, self.roberta.embeddings.word_embeddings)


class RobertaForSequenceClassification(BertForSequenceClassification):
    """The encoder with a classifier over its first token."""

    def __init__(self, config: RobertaConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.roberta = RobertaModel(config, add_pooling_layer=False, seed=None, **init)
        self.classifier = RobertaClassificationHead(config, **init)
        self._finish(build)

    def _base(self) -> BertModel:
        return self.roberta

    def _logits(self, outputs: BaseModelOutputWithPoolingAndCrossAttentions, rngs: Any) -> Float[Tensor, "B V"]:
        return self.classifier(outputs.last_hidden_state, rngs)
