"""DonutSwin, which is Swin without the last layer norm."""

from __future__ import annotations

from collections.abc import Sequence

from tests.families import swin
from tests.family import Choices, Config, Family, Shapes, affine

# its absolute positions fail in transformers
CHOICES: dict[str, Sequence[Choices]] = {
    name: [{"positions": "none"}] for name in ("DonutSwinModel", "DonutSwinForImageClassification")
}


def _config(name: str) -> Config:
    config = {**swin.config(name), "model_type": "donut-swin"}
    del config["encoder_stride"]
    return config


def _shapes(name: str) -> Shapes:
    if name == "DonutSwinModel":
        return swin.encoder("")
    positions: Shapes = {"donut.embeddings.position_embeddings": (1, 65, 10)}
    return swin.encoder("donut.") | positions | affine("classifier", 6, 20)


FAMILY = Family(
    model_type="donut-swin",
    classes=tuple(CHOICES),
    twin=True,
    checkpoints=tuple(CHOICES),
    config=_config,
    shapes=_shapes,
    constants=lambda name: swin.constants("" if name == "DonutSwinModel" else "donut."),
    configs={"DonutSwinConfig": "DonutSwinModel"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=swin.draw,
    tiny={name: {**swin.TINY, "num_labels": 7} for name in CHOICES},
    inputs=swin.inputs,
    labels=swin.labels,
    large=lambda name: {field: value for field, value in swin.LARGE.items() if field != "encoder_stride"},
)
