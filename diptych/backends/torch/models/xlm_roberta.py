"""XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116) as in FacebookAI/xlm-roberta-base: RoBERTa under another name."""

from diptych.backends.torch.models.roberta import (
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)


class XLMRobertaModel(RobertaModel):
    """The encoder, or decoder if the config has is_decoder; see `RobertaModel`."""


class XLMRobertaForCausalLM(RobertaForCausalLM):
    """The decoder with a head that predicts the next token."""


class XLMRobertaForMaskedLM(RobertaForMaskedLM):
    """The encoder with a head that predicts masked words."""


class XLMRobertaForSequenceClassification(RobertaForSequenceClassification):
    """The encoder with a classifier over its first token."""
