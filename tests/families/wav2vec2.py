"""Wav2Vec2, and what HuBERT and WavLM have in common with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.family import (
    CLASSIFIER,
    EPSILONS,
    LABELS,
    TINY,
    Case,
    Choices,
    Config,
    Family,
    Inputs,
    Shapes,
    Sizes,
    affine,
)

if TYPE_CHECKING:
    from tests.drawing import Drawn

# Tiny checkpoints

SIZES: Config = {
    "vocab_size": 31,
    "hidden_size": 30,
    "intermediate_size": 56,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "conv_dim": [7, 9, 11],
    "conv_kernel": [8, 3, 2],
    "conv_stride": [5, 3, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 5,
    "classifier_proj_size": 20,
}
CODES: Config = {
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 13,
    "codevector_dim": 34,
    "proj_codevector_dim": 15,
}
DROPOUT: Config = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "final_dropout", "layerdrop"), 0.1
)


def config(name: str, model_type: str = "wav2vec2") -> Config:
    """Wav2Vec2's are of the stable kind, the only one that Flax had, HuBERT's and WavLM's of the other."""
    stable = name in ("Wav2Vec2Model", "Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining")
    return {
        **(CLASSIFIER if name.endswith("ForSequenceClassification") else {}),
        **SIZES,
        **DROPOUT,
        "model_type": model_type,
        "feat_extract_norm": "layer" if stable else "group",
        "do_stable_layer_norm": stable,
        "conv_bias": stable,
        "apply_spec_augment": True,
        "mask_time_prob": 0.05,
        **({} if model_type == "hubert" else {"output_hidden_size": SIZES["hidden_size"]}),
        **(CODES if name.endswith("ForPreTraining") else {}),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def positions(below: str, *, normalised: bool) -> Shapes:
    """The positional convolution."""
    conv, width, kernel = f"{below}encoder.pos_conv_embed.conv", SIZES["hidden_size"], SIZES["num_conv_pos_embeddings"]
    inner = width // SIZES["num_conv_pos_embedding_groups"]
    if not normalised:
        return {f"{conv}.weight": (width, inner, kernel), f"{conv}.bias": (width,)}
    return {f"{conv}.weight_g": (1, 1, kernel), f"{conv}.weight_v": (width, inner, kernel), f"{conv}.bias": (width,)}


def encoder(below: str, fields: Config) -> Shapes:
    """The tensors of the encoder, but for the positional convolution."""
    width, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    found: Shapes = {f"{below}masked_spec_embed": (width,)}
    before = 1
    for index, (features, kernel) in enumerate(zip(SIZES["conv_dim"], SIZES["conv_kernel"], strict=True)):
        layer = f"{below}feature_extractor.conv_layers.{index}"
        found[f"{layer}.conv.weight"] = (features, before, kernel)
        if fields["conv_bias"]:
            found[f"{layer}.conv.bias"] = (features,)
        if fields["feat_extract_norm"] == "layer" or index == 0:
            found |= affine(f"{layer}.layer_norm", features)
        before = features
    found |= affine(f"{below}feature_projection.layer_norm", before)
    found |= affine(f"{below}feature_projection.projection", width, before)
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"{below}encoder.layers.{index}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            found |= affine(f"{layer}.attention.{projection}", width, width)
        found |= affine(f"{layer}.feed_forward.intermediate_dense", inner, width)
        found |= affine(f"{layer}.feed_forward.output_dense", width, inner)
        found |= affine(f"{layer}.layer_norm", width) | affine(f"{layer}.final_layer_norm", width)
    return found | affine(f"{below}encoder.layer_norm", width)


def head(name: str) -> Shapes:
    """The tensors of a class beside those of the encoder."""
    width, inner = SIZES["hidden_size"], SIZES["classifier_proj_size"]
    if name.endswith("ForCTC"):
        return affine("lm_head", SIZES["vocab_size"], width)
    if name.endswith("ForSequenceClassification"):
        return affine("projector", inner, width) | affine("classifier", len(LABELS), inner)
    if name.endswith("ForPreTraining"):
        count = CODES["num_codevector_groups"] * CODES["num_codevectors_per_group"]
        vectors = {"quantizer.codevectors": (1, count, CODES["codevector_dim"] // CODES["num_codevector_groups"])}
        found = vectors | affine("quantizer.weight_proj", count, SIZES["conv_dim"][-1])
        found |= affine("project_hid", CODES["proj_codevector_dim"], width)
        return found | affine("project_q", CODES["proj_codevector_dim"], CODES["codevector_dim"])
    return {}


def _shapes(name: str) -> Shapes:
    below = "" if name == "Wav2Vec2Model" else "wav2vec2."
    return encoder(below, config(name)) | positions(below, normalised=True) | head(name)


# Cases

CHOICES: dict[str, Sequence[Choices]] = {
    "Wav2Vec2Model": [
        {"stable": False, "norm": "group", "adapter": "", "masked": True, "padded": True},
        {"stable": True, "norm": "layer", "adapter": "wide", "masked": False, "padded": True, "inner": 5},
        {"stable": True, "norm": "group", "adapter": "narrow", "masked": True, "padded": False, "inner": None},
    ],
    "Wav2Vec2ForCTC": [
        {"stable": False, "norm": "layer", "adapter": "", "reduction": "sum", "padded": True},
        {"stable": True, "norm": "layer", "adapter": "ctc", "reduction": "mean", "padded": True},
    ],
    "Wav2Vec2ForSequenceClassification": [
        {"weighted": True, "padded": True, "stable": True},
        {"weighted": False, "padded": False, "stable": False},
    ],
    "Wav2Vec2ForPreTraining": [{"masked": True, "padded": True, "stable": False}],
}


def drawn_config(drawn: Drawn, model_type: str, **fields: Any) -> Any:
    """A config of transformers whose sizes all differ; the kernel of the positions is even or odd."""
    heads, width = drawn.heads()
    groups = drawn.one_of([size for size in range(1, width + 1) if width % size == 0])
    stable = drawn.choice("stable", [True, False])
    return drawn.config(
        model_type,
        vocab_size=drawn.size(4, 40),
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        num_hidden_layers=drawn.high(1, 2),
        num_attention_heads=heads,
        conv_dim=[drawn.size(3, 40) for _ in range(3)],
        conv_kernel=[drawn.high(2, 6), drawn.high(2, 4), drawn.high(1, 3)],
        conv_stride=[drawn.high(1, 4), drawn.high(1, 3), drawn.high(1, 2)],
        conv_bias=drawn.choice("conv_bias", [True, False]),
        num_conv_pos_embeddings=drawn.high(2, 9),
        num_conv_pos_embedding_groups=groups,
        feat_extract_norm=drawn.choice("norm", ["group", "layer"]),
        feat_extract_activation=drawn.activation("feat_extract_activation"),
        do_stable_layer_norm=stable,
        hidden_act=drawn.activation("hidden_act"),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        mask_time_prob=drawn.choice("mask_time_prob", [0.05, 0.0]) if not drawn.made.get("masked") else 0.05,
        **fields,
    )


def adapter(drawn: Drawn, width: int) -> Config:
    """The fields of an adapter, or of none: one that changes the width, one that doesn't, or one for labels.

    The number of frames behind an adapter, which labels need, is right in transformers for kernels of 3 alone.
    """
    kind = drawn.choice("adapter", ["", "wide", "narrow", "ctc"])
    if not kind:
        return {"add_adapter": False}
    return {
        "add_adapter": True,
        "adapter_kernel_size": 3 if kind == "ctc" else drawn.high(2, 5),
        "adapter_stride": drawn.high(1, 2),
        "num_adapter_layers": 1 if kind == "ctc" else drawn.high(1, 2),
        "output_hidden_size": width if kind == "narrow" else drawn.size(3, 40),
    }


def frames(config: Any, samples: Any) -> Any:
    """The frames of so many samples, by the formula of a convolution."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def least(config: Any) -> int:
    """The samples of one frame."""
    return next(samples for samples in range(1, 1000) if frames(config, samples) == 1)


def recordings(drawn: Drawn, config: Any) -> Inputs:
    """A batch of recordings, often padded, whose lengths lie around those where a frame more begins."""
    batch, count = drawn.size(2, 5), drawn.high(7, 13)
    step, first = int(np.prod(config.conv_stride)), least(config)
    length = first + (count - 1) * step + drawn.high(0, step - 1)
    inputs: Inputs = {"input_values": drawn.random().standard_normal((batch, length))}
    if drawn.choice("padded", [True, False]):
        lengths = np.array([length, *(first + drawn.high(0, count - 1) * step for _ in range(batch - 1))])
        inputs["attention_mask"] = (np.arange(length)[None] < lengths[:, None]).astype(np.int64)
    return inputs


def draw(drawn: Drawn, name: str, model_type: str = "wav2vec2", **fields: Any) -> Case:
    labelled: Config = {}
    if name.endswith("ForCTC"):
        reduction = drawn.choice("reduction", ["sum", "mean"])
        labelled = {"ctc_loss_reduction": reduction, "ctc_zero_infinity": drawn.choice("zero_infinity", [True, False])}
    if name.endswith("ForSequenceClassification"):
        weighted = drawn.choice("weighted", [True, False])
        labelled = {
            "num_labels": drawn.size(3, 12),
            "use_weighted_layer_sum": weighted,
            "classifier_proj_size": drawn.size(3, 40),
        }
    if name.endswith("ForPreTraining"):
        groups = drawn.high(1, 3)
        labelled = {
            "num_codevector_groups": groups,
            "num_codevectors_per_group": drawn.size(3, 40),
            "codevector_dim": groups * drawn.high(2, 5),
            "proj_codevector_dim": drawn.size(3, 40),
            "contrastive_logits_temperature": 0.3,
            "diversity_loss_weight": 0.7,
        }
    config = drawn_config(drawn, model_type, **fields, **labelled)
    if model_type != "hubert" and not name.endswith(("ForSequenceClassification", "ForPreTraining")):
        for field, value in adapter(drawn, config.hidden_size).items():
            setattr(config, field, value)
    if model_type == "wav2vec2" and config.do_stable_layer_norm:
        config.adapter_attn_dim = drawn.choice("inner", [None, 5])
    inputs = recordings(drawn, config)
    batch, length = inputs["input_values"].shape
    if config.mask_time_prob and drawn.choice("masked", [True, False]):
        inputs["mask_time_indices"] = drawn.random().random((batch, frames(config, length))) < 0.3
    if name.endswith("ForPreTraining"):
        inputs |= _negatives(drawn, *inputs["mask_time_indices"].shape)
    if name.endswith("ForCTC"):
        labels = drawn.random().integers(1, config.vocab_size, (batch, 2))
        labels[-1, 1] = -100 if drawn.often() else config.pad_token_id
        labels[0, :] = 3  # equal neighbours
        counts = inputs.get("attention_mask", np.ones((batch, length), int)).sum(1)
        told = frames(config, counts)
        if config.add_adapter if model_type != "hubert" else False:
            told = (told - 1) // config.adapter_stride + 1
        labels[told < 3] = -100  # too few frames for two equal labels
        inputs["labels"] = labels
    if name.endswith("ForSequenceClassification"):
        inputs["labels"] = drawn.random().integers(0, config.num_labels, batch)
    return Case(name, config, inputs)


def _negatives(drawn: Drawn, batch: int, count: int) -> Inputs:
    """Masked frames, and frames from which each is told; one of them is the frame itself, which doesn't count."""
    random = drawn.random()
    masked = random.random((batch, count)) < 0.5
    masked[:, 1] = True
    negatives = random.integers(0, batch * count, (batch, count, 4))
    negatives[0, 1, 2] = 1
    return {"mask_time_indices": masked, "sampled_negative_indices": negatives}


# Tiny models


def spell(sizes: Sizes, **fields: Any) -> Config:
    return {
        "vocab_size": sizes["vocabulary"],
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["inner"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        **fields,
    }


_TINY = spell(
    TINY,
    conv_dim=(14, 16),
    conv_kernel=(4, 3),
    conv_stride=(3, 2),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    classifier_proj_size=10,
    num_labels=7,
    hidden_dropout=0.15,
    activation_dropout=0.35,
    attention_dropout=0.25,
    feat_proj_dropout=0.2,
    final_dropout=0.3,
    layerdrop=0.0,
)


def tiny(name: str) -> Config:
    """The CTC models are of the stable kind."""
    if name.endswith("ForPreTraining"):
        sizes = {"num_codevectors_per_group": 6, "codevector_dim": 8, "proj_codevector_dim": 9}
        return _TINY | sizes | {"feat_quantizer_dropout": 0.4}
    if not name.endswith("ForCTC"):
        return _TINY
    return _TINY | {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}


def inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Two recordings of 6 and 4 frames, some of which are masked: so nothing is drawn at random in train mode."""
    mask = np.array([[1] * 40, [1] * 28 + [0] * 12])
    samples = (random.standard_normal((2, 40)) * mask).astype(np.float32)
    masked = np.array([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]], bool)
    return {"input_values": samples, "attention_mask": mask, "mask_time_indices": masked}


def labels(name: str, random: np.random.Generator) -> Inputs:
    if name.endswith("ForCTC"):
        return {"labels": np.array([[3, 3, 5], [4, 7, -100]])}
    if name.endswith("ForPreTraining"):
        return {"sampled_negative_indices": random.integers(0, 12, (2, 6, 3))}
    return {"labels": np.array([2, 5])} if name.endswith("ForSequenceClassification") else {}


def large(name: str) -> Config:
    sizes: Sizes = {"vocabulary": 211, "width": 96, "layers": 2, "heads": 4, "inner": 160}
    return spell(
        sizes,
        conv_dim=(80, 72),
        conv_kernel=(9, 5),
        num_conv_pos_embeddings=24,
        num_conv_pos_embedding_groups=4,
        initializer_range=0.07,
        num_labels=130,
        classifier_proj_size=110,
        num_codevectors_per_group=80,
        codevector_dim=90,
        proj_codevector_dim=100,
    )


FAMILY = Family(
    model_type="wav2vec2",
    classes=tuple(CHOICES),
    checkpoints=("Wav2Vec2Model", "Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining"),
    config=config,
    shapes=_shapes,
    configs={"Wav2Vec2Config": "Wav2Vec2Model"},
    choices=CHOICES.__getitem__,
    draw=draw,
    tiny={name: tiny(name) for name in CHOICES},
    inputs=inputs,
    labels=labels,
    whole=("Wav2Vec2ForCTC",),
    trained={"Wav2Vec2ForCTC": {}},
    large=large,
)
