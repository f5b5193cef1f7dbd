import hashlib
from typing import Any

import numpy as np
import pytest

from diptych.core.checkpoint.slots import Slot
from diptych.core.models.bert import FAMILY as BERT
from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import FAMILY as CLIP
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.models.encoder_decoder import FAMILY as COMPOSITE
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.random import (
    Constant,
    Normal,
    NormOf,
    TruncatedNormal,
    Uniform,
    draw,
    fan_in,
    generator,
    kaiming_normal,
    uniform_for_bias,
)


def slot(path: str, kind: Any, *shape: int) -> Slot:
    return Slot(path, shape, kind)


BITS = [
    "0xc86bcb91ecb36350",
    "0x20e470762ebaf016",
    "0x90903d17fe6a753f",
    "0x4df6dcc6a48bf5d8",
]
DIGEST = "1d552a33b74ac2e6b04e6e5f48ff1d7f3f5bd55f33f0c76de09e8ee321066bc3"


def test_the_same_seed_path_and_shape_give_the_same_bits():
    one = draw(Normal(0.02), (5, 7), seed=3, path="a.weight")
    draw(Normal(1.0), (100,), seed=3, path="b.weight")
    np.random.seed(11)
    two = draw(Normal(0.02), (5, 7), seed=3, path="a.weight")
    assert one.dtype == np.float32 and one.shape == (5, 7)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("other", [{"seed": 4}, {"path": "b.weight"}, {"seed": 30, "path": ".weight"}])
def test_another_seed_or_path_gives_other_values(other):
    one = draw(Normal(1.0), (64,), seed=3, path="a.weight")
    two = draw(Normal(1.0), (64,), **({"seed": 3, "path": "a.weight"} | other))
    assert not np.isin(one, two).any()


def test_the_values_never_change():
    """Weights drawn today are drawn alike tomorrow, on every machine: numpy promises the stream of Philox's bits."""
    values = draw(Normal(1.0), (1000,), seed=0, path="text_model.embeddings.token_embedding.weight")
    bits = generator(0, "text_model.embeddings.token_embedding.weight").bit_generator.random_raw(4)
    assert [hex(word) for word in bits] == BITS
    assert hashlib.sha256(values.tobytes()).hexdigest() == DIGEST


def test_a_normal_has_its_mean_and_deviation():
    values = draw(Normal(0.25), (400, 500), seed=0, path="x").astype(np.float64)
    count = values.size
    assert abs(values.mean()) < 4 * 0.25 / count**0.5
    assert abs(values.std() / 0.25 - 1) < 4 / (2 * count) ** 0.5
    assert abs((values**3).mean() / 0.25**3) < 4 * (15 / count) ** 0.5
    assert abs((values**4).mean() / 0.25**4 / 3 - 1) < 4 * (96 / count) ** 0.5 / 3
    # rows and columns are independent of each other
    assert np.abs(np.corrcoef(values[:20])[np.triu_indices(20, 1)]).max() < 5 / 500**0.5


def test_the_row_of_the_padding_is_zero_and_the_others_stay():
    plain = draw(Normal(0.5), (6, 3), seed=1, path="x")
    padded = draw(Normal(0.5, zero_row=2), (6, 3), seed=1, path="x")
    assert not padded[2].any()
    np.testing.assert_array_equal(np.delete(padded, 2, 0), np.delete(plain, 2, 0))


def test_a_constant_is_the_same_everywhere():
    values = draw(Constant(2.6592), (2, 3), seed=1, path="x")
    assert values.dtype == np.float32 and (values == np.float32(2.6592)).all()
    assert draw(Constant(2.6592), (), seed=1, path="logit_scale").shape == ()
    assert draw(Normal(1.0), (), seed=1, path="x").shape == ()
    assert draw(Normal(1.0), (0, 3), seed=1, path="x").shape == (0, 3)


def test_the_distributions_of_bert():
    config = BertConfig(initializer_range=0.5, pad_token_id=3)
    initial = BERT.initial
    assert initial(config, slot("embeddings.word_embeddings.weight", "embedding")) == Normal(0.5, 3)
    assert initial(config, slot("bert.embeddings.word_embeddings.weight", "embedding")) == Normal(0.5, 3)
    assert initial(config, slot("embeddings.position_embeddings.weight", "embedding")) == Normal(0.5)
    assert initial(config, slot("encoder.layer.0.attention.self.query.weight", "linear")) == Normal(0.5)
    assert initial(config, slot("encoder.layer.0.attention.self.query.bias", "plain")) == Constant(0.0)
    assert initial(config, slot("embeddings.LayerNorm.weight", "norm")) == Constant(1.0)
    assert initial(config, slot("embeddings.LayerNorm.bias", "plain")) == Constant(0.0)
    assert initial(config, slot("cls.predictions.bias", "plain")) == Constant(0.0)
    outside = config.replace(pad_token_id=99_999)
    assert initial(outside, slot("embeddings.word_embeddings.weight", "embedding")) == Normal(0.5)


