"""Loading and saving in both backends: what belongs to whom, in which spelling, and that no bit changes."""

import json
import logging
import re

import huggingface_hub
import jax
import numpy as np
import pytest
import torch
import transformers

import diptych
import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import to_jax, to_torch
from diptych.core.errors import CheckpointError, ConfigError
from tests.backends import BACKENDS
from tests.conversion.tiny import (
    ARCHITECTURES,
    CONSTANT,
    config_class,
    config_of,
    digests,
    edit_config,
    holds,
    inputs_of,
    rewrite,
    stored,
    theirs,
)

PREFIXES = {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}  # 5.23 writes these files flat


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "diptych"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_class_loads_what_transformers_saves(architecture, backend, saved, caplog):
    directory = saved(architecture)
    model = getattr(backend, architecture).from_pretrained(directory)
    assert digests(model) == stored(directory, architecture)
    assert type(model) is getattr(backend, architecture)
    assert not model.training
    report = model.load_report
    assert (report.directory, report.loaded) == (str(directory), len(digests(model)))
    assert report.left_out == report.fresh == ()
    assert all(name.endswith(CONSTANT) for name in report.ignored)
    assert model.config == config_of(architecture)
    assert model.num_parameters() == theirs(architecture).num_parameters()
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_what_we_save(architecture, backend, saved, tmp_path):
    model = getattr(backend, architecture).from_pretrained(saved(architecture))
    model.save_pretrained(tmp_path)
    options = ["generation_config.json"] if (saved(architecture) / "generation_config.json").exists() else []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", *options, "model.safetensors"]
    for name in options:
        assert json.loads((tmp_path / name).read_text()) == json.loads((saved(architecture) / name).read_text())
    their_class = getattr(transformers, architecture)
    before, _ = their_class.from_pretrained(saved(architecture), output_loading_info=True)
    after, info = their_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert getattr(before, "generation_config", None) == getattr(after, "generation_config", None)
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor), name
    inputs = inputs_of(before)
    with torch.no_grad():
        outputs = before(**inputs), after(**inputs)
    for one, two in zip(*map(jax.tree.leaves, (outputs[0].to_tuple(), outputs[1].to_tuple())), strict=True):
        assert torch.equal(one, two) if torch.is_tensor(one) else True
    # what their file said and we did not change is there as it was
    theirs_said, ours_say = (json.loads((d / "config.json").read_text()) for d in (saved(architecture), tmp_path))
    assert holds(ours_say, theirs_said)
    assert ours_say["architectures"] == [architecture] and ours_say["dtype"] == "float32"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ours_load_what_the_other_backend_saves(architecture, saved, tmp_path):
    for number, (writer, reader) in enumerate([(in_jax, in_torch), (in_torch, in_jax)]):
        model = getattr(writer, architecture)(config_of(architecture), seed=5)
        model.save_pretrained(tmp_path / str(number))
        twin = reader.load(tmp_path / str(number))
        assert type(twin).__name__ == architecture and twin.config == model.config
        assert digests(twin) == digests(model)
    assert (tmp_path / "0" / "model.safetensors").read_bytes() == (tmp_path / "1" / "model.safetensors").read_bytes()
    assert (tmp_path / "0" / "config.json").read_bytes() == (tmp_path / "1" / "config.json").read_bytes()


# Files of other classes


FITTING = [
    ("BertForMaskedLM", "BertForPreTraining", {}),
    ("BertModel", "BertForPreTraining", {}),
    ("BertModel", "BertForSequenceClassification", {}),
    ("BertForPreTraining", "BertForPreTraining", {}),
    ("BertModel", "BertForMaskedLM", {"add_pooling_layer": False}),
    ("BertModel", "BertForPreTraining", {"add_pooling_layer": False}),
    ("CLIPTextModel", "CLIPModel", {}),
    ("CLIPTextModelWithProjection", "CLIPModel", {}),
    ("CLIPVisionModel", "CLIPModel", {}),
    ("CLIPVisionModelWithProjection", "CLIPModel", {}),
    ("CLIPVisionModel", "CLIPForImageClassification", {}),
    ("CLIPTextModel", "CLIPTextModelWithProjection", {}),
    ("CLIPVisionModel", "CLIPVisionModelWithProjection", {}),
]


