import json

import pytest

from diptych.core.config import CacheShape
from diptych.core.errors import ConfigError
from diptych.core.models.bart import BartConfig
from diptych.core.models.mbart import MBartConfig

# facebook/bart-base as it was published
BASE = {
    "_name_or_path": "bart-base", "activation_dropout": 0.1, "activation_function": "gelu", "add_bias_logits": False,
    "add_final_layer_norm": False, "architectures": ["BartModel"], "attention_dropout": 0.1, "bos_token_id": 0,
    "classif_dropout": 0.1, "classifier_dropout": 0.0, "d_model": 768, "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072, "decoder_layerdrop": 0.0, "decoder_layers": 6, "decoder_start_token_id": 2,
    "dropout": 0.1, "early_stopping": True, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072,
    "encoder_layerdrop": 0.0, "encoder_layers": 6, "eos_token_id": 2, "forced_bos_token_id": 0,
    "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "max_position_embeddings": 1024, "model_type": "bart",
    "no_repeat_ngram_size": 3, "normalize_before": False, "normalize_embedding": True, "num_beams": 4,
    "num_hidden_layers": 6, "pad_token_id": 1, "scale_embedding": False,
    "task_specific_params": {"summarization": {"length_penalty": 1.0, "max_length": 128, "min_length": 12}},
    "torch_dtype": "float32", "transformers_version": "4.12.0.dev0", "use_cache": True, "vocab_size": 50265,
}  # fmt: skip
_LARGE = {
    "d_model": 1024, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layers": 12,
    "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layers": 12, "num_hidden_layers": 12,
}  # fmt: skip
CNN = BASE | _LARGE | {
    "_name_or_path": "facebook/bart-large-cnn", "_num_labels": 3, "activation_dropout": 0.0,
    "architectures": ["BartForConditionalGeneration"], "attention_dropout": 0.0, "classif_dropout": 0.0,
    "extra_pos_embeddings": 2, "force_bos_token_to_be_generated": True, "length_penalty": 2.0, "max_length": 142,
    "min_length": 56, "output_past": True, "prefix": " ", "static_position_embeddings": False, "vocab_size": 50264,
}  # fmt: skip
MNLI = BASE | _LARGE | {
    "architectures": ["BartForSequenceClassification"],
    "id2label": {"0": "contradiction", "1": "neutral", "2": "entailment"},
    "label2id": {"contradiction": 0, "entailment": 2, "neutral": 1}, "output_past": False,
}  # fmt: skip
# hyunwoongko/kobart, in the fields that say anything new
KOBART = BASE | {
    "author": "Heewon Jeon(madjakarta@gmail.com)", "created_date": "2021-01-01", "decoder_attention_heads": 16,
    "decoder_ffn_dim": 3072, "decoder_start_token_id": 1, "do_blenderbot_90_layernorm": False,
    "encoder_attention_heads": 16, "encoder_ffn_dim": 3072, "eos_token_id": 1, "extra_pos_embeddings": 2,
    "force_bos_token_to_be_generated": False, "forced_eos_token_id": 1, "kobart_version": 1.0,
    "max_position_embeddings": 1026, "pad_token_id": 3, "static_position_embeddings": False,
    "tokenizer_class": "PreTrainedTokenizerFast", "vocab_size": 30000,
}  # fmt: skip
DISTILLED = CNN | {"decoder_layers": 6}
MBART50 = BASE | _LARGE | {
    "_name_or_path": "mbart-50-large", "_num_labels": 3, "activation_dropout": 0.0, "add_final_layer_norm": True,
    "architectures": ["MBartForConditionalGeneration"], "attention_dropout": 0.0, "classif_dropout": 0.0,
    "forced_bos_token_id": None, "max_length": 200, "model_type": "mbart", "normalize_before": True, "num_beams": 5,
    "output_past": True, "scale_embedding": True, "static_position_embeddings": False,
    "tokenizer_class": "MBart50Tokenizer", "transformers_version": "4.4.0.dev0", "vocab_size": 250054,
}  # fmt: skip
# the decoder of facebook/wav2vec2-xls-r-300m-21-to-en, which is of MBart-50's kind
SPEECH = MBART50 | {
    "activation_function": "relu", "add_cross_attention": True, "architectures": None, "attention_dropout": 0.1,
    "cross_attention_hidden_size": None, "is_decoder": True, "is_encoder_decoder": False, "pruned_heads": {},
    "tie_encoder_decoder": False, "tie_word_embeddings": True,
}  # fmt: skip
PUBLISHED = {
    "bart-base": (BartConfig, BASE),
    "bart-large-cnn": (BartConfig, CNN),
    "bart-large-mnli": (BartConfig, MNLI),
    "distilbart": (BartConfig, DISTILLED),
    "kobart": (BartConfig, KOBART),
    "mbart-large-50": (MBartConfig, MBART50),
    "xls-r": (MBartConfig, SPEECH),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    cls, published = PUBLISHED[name]
    config = cls.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published if field not in cls.aliases} == {
        field: value for field, value in published.items() if field not in cls.aliases
    }
    assert written["encoder_layers"] == published["num_hidden_layers"]  # the same by another name, which is left out
    defaults = cls().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    again = cls.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_the_defaults_are_those_of_the_large_model():
    published = BASE | _LARGE | {"activation_dropout": 0.0, "attention_dropout": 0.0}
    assert BartConfig.from_dict(published) == BartConfig()
    assert BartConfig.from_dict(BASE) != BartConfig()


