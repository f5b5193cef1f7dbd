"""Torch models whose parameters stay in the mapped file (`mmap=True`)."""

import numpy as np
import pytest
import torch
import transformers

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert
from tests.conversion.tiny import digests, stored

NAME = "encoder.layer.0.attention.self.query.weight"


def overwrite(directory):
    """Writes zeros over the weights, in the file itself."""
    file = directory / "model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(8 + int.from_bytes(file.read_bytes()[:8], "little"))
        handle.write(bytes(file.stat().st_size - handle.tell()))


def parameter(model):
    return model.get_parameter(NAME).detach()


@pytest.mark.parametrize("options", [{}, {"mmap": True, "dtype": "float64"}], ids=str)
def test_parameters_are_copies_by_default_and_in_another_dtype(options, copy_of):
    model = in_torch.BertModel.from_pretrained(directory := copy_of("BertModel"), **options)
    before = parameter(model).clone()
    overwrite(directory)
    torch.testing.assert_close(parameter(model), before, rtol=0, atol=0)


def test_mapped_parameters_are_the_file(copy_of):
    model = in_torch.BertModel.from_pretrained(directory := copy_of("BertModel"), mmap=True)
    assert digests(model) == stored(directory, "BertModel")
    overwrite(directory)
    assert not parameter(model).any()


@pytest.mark.parametrize("format", ["safetensors", "flax-msgpack"])
def test_what_is_written_to_a_parameter_stays_in_the_model(format, saved, tmp_path):
    convert(saved("BertModel"), directory := tmp_path / "there", format=format)
    load = in_torch.BertModel.from_pretrained
    changed, other = load(directory, mmap=True), load(directory, mmap=True)
    with torch.no_grad():
        for value in changed.parameters():
            value.zero_()
    expected = stored(saved("BertModel"), "BertModel")
    assert digests(other) == digests(load(directory)) == expected != digests(changed)


def test_the_file_may_be_replaced_while_it_is_mapped(copy_of):
    model = in_torch.BertModel.from_pretrained(directory := copy_of("BertModel"), mmap=True)
    with torch.no_grad():
        parameter(model).fill_(1)
    model.save_pretrained(directory)
    again = in_torch.BertModel.from_pretrained(directory)
    assert digests(again) == digests(model)
    assert (parameter(again) == 1).all()


def test_parameters_that_share_a_tensor_of_the_file_share_no_memory(tmp_path):
    config = transformers.BertConfig(vocab_size=7, hidden_size=4, num_hidden_layers=2, num_attention_heads=2)
    theirs = transformers.BertModel(config, add_pooling_layer=False)
    state = theirs.state_dict()
    state[NAME] = state[NAME.replace("query", "key")]  # torch.save stores their memory once
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = in_torch.BertModel.from_pretrained(tmp_path, mmap=True, add_pooling_layer=False)
    np.testing.assert_array_equal(parameter(model), state[NAME])
    parameter(model).zero_()
    assert model.get_parameter(NAME.replace("query", "key")).any()


def test_jax_has_no_such_keyword(saved):
    with pytest.raises(TypeError, match=r"mmap; its layout differs from the file's"):
        in_jax.BertModel.from_pretrained(saved("BertModel"), mmap=True)
