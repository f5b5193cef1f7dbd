import json

import pytest

from diptych.core.errors import ConfigError
from diptych.core.models.donut_swin import DonutSwinConfig
from tests.core.published import SHARED_4

# the encoder of naver-clova-ix/donut-base as it was published, in a file that spells out every default
DONUT = SHARED_4 | {
    "add_cross_attention": False, "attention_probs_dropout_prob": 0.0, "depths": [2, 2, 14, 2], "drop_path_rate": 0.1,
    "embed_dim": 128, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 1024, "image_size": [2560, 1920],
    "initializer_range": 0.02, "layer_norm_eps": 1e-05, "mlp_ratio": 4.0, "model_type": "donut-swin", "num_channels": 3,
    "num_heads": [4, 8, 16, 32], "num_layers": 4, "patch_size": 4, "path_norm": True, "qkv_bias": True,
    "use_absolute_embeddings": False, "window_size": 10,
}  # fmt: skip
# of facebook/nougat-base and nougat-small
NOUGAT = DONUT | {"image_size": [896, 672], "window_size": 7}


@pytest.mark.parametrize("published", [DONUT, NOUGAT], ids=["donut", "nougat"])
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(published):
    config = DonutSwinConfig.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    assert set(written) == set(published)
    again = DonutSwinConfig.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_what_differs_from_swin():
    config = DonutSwinConfig.from_dict(DONUT).replace(attention_probs_dropout_prob=0.3, hidden_dropout_prob=0.2)
    assert config.states_width == 1024
    assert config.num_positions == 640 * 480 + 1
    assert config.attention_output_dropout_prob == 0.3
    assert not config.final_norm


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_stride": 32}, "here: DonutSwinConfig does not know encoder_stride; it knows "),
        ({"num_layers": 5}, "here: num_layers must be 4, which follows from embed_dim=96 and depths=(2, 2, 6, 2)"),
        (
            {"num_heads": [5, 6, 12, 24]},
            "here: DonutSwinConfig: num_heads=(5, 6, 12, 24) must divide the stages' widths ",
        ),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        DonutSwinConfig.from_dict(values, source="here")
    assert str(caught.value).startswith(message)
