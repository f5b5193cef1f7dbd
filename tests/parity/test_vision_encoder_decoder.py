"""Texts about images: written as transformers writes them, from composites of any image encoder and text decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import diptych.backends.torch as in_torch
from diptych.conversion import parity
from diptych.core.errors import ConfigError, InputError
from diptych.core.models.bert import BertConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.vision_encoder_decoder import VisionEncoderDecoderConfig
from diptych.core.models.vit import ViTConfig
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.conversion.tiny import digests
from tests.parity import oracle
from tests.parity.tiny import CONFIGS
from tests.parity.writers import LOOKING, array, assert_same, expected, models

pytestmark = pytest.mark.usefixtures("x64")

RANDOM = np.random.default_rng(7)
IMAGES, LARGER = RANDOM.standard_normal((2, 1, 10, 10)), RANDOM.standard_normal((2, 1, 17, 12))
PIXELS = RANDOM.standard_normal((2, 3, 11, 16))
IDS = {"decoder_start_token_id": 4, "pad_token_id": 0}
ASKED = {"max_new_tokens": 7, "eos_token_id": None, **IDS}
BEAMS = {"num_beams": 3, "num_return_sequences": 2}


def written(model: Any, call: dict[str, Any]) -> Any:
    return model.generate(**call, output_scores=True, output_logits=True)


@pytest.mark.parametrize("pair", LOOKING)
def test_texts_are_those_of_transformers(pair: str) -> None:
    made = models(pair)
    texts = set()
    for images in (IMAGES, LARGER):
        resized = {"interpolate_pos_encoding": True} if images is LARGER else {}
        for options in ({}, BEAMS) if images is IMAGES else ({},):
            call = {"pixel_values": images, **resized, **ASKED, **options}
            found = written(made.torch, call)
            assert_same(found, expected(made.theirs, call))
            texts |= {tuple(row) for row in array(found.sequences)[:: found.sequences.shape[0] // 2].tolist()}
            if pair == LOOKING[0]:
                assert_same(written(made.jax, call), expected(made.theirs, call))
    assert len(texts) >= 4, "a text does not depend on its image"


def test_prompts_begin_with_the_start_token_but_for_donuts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = models(LOOKING[0])
    call = {"pixel_values": IMAGES, "decoder_input_ids": np.array([[9, 2], [3, 2]]), **ASKED}
    plain = written(made.torch, call)
    assert array(plain.sequences)[:, :3].tolist() == [[4, 9, 2], [4, 3, 2]]
    assert_same(plain, expected(made.theirs, call))
    monkeypatch.setattr(type(made.torch.config.encoder), "model_type", "donut-swin")
    monkeypatch.setattr(made.theirs.config.encoder, "model_type", "donut-swin")
    of_donut = written(made.torch, call)
    assert array(of_donut.sequences)[:, :2].tolist() == [[9, 2], [3, 2]]
    assert_same(of_donut, expected(made.theirs, call))
    assert_same(written(made.jax, call), expected(made.theirs, call))


@each_backend
def test_a_cache_and_given_states_change_nothing(backend: str) -> None:
    name = "VisionEncoderDecoderModel"
    model = getattr(BACKENDS[backend], name)(CONFIGS[name], seed=2, dtype="float64")
    ids = np.array([[4, 5, 7, 2], [4, 2, 9, 8]])
    whole = model(pixel_values=PIXELS, decoder_input_ids=ids)
    read = model.encode(PIXELS)
    assert read.last_hidden_state.shape == (2, 9, 9) and read.attention_mask is None
    cache = model.init_cache(2, 6)
    first = model.decode(ids[:, :2], read, past_key_values=cache)
    rest = model(decoder_input_ids=ids[:, 2:], past_key_values=first.past_key_values)
    logits = np.concatenate([array(first.logits), array(rest.logits)], axis=1)
    assert_close(logits, array(whole.logits), name="logits")
    again = model(encoder_outputs=read.last_hidden_state, decoder_input_ids=ids, logits_to_keep=2)
    assert_close(array(again.logits), array(whole.logits)[:, 2:], name="logits")
    moved = model(pixel_values=PIXELS, decoder_input_ids=ids, decoder_position_ids=np.array([[4, 5, 6, 7]]))
    assert np.abs(array(moved.logits) - array(whole.logits)).max() > 1e-3
    larger = RANDOM.standard_normal((2, 3, 16, 17))
    assert model.encode(larger, interpolate_pos_encoding=True).last_hidden_state.shape == (2, 13, 9)
    with pytest.raises(InputError, match=r"pixel_values has shape .*, or interpolate_pos_encoding=True"):
        model(pixel_values=larger, decoder_input_ids=ids)
    with pytest.raises(TypeError, match="call has no keyword decoder_position_ids; it takes pixel_values"):
        model.encode(PIXELS, decoder_position_ids=np.array([[4]]))
    for name in ("flip", "encoder_hidden_states", "decoder_use_cache", "decoder_past_key_values", "decoder_labels"):
        with pytest.raises(TypeError, match=f"call has no keyword {name}; it takes pixel_values, "):
            model(PIXELS, ids, **{name: None})
    with pytest.raises(TypeError, match="the model does not take input_ids; it takes pixel_values, interpolate_pos"):
        model.generate(input_ids=ids)
    with pytest.raises(InputError, match=r"generate: pixel_values has shape \(2, 4\), but \(batch, channels, height"):
        model.generate(ids.astype(float))
    with pytest.raises(InputError, match=r"generate: pixel_values has shape \(0, .*\), but at least one row is needed"):
        model.generate(PIXELS[:0])
    with pytest.raises(InputError, match=r"^ViTModel: pixel_values has shape \(0, .*\), but at least one image is"):
        model(PIXELS[:0, :, :5], ids[:0])
    with pytest.raises(InputError, match=r"call model\.decoder\.resize_token_embeddings$"):
        model.resize_token_embeddings(40)


def save(directory: Path, name: str, **keywords: Any) -> Path:
    return oracle.saved(getattr(in_torch, name)(CONFIGS[name], **keywords), directory)


@each_backend
def test_two_checkpoints_become_one_model_that_transformers_reads(backend: str, tmp_path: Path) -> None:
    made = BACKENDS[backend].VisionEncoderDecoderModel.from_encoder_decoder_pretrained
    vit, gpt2 = save(tmp_path / "vit", "ViTForImageClassification"), save(tmp_path / "gpt2", "GPT2Model")
    model = made(vit, gpt2, **IDS)
    assert {"encoder.pooler.dense.weight", "decoder.transformer.h.0.ln_cross_attn.weight"} <= {*model.fresh_parameters}
    assert "encoder: classifier.weight" in model.load_report.left_out
    slim = made(vit, gpt2, encoder_add_pooling_layer=False, encoder_hidden_dropout_prob=0.0, **IDS)
    assert slim.encoder.pooler is None and slim.config.encoder.hidden_dropout_prob == 0.0
    model.save_pretrained(tmp_path / "saved")
    assert digests(BACKENDS[backend].VisionEncoderDecoderModel.from_pretrained(tmp_path / "saved")) == (digests(model))
    theirs, info = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, pixels = np.array([[4, 7, 8], [4, 3, 2]]), PIXELS.astype(np.float32)
    call = {"pixel_values": torch.tensor(pixels), "decoder_input_ids": torch.tensor(ids)}
    found = model(pixel_values=pixels, decoder_input_ids=ids).logits
    assert_close(array(found), theirs(**call).logits.detach().numpy(), kind="float32")
    if backend == "torch":
        report = parity(tmp_path / "saved", against="transformers", backend=backend)
        assert report.passed and report.only_candidate == (), str(report)


@each_backend
def test_clips_tower_looks_in_either_spelling(backend: str, tmp_path: Path) -> None:
    made = BACKENDS[backend].VisionEncoderDecoderModel
    clip, gpt2 = save(tmp_path / "clip", "CLIPModel"), save(tmp_path / "gpt2", "GPT2LMHeadModel")
    model = made.from_encoder_decoder_pretrained(clip, gpt2, **IDS)
    assert model.fresh_parameters == ("enc_to_dec_proj.bias", "enc_to_dec_proj.weight")
    assert any(name.startswith("encoder: text_model.") for name in model.load_report.left_out)
    model.save_pretrained(tmp_path / "hub")
    assert "encoder.vision_model.pre_layrnorm.weight" in load_file(tmp_path / "hub" / "model.safetensors")
    theirs, info = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    transformers.VisionEncoderDecoderModel(theirs.config).save_pretrained(tmp_path / "latest")
    tensors = load_file(tmp_path / "hub" / "model.safetensors")
    flat = {name.replace("encoder.vision_model.", "encoder."): value for name, value in tensors.items()}
    assert flat.keys() == load_file(tmp_path / "latest" / "model.safetensors").keys()
    save_file(flat, tmp_path / "latest" / "model.safetensors", metadata={"format": "pt"})
    for directory in ("hub", "latest"):
        assert digests(made.from_pretrained(tmp_path / directory)) == digests(model)
    if backend == "torch":
        report = parity(tmp_path / "latest", against="transformers", backend=backend)
        assert report.passed and report.only_candidate == (), str(report)


@each_backend
def test_a_reader_of_texts_is_no_reader_of_images(backend: str, tmp_path: Path) -> None:
    decoder = BertConfig(is_decoder=True, add_cross_attention=True)
    assert VisionEncoderDecoderConfig() == VisionEncoderDecoderConfig(encoder=ViTConfig(), decoder=decoder)
    text = "'bert' cannot be the image encoder of a composite, since it encodes text; model_types that can: "
    image = "'vit' cannot be the text encoder of a composite, since it encodes image; model_types that can: "
    with pytest.raises(ConfigError, match=f"^VisionEncoderDecoderConfig: encoder: {text}.*clip_vision_model, .*vit$"):
        VisionEncoderDecoderConfig(encoder=BertConfig(), decoder=decoder)
    with pytest.raises(ConfigError, match=f"^EncoderDecoderConfig: encoder: {image}bert, "):
        EncoderDecoderConfig(encoder=ViTConfig(), decoder=decoder)
    with pytest.raises(ConfigError, match="decoder: 'vit' cannot be the decoder of a composite; model_types that can"):
        VisionEncoderDecoderConfig(encoder=ViTConfig(), decoder=ViTConfig())
    vit, bert = save(tmp_path / "vit", "ViTModel"), save(tmp_path / "bert", "BertModel")
    for name, encoder, message in (("VisionEncoderDecoderModel", bert, text), ("EncoderDecoderModel", vit, image)):
        with pytest.raises(ConfigError, match=message):
            getattr(BACKENDS[backend], name).from_encoder_decoder_pretrained(encoder, bert)