def test_mbart_has_no_start_and_two_labels_if_the_file_names_none():
    shared = {"model_type", "num_labels", "decoder_start_token_id", "id2label", "label2id"}
    ours, theirs = BartConfig().to_dict(), MBartConfig().to_dict()
    assert {field for field in ours.keys() | theirs.keys() if ours.get(field) != theirs.get(field)} <= shared
    assert (BartConfig().decoder_start_token_id, MBartConfig().decoder_start_token_id) == (2, None)
    assert (BartConfig().num_labels, MBartConfig().num_labels) == (3, 2)
    assert (BartConfig.pre_norm, MBartConfig.pre_norm) == (False, True)


def test_labels_that_a_file_counts_but_does_not_name():
    assert BartConfig.from_dict({"num_labels": 5}).to_dict()["id2label"] == {str(k): f"LABEL_{k}" for k in range(5)}
    assert "id2label" not in BartConfig.from_dict({"num_labels": 3}).to_dict()
    assert len(BartConfig.from_dict({"num_labels": 2}).to_dict()["id2label"]) == 2
    assert BartConfig.from_json(BartConfig(num_labels=2).to_json()).num_labels == 2


def test_the_stacks_have_sizes_of_their_own():
    config = BartConfig(d_model=24, encoder_attention_heads=6, decoder_layers=5, decoder_attention_heads=4)
    assert config.cache_shape == CacheShape(layers=5, heads=4, head_width=6, positions=1024)
    assert config.hidden_size == 24 and config.has_cross_attention
    assert (config.embedding_scale, config.replace(scale_embedding=True).embedding_scale) == (1.0, 24**0.5)
    assert (config.padding_idx, config.replace(pad_token_id=None).padding_idx) == (1, None)
    assert config.replace(vocab_size=1).padding_idx is None


@pytest.mark.parametrize("cls", [BartConfig, MBartConfig])
def test_other_names_may_repeat_a_field_but_not_contradict_it(cls):
    aliases = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
    same = {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 6}
    assert cls.from_dict(aliases | same) == cls.from_dict(same)
    for alias, name in cls.aliases.items():
        with pytest.raises(ConfigError) as caught:
            cls.from_dict(aliases | same | {alias: 96}, source="here")
        assert str(caught.value) == f"here: {alias}=96, but {name}={same[name]}, which means the same"


def test_a_file_is_read_by_its_own_class():
    with pytest.raises(ConfigError, match=r"^here: model_type='mbart', but BartConfig reads 'bart'$"):
        BartConfig.from_dict({"model_type": "mbart"}, source="here")


@pytest.mark.parametrize(
    ("cls", "field", "value", "supported"),
    [
        (BartConfig, "add_bias_logits", True, "False"),
        (BartConfig, "add_final_layer_norm", True, "False"),
        (MBartConfig, "add_final_layer_norm", False, "True"),
        (BartConfig, "normalize_before", True, "False"),
        (MBartConfig, "normalize_before", False, "True"),
        (BartConfig, "normalize_embedding", False, "True"),
        (BartConfig, "extra_pos_embeddings", 0, "2"),
        (MBartConfig, "static_position_embeddings", True, "False"),
        (BartConfig, "tie_encoder_decoder", True, "False, None"),
        (BartConfig, "pruned_heads", {"0": [1]}, "{}, None"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(cls, field, value, supported):
    with pytest.raises(ConfigError) as caught:
        cls.from_dict({field: value}, source="here")
    assert str(caught.value) == f"here: {field}={value!r} is not supported by {cls.__name__}; supported: {supported}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder_attention_heads": 3}, "d_model=1024 must be a positive multiple of decoder_attention_heads=3"),
        ({"vocab_size": 0, "max_position_embeddings": 0}, "vocab_size=0, max_position_embeddings=0 must be 1 or more"),
        ({"decoder_layers": 0, "decoder_ffn_dim": 0}, "decoder_layers=0, decoder_ffn_dim=0 must be 1 or more"),
        ({"dropout": 1.5, "attention_dropout": -1.0, "activation_dropout": 2},
         "dropout=1.5, attention_dropout=-1.0, activation_dropout=2 must lie between 0 and 1"),
        ({"classifier_dropout": 3}, "classifier_dropout=3 must lie between 0 and 1"),
        ({"decoder_layerdrop": 1.5}, "decoder_layerdrop=1.5 must lie between 0 and 1"),
        ({"init_std": -1.0}, "init_std=-1.0 must be 0 or more"),
        ({"activation_function": "swiglu"}, "activation_function='swiglu' (str) must be one of gelu, "),
        ({"scale_embedding": 1}, "scale_embedding=1 (int) must be bool"),
        ({"colour": 1}, "BartConfig does not know colour; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        BartConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("BartConfig: ").startswith(message)


@pytest.mark.parametrize("cls", [BartConfig, MBartConfig])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_attention_heads": 7}, "d_model=1024 must be a positive multiple of encoder_attention_heads=7"),
        ({"encoder_layers": 0, "encoder_ffn_dim": 0}, "encoder_layers=0, encoder_ffn_dim=0 must be 1 or more"),
        ({"encoder_layers": 10**9}, "encoder_layers=1000000000 must be 10000 at most"),
        ({"encoder_layerdrop": -0.5}, "encoder_layerdrop=-0.5 must lie between 0 and 1"),
    ],
)
def test_the_sizes_of_an_encoder_matter_where_there_is_one(cls, values, message):
    config, name = cls(**values), cls.base.removesuffix("Model")
    with pytest.raises(ConfigError, match=f"^{cls.__name__}: {message}"):
        config.check_encoder()
    assert [class_ for class_ in ("Model", "ForCausalLM") if config.builds(f"{name}{class_}")] == ["ForCausalLM"]


def test_token_ids_outside_the_vocabulary():
    assert BartConfig().token_ids_outside() == {}
    stated = BartConfig(vocab_size=2, eos_token_id=2, decoder_start_token_id=2)
    assert stated.token_ids_outside() == {"eos_token_id": 2, "decoder_start_token_id": 2}
