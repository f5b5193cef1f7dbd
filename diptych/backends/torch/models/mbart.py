"""MBart (Liu et al. 2020, arXiv:2001.08210), as in facebook/mbart-large-cc25: BART with its norms before the blocks."""

from diptych.backends.torch.models.bart import (
    BartForCausalLM,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
)


class MBartModel(BartModel):
    """The encoder and the decoder, without a head."""


class MBartForConditionalGeneration(BartForConditionalGeneration):
    """The encoder and the decoder with a head that predicts the next token."""


class MBartForSequenceClassification(BartForSequenceClassification):
    """The encoder and the decoder with a classifier over the last end-of-sequence token."""


class MBartForCausalLM(BartForCausalLM):
    """The decoder alone with a head that predicts the next token."""