TEXT = CLIPTextConfig(hidden_size=16, num_hidden_layers=2, initializer_factor=3.0, initializer_range=0.7)
VISION = CLIPVisionConfig(
    hidden_size=36, num_hidden_layers=8, num_attention_heads=4, initializer_factor=5.0, initializer_range=0.9
)
# transformers 5.23, CLIPPreTrainedModel._init_weights
WIDTH, DEPTH = {"text": 1 / 4, "vision": 1 / 6}, {"text": 1 / 2, "vision": 1 / 4}
FACTOR = {"text": 3.0, "vision": 5.0}


@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_distributions_of_clips_layers(tower, whole):
    width, depth, factor = WIDTH[tower], DEPTH[tower], FACTOR[tower]
    part = TEXT if tower == "text" else VISION
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, initializer_factor=7.0) if whole else part
    layer = f"{tower}_model.encoder.layers.1"
    expected = {
        **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), width * depth * factor),
        "self_attn.out_proj": width * factor,
        "mlp.fc1": (2 * part.hidden_size) ** -0.5 * factor,
        "mlp.fc2": width * depth * factor,
    }
    for name, std in expected.items():
        found = CLIP.initial(config, slot(f"{layer}.{name}.weight", "linear"))
        assert isinstance(found, Normal) and found.zero_row is None
        assert found.std == pytest.approx(std, rel=1e-12)
        assert CLIP.initial(config, slot(f"{layer}.{name}.bias", "plain")) == Constant(0.0)
    assert CLIP.initial(config, slot(f"{layer}.layer_norm1.weight", "norm")) == Constant(1.0)
    assert CLIP.initial(config, slot(f"{layer}.layer_norm1.bias", "plain")) == Constant(0.0)


def std_of(config, path, kind):
    found = CLIP.initial(config, slot(path, kind))
    assert isinstance(found, Normal)
    return found.std


def test_the_distributions_of_clips_tables_and_heads():
    whole = CLIPConfig(text_config=TEXT, vision_config=VISION, initializer_factor=7.0, logit_scale_init_value=1.25)
    for config in (whole, TEXT):
        assert std_of(config, "text_model.embeddings.token_embedding.weight", "embedding") == pytest.approx(0.02 * 3)
        assert std_of(config, "text_model.embeddings.position_embedding.weight", "embedding") == pytest.approx(0.06)
    for config in (whole, VISION):
        assert std_of(config, "vision_model.embeddings.class_embedding", "plain") == pytest.approx(5 / 6)
        assert std_of(config, "vision_model.embeddings.patch_embedding.weight", "conv") == pytest.approx(0.9 * 5)
        assert std_of(config, "vision_model.embeddings.position_embedding.weight", "embedding") == pytest.approx(4.5)
    assert std_of(whole, "text_projection.weight", "linear") == pytest.approx(7 / 4)
    assert std_of(whole, "visual_projection.weight", "linear") == pytest.approx(7 / 6)
    assert std_of(TEXT, "text_projection.weight", "linear") == pytest.approx(3 / 4)
    assert std_of(VISION, "visual_projection.weight", "linear") == pytest.approx(5 / 6)
    assert std_of(whole, "classifier.weight", "linear") == pytest.approx(7 / 6)
    assert CLIP.initial(whole, slot("classifier.bias", "plain")) == Constant(0.0)
    assert CLIP.initial(whole, slot("logit_scale", "plain")) == Constant(1.25)


def moments(values: np.ndarray) -> tuple[float, float]:
    wide = values.astype(np.float64)
    return float(wide.mean()), float(wide.std())


def test_a_uniform_has_its_range_mean_and_deviation() -> None:
    values = draw(Uniform(-0.5, 1.5), (300, 400), seed=2, path="x")
    assert values.dtype == np.float32 and values.min() >= -0.5 and values.max() <= 1.5
    mean, std = moments(values)
    assert abs(mean - 0.5) < 4 * 2 / (12 * values.size) ** 0.5
    assert abs(std / (2 / 12**0.5) - 1) < 4 / values.size**0.5
    counts, _ = np.histogram(values, 20, (-0.5, 1.5))
    assert np.abs(counts - values.size / 20).max() < 5 * (values.size / 20) ** 0.5
    np.testing.assert_array_equal(values, draw(Uniform(-0.5, 1.5), (300, 400), seed=2, path="x"))


# mean and deviation of a normal distribution between two bounds, by numerical integration
def truncated_moments(std: float, low: float, high: float) -> tuple[float, float]:
    grid = np.linspace(low, high, 200_001)
    density = np.exp(-0.5 * (grid / std) ** 2)
    mean = float((grid * density).sum() / density.sum())
    return mean, float(((grid - mean) ** 2 * density).sum() / density.sum()) ** 0.5


