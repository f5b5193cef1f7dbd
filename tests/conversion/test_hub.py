"""Every function that takes a name downloads it from a server on loopback, with the options of the hub."""

import numpy as np
import pytest
from PIL import Image

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, inspect_checkpoint, parity
from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.tensors import digest
from diptych.core.errors import CheckpointError, InputError
from diptych.core.generation.options import GenerationConfig
from diptych.images import (
    classify_images,
    generate_text_from_images,
    generate_text_with_images,
    reads_images_in_prompts,
)
from diptych.processing import load_processor
from diptych.text import generate_text, load_tokenizer
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


def test_orbax(hub, tmp_path):
    tensors = open_checkpoint(hub.root / "gpt2").tensors
    write_checkpoint(saved := hub.root / "saved", tensors, format="orbax")
    (saved / "config.json").write_bytes((hub.root / "gpt2" / "config.json").read_bytes())
    (saved / "logs").mkdir()
    (saved / "logs" / "vocab.txt").write_text("of another program")
    wanted = {name: digest(source) for name, source in tensors.items()}
    for options in ({}, {"local_files_only": True}):
        directory = locate(REPOSITORY, subfolder="saved", **options)
        found = open_checkpoint(directory)
        assert (found.format, {name: digest(source) for name, source in found.tensors.items()}) == ("orbax", wanted)
    names = {path.relative_to(hub.root).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {*hub.fetched()} == names - {"saved/logs/vocab.txt"}
    # as the repository's own directory
    (saved / "model.orbax").rename(hub.root / "whole")
    whole = locate(REPOSITORY, subfolder="whole", cache_dir=tmp_path / "other")
    assert {name: digest(source) for name, source in open_checkpoint(whole).tensors.items()} == wanted
    (damaged,) = (hub.root / "whole" / "d").iterdir()
    hub.faults[damaged.relative_to(hub.root).as_posix()] = "bytes"
    with pytest.raises(CheckpointError, match=f"{damaged.name} of revision main arrived with another hash"):
        locate(REPOSITORY, subfolder="whole", cache_dir=tmp_path / "third")


def test_texts_and_classes(hub, tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = in_torch.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    in_torch.ViTForImageClassification(config).save_pretrained(vit := hub.root / "vit")
    (vit / "model.safetensors").rename(vit / "model.fp16.safetensors")
    (vit / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor", "size": 8}')

    (hub.root / "gpt2" / "generation_config.json").write_text('{"max_new_tokens": 2}')
    assert GenerationConfig.from_pretrained(REPOSITORY, subfolder="gpt2", revision="v2").max_new_tokens == 2

    there = {"backend": "torch", "subfolder": "gpt2"}
    call = {**there, "max_new_tokens": 3, "token": "secret"}
    (found,) = generate_text(REPOSITORY, [[1, 2]], revision="v2", **call)
    assert [found] == generate_text(hub.root / "gpt2", [[1, 2]], backend="torch", max_new_tokens=3)
    hub.requests.clear()
    assert [found] == generate_text(REPOSITORY, [[1, 2]], revision="v2", local_files_only=True, **call)
    assert hub.requests == []

    image = tmp_path / "image.png"
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).save(image)
    chosen = {"backend": "torch", "variant": "fp16"}
    assert classify_images(REPOSITORY, image, subfolder="vit", **chosen) == classify_images(vit, image, **chosen)

    assert not reads_images_in_prompts(REPOSITORY, **there)
    for call in (lambda: generate_text_from_images(REPOSITORY, image, **there),
                 lambda: generate_text_with_images(REPOSITORY, ["a"], **there)):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"snapshots/c0ffee0*/gpt2.*preprocessor_config"):
            call()
