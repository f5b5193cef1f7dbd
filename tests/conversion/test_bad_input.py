"""What may be wrong with files, configs and constructors: one clear error in both backends, and nothing is written."""

import json
import os
import shutil
import struct

import flax.serialization
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.core.errors import CheckpointError, ConfigError, InputError
from tests.conversion.refusals import BACKENDS, refusals
from tests.conversion.tiny import ARCHITECTURES, config_of, edit_config

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.fixture
def checkpoint(tmp_path):
    """A saved BertModel."""
    in_torch.BertModel(config_of("BertModel")).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def listing(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def refused_load(directory, error=CheckpointError, architecture="BertModel", **options):
    before = listing(directory) if directory.exists() else None
    text = refusals(error, lambda name: getattr(BACKENDS[name], architecture).from_pretrained(directory, **options))
    assert before is None or listing(directory) == before
    return text


# Directories and files


def test_a_directory_that_is_not_there(tmp_path):
    text = refused_load(tmp_path / "nothing")
    assert (
        text == f"{tmp_path / 'nothing'}: no such directory, and no id of a model on the Hugging Face hub (owner/name)"
    )
    text = refusals(CheckpointError, lambda name: BACKENDS[name].load(tmp_path / "nothing"))
    assert "no such directory" in text


def test_a_file_in_the_place_of_a_directory(checkpoint):
    path = checkpoint / "model.safetensors"
    assert refused_load(path) == (
        f"{path}: is a file; give the directory that holds it, with config.json and the weights in it"
    )


def test_a_config_that_is_not_there_or_no_config(checkpoint):
    path = checkpoint / "config.json"
    for content, message in (
        ("[]", "holds a JSON list, but a config is a JSON object"),
        ("{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (
            '{"model_type": "gpt9"}',
            "model_type='gpt9' is not known; known: bart, beit, bert, bert-generation, c",
        ),
        ('{"model_type": "bert", "hidden_size": 21}', "BertConfig: hidden_size=21 must be a positive multiple of num_"),
        ('{"model_type": "bert", "hidden_act": "gelu_10"}', "BertConfig: hidden_act='gelu_10' (str) must be one of ge"),
        ('{"model_type": "bert", "colour": 1, "width": 2}', "BertConfig does not know colour, width; it knows "),
        (
            '{"model_type": "bert", "position_embedding_type": "relative_key"}',
            "position_embedding_type='relative_key' is no",
        ),
    ):
        path.write_text(content)
        assert refused_load(checkpoint, ConfigError).startswith(f"{path}: {message}")
    path.unlink()
    assert refused_load(checkpoint, ConfigError) == (
        f"{path}: no such file; a checkpoint directory holds config.json beside its weights"
    )


def test_weights_of_no_known_name_are_listed(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "weights.bin")
    text = refused_load(checkpoint)
    assert text.startswith(f"{checkpoint}: holds no weights: looked for model.safetensors, ")
    assert "These are not read: weights.bin; load them with the library that made them" in text


@pytest.mark.parametrize("length", [0, 5, 100, -1, -1000])
def test_a_truncated_file(checkpoint, length):
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:length])
    text = refused_load(checkpoint)
    assert text.startswith(f"{path}: ") and text.endswith((" or save it again", " or save the file again"))
    wanted = {0: "is empty", 5: "has 5 bytes, too few", 100: "announces a header of"}
    assert wanted.get(length, "the file is truncated") in text


def test_a_header_longer_than_the_file(checkpoint):
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 2**62) + content[8:])
    assert refused_load(checkpoint).startswith(
        f"{path}: announces a header of {2**62} bytes, but the file has {len(content)}: it is truncated or not a safet"
    )


def test_the_same_tensor_twice_in_one_file(checkpoint):
    path = checkpoint / "model.safetensors"
    entry = '"pooler.dense.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{entry},{entry}}}".encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert refused_load(checkpoint) == (
        f"{path}: the header: has the same name twice: pooler.dense.bias. Save it again"
    )


