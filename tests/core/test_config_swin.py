import json

import pytest

from diptych.core.errors import ConfigError
from diptych.core.models.swin import SwinConfig
from tests.core.published import SHARED_4, SHARED_5

# microsoft/swin-tiny-patch4-window7-224 as it was published, but for its 1000 classes
TINY = {
    "architectures": ["SwinForImageClassification"], "attention_probs_dropout_prob": 0.0, "depths": [2, 2, 6, 2],
    "drop_path_rate": 0.1, "embed_dim": 96, "encoder_stride": 32, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
    "id2label": {"0": "tench", "1": "goldfish", "2": "great white shark"}, "image_size": 224,
    "initializer_range": 0.02, "label2id": {"goldfish": 1, "great white shark": 2, "tench": 0}, "layer_norm_eps": 1e-05,
    "mlp_ratio": 4.0, "model_type": "swin", "num_channels": 3, "num_heads": [3, 6, 12, 24], "num_layers": 4,
    "patch_size": 4, "path_norm": True, "qkv_bias": True, "torch_dtype": "float32",
    "transformers_version": "4.16.0.dev0", "use_absolute_embeddings": False, "window_size": 7,
}  # fmt: skip
# microsoft/swin-base-patch4-window7-224-in22k
BASE = TINY | {"depths": [2, 2, 18, 2], "embed_dim": 128, "hidden_size": 1024, "num_heads": [4, 8, 16, 32]}
_BACKBONE = {
    "out_features": ["stage4"], "out_indices": [4], "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
PUBLISHED = {
    "tiny": TINY,
    "base": BASE,
    "4.57's": SHARED_4 | BASE | _BACKBONE,
    "5.23's": SHARED_5 | TINY | _BACKBONE | {"hidden_size": 768},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    published = PUBLISHED[name]
    config = SwinConfig.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = SwinConfig().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    again = SwinConfig.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_the_defaults_are_those_of_the_published_file():
    assert SwinConfig.from_dict(TINY) == SwinConfig(num_labels=3)


def test_properties_follow_from_the_fields():
    config = SwinConfig.from_dict(BASE)
    assert config.stage_widths == (128, 256, 512, 1024)
    assert config.hidden_size == config.states_width == 1024
    assert config.num_positions == 56 * 56
    smaller = config.replace(depths=(1, 2, 1), num_heads=(4, 8, 16), drop_path_rate=0.3)
    assert smaller.to_dict()["hidden_size"] == 512 and smaller.to_dict()["num_layers"] == 3
    assert smaller.drop_path_rates == ((0.0,), (0.3 / 3, 0.6 / 3), (0.3,))
    assert SwinConfig(depths=(1,), num_heads=(3,), drop_path_rate=0.3).drop_path_rates == ((0.0,),)
    assert SwinConfig(mlp_ratio=2.5).intermediate_size(15) == 37


def test_incomplete_patches_are_patches_but_have_no_position():
    config = SwinConfig(image_size=(50, 33), patch_size=(16, 8))
    assert config.num_positions == 3 * 4
    assert config.padded_grid_of(50, 33) == (4, 5) and config.padded_grid_of(1, 8) == (1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 3}, "num_layers must be 4, which follows from embed_dim=96 and depths=(2, 2, 6, 2)"),
        ({"hidden_size": 96, "depths": [1, 1], "num_heads": [3, 6]},
         "hidden_size must be 192, which follows from embed_dim=96 and depths=[1, 1]"),
        ({"depths": [2, 2]}, "depths=(2, 2) and num_heads=(3, 6, 12, 24) must have a number for each stage, of which"),
        ({"depths": [], "num_heads": []}, "depths=() and num_heads=() must have a number for each stage, of which"),
        ({"depths": [1] * 17, "num_heads": [1] * 17}, "depths=(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) and"),
        ({"depths": [2, 0, 6, 2]}, "depths=(2, 0, 6, 2) must be 1 or more"),
        ({"num_heads": [3, 6, 12, -1], "window_size": 0}, "window_size=0, num_heads=(3, 6, 12, -1) must be 1 or more"),
        ({"depths": 4, "num_layers": 4}, "depths=4 (int) must be tuple[int, ...]"),
        ({"embed_dim": "96", "hidden_size": 768}, "embed_dim='96' (str) must be int"),
        ({"num_heads": [3, 6, 12, 25]}, "num_heads=(3, 6, 12, 25) must divide the stages' widths (96, 192, 384, 768)"),
        ({"embed_dim": 3 * 2**20}, f"embed_dim={3 * 2**20} and mlp_ratio=4.0 make layers of {3 * 2**22} to "),
        ({"mlp_ratio": 0.01}, "embed_dim=96 and mlp_ratio=0.01 make layers of 0 to 768, but 1 to 16777216 is possible"),
        ({"hidden_dropout_prob": 1.5, "attention_probs_dropout_prob": -0.5, "drop_path_rate": 2},
         "hidden_dropout_prob=1.5, attention_probs_dropout_prob=-0.5, drop_path_rate=2 must lie between 0 and 1"),
        ({"layer_norm_eps": -1.0, "initializer_range": -2.0},
         "layer_norm_eps=-1.0, initializer_range=-2.0 must be 0 or more"),
        ({"encoder_stride": 0}, "encoder_stride=0 must be 1 or more"),
        ({"patch_size": 225}, "patch_size=225 must lie between 1 and image_size=224"),
        ({"hidden_act": "swiglu"}, "hidden_act='swiglu' (str) must be one of gelu, "),
        ({"path_norm": False}, "path_norm=False is not supported by SwinConfig; supported: True"),
        ({"pretrained_window_sizes": [0]}, "SwinConfig does not know pretrained_window_sizes; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        SwinConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("SwinConfig: ").startswith(message)
