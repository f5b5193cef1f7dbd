import json

import pytest

from diptych.core.config import CacheShape, config_class
from diptych.core.errors import ConfigError
from diptych.core.models.bert import BertConfig
from diptych.core.models.camembert import CamembertConfig
from diptych.core.models.roberta import RobertaConfig
from diptych.core.models.xlm_roberta import XLMRobertaConfig

# FacebookAI/roberta-base as it was published
ROBERTA = {
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "roberta",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
}  # fmt: skip
LARGE = ROBERTA | {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
XLM = ROBERTA | {
    "architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta", "output_past": True,
    "position_embedding_type": "absolute", "transformers_version": "4.17.0.dev0", "use_cache": True,
    "vocab_size": 250002,
}  # fmt: skip
CAMEMBERT = ROBERTA | {
    "architectures": ["CamembertForMaskedLM"], "bos_token_id": 5, "eos_token_id": 6, "model_type": "camembert",
    "output_past": True, "vocab_size": 32005,
}  # fmt: skip
# a classifier, as those on the hub are that were made with transformers 4
CLASSIFIER = ROBERTA | {
    "_name_or_path": "roberta-large-mnli", "architectures": ["RobertaForSequenceClassification"], "_num_labels": 3,
    "classifier_dropout": None, "gradient_checkpointing": False, "problem_type": "single_label_classification",
    "id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"},
    "label2id": {"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2}, "torch_dtype": "float32",
}  # fmt: skip
# the decoder of google/roberta2roberta_L-24_bbc, as transformers 3 spelled it out
DECODER = LARGE | {
    "add_cross_attention": True, "architectures": None, "bad_words_ids": None, "chunk_size_feed_forward": 0,
    "decoder_start_token_id": None, "do_sample": False, "finetuning_task": None, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": True, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20, "no_repeat_ngram_size": 0,
    "num_beams": 1, "output_attentions": False, "output_hidden_states": False, "prefix": None, "pruned_heads": {},
    "return_dict": False, "task_specific_params": None, "tie_encoder_decoder": False, "tie_word_embeddings": True,
    "tokenizer_class": None, "torchscript": False, "use_bfloat16": False, "use_cache": True, "xla_device": None,
}  # fmt: skip
PUBLISHED = {
    "roberta-base": (RobertaConfig, ROBERTA),
    "roberta-large": (RobertaConfig, LARGE),
    "roberta-large-mnli": (RobertaConfig, CLASSIFIER),
    "roberta2roberta": (RobertaConfig, DECODER),
    "xlm-roberta-base": (XLMRobertaConfig, XLM),
    "camembert-base": (CamembertConfig, CAMEMBERT),
}
CLASSES = (RobertaConfig, XLMRobertaConfig, CamembertConfig)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    cls, published = PUBLISHED[name]
    config = cls.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    defaults = cls().to_dict()
    added = set(written) - set(published)
    assert {field: written[field] for field in added} == {field: defaults[field] for field in added}
    again = cls.from_json(config.to_json())
    assert again == config and again.to_json() == config.to_json()


def test_the_defaults_are_those_of_transformers_which_no_published_file_has():
    expected = {
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "classifier_dropout": None, "eos_token_id": 2,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 2,
    }  # fmt: skip
    for cls, words in zip(CLASSES, (50_265, 30_522, 30_522), strict=True):
        written = cls().to_dict()
        assert {field: written[field] for field in expected} == expected
        assert written["vocab_size"] == words


def test_a_file_is_read_by_its_own_class():
    assert len({cls.model_type for cls in CLASSES}) == 3
    with pytest.raises(ConfigError, match=r"^here: model_type='xlm-roberta', but RobertaConfig reads 'roberta'$"):
        RobertaConfig.from_dict(XLM, source="here")


def test_pads_have_a_position_and_the_rows_up_to_it_are_no_tokens():
    config = RobertaConfig.from_dict(ROBERTA)
    assert (config.padding_idx, config.padding_position, config.token_types) == (1, 1, 1)
    assert config.cache_shape is None
    decoder = config.replace(is_decoder=True)
    assert decoder.cache_shape == CacheShape(layers=12, heads=12, head_width=64, positions=512)
    other = decoder.replace(pad_token_id=6)
    assert other.padding_position == 6 and other.cache_shape.positions == 507


def test_the_dropout_before_a_classifier():
    assert RobertaConfig(hidden_dropout_prob=0.3).head_dropout_prob == 0.3
    assert RobertaConfig(hidden_dropout_prob=0.3, classifier_dropout=0.0).head_dropout_prob == 0.0


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("position_embedding_type", "relative_key", "'absolute'"),
        ("is_encoder_decoder", True, "False, None"),
        ("tie_encoder_decoder", True, "False, None"),
        ("pruned_heads", {"0": [1]}, "{}, None"),
        ("quantization_config", {"bits": 4}, "None"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(cls, field, value, supported):
    with pytest.raises(ConfigError) as caught:
        cls.from_dict({field: value}, source="here")
    assert str(caught.value) == f"here: {field}={value!r} is not supported by {cls.__name__}; supported: {supported}"


OUTSIDE = "must be 0 or more and below vocab_size=50265: the positions of tokens are counted from it"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_token_id": None}, f"pad_token_id=None {OUTSIDE}"),
        ({"pad_token_id": -1}, f"pad_token_id=-1 {OUTSIDE}"),
        ({"pad_token_id": 50_265}, f"pad_token_id=50265 {OUTSIDE}"),
        ({"max_position_embeddings": 2},
         "max_position_embeddings=2 must exceed pad_token_id + 1 = 2, which is the first token's position"),
        ({"pad_token_id": 600},
         "max_position_embeddings=512 must exceed pad_token_id + 1 = 601, which is the first token's position"),
        ({"add_cross_attention": True}, "add_cross_attention=True needs is_decoder=True"),
        ({"type_vocab_size": 0}, "type_vocab_size=0 must be 1 or more"),
        ({"num_attention_heads": 7}, "hidden_size=768 must be a positive multiple of num_attention_heads=7"),
        ({"classifier_dropout": 1.5, "hidden_dropout_prob": -1.0},
         "hidden_dropout_prob=-1.0, classifier_dropout=1.5 must lie between 0 and 1"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps=-1.0 must be 0 or more"),
        ({"hidden_act": "swiglu"}, "hidden_act='swiglu' (str) must be one of gelu, "),
        ({"colour": 1}, "RobertaConfig does not know colour; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        RobertaConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("RobertaConfig: ").startswith(message)


def test_there_may_be_room_for_one_token_alone():
    config = RobertaConfig(max_position_embeddings=3, is_decoder=True)
    assert config.cache_shape is not None and config.cache_shape.positions == 1


def test_token_ids_outside_the_vocabulary():
    assert CamembertConfig.from_dict(CAMEMBERT).token_ids_outside() == {}
    assert CamembertConfig.from_dict(CAMEMBERT | {"vocab_size": 6}).token_ids_outside() == {"eos_token_id": 6}


def test_the_same_architecture_under_another_name():
    read = XLMRobertaConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, eos_token_id=7, architectures=("A",))
    for wanted in CLASSES:
        part = read.part(wanted)
        assert type(part) is wanted
        assert part.to_dict() == read.to_dict() | {"model_type": wanted.model_type}
    assert read.part(XLMRobertaConfig) is read
    assert read.part(BertConfig) is None and BertConfig().part(RobertaConfig) is None


def test_a_class_that_derives_from_another_family_is_not_the_same():
    @config_class
    class DistilledConfig(RobertaConfig):
        model_type = "distilled"
        architecture = ""

    assert DistilledConfig().part(RobertaConfig) is None
    assert RobertaConfig().part(DistilledConfig) is None
    assert type(DistilledConfig().part(DistilledConfig)) is DistilledConfig
