"""HuBERT (Hsu et al. 2021, arXiv:2106.07447), as published in facebook/hubert-base-ls960."""

from typing import Any, Unpack

from diptych.backends.torch.models.wav2vec2 import (
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)
from diptych.backends.torch.pretrained import Build
from diptych.core.models.hubert import HubertConfig
from diptych.core.outputs import BaseModelOutput, ModelOutput, with_head


class HubertModel(Wav2Vec2Model):
    """Wav2Vec2's encoder, without an adapter; the features after the convolutions are not returned."""

    def _record(self, outputs: ModelOutput, states: Any, features: Any) -> ModelOutput:
        return with_head(BaseModelOutput, outputs, last_hidden_state=states)


class HubertForCTC(Wav2Vec2ForCTC):
    """The encoder with a linear layer over each frame, which tells a token of the text or the blank, pad_token_id."""

    def __init__(self, config: HubertConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.hubert = HubertModel(config, seed=None, **init)
        self._make_head(config, init)
        self._finish(build)

    def _base(self) -> Wav2Vec2Model:
        return self.hubert


class HubertForSequenceClassification(Wav2Vec2ForSequenceClassification):
    """The encoder with two linear layers, between which the mean over the frames is taken."""

    def __init__(self, config: HubertConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.hubert = HubertModel(config, seed=None, **init)
        self._make_head(config, init)
        self._finish(build)

    def _base(self) -> Wav2Vec2Model:
        return self.hubert