def test_missing_unexpected_misshaped_and_integer_tensors_are_listed_together(checkpoint):
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["embeddings.LayerNorm.weight"], tensors["encoder.layer.1.output.dense.bias"]
    tensors["pooler.dense.bias"] = np.zeros(3, np.float32)
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(20, np.int32)
    tensors["adapter.down.weight"] = np.zeros(3, np.float32)
    save_file(tensors, path, metadata={"format": "pt"})
    assert refused_load(checkpoint) == (
        f"{checkpoint} does not fit BertModel: 2 tensors are missing: embeddings.LayerNorm.weight, "
        "encoder.layer.1.output.dense.bias (allow_fresh=('embeddings', 'encoder.layer',) draws them anew). 1 tensor "
        "belongs to no class of the family: adapter.down.weight (ignore=('adapter.down.weight',) leaves them unread; "
        "patterns may have *). 1 tensor has another shape: pooler.dense.bias has shape (3,), BertModel needs (20,) "
        "(ignore=('pooler.dense.bias',) leaves them unread, and with it allow_fresh=('pooler.dense.bias',) in "
        "from_pretrained draws them anew). "
        "1 tensor has a dtype other than float64, float32, float16, bfloat16 or float8: "
        "encoder.layer.0.output.dense.bias (int32)"
    )


