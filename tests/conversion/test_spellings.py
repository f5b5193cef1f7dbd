"""Names of tensors in old files and in those of other classes, and what may be left unread."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import diptych.backends.jax as in_jax
from diptych.core.errors import CheckpointError, ConfigError
from tests.assertions import assert_close
from tests.conversion.tiny import PREFIXES, config_of, digests, edit_config, rewrite, stored, theirs


def test_the_first_bert_files(backend, saved, copy_of):
    """gamma and beta, tied tensors stored twice, buffers, and no model_type."""
    directory = copy_of("BertForPreTraining")

    def old(tensors):
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in tensors.items()
        }
        return renamed | {
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
            "bert.embeddings.position_ids": np.arange(19)[None],
        }

    rewrite(directory, old)
    edit_config(directory, model_type=None)
    for name in ("BertForPreTraining", "BertForMaskedLM", "BertModel"):
        model = getattr(backend, name).from_pretrained(directory)
        assert digests(model) == digests(getattr(backend, name).from_pretrained(saved("BertForPreTraining")))
        assert "bert.embeddings.position_ids" in model.load_report.ignored
    assert len(backend.BertForPreTraining.from_pretrained(directory).load_report.ignored) == 3
    with pytest.raises(ConfigError, match="model_type=None is not known; known: bart, beit, b"):
        backend.load(directory)


def test_a_file_without_the_base_models_prefix(backend, saved, copy_of):
    directory = copy_of("BertForMaskedLM")
    rewrite(directory, lambda tensors: {name.removeprefix("bert."): array for name, array in tensors.items()})
    model = backend.BertForMaskedLM.from_pretrained(directory)
    assert digests(model) == stored(saved("BertForMaskedLM"))


@pytest.mark.parametrize("architecture", PREFIXES)
def test_towers_are_read_flat_and_with_their_prefix(architecture, backend, saved, copy_of, tmp_path):
    directory = copy_of(architecture)
    prefix = PREFIXES[architecture]
    flat = load_file(directory / "model.safetensors")
    assert not any(name.startswith(prefix) for name in flat)
    cls = getattr(backend, architecture)
    model = cls.from_pretrained(directory)
    rewrite(directory, lambda tensors: {prefix + name: array for name, array in tensors.items()})
    assert digests(cls.from_pretrained(directory)) == digests(model) == stored(saved(architecture), architecture)
    model.save_pretrained(tmp_path / "ours")
    assert all(name.startswith(prefix) for name in load_file(tmp_path / "ours" / "model.safetensors"))
    # a flat file serves the class with a projection too
    projected = getattr(backend, f"{architecture}WithProjection")
    head = "text_projection" if "Text" in architecture else "visual_projection"
    model = projected.from_pretrained(saved(architecture), allow_fresh=(head,))
    assert model.load_report.fresh == (f"{head}.weight",)


@pytest.fixture
def untied(tmp_path):
    """A masked language model of transformers whose output layer is its own, with a bias of its own."""
    config = theirs("BertForMaskedLM").config
    config.tie_word_embeddings = False
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        model.cls.predictions.decoder.weight.normal_()
        model.cls.predictions.decoder.bias.normal_()
        model.cls.predictions.bias.normal_()  # saved by transformers, read by nothing
    model.save_pretrained(tmp_path / "untied")
    return model, tmp_path / "untied"


def test_an_output_layer_of_its_own(backend, untied, tmp_path):
    their_model, directory = untied
    model = backend.BertForMaskedLM.from_pretrained(directory)
    file, dead = stored(directory), "cls.predictions.bias"  # which transformers keeps and never reads
    assert digests(model) == {name: value for name, value in file.items() if name != dead}
    assert model.load_report.ignored == (dead,)
    assert model.num_parameters() == their_model.num_parameters() - 61
    ids = np.arange(10).reshape(2, 5)
    with torch.no_grad():
        expected = their_model(torch.from_numpy(ids)).logits.numpy()
    found = model(ids).logits
    assert_close(found if backend is in_jax else found.detach(), expected, kind="float32")
    # transformers reads the same back
    model.save_pretrained(tmp_path / "ours")
    again, info = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert set(info["missing_keys"]) == {dead} and not info["unexpected_keys"]
    with torch.no_grad():
        np.testing.assert_array_equal(again.eval()(torch.from_numpy(ids)).logits.numpy(), expected)


def test_an_output_layer_of_its_own_in_an_old_file(backend, untied):
    """Before version 5 one bias had both names, and files had it under the first."""
    _, directory = untied
    expected = digests(backend.BertForMaskedLM.from_pretrained(directory))
    old, new = "cls.predictions.bias", "cls.predictions.decoder.bias"
    rewrite(directory, lambda tensors: {n: t for n, t in tensors.items() if n not in (old, new)} | {old: tensors[new]})
    assert digests(backend.BertForMaskedLM.from_pretrained(directory)) == expected


def test_an_output_layer_of_its_own_belongs_to_no_other_class(backend, untied):
    _, directory = untied
    base = backend.BertModel.from_pretrained(directory, add_pooling_layer=False)
    assert {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} < set(base.load_report.left_out)
    two = r"cls\.predictions\.bias and cls\.predictions\.decoder\.bias are one tensor in the model, but the file holds"
    with pytest.raises(CheckpointError, match=two):
        backend.BertForMaskedLM.from_pretrained(directory, tie_word_embeddings=True)  # as the caller wants it
    tied = backend.BertForMaskedLM.from_pretrained(
        directory, tie_word_embeddings=True, ignore=("cls.predictions.bias",)
    )
    assert tied.load_report.dropped == ("cls.predictions.decoder.weight",)
    assert digests(tied)["cls.predictions.bias"] == stored(directory)["cls.predictions.decoder.bias"]
    edit_config(directory, tie_word_embeddings=True)  # the file contradicts itself
    with pytest.raises(CheckpointError, match=two):
        backend.BertForMaskedLM.from_pretrained(directory)


def test_unknown_tensors_are_refused_unless_they_are_ignored(backend, copy_of):
    directory = copy_of("BertModel")
    extra = {"adapter.0.weight": np.zeros(3, np.float32), "adapter.1.weight": np.zeros(3, np.float32)}
    rewrite(directory, lambda tensors: tensors | extra)
    with pytest.raises(
        CheckpointError,
        match=r"2 tensors belong to no class of the family: adapter\.[01]\.weight, adapter\.[01]\.weight \(ignore=\(",
    ):
        backend.BertModel.from_pretrained(directory)
    for ignore in (("adapter",), ("adapter.*.weight",), ["adapter.0.weight", "adapter.1.weight"]):
        model = backend.BertModel.from_pretrained(directory, ignore=ignore)
        assert sorted(model.load_report.ignored) == sorted(extra)


def test_unknown_config_fields_are_refused_unless_they_are_ignored(backend, copy_of):
    directory = copy_of("BertModel")
    edit_config(directory, colour="red", flavour="sour")
    with pytest.raises(ConfigError, match=r"does not know colour, flavour; .* ignore_config=\('colour', 'flavour',\)$"):
        backend.BertModel.from_pretrained(directory)
    for load in (backend.BertModel.from_pretrained, backend.load):
        model = load(directory, ignore_config=("colour", "flavour"))
        assert model.config == config_of("BertModel") and model.config.to_dict()["colour"] == "red"
