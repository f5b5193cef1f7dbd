import copy
import dataclasses
import json
import pickle
from typing import get_args

import pytest

from diptych.core.composite_config import CompositeConfig
from diptych.core.config import (
    HOUSEKEEPING,
    Activation,
    DecoderConfig,
    FrozenMap,
    ModelConfig,
    config_class,
    freeze_json,
    thaw_json,
)
from diptych.core.errors import ConfigError
from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.models.swin import SwinConfig
from diptych.core.registry import config_classes
from tests.core.published import LAION, PUBLISHED, SHARED_4, SHARED_5


def defaults(cls):
    return cls().to_dict()


def assert_rewritten(cls, published, rewritten):
    """All that was published is there; what is there beyond is a default of the class."""
    for name, value in published.items():
        if name.removesuffix("_dict") in ("text_config", "vision_config"):
            continue
        assert rewritten[name] == value, name
    added = set(rewritten) - set(published)
    assert {name: rewritten[name] for name in added} == {name: defaults(cls)[name] for name in added}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(name):
    cls, published = PUBLISHED[name]
    config = cls.from_json(json.dumps(published))
    rewritten = json.loads(config.to_json())
    assert_rewritten(cls, published, rewritten)
    for part, part_cls in (("text_config", CLIPTextConfig), ("vision_config", CLIPVisionConfig)):
        if part in published:
            wanted = published[part] | (published.get(f"{part}_dict") or {})
            assert_rewritten(part_cls, wanted, rewritten[part])
    again = cls.from_json(config.to_json())
    assert again == config and again.housekeeping == config.housekeeping and again.to_json() == config.to_json()


@pytest.mark.parametrize("cls", config_classes().values())
def test_every_field_is_read_and_written(cls):
    """Each declared field of each class, one at a time, with a value that is not its default."""
    base = cls()
    if isinstance(base, DecoderConfig):
        base = base.replace(is_decoder=True)  # without which there is no cross-attention
    changed = 0
    for f in dataclasses.fields(cls):
        value = getattr(base, f.name)
        if f.name in ("housekeeping", "text_config", "vision_config", "perceiver_config", "encoder", "decoder"):
            continue
        if issubclass(cls, CompositeConfig) and f.name == "is_encoder_decoder":
            continue  # it has no other value
        other = {
            "hidden_act": "relu6", "problem_type": "regression", "architectures": ("A", "B"),
            "num_attention_heads": 4, "hidden_size": 3 * 4 * 8 * 12, "image_size": 96, "patch_size": 5,
            "n_head": 4, "n_embd": 24, "d_model": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "activation_function": "relu6", "pooler_act": "relu6", "embed_dim": 192, "depths": (1, 2, 3, 1),
            "num_heads": (4, 8, 16, 32), "window_size": 5, "feat_extract_norm": "layer",
            "feat_extract_activation": "relu6", "num_conv_pos_embedding_groups": 4, "num_codevector_groups": 4,
            "codevector_dim": 48, "max_bucket_distance": 90, "ctc_loss_reduction": "mean" if value == "sum" else "sum",
            "alpha_initializer": "gaussian", "alpha_type": "vector",
            "cross_layer_interval": 8, "freeze_text_module_exceptions": ("Linear",),
            "freeze_vision_module_exceptions": ("LayerNorm", "Embedding"),
        }.get(f.name)  # fmt: skip
        if other is None:
            match value:
                case bool():
                    other = not value
                case float():
                    other = value / 2 + 0.0625
                case tuple():
                    other = tuple(entry + 1 for entry in value)
                case _ if f.name == "classifier_dropout":
                    other = 0.25
                case _:
                    other = 7
        if f.name == "adapter_attn_dim":
            base = base.replace(do_stable_layer_norm=True)  # whose layers alone have such adapters
        config = base.replace(**{f.name: other})
        written = config.to_dict()
        if f.name == "num_labels":
            assert written["id2label"] == {str(index): f"LABEL_{index}" for index in range(other)}
        else:
            assert written[f.name] == thaw_json(other)
        again = cls.from_dict(written)
        assert again == config and getattr(again, f.name) == other
        assert f.name == "architectures" or again != base
        changed += 1
    assert changed >= 15 or cls is CLIPConfig or issubclass(cls, CompositeConfig)