@pytest.mark.parametrize("dtype", ["F4", "C64", "Q4"])
def test_a_dtype_that_nobody_can_hold(checkpoint, dtype):
    path = checkpoint / "model.safetensors"
    header = json.dumps({"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    text = refused_load(checkpoint)
    assert text.startswith(f"{path}: tensor 'x' has dtype '{dtype}'; supported are BOOL, U8, I8, ")


def sharded(checkpoint):
    in_torch.BertModel(config_of("BertModel")).save_pretrained(checkpoint, max_shard_size="20KB")
    index = checkpoint / "model.safetensors.index.json"
    return index, json.loads(index.read_text())


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_an_index_that_names_a_file_outside(checkpoint, tmp_path, kind):
    index, content = sharded(checkpoint)
    name = "model-00001-of-00003.safetensors"
    outside = tmp_path / "secret.safetensors"
    shutil.copy(checkpoint / name, outside)
    given = {"above": "../secret.safetensors", "absolute": str(outside), "link": "link.safetensors"}[kind]
    if kind == "link":
        os.symlink(outside, checkpoint / given)
    content["weight_map"] = {key: given if file == name else file for key, file in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    assert refused_load(checkpoint) == (
        f"{checkpoint}: the file {given!r} of the checkpoint is {outside}, outside of the directory. "
        "Put the file itself into it"
    )


def test_a_shard_that_is_missing_or_another_checkpoints(checkpoint):
    index, content = sharded(checkpoint)
    names = sorted(set(content["weight_map"].values()))
    assert len(names) == 3
    moved = checkpoint / names[1]
    kept = moved.read_bytes()
    moved.unlink()
    assert refused_load(checkpoint) == f"{index}: names files that are not there: {names[1]}. Download them too"
    shutil.copy(checkpoint / names[0], moved)
    assert refused_load(checkpoint).startswith(f"{index}: these tensors are stored in several files: embeddings.")
    moved.write_bytes(kept)
    lost = next(key for key, file in content["weight_map"].items() if file == names[1])
    index.write_text(json.dumps({"weight_map": {k: v for k, v in content["weight_map"].items() if k != lost}}))
    assert refused_load(checkpoint) == (
        f"{index}: these tensors are in the files, but it does not name them: {lost} ({names[1]}). "
        "The files belong to different checkpoints"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (msgpack.packb([1, 2]), "holds type list at the top, not a map of names: it is not a tree of Flax weights"),
        (
            b"PK\x03\x04" + bytes(50),
            "holds type integer at the top, not a map of names: it is not a tree of Flax weights",
        ),
        (
            flax.serialization.to_bytes({"a": {"b": 3}}),
            "'a.b' is of type integer, not an array; a tree of Flax weights",
        ),
        (flax.serialization.to_bytes({"a": np.ones(9)})[:-3], "ends at byte "),
    ],
)
def test_a_msgpack_that_is_no_tree(checkpoint, content, message):
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "flax_model.msgpack"
    path.write_bytes(content)
    assert refused_load(checkpoint).startswith(f"{path}: {message}")


def test_a_dtype_that_no_model_has(checkpoint):
    text = refused_load(checkpoint, InputError, dtype="int8")
    assert text == "dtype='int8' is not supported; supported: float64, float32, float16, bfloat16"
    text = refusals(InputError, lambda name: BACKENDS[name].BertModel(config_of("BertModel"), dtype="auto"))
    assert text == "dtype='auto' is not supported; supported: float64, float32, float16, bfloat16"


def test_double_precision_in_jax_without_x64(checkpoint):
    expected = (
        "dtype='float64' needs 64-bit mode, without which JAX gives float32: enter `with jax.enable_x64():` or set "
        "jax_enable_x64"
    )
    for act in (
        lambda: in_jax.BertModel(config_of("BertModel"), dtype="float64"),
        lambda: in_jax.BertModel(config_of("BertModel"), compute_dtype="float64"),
        lambda: in_jax.BertModel.from_pretrained(checkpoint, dtype="float64"),
    ):
        with pytest.raises(InputError) as caught:
            act()
        assert str(caught.value) == expected
    tensors = {name: array.astype(np.float64) for name, array in load_file(checkpoint / "model.safetensors").items()}
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as caught:
        in_jax.BertModel.from_pretrained(checkpoint)
    assert str(caught.value) == expected
    assert in_jax.BertModel.from_pretrained(checkpoint, dtype="float32").dtype == np.float32


def test_a_string_in_the_place_of_names(checkpoint):
    for argument in ("allow_fresh", "ignore", "ignore_config"):
        text = refused_load(checkpoint, InputError, **{argument: "pooler"})
        assert text == f"{argument}='pooler' must be a tuple of names, such as ('pooler',)"


def test_a_shard_size_that_is_none(tmp_path, models):
    for size in ("five", 0, "-5GB", True):
        text = refusals(InputError, lambda name, size=size: models(name, "BertModel").save_pretrained(
            tmp_path / "out", max_shard_size=size))  # fmt: skip
        assert text.startswith(f"max_shard_size: {size!r} is no size; give bytes above 0")
        assert not (tmp_path / "out").exists()


# Constructors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_config_of_another_class(architecture):
    other = config_of("CLIPModel" if architecture.startswith("Bert") else "BertModel")
    wanted = type(config_of(architecture)).__name__
    text = refusals(ConfigError, lambda name: getattr(BACKENDS[name], architecture)(other))
    assert text == f"{architecture}: config is a {type(other).__name__}, {wanted} is needed"
    text = refusals(ConfigError, lambda name: getattr(BACKENDS[name], architecture)({"hidden_size": 3}))
    assert text == f"{architecture}: config is a dict, {wanted} is needed"


def test_assigning_a_config_of_another_class(models):
    def assign(name):
        models(name, "BertModel").config = config_of("CLIPModel")

    assert refusals(ConfigError, assign) == "BertModel: config is a CLIPConfig, BertConfig is needed"


POOLED = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")
OWN = {
    **dict.fromkeys((*POOLED, "BeitModel"), "add_pooling_layer, "),
    **dict.fromkeys(("ViTModel", "DeiTModel", "SwinModel", "DonutSwinModel"), "add_pooling_layer, use_mask_token, "),
    **dict.fromkeys(
        ("EncoderDecoderModel", "SpeechEncoderDecoderModel", "VisionEncoderDecoderModel"), "encoder_add_pooling_layer, "
    ),
}
"""The keywords of constructors that others lack."""


def test_an_unknown_keyword_of_the_constructor():
    for name, known in (
        ("jax", "seed, dtype, gradient_checkpointing, compute_dtype, sharding"),
        ("torch", "seed, dtype, gradient_checkpointing, device"),
    ):
        for architecture in ARCHITECTURES:
            with pytest.raises(TypeError) as caught:
                getattr(BACKENDS[name], architecture)(config_of(architecture), sede=3, colour=1)
            own = OWN.get(architecture, "")
            assert str(caught.value) == f"{architecture} has no keyword colour, sede; it has {own}{known}"


def test_nothing_of_a_refused_config_is_assigned(checkpoint):
    """The frozen config's error names the way; the model keeps working."""
    for backend in BACKENDS.values():
        model = backend.BertModel.from_pretrained(checkpoint)
        with pytest.raises(
            ConfigError, match=r"write model\.config = model\.config\.replace\(decoder_start_token_id=2\)"
        ):
            model.config.decoder_start_token_id = 2
        model.config = model.config.replace(decoder_start_token_id=2)
        assert model.config.decoder_start_token_id == 2


def test_several_weights_of_one_name(checkpoint):
    """gamma beside weight."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"] + 1
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    text = refused_load(checkpoint)
    assert "are one tensor in the model, but the file holds two different ones; ignore=('embeddings.LayerNorm." in text
    edit_config(checkpoint, architectures=["Nothing"])
    text = refusals(ConfigError, lambda name: BACKENDS[name].load(checkpoint))
    assert "architectures=['Nothing'] names no known class; those of model_type " in text
