"""Speed of a forward pass of speech encoders over 1 s and 10 s at 16 kHz: diptych in torch and in JAX against
transformers 5 (sdpa; WavLM has only eager attention there) and, for a stable layer norm, the last Flax release.
Everything is measured as in bench_forward.py; the products are those of the convolutions too."""

from dataclasses import dataclass
from typing import Any

import bench_forward
import numpy as np
from bench_images import WITHOUT_OLD_FLAX, Stage

RATE = 16_000
KERNELS, STRIDES, CHANNELS = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 512
POSITIONS, GROUPS = 128, 16


@dataclass(frozen=True, kw_only=True)
class SpeechCase(bench_forward.Case):
    """An encoder of sound.

    Attributes:
        seconds: the length of each recording.
        width, heads, layers: of the transformer.
    """

    seconds: int
    width: int = 768
    heads: int = 12
    layers: int = 12

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch of recordings without padding, as a feature extractor of group-norm models returns it."""
        shape = (batch, self.seconds * RATE)
        return {"input_values": np.random.default_rng(batch).standard_normal(shape, np.float32)}

    def products(self, batch: int) -> list[dict[str, Any]]:
        """The shapes of the matrix products in a forward pass, and how often each occurs."""
        frames, before, shapes = self.seconds * RATE, 1, list[dict[str, Any]]()
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            frames = (frames - kernel) // stride + 1
            shapes.append({"left": (batch * frames, kernel * before), "right": (kernel * before, CHANNELS), "count": 1})
            before = CHANNELS
        shapes.append({"left": (batch * frames, CHANNELS), "right": (CHANNELS, self.width), "count": 1})
        inner = self.width // GROUPS
        taps = {"left": (GROUPS, batch * frames, POSITIONS * inner), "right": (GROUPS, POSITIONS * inner, inner)}
        return [*shapes, {**taps, "count": 1}, *Stage(frames, 1, self.width, self.heads, self.layers).products(batch)]


STABLE: dict[str, Any] = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
SMALL: dict[str, Any] = {
    "hidden_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 384,
}
SMALL_SIZES: dict[str, int] = {"width": 96, "heads": 4, "layers": 2}

FULL = tuple(
    SpeechCase(
        title=f"{title}, {seconds} s", name=name, architecture=architecture, fields=fields, sides=sides, seconds=seconds
    )
    for title, name, architecture, fields, sides in (
        ("Wav2Vec2-base", "wav2vec2-base", "Wav2Vec2Model", {}, WITHOUT_OLD_FLAX),
        (
            "Wav2Vec2-base with stable layer norm",
            "wav2vec2-stable",
            "Wav2Vec2Model",
            STABLE,
            tuple(bench_forward.SIDES),
        ),
        ("WavLM-base", "wavlm-base", "WavLMModel", {}, WITHOUT_OLD_FLAX),
    )
    for seconds in (1, 10)
)
QUICK = (
    SpeechCase(
        title="small Wav2Vec2, 1 s",
        name="small-wav2vec2",
        architecture="Wav2Vec2Model",
        fields=SMALL,
        sides=WITHOUT_OLD_FLAX,
        seconds=1,
        **SMALL_SIZES,
    ),
)


if __name__ == "__main__":
    bench_forward.main(__doc__, FULL, QUICK)