@pytest.mark.parametrize(
    ("std", "low", "high"),
    [(1.0, -2.0, 2.0), (1.5, -1.0, 3.0), (1.0, 0.0, 2.5), (1.0, -0.25, 0.5), (1e6, -2.0, 2.0)],
    ids=["torch", "oblique", "half", "narrow", "flat"],
)
def test_a_truncated_normal_keeps_its_bounds_and_shape(std: float, low: float, high: float) -> None:
    values = draw(TruncatedNormal(std, low, high), (300, 400), seed=2, path="x")
    assert values.dtype == np.float32 and values.min() >= low and values.max() <= high
    mean, expected = truncated_moments(std, low, high)
    found = moments(values)
    assert abs(found[0] - mean) < 4 * expected / values.size**0.5
    assert abs(found[1] / expected - 1) < 4 / values.size**0.5
    np.testing.assert_array_equal(values, draw(TruncatedNormal(std, low, high), (300, 400), seed=2, path="x"))


def test_bounds_far_away_change_nothing() -> None:
    """The bounds are values: at the usual initializer_range they are a hundred deviations away."""
    truncated = draw(TruncatedNormal(0.02), (50, 60), seed=3, path="a.weight")
    np.testing.assert_array_equal(truncated, draw(Normal(0.02), (50, 60), seed=3, path="a.weight"))
    assert not draw(TruncatedNormal(0.0), (5,), seed=3, path="a.weight").any()
    for distribution in (TruncatedNormal(1.0), TruncatedNormal(9.0), Uniform(0.0, 1.0)):
        assert draw(distribution, (), seed=3, path="x").shape == ()
        assert draw(distribution, (0, 3), seed=3, path="x").shape == (0, 3)


@pytest.mark.parametrize("bounds", [(0.5, 1.0), (-2.0, -1.0), (0.0, 0.0), (1.0, -1.0)])
def test_bounds_that_leave_0_out_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=rf"the bounds {bounds[0]} and {bounds[1]} must have 0 between them"):
        TruncatedNormal(1.0, *bounds)


def test_fans_are_those_of_the_published_shape() -> None:
    assert fan_in((6, 4)) == 4 and fan_in((6, 4, 5)) == 20 and fan_in((6, 2, 3, 7)) == 42
    assert kaiming_normal((6, 4, 5)) == Normal((2 / 20) ** 0.5)
    assert uniform_for_bias(16) == Uniform(-0.25, 0.25)


def test_the_norm_of_another_tensor() -> None:
    shapes = {"conv.weight_v": (8, 3, 5), "conv.weight_g": (1, 1, 5)}

    def other(path: str) -> np.ndarray:
        return draw(Uniform(-1.0, 1.0), shapes[path], seed=4, path=path)

    found = draw(NormOf("weight_v", (0, 1)), (1, 1, 5), seed=4, path="conv.weight_g", other=other)
    assert found.dtype == np.float32 and found.shape == (1, 1, 5)
    np.testing.assert_allclose(found[0, 0], np.linalg.norm(other("conv.weight_v").reshape(24, 5), axis=0), rtol=1e-6)
    shapes["weight_v"] = (8, 3, 5)
    assert draw(NormOf("weight_v", (0,)), (1, 3, 5), seed=4, path="weight_g", other=other).shape == (1, 3, 5)
    with pytest.raises(ValueError, match=r"conv.weight_g: shape \[5\], but the norm of weight_v has shape \[1, 1, 5\]"):
        draw(NormOf("weight_v", (0, 1)), (5,), seed=4, path="conv.weight_g", other=other)
    with pytest.raises(ValueError, match=r"conv.weight_g: the norm of conv.weight_v is needed"):
        draw(NormOf("weight_v", (0, 1)), (1, 1, 5), seed=4, path="conv.weight_g")


def test_the_distributions_of_a_composite_are_its_parts() -> None:
    config = EncoderDecoderConfig(
        encoder=BertConfig(initializer_range=0.5),
        decoder=BertConfig(initializer_range=0.25, is_decoder=True, add_cross_attention=True),
    )
    query = "encoder.layer.0.attention.self.query.weight"
    assert COMPOSITE.initial(config, slot(f"encoder.{query}", "linear", 4, 4)) == Normal(0.5)
    assert COMPOSITE.initial(config, slot(f"decoder.bert.{query}", "linear", 4, 4)) == Normal(0.25)
    assert COMPOSITE.initial(config, slot("enc_to_dec_proj.weight", "linear", 4, 4)) == Normal(0.25)
    assert COMPOSITE.initial(config, slot("enc_to_dec_proj.bias", "plain", 4)) == Constant(0.0)