def test_parts_are_read_and_written_and_compared():
    config = CLIPConfig(text_config=CLIPTextConfig(hidden_size=24), vision_config=CLIPVisionConfig(image_size=64))
    again = CLIPConfig.from_json(config.to_json())
    assert again == config
    assert again.text_config.hidden_size == 24 and again.vision_config.image_size == 64
    assert config != CLIPConfig() and hash(config) != hash(CLIPConfig())


def test_the_old_repeated_tower_configs_win_field_by_field():
    data = {
        "text_config": {"hidden_size": 24, "vocab_size": 99},
        "text_config_dict": {"vocab_size": 88},
        "vision_config": None,
        "vision_config_dict": {"patch_size": 16},
    }
    config = CLIPConfig.from_dict(data)
    assert config.text_config == CLIPTextConfig(hidden_size=24, vocab_size=88)
    assert config.vision_config == CLIPVisionConfig(patch_size=16)
    assert not {"text_config_dict", "vision_config_dict"} & set(config.to_dict())
    assert data["text_config"] == {"hidden_size": 24, "vocab_size": 99}  # the caller's own data stays
    with pytest.raises(ConfigError, match=r"^config: text_config_dict=\[1\] must be a JSON object$"):
        CLIPConfig.from_dict({"text_config_dict": [1]})
    with pytest.raises(ConfigError, match=r"^config: CLIPConfig: text_config=3 \(int\) must be CLIPTextConfig$"):
        CLIPConfig.from_dict({"text_config": 3})


def test_a_tower_of_a_composite_projects_to_the_width_of_the_composite():
    """LAION's files leave the default 512 in the towers' configs; transformers' issue 25622."""
    config = CLIPConfig.from_dict(LAION)
    assert config.text_config.projection_dim == config.vision_config.projection_dim == 512
    assert config.part(CLIPTextConfig) == config.text_config.replace(projection_dim=1024)
    assert config.part(CLIPVisionConfig) == config.vision_config.replace(projection_dim=1024)
    assert config.part(CLIPConfig) is config
    assert config.part(BertConfig) is None
    text = CLIPTextConfig(projection_dim=9)
    assert text.part(CLIPTextConfig) is text and text.part(CLIPVisionConfig) is None


def test_every_shared_attribute_of_both_transformers_is_known():
    declared = {f.name for f in dataclasses.fields(ModelConfig)}
    switched_off = {"is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size",
                    "tie_encoder_decoder", "pruned_heads"}  # fmt: skip
    for name in SHARED_4 | SHARED_5:
        assert sum((name in declared, name in HOUSEKEEPING, name in switched_off)) == 1, name
    assert not declared & set(HOUSEKEEPING)
    assert all(reason for reason in HOUSEKEEPING.values())


def test_all_unknown_fields_are_listed_at_once_those_of_parts_too():
    data = {"colour": 1, "vision_config": {"depth": 2, "is_decoder": True}, "text_config": {"width": 3, "colour": 4}}
    with pytest.raises(ConfigError) as caught:
        CLIPConfig.from_dict(data, source="dir/config.json")
    message = str(caught.value)
    assert "dir/config.json: CLIPConfig does not know colour; it knows architectures, bos_token_id, " in message
    assert "dir/config.json: text_config: CLIPTextConfig does not know width, colour; it knows " in message
    assert "dir/config.json: vision_config: CLIPVisionConfig does not know depth; it knows " in message
    assert "vision_config: is_decoder=True is not supported by CLIPVisionConfig; supported: False, None" in message
    assert message.endswith("If they change nothing, pass ignore_config=('depth', 'width', 'colour',)")


def test_ignored_fields_are_kept_unread():
    data = {"colour": [1, {"of": "a rose"}], "text_config": {"colour": 4}}
    config = CLIPConfig.from_dict(data, ignore=("colour",))
    assert config == CLIPConfig()
    assert config.to_dict()["colour"] == [1, {"of": "a rose"}]
    assert config.to_dict()["text_config"]["colour"] == 4
    assert hash(config) == hash(CLIPConfig())