@pytest.mark.parametrize(("wanted", "source", "options"), FITTING)
def test_a_file_may_belong_to_another_class_of_the_family(wanted, source, options, backend, saved, caplog):
    directory = saved(source)
    model = getattr(backend, wanted).from_pretrained(directory, **options)
    ours, file = digests(model), stored(directory)
    prefix = "bert." if wanted == "BertModel" else ""
    assert {prefix + name: value for name, value in ours.items()}.items() <= file.items()
    left_out = set(file) - {prefix + name for name in ours}
    report = model.load_report
    assert set(report.left_out) == left_out and len(report.left_out) == len(left_out)
    assert report.loaded == len(ours) and report.fresh == report.ignored == ()
    expected = [f"{len(ours)} tensors loaded from {directory}; {len(left_out)} of other classes left out"]
    assert warnings_of(caplog) == (expected if left_out else [])
    assert isinstance(model.config, config_class(wanted))


def test_layers_that_a_changed_config_has_no_place_for_are_dropped(backend, saved, caplog):
    directory = saved("BertForPreTraining")
    model = backend.BertModel.from_pretrained(directory, num_hidden_layers=1)
    assert {name for name in digests(model) if ".layer." in name} == {
        name.removeprefix("bert.") for name in stored(directory) if ".layer.0." in name
    }
    report = model.load_report
    assert set(report.dropped) == {name for name in stored(directory) if ".layer." in name and ".layer.0." not in name}
    assert report.dropped and set(report.left_out) == {name for name in stored(directory) if name.startswith("cls.")}
    assert f"; {len(report.dropped)} dropped, for which the changed config has no place: bert.encoder" in str(report)
    assert len(warnings_of(caplog)) == 1


def test_a_missing_pooler_is_an_error_with_both_ways_out(backend, saved):
    with pytest.raises(CheckpointError) as caught:
        backend.BertModel.from_pretrained(saved("BertForMaskedLM"))
    assert str(caught.value) == (
        f"{saved('BertForMaskedLM')} does not fit BertModel: 2 tensors are missing: "
        "pooler.dense.weight, pooler.dense.bias "
        "(add_pooling_layer=False builds the model without; allow_fresh=('pooler',) draws them anew)"
    )


def test_fresh_parts_are_listed_and_the_same_everywhere(saved, caplog):
    directory = saved("BertForMaskedLM")
    models = [module.BertModel.from_pretrained(directory, allow_fresh=("pooler",)) for module in BACKENDS.values()]
    fresh = {"pooler.dense.weight", "pooler.dense.bias"}
    initial = digests(in_torch.BertModel(config_of("BertModel")))
    for model in models:
        assert set(model.load_report.fresh) == fresh
        found = digests(model)
        assert {name: found[name] for name in fresh} == {name: initial[name] for name in fresh}
        assert all(found[name] != initial[name] for name in found if name.endswith("query.weight"))
    assert digests(models[0]) == digests(models[1])
    assert len(warnings_of(caplog)) == 2
    assert all("; 2 drawn anew: pooler.dense." in line for line in warnings_of(caplog))


@pytest.mark.parametrize(
    ("wanted", "source", "fresh"),
    [
        ("BertForSequenceClassification", "BertForPreTraining", "classifier"),
        ("CLIPForImageClassification", "CLIPModel", "classifier"),
        ("BertForPreTraining", "BertForMaskedLM", "bert.pooler cls.seq_relationship"),
        ("CLIPTextModelWithProjection", "CLIPTextModel", "text_projection"),
    ],
)
def test_a_head_that_the_file_lacks(wanted, source, fresh, backend, saved):
    cls = getattr(backend, wanted)
    with pytest.raises(
        CheckpointError, match=f"does not fit {wanted}: . tensors? (is|are) missing: .*{fresh.split()[-1]}"
    ):
        cls.from_pretrained(saved(source))
    model = cls.from_pretrained(saved(source), allow_fresh=tuple(fresh.split()))
    assert {name for name in digests(model) if name.startswith(tuple(fresh.split()))} == set(model.load_report.fresh)


