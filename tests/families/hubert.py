"""HuBERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tests.families import wav2vec2
from tests.families.wav2vec2 import SIZES
from tests.family import Case, Choices, Config, Family, Shapes, affine

if TYPE_CHECKING:
    from tests.drawing import Drawn


def config(name: str) -> Config:
    """The model normalises the input of its positional convolution instead of the weight."""
    fields = {"feat_proj_layer_norm": name != "HubertModel", "conv_pos_batch_norm": name == "HubertModel"}
    return wav2vec2.config(name, "hubert") | fields


def _shapes(name: str) -> Shapes:
    bare = name == "HubertModel"
    below = "" if bare else "hubert."
    found = wav2vec2.encoder(below, config(name)) | wav2vec2.positions(below, normalised=not bare)
    if bare:
        width = SIZES["hidden_size"]
        norm = f"{below}encoder.pos_conv_embed.batch_norm"
        found |= affine(norm, width) | {f"{norm}.running_mean": (width,), f"{norm}.running_var": (width,)}
        found = {path: shape for path, shape in found.items() if "feature_projection.layer_norm" not in path}
    return found | wav2vec2.head(name)


def constants(name: str) -> dict[str, np.ndarray]:
    path = "encoder.pos_conv_embed.batch_norm.num_batches_tracked"
    return {path: np.array(0, np.int64)} if name == "HubertModel" else {}


CHOICES: dict[str, Sequence[Choices]] = {
    "HubertModel": [
        {"stable": False, "norm": "group", "positions": "batch", "projection": False, "masked": True, "padded": True},
        {"stable": True, "norm": "layer", "positions": "weight", "projection": True, "masked": False, "padded": True},
    ],
    "HubertForCTC": [{"stable": True, "norm": "layer", "positions": "weight", "padded": True}],
    "HubertForSequenceClassification": [{"weighted": True, "padded": True, "stable": False}],
}


def draw(drawn: Drawn, name: str) -> Case:
    fields = {
        "conv_pos_batch_norm": drawn.choice("positions", ["batch", "weight"]) == "batch",
        "feat_proj_layer_norm": drawn.choice("projection", [True, False]),
    }
    return wav2vec2.draw(drawn, name, "hubert", **fields)


FAMILY = Family(
    model_type="hubert",
    classes=tuple(CHOICES),
    checkpoints=("HubertModel", "HubertForCTC"),
    config=config,
    shapes=_shapes,
    constants=constants,
    configs={"HubertConfig": "HubertForCTC"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=draw,
    tiny={name: wav2vec2.tiny(name) for name in CHOICES}
    | {"HubertModel": wav2vec2.tiny("HubertModel") | {"conv_pos_batch_norm": True}},
    inputs=wav2vec2.inputs,
    labels=wav2vec2.labels,
    large=wav2vec2.large,
)
