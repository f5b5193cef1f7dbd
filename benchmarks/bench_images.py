"""Speed of a forward pass of image encoders at 224 pixels, and of TrOCR-base on a line: diptych in torch and in JAX
against transformers 5 (sdpa) and, for ViT and BEiT, the last Flax release. Everything is measured as in
bench_forward.py."""

from dataclasses import dataclass
from typing import Any

import bench_forward
import numpy as np

WITHOUT_OLD_FLAX = tuple(side for side, environment in bench_forward.SIDES.items() if environment == "here")
CHANNELS = 3
MLP_RATIO = 4


@dataclass(frozen=True)
class Stage:
    """Layers with the same matrix products: Swin has four stages, the other encoders one.

    Attributes:
        tokens: the number of tokens that one attention covers.
        windows: the number of such groups of tokens in an image.
        width: of the hidden states.
        heads, layers: their numbers.
    """

    tokens: int
    windows: int
    width: int
    heads: int
    layers: int

    def products(self, batch: int) -> list[dict[str, Any]]:
        """The shapes of the matrix products of the layers, and how often each occurs."""
        rows, inner = batch * self.windows * self.tokens, MLP_RATIO * self.width
        split, head = (batch * self.windows, self.heads), self.width // self.heads
        return [
            {"left": (rows, self.width), "right": (self.width, self.width), "count": 4 * self.layers},
            {"left": (rows, self.width), "right": (self.width, inner), "count": self.layers},
            {"left": (rows, inner), "right": (inner, self.width), "count": self.layers},
            {"left": (*split, self.tokens, head), "right": (*split, head, self.tokens), "count": self.layers},
            {"left": (*split, self.tokens, self.tokens), "right": (*split, self.tokens, head), "count": self.layers},
        ]


