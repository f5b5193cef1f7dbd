"""DeiT: ViT with one token more."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.families import vit
from tests.family import LABELS, Case, Choices, Config, Family, Shapes, affine

if TYPE_CHECKING:
    from tests.drawing import Drawn

TOKENS = ("cls_token", "distillation_token")


def _config(name: str) -> Config:
    return vit.config(name, "deit")


def _shapes(name: str) -> Shapes:
    width = vit.SIZES["hidden_size"]
    if name == "DeiTModel":
        return vit.encoder("", TOKENS) | affine("pooler.dense", width, width)
    heads = ("cls_classifier", "distillation_classifier")
    return vit.encoder("deit.", TOKENS) | {
        tensor: shape for head in heads for tensor, shape in affine(head, len(LABELS), width).items()
    }


CHOICES: dict[str, Sequence[Choices]] = {
    "DeiTModel": [{"resized": True, "pooler": True}, {"resized": False, "pooler": False, "masked": True}],
    "DeiTForMaskedImageModeling": [{"masked": True}],
    "DeiTForImageClassification": [{"num_labels": 4}],
    "DeiTForImageClassificationWithTeacher": [{"num_labels": labels, "resized": False} for labels in (0, 4)],
}


def _draw(drawn: Drawn, name: str) -> Case:
    return vit.draw(drawn, name, "deit")


FAMILY = Family(
    model_type="deit",
    classes=tuple(CHOICES),
    checkpoints=("DeiTModel", "DeiTForImageClassificationWithTeacher"),
    config=_config,
    shapes=_shapes,
    configs={"DeiTConfig": "DeiTModel"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=_draw,
    looks=functools.partial(vit.looks, model_type="deit"),
    tiny={name: vit.tiny(name) for name in CHOICES},
    inputs=vit.inputs,
    labels=vit.labels,
    large=vit.large,
)
