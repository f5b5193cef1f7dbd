import json

import numpy as np
import pytest

from diptych.core.checkpoint.slots import Slot
from diptych.core.config import CacheShape
from diptych.core.errors import ConfigError
from diptych.core.models.idefics import FAMILY, IdeficsConfig, IdeficsVisionConfig
from diptych.core.random import Constant, Normal

# HuggingFaceM4/tiny-random-idefics as transformers 4.51 prints it
TINY = {
    "additional_vocab_size": 2, "alpha_initializer": "ones", "alpha_type": "vector", "alphas_initializer_range": 0.0,
    "architectures": ["IdeficsForVisionText2Text"], "bos_token_id": 1, "cross_layer_activation_function": "swiglu",
    "cross_layer_interval": 1, "dropout": 0.0, "eos_token_id": 2, "ffn_dim": 64, "freeze_lm_head": False,
    "freeze_text_layers": False, "freeze_text_module_exceptions": [], "freeze_vision_layers": False,
    "freeze_vision_module_exceptions": [], "hidden_act": "silu", "hidden_size": 16, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_new_tokens": 128, "max_position_embeddings": 128, "model_type": "idefics",
    "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0,
    "perceiver_config": {
        "model_type": "idefics_perciever", "qk_layer_norms_perceiver": False, "resampler_depth": 2,
        "resampler_head_dim": 8, "resampler_n_heads": 2, "resampler_n_latents": 16, "use_resampler": False,
    },
    "qk_layer_norms": False, "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.51.0.dev0", "use_cache": True, "use_resampler": True,
    "vision_config": {
        "attention_dropout": 0.0, "embed_dim": 32, "hidden_act": "gelu", "image_size": 30, "initializer_factor": 1.0,
        "initializer_range": 0.02, "intermediate_size": 37, "layer_norm_eps": 1e-05, "model_type": "idefics_vision",
        "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 5, "patch_size": 2,
        "vision_model_name": "hf-internal-testing/tiny-random-clip",
    },
    "vocab_size": 32000, "word_embed_proj_dim": 16,
}  # fmt: skip


def test_a_published_config_is_rewritten_with_nothing_dropped():
    config = IdeficsConfig.from_json(json.dumps(TINY))
    written = json.loads(config.to_json())
    for part in ("vision_config", "perceiver_config"):
        assert {field: written[part][field] for field in TINY[part]} == TINY[part]
    plain = {field: value for field, value in TINY.items() if not isinstance(value, dict)}
    assert {field: written[field] for field in plain} == plain
    assert IdeficsConfig.from_json(config.to_json()) == config


def test_the_defaults_are_those_of_transformers():
    config = IdeficsConfig()
    assert config.cache_shape == CacheShape(layers=32, heads=32, head_width=128, positions=2048)
    assert (config.total_vocab_size, config.eos_token_id, config.tie_word_embeddings) == (32_000, 2, False)
    assert (config.vision_config.embed_dim, config.vision_config.as_clip.num_positions) == (768, 257)
    assert (config.freeze_text_layers, config.freeze_lm_head, config.freeze_vision_layers) == (True, False, True)


def test_additional_words_may_be_special_tokens_and_are_what_resizing_changes():
    config = IdeficsConfig(additional_vocab_size=2, eos_token_id=(2, 32_001))
    assert not config.token_ids_outside()
    assert IdeficsConfig(eos_token_id=32_001).token_ids_outside() == {"eos_token_id": 32_001}
    assert config.with_vocabulary(32_005) == config.replace(additional_vocab_size=5)
    assert IdeficsConfig().with_vocabulary(32_005) == IdeficsConfig(vocab_size=32_005)
    with pytest.raises(ConfigError, match=r"^IdeficsConfig: 32000 token ids leave none for the additional embeddings"):
        config.with_vocabulary(32_000)


def test_old_files_have_the_fields_of_the_parts_beside_the_others():
    flat = {"resampler_depth": 2, "resampler_n_latents": 9, "qk_layer_norms_perceiver": True, "vision_embed_dim": 64}
    old = flat | {"vision_image_size": 28, "vision_config": {"model_type": "idefics", "patch_size": 7}}
    config = IdeficsConfig.from_dict(old | {"perceiver_config": {"model_type": "idefics", "resampler_depth": 3}})
    assert (config.perceiver_config.resampler_n_latents, config.perceiver_config.qk_layer_norms_perceiver) == (9, True)
    assert config.perceiver_config.resampler_depth == 3  # which transformers reads
    assert (config.vision_config.embed_dim, config.vision_config.image_size, config.vision_config.patch_size) == (
        64, 28, 7,
    )  # fmt: skip
    assert IdeficsConfig.from_dict({"vision_config": None}) == IdeficsConfig()
    assert IdeficsVisionConfig.from_dict({"hidden_size": 64}).embed_dim == 64