@pytest.mark.parametrize(
    ("wanted", "source", "has", "reads"),
    [
        ("CLIPVisionModel", "CLIPTextModel", "clip_text_model", "clip_vision_model"),
        ("CLIPModel", "CLIPTextModel", "clip_text_model", "clip"),
        ("BertModel", "CLIPModel", "clip", "bert"),
    ],
)
def test_a_file_of_another_kind(wanted, source, has, reads, backend, saved):
    cls = getattr(backend, wanted)
    with pytest.raises(ConfigError) as caught:
        cls.from_pretrained(saved(source))
    assert str(caught.value) == (
        f"{saved(source) / 'config.json'}: model_type='{has}' has no part of model_type '{reads}', "
        f"which {config_class(wanted).__name__} reads"
    )


def test_the_towers_of_a_composite_project_to_its_width(backend, copy_of):
    """LAION's files leave the default in the towers' configs; transformers' issue 25622."""
    directory = copy_of("CLIPModel")
    data = json.loads((directory / "config.json").read_text())
    data["text_config"]["projection_dim"] = data["vision_config"]["projection_dim"] = 512
    (directory / "config.json").write_text(json.dumps(data))
    for name in ("CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"):
        model = getattr(backend, name).from_pretrained(directory)
        assert model.config.projection_dim == data["projection_dim"] == 18
    assert backend.CLIPModel.from_pretrained(directory).config.text_config.projection_dim == 512


# Options


def test_keywords_change_the_config_of_what_is_loaded(backend, saved):
    model = backend.BertModel.from_pretrained(
        saved("BertModel"), hidden_dropout_prob=0.25, output_hidden_states=True, eos_token_id=[3, 4]
    )
    assert model.config == config_of("BertModel").replace(
        hidden_dropout_prob=0.25, output_hidden_states=True, eos_token_id=(3, 4)
    )
    assert len(model(np.zeros((1, 2), np.int64)).hidden_states) == 4
    tower = backend.CLIPTextModel.from_pretrained(saved("CLIPModel"), output_attentions=True)
    assert len(tower(np.zeros((1, 2), np.int64)).attentions) == 2
    with pytest.raises(CheckpointError, match=r"classifier\.weight has shape \(6, 20\), .* needs \(9, 20\)"):
        backend.BertForSequenceClassification.from_pretrained(saved("BertForSequenceClassification"), num_labels=9)
    with pytest.raises(ConfigError, match=r"^BertConfig has no field hiden_size; it knows add_cross_attention, arch"):
        backend.BertModel.from_pretrained(saved("BertModel"), hiden_size=3)
    with pytest.raises(ConfigError, match=r"^BertConfig has no field add_pooling_layer; it knows "):
        backend.BertForMaskedLM.from_pretrained(saved("BertForMaskedLM"), add_pooling_layer=False)
    with pytest.raises(ConfigError, match=r"^BertConfig: hidden_size=21 must be a positive multiple of num_attention_"):
        backend.BertModel.from_pretrained(saved("BertModel"), hidden_size=21)


def test_keywords_of_transformers_lead_to_ours(backend, saved):
    for name, message in (
        ("from_pt", "finds the format"),
        ("torch_dtype", "it has dtype="),
        ("device_map", "it has device="),
    ):
        with pytest.raises(TypeError, match=rf"BertModel\.from_pretrained has no keyword {name}; .*{message}"):
            backend.BertModel.from_pretrained(saved("BertModel"), **{name: True})


def test_where_parameters_go(saved):
    asked = []

    def sharding(path, shape):
        asked.append((path, shape))
        return jax.devices()[0]

    model = in_jax.BertModel.from_pretrained(saved("BertModel"), sharding=sharding)
    leaves = model._leaves()
    assert sorted(asked) == sorted((slot.path, leaf.get_value().shape) for slot, leaf in leaves.items())
    for place in (jax.devices()[0], jax.sharding.SingleDeviceSharding(jax.devices()[0])):
        placed = in_jax.BertModel.from_pretrained(saved("BertModel"), sharding=place)
        assert digests(placed) == digests(model)
    assert in_torch.BertModel.from_pretrained(saved("BertModel"), device="cpu").device.type == "cpu"
    meta = in_torch.BertModel.from_pretrained(saved("BertModel"), device="meta")
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}