@pytest.mark.parametrize("name", ["housekeeping", "accepted"])
def test_names_that_only_the_class_has_are_no_fields_of_files(name):
    with pytest.raises(ConfigError, match=f"BertConfig does not know {name}; it knows"):
        BertConfig.from_dict({name: {}})


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("is_encoder_decoder", True, "False, None"),
        ("tie_encoder_decoder", True, "False, None"),
        ("pruned_heads", {"0": [1]}, "{}, None"),
        ("quantization_config", {"bits": 4}, "None"),
        ("position_embedding_type", "relative_key", "'absolute'"),
        ("position_embedding_type", "relative_key_query", "'absolute'"),
        ("directionality", "left", "'bidi'"),
        ("pooler_type", "mean", "'first_token_transform'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field, value, supported):
    wanted = f"{field}={value!r} is not supported by BertConfig; supported: {supported}"
    with pytest.raises(ConfigError) as caught:
        BertConfig.from_dict({field: value}, source="here")
    assert str(caught.value) == f"here: {wanted}"
    with pytest.raises(ConfigError) as caught:
        BertConfig().replace(**{field: value})
    assert str(caught.value) == f"BertConfig: {wanted}"


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (BertConfig, {"hidden_size": 100, "num_attention_heads": 12},
         "BertConfig: hidden_size=100 must be a positive multiple of num_attention_heads=12"),
        (BertConfig, {"num_attention_heads": 0},
         "BertConfig: hidden_size=768 must be a positive multiple of num_attention_heads=0"),
        (CLIPTextConfig, {"hidden_size": 0}, "CLIPTextConfig: hidden_size=0 must be a positive multiple of num_"),
        (CLIPVisionConfig, {"num_attention_heads": 7},
         "CLIPVisionConfig: hidden_size=768 must be a positive multiple of num_attention_heads=7"),
        (CLIPVisionConfig, {"patch_size": 225},
         "CLIPVisionConfig: patch_size=225 must lie between 1 and image_size=224"),
        (CLIPVisionConfig, {"patch_size": 0}, "CLIPVisionConfig: patch_size=0 must lie between 1 and image_size=224"),
        (CLIPVisionConfig, {"num_channels": 0}, "CLIPVisionConfig: num_channels=0 must be 1 or more"),
        (CLIPVisionConfig, {"image_size": (64, 48), "patch_size": (16, 49)},
         "CLIPVisionConfig: patch_size=(16, 49) must lie between 1 and image_size=(64, 48)"),
        (CLIPVisionConfig, {"image_size": (64, 48, 3)},
         "CLIPVisionConfig: image_size=(64, 48, 3) (tuple) must be int or tuple[int, int]"),
        (BertConfig, {"vocab_size": 0, "num_hidden_layers": -1},
         "BertConfig: vocab_size=0, num_hidden_layers=-1 must be 1 or more"),
        (BertConfig, {"type_vocab_size": 0}, "BertConfig: type_vocab_size=0 must be 1 or more"),
        (BertConfig, {"vocab_size": 10**30}, f"BertConfig: vocab_size={10**30} must be {2**24} at most"),
        (SwinConfig, {"depths": (10_001, 2, 6, 2)}, "SwinConfig: depths=(10001, 2, 6, 2) must be 10000 at most"),
        (SwinConfig, {"mlp_ratio": 1e308}, "SwinConfig: mlp_ratio=1e+308 must be 16777216 at most"),
        (BertConfig, {"num_labels": 2**24 + 1}, "BertConfig: num_labels=16777217 must be 16777216 at most"),
        (BertConfig, {"num_hidden_layers": 10_001}, "BertConfig: num_hidden_layers=10001 must be 10000 at most"),
        (BertConfig, {"hidden_size": 12 * 2**40}, f"BertConfig: hidden_size={12 * 2**40} must be {2**24} at most"),
        (BertConfig, {"max_position_embeddings": 0}, "BertConfig: max_position_embeddings=0 must be 1 or more"),
        (CLIPTextConfig, {"max_position_embeddings": 0}, "CLIPTextConfig: max_position_embeddings=0 must be 1 or"),
        (CLIPConfig, {"projection_dim": 0}, "CLIPConfig: projection_dim=0 must be 1 or more"),
        (CLIPConfig, {"initializer_factor": -1.0}, "CLIPConfig: initializer_factor=-1.0 must be 0 or more"),
        (BertConfig, {"layer_norm_eps": -1e-5}, "BertConfig: layer_norm_eps=-1e-05 must be 0 or more"),
        (CLIPTextConfig, {"initializer_range": -1.0, "layer_norm_eps": -2.0},
         "CLIPTextConfig: layer_norm_eps=-2.0, initializer_range=-1.0 must be 0 or more"),
        (CLIPVisionConfig, {"initializer_factor": -1}, "CLIPVisionConfig: initializer_factor=-1 must be 0 or more"),
        (BertConfig, {"hidden_dropout_prob": 1.5, "classifier_dropout": -0.1},
         "BertConfig: hidden_dropout_prob=1.5, classifier_dropout=-0.1 must lie between 0 and 1"),
        (CLIPTextConfig, {"attention_dropout": 2}, "CLIPTextConfig: attention_dropout=2 must lie between 0 and 1"),
        (CLIPVisionConfig, {"attention_dropout": 2}, "CLIPVisionConfig: attention_dropout=2 must lie between 0 and 1"),
        (BertConfig, {"num_labels": -1}, "BertConfig: num_labels=-1 must be 0 or more"),
        (BertConfig, {"id2label": ["joy"]}, "BertConfig: id2label=['joy'] must map class numbers to names"),
        (BertConfig, {"id2label": {"joy": 0}}, "BertConfig: id2label={'joy': 0} must map class numbers to names"),
        # types
        (BertConfig, {"hidden_size": True}, "BertConfig: hidden_size=True (bool) must be int"),
        (BertConfig, {"hidden_size": "768"}, "BertConfig: hidden_size='768' (str) must be int"),
        (BertConfig, {"hidden_size": 768.0}, "BertConfig: hidden_size=768.0 (float) must be int"),
        (BertConfig, {"hidden_size": None}, "BertConfig: hidden_size=None (NoneType) must be int"),
        (BertConfig, {"layer_norm_eps": "1e-12"}, "BertConfig: layer_norm_eps='1e-12' (str) must be finite float"),
        (BertConfig, {"layer_norm_eps": False}, "BertConfig: layer_norm_eps=False (bool) must be finite float"),
        (BertConfig, {"layer_norm_eps": float("nan")}, "BertConfig: layer_norm_eps=nan (float) must be finite float"),
        (CLIPConfig, {"logit_scale_init_value": float("inf")},
         "CLIPConfig: logit_scale_init_value=inf (float) must be finite float"),
        (BertConfig, {"classifier_dropout": "0.1"},
         "BertConfig: classifier_dropout='0.1' (str) must be finite float or null"),
        (BertConfig, {"output_attentions": 1}, "BertConfig: output_attentions=1 (int) must be bool"),
        (BertConfig, {"eos_token_id": (1, "2")},
         "BertConfig: eos_token_id=(1, '2') (tuple) must be int or tuple[int, ...] or null"),
        (CLIPTextConfig, {"eos_token_id": (1, 2)}, "CLIPTextConfig: eos_token_id=(1, 2) (tuple) must be int or null"),
        (BertConfig, {"problem_type": "clustering"},
         "BertConfig: problem_type='clustering' (str) must be one of regression, single_label_classification, "
         "multi_label_classification or null"),
        (BertConfig, {"hidden_size": "a", "vocab_size": "b"},
         "BertConfig: vocab_size='b' (str) must be int; hidden_size='a' (str) must be int"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(cls, values, message):
    with pytest.raises(ConfigError) as caught:
        cls.from_dict(values, source="here")
    assert str(caught.value).startswith(f"here: {message}")
    with pytest.raises(ConfigError) as caught:
        cls().replace(**values)
    assert str(caught.value).startswith(message)


def test_an_unknown_activation_lists_the_known():
    known = ", ".join(get_args(Activation))
    with pytest.raises(ConfigError) as caught:
        BertConfig(hidden_act="gelu_10")
    assert str(caught.value) == f"BertConfig: hidden_act='gelu_10' (str) must be one of {known}"
    with pytest.raises(ConfigError, match=r"^here: text_config: CLIPTextConfig: hidden_act='swiglu' \(str\) must be"):
        CLIPConfig.from_dict({"text_config": {"hidden_act": "swiglu"}}, source="here")
    for name in get_args(Activation):
        assert BertConfig.from_dict({"hidden_act": name}).hidden_act == name


def test_a_model_type_of_another_family_is_refused():
    with pytest.raises(ConfigError, match=r"^here: model_type='gpt2', but BertConfig reads 'bert'$"):
        BertConfig.from_dict({"model_type": "gpt2"}, source="here")
    with pytest.raises(ConfigError, match=r"^here: text_config: model_type='bert', but CLIPTextConfig reads 'clip_te"):
        CLIPConfig.from_dict({"text_config": {"model_type": "bert"}}, source="here")
    assert BertConfig.from_dict({"model_type": None}) == BertConfig.from_dict({}) == BertConfig()


def test_number_and_names_of_classes():
    named = BertConfig.from_dict({"id2label": {"0": "joy", "1": "fear", "2": "anger"}})
    assert named.num_labels == 3
    assert named.id2label == {0: "joy", 1: "fear", 2: "anger"}
    assert named.to_dict()["id2label"] == {"0": "joy", "1": "fear", "2": "anger"}
    # another number of classes drops the names that no longer fit
    other = named.replace(num_labels=2)
    assert other.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert other.to_dict()["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert other.to_dict()["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    assert BertConfig.from_dict(other.to_dict()) == other
    # new names bring their number, and their inverse
    renamed = other.replace(id2label={0: "yes", 1: "no", 2: "perhaps", 3: "later"})
    assert renamed.num_labels == 4 and renamed.id2label[3] == "later"
    assert renamed.to_dict()["label2id"] == {"yes": 0, "no": 1, "perhaps": 2, "later": 3}
    assert BertConfig.from_json(renamed.to_json()).id2label == renamed.id2label
    assert BertConfig.from_dict({"num_labels": 5}).num_labels == 5
    with pytest.raises(ConfigError, match=r"^here: num_labels=5, but id2label names 2 classes$"):
        BertConfig.from_dict({"num_labels": 5, "id2label": {"0": "a", "1": "b"}}, source="here")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_any_number_of_classes_survives_the_file(count):
    config = CLIPConfig(num_labels=count)
    assert CLIPConfig.from_json(config.to_json()).num_labels == count
    assert len(config.id2label) == count


def test_housekeeping_neither_compares_nor_hashes():
    one = BertConfig.from_dict({"_name_or_path": "a", "torch_dtype": "float32", "architectures": ["BertModel"]})
    two = BertConfig.from_dict({"_name_or_path": "b", "top_k": 3})
    assert one == two == BertConfig()
    assert hash(one) == hash(two)
    assert one != BertConfig(num_hidden_layers=3)
    assert len({one, two, BertConfig(num_hidden_layers=3)}) == 2
    assert one != CLIPTextConfig()


def test_replace_makes_a_changed_copy():
    config = BertConfig.from_dict({"top_k": 3, "vocab_size": 99})
    other = config.replace(vocab_size=100, top_p=0.5, eos_token_id=[1, 2])
    assert (config.vocab_size, other.vocab_size) == (99, 100)
    assert other.eos_token_id == (1, 2) and other.to_dict()["eos_token_id"] == [1, 2]
    assert other.to_dict()["top_k"] == 3 and other.to_dict()["top_p"] == 0.5
    assert "top_p" not in config.to_dict()
    assert config.replace(tie_encoder_decoder=False, position_embedding_type="absolute") == config
    assert config.replace() == config
    with pytest.raises(
        ConfigError, match=r"^BertConfig has no field breadth, hiddensize; it knows add_cross_attention, architectures"
    ):
        config.replace(hiddensize=3, breadth=4)


def test_assignment_says_how_to_change_a_config():
    config = BertConfig()
    with pytest.raises(ConfigError) as caught:
        config.decoder_start_token_id = 2
    assert str(caught.value) == (
        "BertConfig is frozen, so decoder_start_token_id cannot be assigned; "
        "write model.config = model.config.replace(decoder_start_token_id=2)"
    )
    with pytest.raises(ConfigError, match=r"CLIPConfig is frozen, .*replace\(projection_dim='wide'\)$"):
        CLIPConfig().projection_dim = "wide"
    assert config.replace(decoder_start_token_id=2).decoder_start_token_id == 2
    assert CLIPConfig().replace(decoder_start_token_id=2).housekeeping["decoder_start_token_id"] == 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_can_be_pickled_and_copied(name):
    cls, published = PUBLISHED[name]
    config = cls.from_dict(published)
    for twin in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert twin == config and hash(twin) == hash(config) and twin.to_json() == config.to_json()


def test_json_data_can_be_frozen_and_thawed():
    data = {"a": [1, {"b": [2, 3]}], "c": {}}
    kept = freeze_json(data)
    assert kept == FrozenMap({"c": {}, "a": (1, {"b": (2, 3)})})
    assert hash(kept) == hash(FrozenMap({"c": {}, "a": (1, {"b": (2, 3)})}))
    assert thaw_json(kept) == data
    assert len(kept) == 2 and list(kept) == ["a", "c"] and kept["a"][1]["b"] == (2, 3)
    assert repr(freeze_json({"a": 1})) == "FrozenMap({'a': 1})"
    with pytest.raises(TypeError):
        kept["a"] = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "here: holds a JSON list, but a config is a JSON object"),
        ('"bert"', "here: holds a JSON str, but a config is a JSON object"),
        ("null", "here: holds a JSON NoneType, but a config is a JSON object"),
        ("", "here: not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"hidden_size": 3', "here: not JSON (Expecting ',' delimiter: line 1 column 18 (char 17))"),
        ('{"top_k":' * 200_000, "here: not JSON (maximum recursion depth exceeded"),
        ('{"hidden_size": ' + "1" * 5_000 + "}", "here: not JSON (Exceeds the limit (4300 digits)"),
        ('{"layer_norm_eps": NaN}', "here: BertConfig: layer_norm_eps=nan (float) must be finite float"),
        ('{"layer_norm_eps": 1e999}', "here: BertConfig: layer_norm_eps=inf (float) must be finite float"),
    ],
)
def test_text_that_is_no_config(text, message):
    with pytest.raises(ConfigError) as caught:
        BertConfig.from_json(text, source="here")
    assert str(caught.value).startswith(message)


def test_a_config_from_a_directory(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError) as caught:
        BertConfig.from_pretrained(tmp_path)
    assert str(caught.value) == (f"{path}: no such file; a checkpoint directory holds config.json beside its weights")
    path.write_bytes(b'{"hidden_size": "\xff"}')
    with pytest.raises(ConfigError) as caught:
        BertConfig.from_pretrained(tmp_path)
    assert str(caught.value).startswith(f"{path}: not UTF-8 text ('utf-8' codec can't decode byte 0xff in position 17")
    path.write_text('{"hidden_size": 24, "id2label": {"0": "Ärger", "1": "Freude"}}', encoding="utf-8")
    config = BertConfig.from_pretrained(str(tmp_path))
    assert config.hidden_size == 24 and "Ärger" in config.to_json()
    path.write_text('{"colour": 24}')
    with pytest.raises(ConfigError, match="BertConfig does not know colour"):
        BertConfig.from_pretrained(tmp_path)
    assert BertConfig.from_pretrained(tmp_path, ignore=("colour",)) == BertConfig()


def test_token_ids_outside_the_vocabulary_are_found():
    assert BertConfig().token_ids_outside() == {}
    assert BertConfig(vocab_size=5, eos_token_id=(4, 5), bos_token_id=-1, pad_token_id=4).token_ids_outside() == {
        "bos_token_id": -1,
        "eos_token_id": (4, 5),
    }
    config = CLIPConfig(text_config=CLIPTextConfig(vocab_size=49_407), pad_token_id=10**9)
    assert config.token_ids_outside() == {"text_config.eos_token_id": 49_407}


def test_properties_follow_from_the_fields():
    assert BertConfig(vocab_size=5, pad_token_id=5).padding_idx is None
    assert BertConfig(vocab_size=5, pad_token_id=4).padding_idx == 4
    assert BertConfig(pad_token_id=None).padding_idx is None
    assert BertConfig(pad_token_id=-1).padding_idx is None
    assert BertConfig(hidden_dropout_prob=0.3).head_dropout_prob == 0.3
    assert BertConfig(hidden_dropout_prob=0.3, classifier_dropout=0.0).head_dropout_prob == 0.0
    assert CLIPVisionConfig(image_size=50, patch_size=16).num_positions == 10
    oblong = CLIPVisionConfig.from_dict({"image_size": [50, 33], "patch_size": [16, 8]})
    assert oblong.patch_grid == (3, 4) and oblong.num_positions == 13
    assert oblong.to_dict()["image_size"] == [50, 33] and CLIPVisionConfig.from_dict(oblong.to_dict()) == oblong


def test_a_family_may_declare_what_others_refuse():
    @config_class
    class Decoder(ModelConfig):
        is_decoder: bool = True
        sizes: tuple[int, float] = (1, 2.0)

    assert Decoder.from_dict({"is_decoder": False, "sizes": [3, 4]}).sizes == (3, 4)
    with pytest.raises(ConfigError, match=r"sizes=\(3,\) \(tuple\) must be tuple\[int, float\]$"):
        Decoder(sizes=(3,))
    with pytest.raises(ConfigError, match=r"sizes=3 \(int\) must be tuple\[int, float\]$"):
        Decoder(sizes=3)