SLOTS = [
    Slot("model.embed_tokens.weight", (5, 4), "embedding"),
    Slot("model.embed_tokens.additional_embedding.weight", (2, 4), "embedding"),
    Slot("model.layers.0.mlp.up_proj.weight", (4, 4), "linear"),
    Slot("model.layers.0.input_layernorm.weight", (4,), "norm"),
    Slot("model.norm.weight", (4,), "norm"),
    Slot("model.gated_cross_attn_layers.0.mlp.up_proj.weight", (4, 4), "linear"),
    Slot("model.perceiver_resampler.latents", (3, 4), "plain"),
    Slot("model.vision_model.embeddings.class_embedding", (4,), "plain"),
    Slot("model.vision_model.embeddings.patch_embedding.weight", (4, 3, 2, 2), "conv"),
    Slot("model.vision_model.embeddings.position_embedding.weight", (5, 4), "embedding"),
    Slot("model.vision_model.pre_layrnorm.weight", (4,), "norm"),
    Slot("model.vision_model.pre_layrnorm.bias", (4,), "plain"),
    Slot("model.vision_model.encoder.layers.0.mlp.fc1.weight", (4, 4), "linear"),
    Slot("model.vision_model.encoder.layers.0.mlp.fc1.bias", (4,), "plain"),
    Slot("lm_head.weight", (5, 4), "linear"),
    Slot("lm_head.additional_fc.weight", (2, 4), "linear"),
]
WORDS, TEXT = ["embed_tokens.weight"], ["layers.0.mlp.up_proj.weight", "layers.0.input_layernorm.weight", "norm.weight"]
IMAGES = [
    slot.path.removeprefix("model.vision_model.") for slot in SLOTS if slot.path.startswith("model.vision_model.")
]


@pytest.mark.parametrize(
    ("fields", "frozen"),
    [
        ({}, [*WORDS, *TEXT, *(f"vision_model.{path}" for path in IMAGES)]),
        ({"freeze_vision_layers": False}, [*WORDS, *TEXT]),
        ({"freeze_vision_layers": False, "freeze_text_module_exceptions": ("Linear",)}, [*WORDS, *TEXT[1:]]),
        ({"freeze_vision_layers": False, "freeze_text_module_exceptions": ("LayerNorm", "Embedding")},
         [*WORDS, *TEXT]),
        ({"freeze_text_layers": False, "freeze_vision_module_exceptions": ("Linear",)},
         [f"vision_model.{path}" for path in IMAGES if "fc1" not in path]),
        ({"freeze_text_layers": False, "freeze_vision_module_exceptions": ("LayerNorm", "Embedding")},
         [f"vision_model.{path}" for path in IMAGES if "pre_layrnorm" not in path and "position" not in path]),
        ({"freeze_text_layers": False, "freeze_vision_layers": False, "freeze_lm_head": True}, ["lm_head.weight"]),
    ],
)  # fmt: skip
def test_what_the_config_freezes(fields, frozen):
    expected = {path if path.startswith("lm_head") else f"model.{path}" for path in frozen}
    assert set(FAMILY.frozen(IdeficsConfig(**fields), SLOTS)) == expected


@pytest.mark.parametrize(
    ("alpha", "distribution"),
    [
        ("zeros", Constant(0.0)),
        ("ones", Constant(1.0)),
        *((name, Normal(0.3)) for name in ("normal", "gaussian", "random")),
    ],
)
def test_every_initializer_of_the_gates(alpha, distribution):
    config = IdeficsConfig(alpha_initializer=alpha, alphas_initializer_range=0.3)
    for name in ("alpha_cross_attn", "alpha_dense"):
        assert FAMILY.initial(config, Slot(f"gated_cross_attn_layers.0.{name}", (1,), "plain")) == distribution


def test_the_example_has_additional_words_and_tokens_before_the_first_image():
    config = IdeficsConfig(vocab_size=2, additional_vocab_size=9)
    example = FAMILY.example(config, "IdeficsForVisionText2Text", np.random.default_rng(0))
    assert example["input_ids"].max() >= config.vocab_size
    assert not example["image_attention_mask"][:, :2].any() and example["image_attention_mask"].any(axis=(0, 1)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 6, "cross_layer_interval": 4},
         "num_hidden_layers=6 must be a positive multiple of cross_layer_interval=4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be a positive multiple of cross_layer_interval=1"),
        ({"cross_layer_interval": 0}, "cross_layer_interval=0 must be 1 or more"),
        ({"num_attention_heads": 5}, "hidden_size=4096 must be a positive multiple of num_attention_heads=5"),
        ({"hidden_size": 96}, "hidden_size=96 over num_attention_heads=32 is 3, but rotary positions need an even"),
        ({"additional_vocab_size": -1}, "additional_vocab_size=-1 must be 0 or more"),
        ({"alphas_initializer_range": -0.1}, "alphas_initializer_range=-0.1 must be 0 or more"),
        ({"dropout": 1.5}, "dropout=1.5 must lie between 0 and 1"),
        ({"alpha_type": "matrix"}, "alpha_type='matrix' (str) must be one of float, vector"),
        ({"alpha_initializer": "xavier"}, "alpha_initializer='xavier' (str) must be one of zeros, ones, normal, "),
        ({"freeze_text_module_exceptions": ["Conv2d"]}, "freeze_text_module_exceptions=('Conv2d',) (tuple) must be "),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_parameters={'rope_theta': 500000.0, "),
        ({"vision_config": {"num_attention_heads": 5}}, "vision_config: IdeficsVisionConfig: embed_dim=768 must be a "),
        ({"vision_config": {"embed_dim": 8, "hidden_size": 9}},
         "vision_config: embed_dim=8, but hidden_size=9, which means the same"),
        ({"perceiver_config": {"resampler_depth": 0}},
         "perceiver_config: IdeficsPerceiverConfig: resampler_depth=0 must be 1 or more"),
        ({"perceiver_config": {"model_type": "clip"}},
         "perceiver_config: model_type='clip', but IdeficsPerceiverConfig reads 'idefics_perciever'"),
        ({"num_key_value_heads": 4}, "IdeficsConfig does not know num_key_value_heads; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        IdeficsConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("IdeficsConfig: ").startswith(message)
