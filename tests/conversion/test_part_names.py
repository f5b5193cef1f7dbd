"""Files of composites in which the names of a part lack its base model's prefix or have it in excess."""

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, parity
from diptych.core.checkpoint import directory as checkpoint_files
from diptych.core.errors import CheckpointError
from tests.conversion.tiny import digests

SIZES = {"vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
SIZES |= {"intermediate_size": 29, "max_position_embeddings": 19, "pad_token_id": 1}


def encoder_with_prefix(name):
    return name.replace("encoder.", "encoder.bert.", 1) if name.startswith("encoder.") else name


def decoder_without_prefix(name):
    return name.replace("decoder.roberta.", "decoder.", 1)


def both(name):
    return decoder_without_prefix(encoder_with_prefix(name))


CHANGES = {"encoder": encoder_with_prefix, "decoder": decoder_without_prefix, "both": both}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A BERT that reads and a RoBERTa that writes, as transformers saves them."""
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**SIZES),
        transformers.RobertaConfig(**SIZES, is_decoder=True, add_cross_attention=True),
    )
    config.pad_token_id, config.decoder_start_token_id = 1, 2
    path = tmp_path_factory.mktemp("whole")
    transformers.EncoderDecoderModel(config).save_pretrained(path)
    return path


@pytest.fixture
def respelled(whole, tmp_path):
    """Gives a copy of the file with other names, and the names."""

    def respell(change, format="safetensors"):
        path = tmp_path / "respelled"
        path.mkdir()
        tensors = {change(name): values for name, values in load_file(whole / "model.safetensors").items()}
        (path / "config.json").write_text((whole / "config.json").read_text())
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path, tensors

    return respell


@pytest.mark.parametrize("part", CHANGES)
def test_a_part_may_be_spelled_otherwise(whole, respelled, part):
    path, tensors = respelled(CHANGES[part])
    assert set(tensors) != set(load_file(whole / "model.safetensors"))
    expected = digests(in_torch.EncoderDecoderModel.from_pretrained(whole))
    for backend in (in_jax, in_torch):
        model = backend.EncoderDecoderModel.from_pretrained(path)
        assert digests(model) == expected
        assert model.load_report.loaded == len(tensors)
        assert model.load_report.ignored == model.load_report.left_out == model.fresh_parameters == ()


@pytest.mark.parametrize("part", CHANGES)
def test_convert_brings_the_published_names_back(whole, respelled, tmp_path, part):
    path, _ = respelled(CHANGES[part])
    report = convert(path, tmp_path / "published")
    published = load_file(whole / "model.safetensors")
    found = load_file(tmp_path / "published" / "model.safetensors")
    assert found.keys() == published.keys()
    assert all(np.array_equal(found[name], published[name]) for name in found)
    assert report.other_classes == report.ignored == report.missing == ()
    convert(path, tmp_path / "flax", format="flax-msgpack")
    assert digests(in_jax.EncoderDecoderModel.from_pretrained(tmp_path / "flax")) == digests(
        in_torch.EncoderDecoderModel.from_pretrained(whole)
    )


def test_a_flax_tree_too(whole, respelled, tmp_path):
    convert(whole, tmp_path / "flax", format="flax-msgpack")
    tensors = checkpoint_files.open_checkpoint(tmp_path / "flax").tensors
    checkpoint_files.write_checkpoint(
        tmp_path / "flax", {both(name): source for name, source in tensors.items()}, format="flax-msgpack"
    )
    model = in_torch.EncoderDecoderModel.from_pretrained(tmp_path / "flax")
    assert digests(model) == digests(in_torch.EncoderDecoderModel.from_pretrained(whole))


@pytest.mark.parametrize("backend", [in_jax, in_torch], ids=["jax", "torch"])
def test_what_is_wrong_in_such_a_file_is_still_found(respelled, backend):
    path, tensors = respelled(both)
    first = "encoder.bert.embeddings.LayerNorm.weight"
    others = {name: values for name, values in tensors.items() if name != first}
    save_file(others, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: encoder\.embeddings\.LayerNorm\.weight "):
        backend.EncoderDecoderModel.from_pretrained(path)
    save_file(tensors | {"encoder.roberta.extra": np.zeros(1, np.float32)}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensor belongs to no class of the family: encoder\.roberta\.extra "):
        backend.EncoderDecoderModel.from_pretrained(path)


def test_parity_finds_the_modules_of_both_parts(respelled):
    path, _ = respelled(both)
    report = parity(path)
    assert report.passed and report.matched == 1.0
