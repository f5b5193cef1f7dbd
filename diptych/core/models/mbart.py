"""MBart (Liu et al. 2020, arXiv:2001.08210) and MBart-50 (Tang et al. 2020, arXiv:2008.00401): config and files."""

from typing import Any, ClassVar

from diptych.core.config import config_class
from diptych.core.models import bart
from diptych.core.models.bart import BartLikeConfig
from diptych.core.semantics import labels


@config_class
class MBartConfig(BartLikeConfig):
    """Defaults are those of facebook/mbart-large-cc25, but for its vocabulary of 250,027 and scale_embedding=True;
    field names are those of its config.json."""

    model_type: ClassVar[str] = "mbart"
    base: ClassVar[str] = "MBartModel"
    pre_norm: ClassVar[bool] = True
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = BartLikeConfig.accepted | {
        # fairseq's switches of MBart
        "add_final_layer_norm": (True,),
        "normalize_before": (True,),
    }

    def shift_right(self, xp: Any, ids: Any, caller: str) -> Any:
        """As in BART, but the last token, the language, comes first instead of a fixed start."""
        (pad,) = labels.required_ids(caller, pad_token_id=self.pad_token_id)
        return labels.wrap_tokens_right(xp, ids, pad)


FAMILY = bart.family("MBart", MBartConfig)
