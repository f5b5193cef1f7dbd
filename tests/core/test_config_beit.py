import json

import pytest

from diptych.core.errors import ConfigError
from diptych.core.models.beit import BeitConfig

# microsoft/beit-base-patch16-224-pt22k-ft22k as it was published, but for its 21,841 classes
FINETUNED = {
    "architectures": ["BeitForImageClassification"], "attention_probs_dropout_prob": 0.0, "auxiliary_channels": 256,
    "auxiliary_concat_input": False, "auxiliary_loss_weight": 0.4, "auxiliary_num_convs": 1, "drop_path_rate": 0.1,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768, "image_size": 224, "initializer_range": 0.02,
    "id2label": {"0": "organizm", "1": "plant"}, "label2id": {"organizm": 0, "plant": 1}, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "layer_scale_init_value": 0.1, "model_type": "beit", "num_attention_heads": 12,
    "num_channels": 3, "num_hidden_layers": 12, "out_indices": [3, 5, 7, 11], "patch_size": 16,
    "pool_scales": [1, 2, 3, 6], "semantic_loss_ignore_index": 255, "torch_dtype": "float32",
    "transformers_version": "4.11.0.dev0", "use_absolute_position_embeddings": False, "use_auxiliary_head": True,
    "use_mask_token": False, "use_mean_pooling": True, "use_relative_position_bias": True,
    "use_shared_relative_position_bias": False, "vocab_size": 8192,
}  # fmt: skip
PRETRAINED = FINETUNED | {
    "architectures": ["BeitForMaskedImageModeling"], "use_mask_token": True, "use_relative_position_bias": False,
    "use_shared_relative_position_bias": True,
}  # fmt: skip
LARGE = FINETUNED | {
    "hidden_size": 1024, "image_size": 640, "intermediate_size": 4096, "layer_scale_init_value": 1e-05,
    "num_attention_heads": 16, "num_hidden_layers": 24, "out_indices": [7, 11, 15, 23],
    "architectures": ["BeitForSemanticSegmentation"],
}  # fmt: skip
# what 5.23 writes besides
LATER = FINETUNED | {
    "add_fpn": False, "out_features": ["stage3", "stage5", "stage7", "stage11"], "reshape_hidden_states": True,
    "stage_names": ["stem", *(f"stage{index}" for index in range(1, 13))], "dtype": "float32",
}  # fmt: skip
PUBLISHED = {"finetuned": FINETUNED, "pretrained": PRETRAINED, "segmentation": LARGE, "5.23": LATER}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    published = PUBLISHED[name]
    config = BeitConfig.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = BeitConfig().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    assert BeitConfig.from_json(config.to_json()) == config


def test_the_defaults_are_those_of_the_published_file():
    assert BeitConfig.from_dict(FINETUNED) == BeitConfig(use_relative_position_bias=True)
    pretrained = BeitConfig(use_mask_token=True, use_shared_relative_position_bias=True)
    assert BeitConfig.from_dict(PRETRAINED) == pretrained
    assert BeitConfig.from_dict(LATER) == BeitConfig.from_dict(FINETUNED)


def test_properties_follow_from_the_fields():
    assert [BeitConfig(num_hidden_layers=3, drop_path_rate=0.5).drop_path_of(index) for index in range(3)] == [
        0,
        0.25,
        0.5,
    ]
    assert BeitConfig(num_hidden_layers=1, drop_path_rate=0.5).drop_path_of(0) == 0.0
    assert [BeitConfig(layer_scale_init_value=value).has_layer_scale for value in (1e-5, 0, -1.0)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 7}, "hidden_size=768 must be a positive multiple of num_attention_heads=7"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be 1 or more"),
        ({"vocab_size": 0}, "vocab_size=0 must be 1 or more"),
        ({"hidden_dropout_prob": 1.5, "attention_probs_dropout_prob": -1.0},
         "attention_probs_dropout_prob=-1.0, hidden_dropout_prob=1.5 must lie between 0 and 1"),
        ({"drop_path_rate": 2}, "drop_path_rate=2 must lie between 0 and 1"),
        ({"layer_norm_eps": -1.0, "initializer_range": -2.0},
         "layer_norm_eps=-1.0, initializer_range=-2.0 must be 0 or more"),
        ({"patch_size": 225}, "patch_size=225 must lie between 1 and image_size=224"),
        ({"image_size": [32, 48], "patch_size": [16, 49]},
         "patch_size=(16, 49) must lie between 1 and image_size=(32, 48)"),
        ({"hidden_act": "swiglu"}, "hidden_act='swiglu' (str) must be one of gelu, "),
        ({"use_mask_token": 1}, "use_mask_token=1 (int) must be bool"),
        ({"use_mask_tokens": True}, "BeitConfig does not know use_mask_tokens; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        BeitConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("BeitConfig: ").startswith(message)
