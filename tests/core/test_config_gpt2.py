import json
import math

import pytest

from diptych.core.config import CacheShape, DecoderConfig
from diptych.core.errors import ConfigError
from diptych.core.models.clip import CLIPTextConfig
from diptych.core.models.gpt2 import GPT2Config
from diptych.core.registry import config_classes

# openai-community/gpt2 as it was published
GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
MEDIUM = GPT2 | {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True}
XL = GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}
DISTILLED = GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_layer": 6}
# the decoder of nlpconnect/vit-gpt2-image-captioning, as transformers 4.15 spelled it out
CAPTIONS = GPT2 | {
    "add_cross_attention": True, "architectures": ["GPT2LMHeadModel"], "cross_attention_hidden_size": None,
    "decoder_start_token_id": 50256, "is_decoder": True, "is_encoder_decoder": False, "n_inner": None,
    "pad_token_id": 50256, "reorder_and_upcast_attn": False, "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True, "tie_encoder_decoder": False, "tie_word_embeddings": True, "use_cache": True,
    "torch_dtype": None, "transformers_version": "4.15.0", "pruned_heads": {},
}  # fmt: skip
# Stanford CRFM's Mistral models, the ones with the options for stable training
MISTRAL = GPT2 | {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True, "n_inner": None}
PUBLISHED = {
    "gpt2": GPT2,
    "gpt2-medium": MEDIUM,
    "gpt2-xl": XL,
    "distilgpt2": DISTILLED,
    "vit-gpt2": CAPTIONS,
    "mistral": MISTRAL,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    published = PUBLISHED[name]
    config = GPT2Config.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = GPT2Config().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    again = GPT2Config.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_the_defaults_are_those_of_the_published_file():
    assert GPT2Config.from_dict(GPT2) == GPT2Config()
    assert GPT2Config() != GPT2Config.from_dict(MISTRAL)


def test_a_model_is_a_decoder_whatever_the_file_says():
    shape = CacheShape(layers=12, heads=12, head_width=64, positions=1024)
    assert GPT2Config().cache_shape == GPT2Config(is_decoder=True).cache_shape == shape
    assert GPT2Config(add_cross_attention=True).add_cross_attention


def test_names_that_transformers_takes_too():
    aliases = {
        "hidden_size": 48, "max_position_embeddings": 13, "num_attention_heads": 6, "num_hidden_layers": 2
    }  # fmt: skip
    config = GPT2Config.from_dict(aliases)
    assert config == GPT2Config(n_embd=48, n_positions=13, n_head=6, n_layer=2)
    assert config.hidden_size == 48
    assert not aliases.keys() & config.to_dict().keys()
    assert GPT2Config.from_dict(aliases | {"n_embd": 48}) == config
    with pytest.raises(ConfigError, match=r"^here: n_embd=96, but hidden_size=48, which means the same$"):
        GPT2Config.from_dict(aliases | {"n_embd": 96}, source="here")


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({}, [0.25, 0.25, 0.25]),
        ({"scale_attn_weights": False}, [1.0, 1.0, 1.0]),
        ({"scale_attn_by_inverse_layer_idx": True}, [0.25, 0.125, 0.25 / 3]),
        ({"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, [1.0, 0.5, 1 / 3]),
    ],
)
def test_the_scale_of_each_layer(options, scales):
    config = GPT2Config(n_embd=32, n_head=2, **options)
    assert [config.attention_scale(index) for index in range(3)] == scales
    assert GPT2Config(n_embd=15, n_head=3).attention_scale(2) == 1 / math.sqrt(5)


def test_the_width_of_the_mlp():
    assert GPT2Config(n_embd=24).intermediate_size == 96
    assert GPT2Config(n_inner=31).intermediate_size == 31


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("n_special", 3, "0"),
        ("is_encoder_decoder", True, "False, None"),
        ("tie_encoder_decoder", True, "False, None"),
        ("pruned_heads", {"0": [1]}, "{}, None"),
        ("quantization_config", {"bits": 4}, "None"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field, value, supported):
    with pytest.raises(ConfigError) as caught:
        GPT2Config.from_dict({field: value}, source="here")
    assert str(caught.value) == f"here: {field}={value!r} is not supported by GPT2Config; supported: {supported}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_head": 7}, "n_embd=768 must be a positive multiple of n_head=7"),
        ({"n_head": 0}, "n_embd=768 must be a positive multiple of n_head=0"),
        ({"n_embd": 12 * 2**40}, f"n_embd={12 * 2**40} must be {2**24} at most"),
        ({"vocab_size": 0, "n_positions": 0, "n_layer": 0}, "vocab_size=0, n_positions=0, n_layer=0 must be 1 or more"),
        ({"n_layer": 10_001}, "n_layer=10001 must be 10000 at most"),
        ({"n_inner": 0}, "n_inner=0 must be 1 or more"),
        ({"n_inner": 3.5}, "n_inner=3.5 (float) must be int or null"),
        ({"resid_pdrop": 1.5, "embd_pdrop": -0.5, "attn_pdrop": 2},
         "resid_pdrop=1.5, embd_pdrop=-0.5, attn_pdrop=2 must lie between 0 and 1"),
        ({"layer_norm_epsilon": -1.0, "initializer_range": -2.0},
         "layer_norm_epsilon=-1.0, initializer_range=-2.0 must be 0 or more"),
        ({"activation_function": "swiglu"}, "activation_function='swiglu' (str) must be one of gelu, "),
        ({"scale_attn_weights": 1}, "scale_attn_weights=1 (int) must be bool"),
        ({"add_cross_attention": "yes"}, "add_cross_attention='yes' (str) must be bool"),
        ({"colour": 1}, "GPT2Config does not know colour; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        GPT2Config.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("GPT2Config: ").startswith(message)


def test_token_ids_outside_the_vocabulary():
    assert GPT2Config().token_ids_outside() == {}
    config = GPT2Config(vocab_size=50_256, bos_token_id=50_256, eos_token_id=50_256)
    assert config.token_ids_outside() == {"bos_token_id": 50_256, "eos_token_id": 50_256}


def test_defaults_outside_the_vocabulary_are_not_the_checkpoints_word():
    """uer/gpt2-chinese-cluecorpussmall says neither bos nor eos, and has another vocabulary than gpt2."""
    read = GPT2Config.from_dict({"model_type": "gpt2", "vocab_size": 21_128})
    for config in (read, GPT2Config(vocab_size=21_128)):
        assert (config.bos_token_id, config.eos_token_id) == (None, None)
        assert config.token_ids_outside() == {}
        assert GPT2Config.from_json(config.to_json()) == config
    stated = GPT2Config.from_dict({"vocab_size": 21_128, "eos_token_id": 50_256})
    assert (stated.bos_token_id, stated.eos_token_id) == (None, 50_256)
    assert GPT2Config(vocab_size=50_257).eos_token_id == 50_256


def test_no_default_of_a_text_model_lies_outside_of_a_small_vocabulary():
    for cls in config_classes().values():
        if issubclass(cls, DecoderConfig) and hasattr(cls, "vocab_size"):
            config = cls(vocab_size=2)
            named = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id")}
            assert all(value in (None, 0, 1) for value in named.values()), (cls, named)
    assert CLIPTextConfig(vocab_size=99).eos_token_id == 49_407  # which finds the end of a text
