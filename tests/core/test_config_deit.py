import json

import pytest

from diptych.core.errors import ConfigError
from diptych.core.models.deit import DeiTConfig
from diptych.core.models.vit import ViTConfig

# facebook/deit-base-distilled-patch16-224 as it was published, but for most of its thousand classes
DISTILLED = {
    "architectures": ["DeiTForImageClassificationWithTeacher"], "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768, "id2label": {"0": "tench", "1": "goldfish"},
    "image_size": 224, "initializer_range": 0.02, "intermediate_size": 3072, "label2id": {"tench": 0, "goldfish": 1},
    "layer_norm_eps": 1e-12, "model_type": "deit", "num_attention_heads": 12, "num_channels": 3,
    "num_hidden_layers": 12, "patch_size": 16, "torch_dtype": "float32", "transformers_version": "4.13.0.dev0",
}  # fmt: skip


def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented():
    config = DeiTConfig.from_json(json.dumps(DISTILLED))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in DISTILLED} == DISTILLED
    defaults = DeiTConfig().to_dict()
    added = set(written) - set(DISTILLED)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}


def test_it_is_vits_with_another_token():
    assert DeiTConfig.from_dict(DISTILLED) == DeiTConfig() != ViTConfig()
    assert DeiTConfig().num_positions == ViTConfig().num_positions + 1 == 198
    with pytest.raises(ConfigError, match=r"^DeiTConfig: patch_size=16 must lie between 1 and image_size=8$"):
        DeiTConfig(image_size=8)
    with pytest.raises(ConfigError, match="model_type='vit', but DeiTConfig reads 'deit'"):
        DeiTConfig.from_dict({"model_type": "vit"})
