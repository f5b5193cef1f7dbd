"""CamemBERT (Martin et al. 2019, arXiv:1911.03894): RoBERTa under another name, with another vocabulary."""

from typing import ClassVar

from diptych.core.config import config_class
from diptych.core.models.roberta import RobertaConfig, family


@config_class
class CamembertConfig(RobertaConfig):
    """Defaults are transformers'; field names are those of almanach/camembert-base's config.json."""

    model_type: ClassVar[str] = "camembert"

    vocab_size: int = 30_522


FAMILY = family("Camembert", CamembertConfig)
