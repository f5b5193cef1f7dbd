"""WavLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.families import wav2vec2
from tests.families.wav2vec2 import SIZES
from tests.family import Case, Choices, Config, Family, Shapes, affine

if TYPE_CHECKING:
    from tests.drawing import Drawn

BUCKETS: Config = {"num_buckets": 12, "max_bucket_distance": 9}


def config(name: str) -> Config:
    return wav2vec2.config(name, "wavlm") | BUCKETS | {"ctc_loss_reduction": "mean"}


def _shapes(name: str) -> Shapes:
    below, heads = "" if name == "WavLMModel" else "wavlm.", SIZES["num_attention_heads"]
    found = wav2vec2.encoder(below, config(name)) | wav2vec2.positions(below, normalised=True) | wav2vec2.head(name)
    for index in range(SIZES["num_hidden_layers"]):
        attention = f"{below}encoder.layers.{index}.attention"
        found[f"{attention}.gru_rel_pos_const"] = (1, heads, 1, 1)
        found |= affine(f"{attention}.gru_rel_pos_linear", 8, SIZES["hidden_size"] // heads)
    return found | {f"{below}encoder.layers.0.attention.rel_attn_embed.weight": (BUCKETS["num_buckets"], heads)}


CHOICES: dict[str, Sequence[Choices]] = {
    "WavLMModel": [
        {"stable": False, "norm": "group", "adapter": "", "masked": True, "padded": True},
        {"stable": True, "norm": "layer", "adapter": "wide", "masked": False, "padded": False},
    ],
    "WavLMForCTC": [{"stable": False, "norm": "layer", "adapter": "ctc", "reduction": "mean", "padded": True}],
    "WavLMForSequenceClassification": [{"weighted": False, "padded": True, "stable": True}],
}


def draw(drawn: Drawn, name: str) -> Case:
    """Some distances have a bucket alone, some share one, and some are beyond the farthest."""
    fields: dict[str, Any] = {"num_buckets": drawn.high(6, 12), "max_bucket_distance": drawn.high(4, 9)}
    return wav2vec2.draw(drawn, name, "wavlm", **fields)


FAMILY = Family(
    model_type="wavlm",
    classes=tuple(CHOICES),
    checkpoints=("WavLMModel", "WavLMForCTC"),
    config=config,
    shapes=_shapes,
    configs={"WavLMConfig": "WavLMModel"},
    in_flax=False,
    choices=CHOICES.__getitem__,
    draw=draw,
    tiny={name: wav2vec2.tiny(name) | BUCKETS | {"ctc_loss_reduction": "sum"} for name in CHOICES},
    inputs=wav2vec2.inputs,
    labels=wav2vec2.labels,
    whole=("WavLMModel",),
    large=lambda name: wav2vec2.large(name) | {"num_buckets": 60, "max_bucket_distance": 40},
)
