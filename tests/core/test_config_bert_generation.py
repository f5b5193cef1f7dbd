import json

import pytest

from diptych.core.config import CacheShape
from diptych.core.errors import ConfigError
from diptych.core.models.bert_generation import BertGenerationConfig

# google/bert_for_seq_generation_L-24_bbc_encoder as it was published
BBC = {
    "architectures": ["BertGenerationEncoder"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 2,
    "eos_token_id": 1, "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert-generation", "num_attention_heads": 16,
    "num_hidden_layers": 24, "pad_token_id": 0, "vocab_size": 50358,
}  # fmt: skip
# the decoder of google/bert2bert_L-24_wmt_de_en, as transformers 3 spelled it out
TRANSLATION = BBC | {
    "add_cross_attention": True, "architectures": None, "bad_words_ids": None, "chunk_size_feed_forward": 0,
    "decoder_start_token_id": None, "do_sample": False, "early_stopping": False, "finetuning_task": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": True, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "prefix": None, "pruned_heads": {}, "repetition_penalty": 1.0, "return_dict": False,
    "task_specific_params": None, "temperature": 1.0, "tie_encoder_decoder": False, "tie_word_embeddings": True,
    "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torchscript": False, "use_bfloat16": False,
    "use_cache": True, "vocab_size": 32000, "xla_device": None,
}  # fmt: skip
# the same as transformers 4 writes it, with what a BERT that it was made of left behind
MADE_OF_BERT = TRANSLATION | {
    "classifier_dropout": None, "cross_attention_hidden_size": None, "position_embedding_type": "absolute",
    "problem_type": None, "torch_dtype": "float32", "transformers_version": "4.30.0", "type_vocab_size": 2,
}  # fmt: skip
PUBLISHED = {"bbc": BBC, "bert2bert": TRANSLATION, "made of BERT": MADE_OF_BERT}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    published = PUBLISHED[name]
    config = BertGenerationConfig.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = BertGenerationConfig().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    again = BertGenerationConfig.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_the_defaults_are_those_of_the_published_file():
    assert BertGenerationConfig.from_dict(BBC) == BertGenerationConfig()
    assert BertGenerationConfig.from_dict(TRANSLATION) != BertGenerationConfig()


def test_there_are_no_token_types_and_pads_are_counted():
    config = BertGenerationConfig.from_dict(MADE_OF_BERT)
    assert (config.token_types, config.padding_idx, config.padding_position) == (0, 0, None)
    assert config.cache_shape == CacheShape(layers=24, heads=16, head_width=64, positions=512)
    assert BertGenerationConfig().cache_shape is None
    assert BertGenerationConfig(pad_token_id=None).padding_idx is None
    with pytest.raises(ConfigError, match=r"^BertGenerationConfig has no field token_type; it knows "):
        config.replace(token_type=1)


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("position_embedding_type", "relative_key_query", "'absolute'"),
        ("is_encoder_decoder", True, "False, None"),
        ("tie_encoder_decoder", True, "False, None"),
        ("pruned_heads", {"0": [1]}, "{}, None"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field, value, supported):
    with pytest.raises(ConfigError) as caught:
        BertGenerationConfig.from_dict({field: value}, source="here")
    expected = f"here: {field}={value!r} is not supported by BertGenerationConfig; supported: {supported}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 7}, "hidden_size=1024 must be a positive multiple of num_attention_heads=7"),
        ({"vocab_size": 0, "num_hidden_layers": 0, "intermediate_size": 0},
         "vocab_size=0, num_hidden_layers=0, intermediate_size=0 must be 1 or more"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 must be 1 or more"),
        ({"hidden_dropout_prob": 1.5, "attention_probs_dropout_prob": -0.5},
         "hidden_dropout_prob=1.5, attention_probs_dropout_prob=-0.5 must lie between 0 and 1"),
        ({"layer_norm_eps": -1.0, "initializer_range": -2.0},
         "layer_norm_eps=-1.0, initializer_range=-2.0 must be 0 or more"),
        ({"add_cross_attention": True}, "add_cross_attention=True needs is_decoder=True"),
        ({"hidden_act": "swiglu"}, "hidden_act='swiglu' (str) must be one of gelu, "),
        ({"pad_token_id": 0.5}, "pad_token_id=0.5 (float) must be int or null"),
        ({"pooler_type": "first_token_transform"}, "BertGenerationConfig does not know pooler_type; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        BertGenerationConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("BertGenerationConfig: ").startswith(message)
