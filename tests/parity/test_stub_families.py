"""Families of kinds to come, as stubs: encoders of images and of sound, and a decoder with images in some layers."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from diptych.core.errors import ConfigError, InputError
from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config
from tests import stubs
from tests.assertions import assert_close
from tests.parity.writers import array

pytestmark = pytest.mark.usefixtures("without_type_checks")
each_backend = pytest.mark.parametrize("backend", stubs.BACKENDS)

GPT2 = GPT2Config(
    vocab_size=17, n_embd=20, n_layer=2, n_head=4, n_positions=31, initializer_range=0.4, is_decoder=True,
    add_cross_attention=True, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
IDS = {"decoder_start_token_id": 3, "pad_token_id": 0}
RANDOM = np.random.default_rng(4)
IMAGES, SAMPLES = RANDOM.standard_normal((2, 3, 6, 6)), RANDOM.standard_normal((2, 23))
SOUND_MASK = np.array([[1] * 23, [1] * 15 + [0] * 8])
WRITTEN = {"decoder_input_ids": np.array([[3, 5, 7], [3, 2, 9]])}


@pytest.fixture(autouse=True)
def stub_families() -> Iterator[None]:
    with stubs.registered(), jax.enable_x64(True):
        yield


def built(backend: str, name: str) -> Any:
    """A stub in float64; the composites end in GPT-2."""
    configs = {
        "StubImageToText": lambda: stubs.StubImageToTextConfig(encoder=stubs.StubImageConfig(), decoder=GPT2, **IDS),
        "StubSoundToText": lambda: stubs.StubSoundToTextConfig(encoder=stubs.StubSoundConfig(), decoder=GPT2, **IDS),
        "StubDecoder": lambda: stubs.StubDecoderConfig(bos_token_id=1, add_cross_attention=True),
    }
    return stubs.MODELS[backend][name](configs[name](), seed=6, dtype="float64")


@each_backend
def test_keywords_without_a_prefix_reach_the_encoder(backend: str) -> None:
    model = built(backend, "StubImageToText")
    large = RANDOM.standard_normal((2, 3, 7, 8))
    with pytest.raises(InputError, match=r"pixel_values has shape .*, or interpolate_pos_encoding=True"):
        model(pixel_values=large, **WRITTEN)
    assert model(pixel_values=large, interpolate_pos_encoding=True, **WRITTEN).logits.shape == (2, 3, 17)
    assert model.encode(pixel_values=large, interpolate_pos_encoding=True).last_hidden_state.shape == (2, 12, 12)
    options = {"interpolate_pos_encoding": True, "max_new_tokens": 4}
    assert model.generate(pixel_values=large, **options).sequences.shape == (2, 5)
    positions = np.array([[4, 5, 6]])
    moved = model(pixel_values=IMAGES, decoder_position_ids=positions, **WRITTEN)
    assert np.abs(array(moved.logits) - array(model(pixel_values=IMAGES, **WRITTEN).logits)).max() > 1e-3
    with pytest.raises(TypeError, match="StubImageToText's call has no keyword flip; it takes pixel_values, "):
        model(pixel_values=IMAGES, flip=True, **WRITTEN)


def test_the_mask_over_samples_becomes_one_over_states() -> None:
    """In torch alone: speech composites go the same way in both backends."""
    model = built("torch", "StubSoundToText")
    whole = model(input_values=SAMPLES, attention_mask=SOUND_MASK, **WRITTEN)
    alone = model(
        input_values=SAMPLES[1:, :15],
        attention_mask=SOUND_MASK[1:, :15],
        decoder_input_ids=WRITTEN["decoder_input_ids"][1:],
    )
    assert_close(array(whole.logits)[1:], array(alone.logits), name="the padded row alone")
    unmasked = model(input_values=SAMPLES, **WRITTEN)
    assert np.abs(array(whole.logits)[1] - array(unmasked.logits)[1]).max() > 1e-3
    read = model.encode(input_values=SAMPLES, attention_mask=SOUND_MASK)
    assert array(read.attention_mask).sum(1).tolist() == [stubs.frames(23), stubs.frames(15)]
    for given in ({"encoder_outputs": read}, {"encoder_outputs": read, "attention_mask": SOUND_MASK}):
        assert_close(array(model(**given, **WRITTEN).logits), array(whole.logits), name="logits")
    states = read.last_hidden_state
    decoded = model.decode(encoder_outputs=states, encoder_attention_mask=read.attention_mask, **WRITTEN)
    assert_close(array(decoded.logits), array(whole.logits), name="decode")
    start = WRITTEN["decoder_input_ids"]
    first = model(encoder_outputs=read, decoder_input_ids=start[:, :1], use_cache=True)
    rest = model(decoder_input_ids=start[:, 1:], past_key_values=first.past_key_values, attention_mask=SOUND_MASK)
    assert_close(array(rest.logits), array(whole.logits)[:, 1:], name="a cache and the mask over samples")


@each_backend
def test_layers_without_cross_attention_keep_no_keys_of_it(backend: str) -> None:
    model, ids = built(backend, "StubDecoder"), np.array([[1, 4, 6, 2], [1, 8, 3, 5]])
    images = RANDOM.standard_normal((2, 4, 1, 3, 3))
    whole = model(input_ids=ids, pixel_values=images, output_attentions=True)
    assert len(whole.attentions) == 3 and len(whole.cross_attentions) == 1
    first = model(input_ids=ids[:, :3], pixel_values=images, use_cache=True)
    cache = first.past_key_values
    assert [key is None for key in cache.cross_keys] == [True, False, True]
    assert cache.encoder_size == (2, 4) and cache.keys[0].shape[1] == 2  # two heads serve six
    rest = model(input_ids=ids[:, 3:], past_key_values=cache)
    assert_close(array(rest.logits), array(whole.logits)[:, 3:], name="logits")
    found = model.generate(ids[:, :2], pixel_values=images, max_new_tokens=5, num_beams=2)
    others = model.generate(ids[:, :2], pixel_values=-images, max_new_tokens=5, num_beams=2)
    assert (array(found.sequences) != array(others.sequences)).any()
    with pytest.raises(InputError, match="pixel_values is needed, got None"):
        model(input_ids=ids)
    with pytest.raises(InputError, match=r"but \(batch, images, channels, height, width\) is needed"):
        model(input_ids=ids, pixel_values=images[:, 0])
    with pytest.raises(InputError, match="the number of tokens is 38, but rotary_positions=37"):
        model(input_ids=np.ones((2, 38), int), pixel_values=images)


def clip() -> CLIPConfig:
    text = CLIPTextConfig(
        vocab_size=31, hidden_size=15, intermediate_size=14, projection_dim=8, num_hidden_layers=1,
        num_attention_heads=3, max_position_embeddings=10, bos_token_id=29, eos_token_id=30,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=13, projection_dim=8, num_hidden_layers=1, num_attention_heads=4,
        image_size=6, patch_size=3,
    )  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)


def test_an_encoder_of_another_kind_is_refused() -> None:
    bert, image = BertConfig(num_hidden_layers=1), stubs.StubImageConfig()
    with pytest.raises(
        ConfigError,
        match=r"encoder: 'bert' cannot be the image encoder of a composite, since it encodes text; model_types that "
        r"can: .*clip_vision_model, .*stub-image",
    ):
        stubs.StubImageToTextConfig(encoder=bert, decoder=GPT2)
    with pytest.raises(ConfigError, match=r"'stub-image' cannot be the text encoder of .*, since it encodes image"):
        EncoderDecoderConfig(encoder=image, decoder=GPT2)


@each_backend
def test_what_the_composite_settles_itself_is_no_keyword_of_a_part(backend: str) -> None:
    model = built(backend, "StubImageToText")
    for name in ("decoder_use_cache", "encoder_hidden_states", "decoder_past_key_values", "decoder_labels"):
        with pytest.raises(TypeError, match=f"StubImageToText's call has no keyword {name}; it takes"):
            model(pixel_values=IMAGES, **{name: None}, **WRITTEN)
