"""Wav2Vec2 (Baevski et al. 2020, arXiv:2006.11477), as published in facebook/wav2vec2-base-960h."""

from diptych.backends.torch.models.wav2vec2.models import (
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)
from diptych.backends.torch.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining

__all__ = ["Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining", "Wav2Vec2ForSequenceClassification", "Wav2Vec2Model"]
