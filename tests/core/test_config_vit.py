import json

import pytest

from diptych.core.errors import ConfigError
from diptych.core.models.vit import ViTConfig
from tests.core.published import SHARED_4

# google/vit-base-patch16-224-in21k as it was published
IN21K = {
    "_name_or_path": "google/vit-base-patch16-224-in21k", "architectures": ["ViTModel"],
    "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768,
    "image_size": 224, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "model_type": "vit", "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16,
    "qkv_bias": True, "transformers_version": "4.13.0.dev0",
}  # fmt: skip
# google/vit-base-patch16-224, but for most of its thousand classes
CLASSIFIER = IN21K | {
    "architectures": ["ViTForImageClassification"], "id2label": {"0": "tench, Tinca tinca", "1": "goldfish"},
    "label2id": {"tench, Tinca tinca": 0, "goldfish": 1},
}  # fmt: skip
# the encoder of microsoft/trocr-base-handwritten, fully expanded by a 4.12 pre-release
TROCR = SHARED_4 | IN21K | {
    "torch_dtype": None, "image_size": 384, "qkv_bias": False, "transformers_version": "4.12.0.dev0",
}  # fmt: skip
# as 5.23 writes it
LATEST = {name: value for name, value in IN21K.items() if name != "_name_or_path"} | {
    "dtype": "float32", "encoder_stride": 16, "image_size": [224, 192], "pooler_act": "tanh",
    "pooler_output_size": 768, "transformers_version": "5.23.0",
}  # fmt: skip


@pytest.mark.parametrize("published", [IN21K, CLASSIFIER, TROCR, LATEST])
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(published):
    config = ViTConfig.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = ViTConfig().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    again = ViTConfig.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_the_defaults_are_those_of_the_published_file():
    assert ViTConfig.from_dict(IN21K) == ViTConfig()
    assert ViTConfig.from_dict(CLASSIFIER).id2label[1] == "goldfish"


def test_properties_follow_from_the_fields():
    assert ViTConfig().num_positions == 14 * 14 + 1 and ViTConfig().pooled_width == ViTConfig().states_width == 768
    oblong = ViTConfig(image_size=(50, 34), patch_size=(16, 8), pooler_output_size=7)
    assert oblong.patch_grid == (3, 4) and oblong.num_positions == 13 and oblong.pooled_width == 7
    assert oblong.patch_grid_of(31, 17) == (1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 7}, "ViTConfig: hidden_size=768 must be a positive multiple of num_attention_heads=7"),
        ({"num_hidden_layers": 0}, "ViTConfig: num_hidden_layers=0 must be 1 or more"),
        ({"intermediate_size": 0}, "ViTConfig: intermediate_size=0 must be 1 or more"),
        ({"encoder_stride": -2}, "ViTConfig: encoder_stride=-2 must be 1 or more"),
        ({"pooler_output_size": 0}, "ViTConfig: pooler_output_size=0 must be 1 or more"),
        ({"num_channels": 0}, "ViTConfig: num_channels=0 must be 1 or more"),
        ({"image_size": (16, 0)}, r"ViTConfig: image_size=\(16, 0\) must be 1 or more"),
        ({"image_size": 12}, "ViTConfig: patch_size=16 must lie between 1 and image_size=12"),
        ({"patch_size": (16, 0)}, r"ViTConfig: patch_size=\(16, 0\) must lie between 1 and image_size=224"),
        ({"patch_size": 16.0}, r"ViTConfig: patch_size=16.0 \(float\) must be int or tuple\[int, int\]"),
        ({"hidden_dropout_prob": 1.5}, "ViTConfig: hidden_dropout_prob=1.5 must lie between 0 and 1"),
        ({"attention_probs_dropout_prob": -1}, "ViTConfig: attention_probs_dropout_prob=-1 must lie between 0 and 1"),
        ({"layer_norm_eps": -1e-5}, "ViTConfig: layer_norm_eps=-1e-05 must be 0 or more"),
        ({"initializer_range": -1}, "ViTConfig: initializer_range=-1 must be 0 or more"),
        ({"pooler_act": "cosine"}, "ViTConfig: pooler_act='cosine' .str. must be one of gelu, "),
    ],
)
def test_values_that_no_model_can_have(values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        ViTConfig(**values)
