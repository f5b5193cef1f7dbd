"""Every function that takes a name downloads it from a server on loopback, with the options of the hub."""

import pytest

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, inspect_checkpoint, parity
from diptych.core.errors import CheckpointError, InputError
from diptych.processing import load_processor
from diptych.text import load_tokenizer
from tests.conversion import checkpoints
from tests.conversion.tiny import digests, stored
from tests.hub_server import REPOSITORY


@pytest.fixture
def hub(hub_server):
    """A BertModel in two variants, and a GPT-2 in a directory."""
    checkpoints.write(hub_server.root, "BertModel")
    checkpoints.write(hub_server.root / "gpt2", "GPT2LMHeadModel")
    checkpoints.write(other := hub_server.root.with_name("other"), "BertModel", seed=1)
    (other / "model.safetensors").rename(hub_server.root / "model.ema.safetensors")
    (other / "config.json").rename(other / "unused.json")
    return hub_server


def test_models_and_configs(hub):
    loaded = in_torch.BertModel.from_pretrained(REPOSITORY, revision="v2", token="secret")
    assert digests(loaded) == stored(hub.root)
    assert loaded.load_report.directory.endswith("snapshots/c0ffee" + "0" * 34)
    hub.requests.clear()
    assert digests(in_jax.load(REPOSITORY, subfolder="gpt2")) == stored(hub.root / "gpt2")
    assert hub.fetched() == ["gpt2/config.json", "gpt2/model.safetensors"]
    variant = in_jax.BertModel.from_pretrained(REPOSITORY, variant="ema", hidden_dropout_prob=0.3)
    assert variant.config.hidden_dropout_prob == 0.3
    assert digests(variant) == digests(in_torch.load(hub.root, variant="ema")) != digests(loaded)
    hub.requests.clear()
    assert in_torch.GPT2Config.from_pretrained(REPOSITORY, subfolder="gpt2", local_files_only=True).n_layer
    assert hub.requests == []
    with pytest.raises(CheckpointError, match="is on the disk, but revision='v2'"):
        in_torch.BertModel.from_pretrained(hub.root, revision="v2")


def test_each_part_of_a_composite_has_options_of_its_own(hub):
    parts = {"encoder_variant": "ema", "encoder_revision": "v2", "decoder_subfolder": "gpt2", "token": "secret"}
    composite = in_torch.EncoderDecoderModel.from_encoder_decoder_pretrained(REPOSITORY, REPOSITORY, **parts)
    assert digests(composite.encoder) == digests(in_torch.load(hub.root, variant="ema"))
    assert "wpe.weight" in digests(composite.decoder.transformer)
    with pytest.raises(TypeError, match="has no keyword revision; say encoder_revision or decoder_revision"):
        in_torch.EncoderDecoderModel.from_encoder_decoder_pretrained(REPOSITORY, REPOSITORY, revision="v2")


def test_conversion_and_inspection(hub, tmp_path):
    convert(REPOSITORY, tmp_path / "out", format="flax-msgpack", revision="v2", variant="ema")
    assert digests(in_torch.load(tmp_path / "out")) == digests(in_torch.load(hub.root, variant="ema"))
    assert inspect_checkpoint(REPOSITORY, subfolder="gpt2").architecture == "GPT2LMHeadModel"
    assert [*inspect_checkpoint(hub.root, variant="ema").files] == ["model.ema.safetensors"]


def test_parity_finds_both_sides(hub):
    message = "the reference is a BertModel, the candidate a GPT2LMHeadModel"
    with pytest.raises(InputError, match=message):
        parity(REPOSITORY, REPOSITORY, revision="v2", variant="ema", candidate_subfolder="gpt2")
    with pytest.raises(InputError, match=message):
        parity(REPOSITORY, hub.root, revision="v2", candidate_subfolder="gpt2")


def test_processors_and_tokenizers_come_without_the_weights(hub):
    (hub.root / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\n")
    (hub.root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (hub.root / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    assert load_tokenizer(REPOSITORY, revision="v2").encode("hello").ids == [2, 4, 3]
    assert load_processor(REPOSITORY, revision="v2").tokenizer.encode("hello").ids == [2, 4, 3]
    assert not [name for name in hub.fetched() if name.endswith("safetensors")]
