"""DonutSwin, the encoder of Donut (Kim et al. 2021, arXiv:2111.15664) and of Nougat (Blecher et al. 2023,
arXiv:2308.13418): Swin without the layer norm after its last stage."""

from typing import ClassVar

from diptych.core.config import config_class
from diptych.core.models.swin import IGNORED, SwinLikeConfig, constants, example, initial
from diptych.core.registry import Family


@config_class
class DonutSwinConfig(SwinLikeConfig):
    """Defaults are transformers'; field names are those of the encoder in naver-clova-ix/donut-base's config.json."""

    model_type: ClassVar[str] = "donut-swin"
    final_norm: ClassVar[bool] = False
    special_positions: ClassVar[int] = 1  # of a class token, which there isn't

    @property
    def attention_output_dropout_prob(self) -> float:
        """The rate of dropout after the output layer of attention."""
        return self.attention_probs_dropout_prob


FAMILY = Family(
    classes=dict.fromkeys(("DonutSwinModel", "DonutSwinForImageClassification"), DonutSwinConfig),
    initial=initial,
    example=example,
    prefixes=("donut.",),
    ignored=IGNORED,
    encoders={"image": ("DonutSwinModel",)},
    constants=constants,
)
