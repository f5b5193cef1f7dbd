"""The configs of speech encoders: Wav2Vec2's, HuBERT's and WavLM's."""

import json

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.core.models.hubert import HubertConfig
from diptych.core.models.wav2vec2 import Wav2Vec2Config
from diptych.core.models.wavlm import WavLMConfig

# facebook/wav2vec2-base-960h as it was published
BASE = {
    "activation_dropout": 0.1, "apply_spec_augment": True, "architectures": ["Wav2Vec2ForCTC"],
    "attention_dropout": 0.1, "bos_token_id": 1, "codevector_dim": 256, "contrastive_logits_temperature": 0.1,
    "conv_bias": False, "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "ctc_loss_reduction": "sum", "ctc_zero_infinity": False,
    "diversity_loss_weight": 0.1, "do_stable_layer_norm": False, "eos_token_id": 2, "feat_extract_activation": "gelu",
    "feat_extract_dropout": 0.0, "feat_extract_norm": "group", "feat_proj_dropout": 0.1, "feat_quantizer_dropout": 0.0,
    "final_dropout": 0.1, "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout": 0.1,
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "layerdrop": 0.1, "mask_feature_length": 10, "mask_feature_prob": 0.0,
    "mask_time_length": 10, "mask_time_prob": 0.05, "model_type": "wav2vec2", "num_attention_heads": 12,
    "num_codevector_groups": 2, "num_codevectors_per_group": 320, "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128, "num_feat_extract_layers": 7, "num_hidden_layers": 12, "num_negatives": 100,
    "pad_token_id": 0, "proj_codevector_dim": 256, "transformers_version": "4.7.0.dev0", "vocab_size": 32,
}  # fmt: skip
PRETRAINED = BASE | {
    "architectures": ["Wav2Vec2ForPreTraining"], "feat_proj_dropout": 0.0, "freeze_feat_extract_train": True,
    "mask_channel_length": 10, "mask_channel_min_space": 1, "mask_channel_other": 0.0, "mask_channel_prob": 0.0,
    "mask_channel_selection": "static", "mask_time_min_space": 1, "mask_time_other": 0.0,
    "mask_time_selection": "static", "no_mask_channel_overlap": False, "no_mask_time_overlap": False,
}  # fmt: skip
HUBERT = {
    name: value
    for name, value in BASE.items()
    if not name.startswith(("codevector", "contrastive", "diversity", "feat_quantizer", "num_codevector", "num_neg"))
    and name != "proj_codevector_dim"
} | {"model_type": "hubert", "feat_proj_layer_norm": True, "feat_proj_dropout": 0.0}
WAVLM = BASE | {
    "model_type": "wavlm", "num_buckets": 320, "max_bucket_distance": 800, "ctc_loss_reduction": "mean",
    "num_ctc_classes": 80, "replace_prob": 0.5, "tdnn_dim": [512, 512, 512, 512, 1500], "tdnn_kernel": [5, 3, 3, 1, 1],
    "tdnn_dilation": [1, 2, 3, 1, 1], "xvector_output_dim": 512, "feat_proj_dropout": 0.0,
}  # fmt: skip
PUBLISHED = {
    "base": (Wav2Vec2Config, BASE),
    "pretrained": (Wav2Vec2Config, PRETRAINED),
    "hubert": (HubertConfig, HUBERT),
    "wavlm": (WavLMConfig, WAVLM),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    config_class, published = PUBLISHED[name]
    config = config_class.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = config_class().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    assert config_class.from_json(config.to_json()) == config


def test_the_defaults_are_those_of_the_published_files():
    assert Wav2Vec2Config.from_dict(PRETRAINED) == Wav2Vec2Config()
    assert HubertConfig.from_dict(HUBERT) == HubertConfig()
    assert WavLMConfig.from_dict(WAVLM) == WavLMConfig()


def test_lengths_are_those_of_the_convolutions():
    """25 ms for the first frame and 20 ms for each further one, at 16 kHz; an hour in one call."""
    config = Wav2Vec2Config()
    assert config.least_samples == 400
    assert [config.feature_lengths(samples) for samples in (399, 400, 719, 720, 16_000)] == [0, 1, 1, 2, 49]
    assert config.feature_lengths(3600 * 16_000) == 179_999
    assert config.feature_lengths(np.array([400, 16_000])).tolist() == [1, 49]
    adapted = Wav2Vec2Config(add_adapter=True)
    assert adapted.least_samples == 400 and (config.samples_per_state, adapted.samples_per_state) == (320, 2560)
    assert (adapted.feature_lengths(16_000), adapted.feature_lengths(16_000, adapter=False)) == (7, 49)
    wide = Wav2Vec2Config(add_adapter=True, adapter_kernel_size=5)
    assert (wide.least_samples, wide.feature_lengths(wide.least_samples)) == (400 + 320 * 14, 1)  # of 15 frames
    assert wide.feature_lengths(wide.least_samples - 1) == 0


def test_the_width_of_the_states_is_the_adapters():
    assert Wav2Vec2Config(output_hidden_size=512).states_width == 768
    assert Wav2Vec2Config(add_adapter=True).states_width == 768
    assert Wav2Vec2Config(add_adapter=True, output_hidden_size=512).states_width == 512


@pytest.mark.parametrize(
    ("config_class", "values", "message"),
    [
        (Wav2Vec2Config, {"num_attention_heads": 7},
         "hidden_size=768 must be a positive multiple of num_attention_heads=7"),
        (Wav2Vec2Config, {"num_conv_pos_embedding_groups": 7},
         "hidden_size=768 must be a positive multiple of num_conv_pos_embedding_groups=7"),
        (Wav2Vec2Config, {"conv_dim": [3, 4], "conv_stride": [1], "conv_kernel": [2, 2]},
         "conv_dim has 2, conv_kernel has 2, conv_stride has 1 entries, but each convolution needs one of each"),
        (Wav2Vec2Config, {"conv_kernel": [0] * 7}, "conv_kernel=(0, 0, 0, 0, 0, 0, 0) must be 1 or more"),
        (Wav2Vec2Config, {"mask_time_length": 0}, "mask_time_length=0 must be 1 or more"),
        (Wav2Vec2Config, {"mask_time_min_masks": -1}, "mask_time_min_masks=-1 must be 0 or more"),
        (Wav2Vec2Config, {"layerdrop": 1.5}, "layerdrop=1.5 must lie between 0 and 1"),
        (Wav2Vec2Config, {"feat_extract_norm": "batch"}, "feat_extract_norm='batch' (str) must be one of group, layer"),
        (Wav2Vec2Config, {"ctc_loss_reduction": "none"}, "ctc_loss_reduction='none' (str) must be one of sum, mean"),
        (Wav2Vec2Config, {"adapter_stride": 0}, "adapter_stride=0 must be 1 or more"),
        (Wav2Vec2Config, {"output_hidden_size": 0}, "output_hidden_size=0 must be 1 or more"),
        (Wav2Vec2Config, {"adapter_attn_dim": 16}, "adapter_attn_dim=16 needs do_stable_layer_norm=True"),
        (Wav2Vec2Config, {"adapter_attn_dim": 0}, "adapter_attn_dim=0 must be 1 or more"),
        (Wav2Vec2Config, {"num_codevector_groups": 3},
         "codevector_dim=256 must be a positive multiple of num_codevector_groups=3"),
        (Wav2Vec2Config, {"contrastive_logits_temperature": 0},
         "contrastive_logits_temperature=0 must be greater than 0"),
        (HubertConfig, {"add_adapter": True}, "HubertConfig does not know add_adapter; it knows "),
        (WavLMConfig, {"num_buckets": 3}, "num_buckets=3 must be 4 or more, and max_bucket_distance=800"),
        (WavLMConfig, {"max_bucket_distance": 80}, "num_buckets=320 must be 4 or more, and max_bucket_distance=80 "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(config_class, values, message):
    with pytest.raises(ConfigError) as caught:
        config_class.from_dict(values, source="here")
    prefix = f"{config_class.__name__}: "
    assert str(caught.value).removeprefix("here: ").removeprefix(prefix).startswith(message)
