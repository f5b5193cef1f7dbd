"""DonutSwin, the encoder of Donut (Kim et al. 2021, arXiv:2111.15664), as in naver-clova-ix/donut-base."""

from typing import Unpack

from diptych.backends.torch import layers
from diptych.backends.torch.models.swin import SwinForImageClassification, SwinModel
from diptych.backends.torch.pretrained import Build
from diptych.core.models.donut_swin import DonutSwinConfig


class DonutSwinModel(SwinModel):
    """The encoder, without a head; see `SwinModel`."""


class DonutSwinForImageClassification(SwinForImageClassification):
    """The encoder with a linear layer over the mean of its patches."""

    def __init__(self, config: DonutSwinConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.donut = DonutSwinModel(config, seed=None, **init)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init) if config.num_labels else None
        self._finish(build)

    def _base(self) -> DonutSwinModel:
        return self.donut
