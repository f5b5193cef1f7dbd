"""Adapters of languages beside a checkpoint, as MMS has them: exchanged in place, as in transformers."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from diptych.conversion import convert
from diptych.core.errors import CheckpointError, InputError
from tests.assertions import assert_close
from tests.conversion.tiny import digests
from tests.parity.writers import array

SIZES = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 14, "conv_dim": [5, 7],
    "conv_kernel": [4, 3], "conv_stride": [3, 2], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "vocab_size": 11, "do_stable_layer_norm": True, "adapter_attn_dim": 5,
}  # fmt: skip
SAMPLES = np.random.default_rng(0).standard_normal((1, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A model with adapters for one language, and beside it the files of two others, one with more tokens."""
    path = tmp_path_factory.mktemp("mms")
    transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SIZES)).save_pretrained(path)
    random = np.random.default_rng(1)
    tensors = load_file(path / "model.safetensors")
    own = {name: value for name, value in tensors.items() if ".adapter_layer." in name or name.startswith("lm_head.")}
    for language, size in (("fra", 17), ("swh", 11)):
        shapes = {name: (size, *value.shape[1:]) if "lm_head" in name else value.shape for name, value in own.items()}
        drawn = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        if language == "fra":
            save_file(drawn, path / "adapter.fra.safetensors")
        else:
            torch.save({name: torch.tensor(value) for name, value in drawn.items()}, path / "adapter.swh.bin")
    return path


@pytest.mark.parametrize(("language", "size"), [("fra", 17), ("swh", 11)])
def test_an_adapter_is_exchanged_as_in_transformers(multilingual, backend, tmp_path, language, size):
    reference = transformers.Wav2Vec2ForCTC.from_pretrained(multilingual)
    reference.load_adapter(language)
    with torch.no_grad():
        expected = reference(torch.tensor(SAMPLES)).logits.numpy()
    model = backend.Wav2Vec2ForCTC.from_pretrained(multilingual)
    before = digests(model)
    assert model.load_adapter(language) is model
    assert model.config.vocab_size == model.wav2vec2.config.vocab_size == size
    assert_close(array(model(SAMPLES).logits), expected, kind="float32")
    changed = {path for path, digest in digests(model).items() if digest != before[path]}
    assert changed == {path for path in before if ".adapter_layer." in path or path.startswith("lm_head.")}
    loaded = backend.Wav2Vec2ForCTC.from_pretrained(multilingual, target_lang=language)
    assert digests(loaded) == digests(model) and loaded.config == model.config
    model.save_pretrained(tmp_path)
    assert digests(backend.Wav2Vec2ForCTC.from_pretrained(tmp_path)) == digests(model)


def test_adapters_come_along(multilingual, backend, tmp_path):
    files = ("adapter.fra.safetensors", "adapter.swh.bin")
    report = convert(multilingual, tmp_path / "converted", format="flax-msgpack", dtype="bfloat16")
    assert set(files) <= set(report.copied)
    assert convert(multilingual, tmp_path / "converted", overwrite=True, dtype="bfloat16").not_copied == ()
    model = backend.Wav2Vec2ForCTC.from_pretrained(multilingual, dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved", copy_from=multilingual)
    for name in files:
        assert (tmp_path / "saved" / name).read_bytes() == (multilingual / name).read_bytes()
    converted = backend.Wav2Vec2ForCTC.from_pretrained(tmp_path / "converted", target_lang="fra")
    assert str(converted.dtype).endswith("bfloat16")
    assert digests(converted) == digests(model.load_adapter("fra", tmp_path / "saved"))


def test_the_file_may_lie_elsewhere(multilingual, backend):
    model = backend.Wav2Vec2ForCTC(backend.Wav2Vec2Config(**{**SIZES, **lists_as_tuples()}), seed=0)
    with pytest.raises(InputError, match=r"Wav2Vec2ForCTC\.load_adapter: the model was not loaded from a directory"):
        model.load_adapter("fra")
    assert model.load_adapter("fra", multilingual).config.vocab_size == 17


def lists_as_tuples():
    return {name: tuple(value) for name, value in SIZES.items() if isinstance(value, list)}


def test_models_without_adapters_refuse(multilingual, backend, saved):
    config = backend.Wav2Vec2Config(**{**SIZES, **lists_as_tuples(), "adapter_attn_dim": None})
    with pytest.raises(InputError, match="the model has no adapters for languages: its config has no adapter_attn_dim"):
        backend.Wav2Vec2ForCTC(config, seed=None).load_adapter("fra", multilingual)
    with pytest.raises(InputError, match=r"HubertForCTC\.load_adapter: the model has no adapters for languages"):
        backend.HubertForCTC.from_pretrained(saved("HubertForCTC"), target_lang="fra")


def test_a_language_that_is_not_there_is_named_with_those_that_are(multilingual, backend):
    model = backend.Wav2Vec2ForCTC.from_pretrained(multilingual)
    message = r"no adapter\.eng\.safetensors or adapter\.eng\.bin; languages here: fra, swh\. Files on the hub"
    with pytest.raises(CheckpointError, match=message):
        model.load_adapter("eng")


def test_tensors_that_do_not_fit_are_all_listed_and_nothing_changes(multilingual, backend, tmp_path):
    tensors = load_file(multilingual / "adapter.fra.safetensors")
    (first, second, *_) = [name for name in tensors if ".adapter_layer." in name]
    tensors[first] = np.zeros((2, 2), np.float32)
    tensors["strange"] = tensors.pop(second)
    save_file(tensors, tmp_path / "adapter.fra.safetensors")
    model = backend.Wav2Vec2ForCTC.from_pretrained(multilingual)
    before = digests(model)
    with pytest.raises(CheckpointError) as caught:
        model.load_adapter("fra", tmp_path)
    text = str(caught.value)
    assert f"1 missing: {second}. 1 unexpected: strange. 1 of another shape: {first} has shape (2, 2), not " in text
    assert digests(model) == before and model.config.vocab_size == 11
