"""CamemBERT (Martin et al. 2019, arXiv:1911.03894) as in almanach/camembert-base: RoBERTa under another name."""

from diptych.backends.jax.models.roberta import (
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)


class CamembertModel(RobertaModel):
    """The encoder, or decoder if the config has is_decoder; see `RobertaModel`."""


class CamembertForCausalLM(RobertaForCausalLM):
    """The decoder with a head that predicts the next token."""


class CamembertForMaskedLM(RobertaForMaskedLM):
    """The encoder with a head that predicts masked words."""


class CamembertForSequenceClassification(RobertaForSequenceClassification):
    """The encoder with a classifier over its first token."""
