"""DeiT (Touvron et al. 2020, arXiv:2012.12877): ViT with a distillation token; config and record."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.core.checkpoint.slots import Slot
from diptych.core.config import config_class
from diptych.core.models.vit import ViTConfig, example
from diptych.core.models.vit import initial as vit_initial
from diptych.core.outputs import ModelOutput
from diptych.core.random import Constant, Distribution
from diptych.core.registry import Family


@config_class
class DeiTConfig(ViTConfig):
    """Defaults are facebook/deit-base-distilled-patch16-224; field names are those of its config.json."""

    model_type: ClassVar[str] = "deit"
    special_tokens: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class DeiTForImageClassificationWithTeacherOutput(ModelOutput):
    """The output of the classifier with two heads."""

    logits: Any = None
    """(B, num_labels), the mean of the two heads' logits."""
    cls_logits: Any = None
    """(B, num_labels), of the class token."""
    distillation_logits: Any = None
    """(B, num_labels), of the distillation token."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


def initial(config: DeiTConfig, slot: Slot) -> Distribution:
    """The initial distribution of a parameter: tokens and positions start at zero."""
    return (
        Constant(0.0)
        if slot.path.startswith(("embeddings.", "deit.embeddings.")) and slot.kind == "plain"
        else vit_initial(config, slot)
    )


FAMILY = Family(
    classes=dict.fromkeys(
        (
            "DeiTModel",
            "DeiTForMaskedImageModeling",
            "DeiTForImageClassification",
            "DeiTForImageClassificationWithTeacher",
        ),
        DeiTConfig,
    ),
    initial=initial,
    example=example,
    prefixes=("deit.",),
    encoders={"image": ("DeiTModel",)},
    grown=("pooler",),
)
