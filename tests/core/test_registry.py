import json
from pathlib import Path

import pytest

from diptych.core import registry
from diptych.core.config import ModelConfig
from diptych.core.errors import ConfigError
from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig


def write(directory, **fields):
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


def test_a_family_is_found_by_the_name_of_its_file():
    folder = Path(registry.__file__).with_name("models")
    names = sorted(path.stem for path in folder.iterdir() if not path.name.startswith("_"))
    assert list(registry.families()) == names
    assert {"bert", "clip"} <= set(names)


def test_every_architecture_belongs_to_one_family_and_one_config_class():
    families, architectures = registry.families(), registry.architectures()
    assert len(architectures) == sum(len(family.classes) for family in families.values())
    for name, family in architectures.items():
        assert issubclass(families[family].classes[name], ModelConfig)
    assert architectures["CLIPModel"] == "clip" and architectures["BertForMaskedLM"] == "bert"


def test_model_types_and_config_names():
    classes = registry.config_classes()
    assert {"bert": BertConfig, "clip": CLIPConfig}.items() <= classes.items()
    assert classes["clip_text_model"] is CLIPTextConfig and classes["clip_vision_model"] is CLIPVisionConfig
    assert all(cls.model_type == model_type for model_type, cls in classes.items())
    assert registry.config_names() == {cls.__name__: cls for cls in classes.values()}


def test_reading_a_config_whole(tmp_path):
    config = registry.read_config(write(tmp_path, model_type="clip", text_config={"vocab_size": 9}))
    assert config == CLIPConfig(text_config=CLIPTextConfig(vocab_size=9))
    write(tmp_path, model_type="bert", colour="red")
    with pytest.raises(ConfigError, match=r"config\.json: BertConfig does not know colour; it knows "):
        registry.read_config(tmp_path)
    assert registry.read_config(tmp_path, ignore=("colour",)) == BertConfig()


@pytest.mark.parametrize("model_type", ["gpt9", "", None, 3, ["bert"]])
def test_an_unknown_model_type_lists_the_known(tmp_path, model_type):
    known = ", ".join(sorted(registry.config_classes()))
    with pytest.raises(ConfigError) as caught:
        registry.read_config(write(tmp_path, model_type=model_type))
    assert str(caught.value) == f"{tmp_path / 'config.json'}: model_type={model_type!r} is not known; known: {known}"


def test_a_file_without_a_model_type_is_what_the_reader_assumes(tmp_path):
    write(tmp_path, hidden_size=24)
    assert registry.read_config(tmp_path, assume="bert") == BertConfig(hidden_size=24)
    with pytest.raises(ConfigError, match="model_type=None is not known; known: bart, beit, bert, bert-generation, "):
        registry.read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; a checkpoint directory holds config.json beside its weights"),
        (b"[]", "holds a JSON list, but a config is a JSON object"),
        (b'{"model_type": "bert", "model_type": "gpt2"}', "has the same name twice: model_type; keep one of them"),
        (b'{"model_type": "clip", "text_config": {"a": 1, "a": 1}}', "has the same name twice: a; keep one of them"),
        (b"{", "not JSON (Expecting property name enclosed in double quotes"),
        (b'{"model_type": "\xe4"}', "not UTF-8 text ("),
        (b"[" * 100_000, "not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_directory_without_a_config(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        registry.read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {message}")


def test_the_description_of_a_class_holds_for_what_derives_from_it():
    class BertForMaskedLM:
        pass

    class Mine(BertForMaskedLM):
        pass

    for cls in (BertForMaskedLM, Mine):
        name, family, config_class = registry.describe_class(cls)
        assert name == "BertForMaskedLM" and family is registry.families()["bert"] and config_class is BertConfig