@dataclass(frozen=True, kw_only=True)
class ImageCase(bench_forward.Case):
    """An encoder of images.

    Attributes:
        stages: its layers.
        patch, size: the sides of a patch and of an image, in pixels.
    """

    stages: tuple[Stage, ...]
    patch: int = 16
    size: int = 224

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch as an image processor returns it."""
        shape = (batch, CHANNELS, self.size, self.size)
        return {"pixel_values": np.random.default_rng(batch).standard_normal(shape, np.float32)}

    def products(self, batch: int) -> list[dict[str, Any]]:
        """The shapes of the matrix products in a forward pass, and how often each occurs."""
        pixels, patches = CHANNELS * self.patch**2, (self.size // self.patch) ** 2
        shapes = [{"left": (batch * patches, pixels), "right": (pixels, self.stages[0].width), "count": 1}]
        for stage in self.stages:
            shapes += stage.products(batch)
        for before, after in zip(self.stages, self.stages[1:], strict=False):  # four patches become one
            rows = batch * after.windows * after.tokens
            shapes.append({"left": (rows, 4 * before.width), "right": (4 * before.width, after.width), "count": 1})
        return shapes


@dataclass(frozen=True, kw_only=True)
class ReaderCase(ImageCase):
    """An encoder of images, and a decoder that reads its states and the ids of a text.

    Attributes:
        length: tokens of the text.
        width, heads, layers: of the decoder.
        vocabulary: the number of token ids.
    """

    length: int
    width: int
    heads: int
    layers: int
    vocabulary: int

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """A batch as an image processor and a tokenizer return it, without padding."""
        ids = np.random.default_rng(batch).integers(10, self.vocabulary, (batch, self.length))
        return super().inputs(batch) | {"decoder_input_ids": ids}

    def products(self, batch: int) -> list[dict[str, Any]]:
        """The shapes of the matrix products in a forward pass, and how often each occurs."""
        seen, rows = self.stages[-1], batch * self.length
        split, head = (batch, self.heads), self.width // self.heads
        across = [
            {"left": (rows, self.width), "right": (self.width, self.width), "count": 2 * self.layers},
            {"left": (batch * seen.tokens, seen.width), "right": (seen.width, self.width), "count": 2 * self.layers},
            {"left": (*split, self.length, head), "right": (*split, head, seen.tokens), "count": self.layers},
            {"left": (*split, self.length, seen.tokens), "right": (*split, seen.tokens, head), "count": self.layers},
            {"left": (rows, self.width), "right": (self.width, self.vocabulary), "count": 1},
        ]
        decoder = Stage(self.length, 1, self.width, self.heads, self.layers)
        return super().products(batch) + decoder.products(batch) + across


def reader_fields(encoder: dict[str, Any], decoder: dict[str, Any]) -> dict[str, Any]:
    """The fields of a TrOCR; its positions are learned, since transformers cannot load computed ones."""
    # microsoft/trocr-base-printed
    base = {"d_model": 1024, "decoder_layers": 12, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096}
    form = {"activation_function": "relu", "scale_embedding": True, "layernorm_embedding": False}
    return {
        "encoder": {"model_type": "vit", "image_size": 384, "qkv_bias": False, **encoder},
        "decoder": {"model_type": "trocr", "cross_attention_hidden_size": 768, **base, **form, **decoder},
    }


# microsoft/beit-base-patch16-224
BEIT: dict[str, Any] = {"use_relative_position_bias": True}
SMALL = {"hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 384}
SMALL_TROCR = {
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 256,
    "cross_attention_hidden_size": 96,
}
SMALL_SWIN = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "image_size": 56}


def base(tokens: int) -> tuple[Stage, ...]:
    """The layers of a base-size encoder."""
    return (Stage(tokens, 1, 768, 12, 12),)


def small(tokens: int) -> tuple[Stage, ...]:
    """The layers of SMALL."""
    return (Stage(tokens, 1, 96, 4, 2),)


# 14 x 14 patches, and the special tokens; Swin's windows have 7 x 7 of the 56 x 56 patches of its first stage
FULL = (
    ImageCase(title="ViT-base/16", name="vit-base", architecture="ViTModel", fields={}, stages=base(197)),
    ImageCase(
        title="DeiT-base/16",
        name="deit-base",
        architecture="DeiTModel",
        fields={},
        stages=base(198),
        sides=WITHOUT_OLD_FLAX,
    ),
    ImageCase(title="BEiT-base/16", name="beit-base", architecture="BeitModel", fields=BEIT, stages=base(197)),
    ImageCase(
        title="Swin-tiny",
        name="swin-tiny",
        architecture="SwinModel",
        fields={},
        stages=(Stage(49, 64, 96, 3, 2), Stage(49, 16, 192, 6, 2), Stage(49, 4, 384, 12, 6), Stage(49, 1, 768, 24, 2)),
        patch=4,
        sides=WITHOUT_OLD_FLAX,
    ),
    ReaderCase(
        title="TrOCR-base, 32 tokens",
        name="trocr-base",
        architecture="VisionEncoderDecoderModel",
        fields=reader_fields({}, {}),
        stages=base(577),
        size=384,
        length=32,
        width=1024,
        heads=16,
        layers=12,
        vocabulary=50_265,
        sides=WITHOUT_OLD_FLAX,
    ),
)
QUICK = (
    ImageCase(title="small ViT", name="small-vit", architecture="ViTModel", fields=SMALL, stages=small(197)),
    ImageCase(
        title="small DeiT",
        name="small-deit",
        architecture="DeiTModel",
        fields=SMALL,
        stages=small(198),
        sides=WITHOUT_OLD_FLAX,
    ),
    ImageCase(title="small BEiT", name="small-beit", architecture="BeitModel", fields=SMALL | BEIT, stages=small(197)),
    ImageCase(
        title="small Swin",
        name="small-swin",
        architecture="SwinModel",
        fields=SMALL_SWIN,
        stages=(Stage(49, 4, 24, 2, 2), Stage(49, 1, 48, 4, 2)),
        patch=4,
        size=56,
        sides=WITHOUT_OLD_FLAX,
    ),
    ReaderCase(
        title="small TrOCR",
        name="small-trocr",
        architecture="VisionEncoderDecoderModel",
        fields=reader_fields({**SMALL, "image_size": 224}, SMALL_TROCR),
        stages=small(197),
        length=8,
        width=64,
        heads=4,
        layers=2,
        vocabulary=50_265,
        sides=WITHOUT_OLD_FLAX,
    ),
)


if __name__ == "__main__":
    bench_forward.main(__doc__, FULL, QUICK)
