"""XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116): RoBERTa under another name, with another vocabulary."""

from typing import ClassVar

from diptych.core.config import config_class
from diptych.core.models.roberta import RobertaConfig, family


@config_class
class XLMRobertaConfig(RobertaConfig):
    """Defaults are transformers'; field names are those of FacebookAI/xlm-roberta-base's config.json."""

    model_type: ClassVar[str] = "xlm-roberta"

    vocab_size: int = 30_522


FAMILY = family("XLMRoberta", XLMRobertaConfig)