def test_nothing_that_is_loaded_looks_into_the_file(backend, copy_of):
    """Overwriting the file in place changes no model."""
    directory = copy_of("CLIPModel")
    model = backend.CLIPModel.from_pretrained(directory)
    before = digests(model)
    path = directory / "model.safetensors"
    with path.open("r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        handle.write(b"\x55" * (path.stat().st_size // 2))
    assert digests(model) == before


def test_a_users_subclass_is_what_it_derives_from(backend, saved, tmp_path):
    class Mine(backend.BertForMaskedLM):
        def perplexity(self):
            return 1.0

    model = Mine.from_pretrained(saved("BertForPreTraining"))
    assert type(model) is Mine and model.perplexity() == 1.0
    assert model.load_report.left_out
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert type(backend.load(tmp_path)) is backend.BertForMaskedLM


def test_token_ids_outside_the_vocabulary_are_one_warning(backend, copy_of, caplog):
    directory = copy_of("BertModel")
    edit_config(directory, bos_token_id=101, eos_token_id=102)
    model = backend.BertModel.from_pretrained(directory)
    assert warnings_of(caplog) == [
        f"{directory}: bos_token_id=101, eos_token_id=102 outside the vocabulary; a call that uses it raises an error"
    ]
    assert [record.levelno for record in caplog.records if record.name == "diptych"] == [logging.WARNING]
    model(np.zeros((1, 2), np.int64))


def test_a_model_that_was_not_loaded_has_no_report(backend):
    model = backend.BertModel(config_of("BertModel"))
    assert (model.load_report.directory, model.load_report.loaded) == ("", 0)


def test_a_model_without_values_cannot_be_saved(backend, tmp_path):
    model = backend.BertModel(config_of("BertModel"), seed=None)
    with pytest.raises(
        CheckpointError, match=r"^BertModel: embeddings\.\S+ has no values \(the model was built with seed=None\)$"
    ):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_directory(backend, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError) as caught:
        backend.BertModel(config_of("BertModel")).save_pretrained(tmp_path / "out")
    assert str(caught.value) == f"{tmp_path / 'out'}: is a file, but a directory is needed to save a checkpoint"
    assert (tmp_path / "out").read_text() == "mine"


def test_other_files_of_the_directory_stay(backend, saved, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "flax_model.msgpack").write_bytes(b"old")
    model = backend.BertModel.from_pretrained(saved("BertModel"))
    model.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]


def test_files_of_tokenizers_and_processors_are_copied_if_asked_for(backend, copy_of, tmp_path):
    origin = copy_of("BertModel")
    along = {"tokenizer_config.json", "vocab.txt", "spiece.model", "preprocessor_config.json", "chat_template.jinja"}
    for name in (*along, "README.md", "generation_config.json", "pytorch_model.bin"):
        (origin / name).write_text("{}" if name.endswith("json") else f"this is {name}")
    model = backend.BertModel.from_pretrained(origin)
    model.generation_config = None
    model.save_pretrained(tmp_path / "bare")
    model.save_pretrained(tmp_path / "whole", copy_from=origin)
    assert {path.name for path in (tmp_path / "bare").iterdir()} == {"config.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {"config.json", "model.safetensors", *along}
    assert (tmp_path / "whole" / "vocab.txt").read_text() == "this is vocab.txt"
    model.save_pretrained(origin, copy_from=origin)
    for wrong, message in (
        (tmp_path / "bare", "holds no files of a tokenizer or processor"),
        ("nowhere/x/y", "nowhere"),
    ):
        with pytest.raises(CheckpointError, match=message):
            model.save_pretrained(tmp_path / "new", copy_from=wrong)
    assert not (tmp_path / "new").exists()


# Finding the class


def test_the_class_is_that_of_the_config(backend, saved, monkeypatch):
    for architecture in ("CLIPTextModel", "BertForSequenceClassification"):
        model = backend.load(saved(architecture))
        assert type(model) is getattr(backend, architecture)
        monkeypatch.setattr("diptych.core.backends._default", None)
        diptych.use(backend.NAME)
        again = diptych.load(saved(architecture), dtype="bfloat16")
        assert type(again) is type(model) and str(again.dtype).endswith("bfloat16")
        assert getattr(diptych, architecture) is getattr(backend, architecture)


def test_a_config_that_names_no_known_class(backend, copy_of):
    directory = copy_of("BertModel")
    edit_config(directory, architectures=["BertForNothing", "BertForMaskedLM"])
    assert type(backend.load(directory, allow_fresh=("cls",))) is backend.BertForMaskedLM
    for names in (["BertForNothing"], None):
        edit_config(directory, architectures=names)
        with pytest.raises(ConfigError) as caught:
            backend.load(directory)
        assert str(caught.value) == (
            f"{directory / 'config.json'}: architectures={names or []} names no known class; those of model_type "
            "'bert': BertModel, BertForPreTraining, BertLMHeadModel, BertForMaskedLM, BertForSequenceClassification. "
            "Write the right one into the file, load it with its from_pretrained, or convert it with architecture=… "
            "(--architecture)"
        )


def test_a_name_on_the_hub(backend, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options["allow_patterns"]))
        return str(saved("BertModel"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = backend.BertModel.from_pretrained("someone/bert-tiny")
    assert digests(model) == stored(saved("BertModel"))
    assert [name for name, _ in asked] == ["someone/bert-tiny"]
    assert type(backend.load("bert-tiny")) is backend.BertModel


@pytest.mark.parametrize(
    ("source", "asked"), [("RobertaModel", "XLMRobertaModel"), ("XLMRobertaModel", "RobertaModel")]
)
def test_the_same_architecture_under_another_name(source, asked, backend, saved, tmp_path):
    model = getattr(backend, asked).from_pretrained(saved(source))
    assert type(model.config) is config_class(asked)
    assert digests(model) == digests(getattr(backend, source).from_pretrained(saved(source)))
    assert getattr(backend, asked)(config_of(source), seed=None).config == config_of(source)
    model.save_pretrained(tmp_path)
    assert type(backend.load(tmp_path)) is getattr(backend, asked)
    with pytest.raises(ConfigError, match="has no part of model_type 'bert', which BertConfig reads"):
        backend.BertModel.from_pretrained(saved(source))


def test_names_that_match_nothing_are_one_warning_for_each_argument(backend, saved, caplog):
    directory = saved("BertModel")
    names = {"ignore": ("pooler.dense.bias", "poolr"), "allow_fresh": ("poler", "pooler"), "ignore_config": ("vocab",)}
    backend.BertModel.from_pretrained(directory, **names)
    assert warnings_of(caplog)[:3] == [
        f"{directory}: ignore_config=('vocab',) matches nothing",
        f"{directory}: allow_fresh=('poler',) matches nothing",
        f"{directory}: ignore=('poolr',) matches nothing",
    ]


def test_values_that_are_too_large_for_a_dtype(backend, copy_of):
    directory = copy_of("BertModel")
    rewrite(directory, lambda tensors: tensors["pooler.dense.weight"].__setitem__((0, 1), -7e4))
    message = r"model\.safetensors: pooler\.dense\.weight holds float32 values that are too large for float16; choose a"
    with pytest.raises(CheckpointError, match=message):
        backend.BertModel.from_pretrained(directory, dtype="float16")
    model = backend.BertModel.from_pretrained(directory)
    copied = to_torch if backend is in_jax else to_jax
    with pytest.raises(
        CheckpointError, match=r"pooler\.dense\.weight holds float32 values that are too large for float16"
    ):
        copied(model, dtype="float16")
    rewrite(directory, lambda tensors: tensors["pooler.dense.weight"].__setitem__((0, 1), -np.inf))
    assert backend.BertModel.from_pretrained(directory, dtype="float16").load_report.loaded


def test_a_shape_error_names_the_way_out(backend, saved):
    directory = saved("BertForSequenceClassification")
    with pytest.raises(CheckpointError) as caught:
        backend.BertForSequenceClassification.from_pretrained(directory, num_labels=9)
    way_out = (
        r"\(ignore=\('classifier\.\w+', 'classifier\.\w+'\) leaves them unread, and with it "
        r"allow_fresh=\('classifier\.\w+', 'classifier\.\w+'\) in from_pretrained draws them anew\)$"
    )
    assert re.search(way_out, str(caught.value))
    names = ("classifier.weight", "classifier.bias")
    model = backend.BertForSequenceClassification.from_pretrained(
        directory, num_labels=9, ignore=names, allow_fresh=names
    )
    assert model.fresh_parameters == tuple(sorted(names))
