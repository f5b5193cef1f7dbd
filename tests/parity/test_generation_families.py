"""What a family may override of `generate`: what is read, what its encoder returns, and what each step takes.

The families are stubs, subclasses of small models of both backends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import diptych.backends.jax.ops as jax_ops
import diptych.backends.torch.ops as torch_ops
from diptych.core import inputs
from diptych.core.errors import InputError
from diptych.core.inputs import ModelInput
from diptych.core.outputs import BaseModelOutput
from tests.parity.writers import BACKENDS, SMALL, array, small

pytestmark = pytest.mark.usefixtures("without_type_checks", "x64")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
OPS: dict[str, Any] = {"torch": torch_ops, "jax": jax_ops}
CALL = {"torch": "forward", "jax": "__call__"}
RANDOM = np.random.default_rng(0)
FRAMES, PATCHES = RANDOM.normal(size=(3, 12)) * 3.0, RANDOM.normal(size=(12, 12)) * 3.0
ASKED = {"max_new_tokens": 6, "pad_token_id": 0, "output_scores": True}


def stub(backend: str, name: str, members: Mapping[str, Any]) -> Any:
    """A subclass of a small model, with its weights."""
    base = getattr(BACKENDS[backend], name)
    members = {CALL[backend] if key == "call" else key: member for key, member in members.items()}
    return type(f"Stub{name}", (base,), members)(SMALL[name], seed=8, dtype="float64")


def assert_same(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(array(found.sequences), array(wanted.sequences))
    for one, other in zip(found.scores, wanted.scores, strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-10)


# An encoder of sound: three samples make a frame, and the mask is one of frames.


@dataclass(frozen=True, kw_only=True)
class SoundOutput(BaseModelOutput):
    attention_mask: Any = None


def sound_encoder(backend: str) -> dict[str, Any]:
    ops = OPS[backend]

    def encode(self: Any, input_values: Any = None, attention_mask: Any = None, **switches: Any) -> SoundOutput:
        values = self._boundary("encode").floats("input_values", input_values, "batch, samples")
        count = values.shape[1] // 3
        frames = ops.xp.reshape(values[:, : 3 * count], (values.shape[0], count, 3))
        mask = None if attention_mask is None else attention_mask[:, : 3 * count : 3]
        return SoundOutput(last_hidden_state=frames @ ops.xp.asarray(FRAMES), attention_mask=mask)

    return {"encode": encode, "encoder_inputs": inputs.SOUND_INPUTS}


@each_backend
def test_given_states_may_bring_their_mask(backend: str) -> None:
    model = stub(backend, "BartForConditionalGeneration", sound_encoder(backend))
    sound, mask = np.random.default_rng(1).normal(size=(2, 22)), np.ones((2, 22), np.int64)
    mask[1, 12:] = 0
    wanted = model.generate(input_values=sound, attention_mask=mask, **ASKED)
    given = model._boundary("encode").mask("attention_mask", mask, (2, 22))
    outputs = model.encode(sound, given)
    assert_same(model.generate(encoder_outputs=outputs, **ASKED), wanted)
    message = r"generate: attention_mask has shape \(2, 22\), but \(2, 7\) is needed"
    with pytest.raises(InputError, match=message):  # the mask of samples is none of frames
        model.generate(encoder_outputs=outputs, attention_mask=mask, **ASKED)


@each_backend
def test_what_sound_needs_is_said(backend: str) -> None:
    model = stub(backend, "BartForConditionalGeneration", sound_encoder(backend))
    with pytest.raises(TypeError, match=r"the model does not take input_ids; it takes input_values, attention_mask, "):
        model.generate(input_ids=np.ones((2, 4), int))
    with pytest.raises(InputError, match="input_values has dtype int64, but floats are needed"):
        model.generate(np.ones((2, 9), int))
    with pytest.raises(InputError, match="one of input_values, encoder_outputs is needed, got none"):
        model.generate()
    with pytest.raises(InputError, match=r"attention_mask has shape \(2, 8\), but \(2, 9\) is needed"):
        model.generate(input_values=np.zeros((2, 9)), attention_mask=np.ones((2, 8)))
    with pytest.raises(InputError, match="encoder_no_repeat_ngram_size needs input_ids"):
        model.generate(input_values=np.zeros((2, 9)), encoder_no_repeat_ngram_size=2)


# An encoder of images: each row of pixels is a patch; there is no mask, and a switch.


def image_encoder(backend: str) -> dict[str, Any]:
    ops = OPS[backend]

    def encode(self: Any, pixel_values: Any = None, flip: bool = False, **switches: Any) -> BaseModelOutput:
        values = self._boundary("encode").floats("pixel_values", pixel_values, "b, c, y, x")
        states = ops.xp.reshape(values[:, 0], (values.shape[0], -1, 12)) @ ops.xp.asarray(PATCHES)
        assert isinstance(flip, bool)
        return BaseModelOutput(last_hidden_state=-states if flip else states)

    return {
        "encode": encode,
        "encoder_inputs": (*inputs.IMAGE_INPUTS, ModelInput("flip", "switch", "")),
        "_prepends_start_token": False,
    }


# A decoder that sees images: their states are computed once, and a mask over them grows by a row for each token.

IMAGE_MASK = ModelInput("image_attention_mask", "mask", "batch, tokens, images", padding=0)
TABLE = np.random.default_rng(6).normal(size=(4, 13)) * 2.0


def image_decoder(backend: str, computed: list[int]) -> dict[str, Any]:
    ops, base = OPS[backend], BACKENDS[backend].GPT2LMHeadModel

    def call(
        self: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        image_states: Any = None,
        image_attention_mask: Any = None,
        *,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **others: Any,
    ) -> Any:
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        given |= {"position_ids": position_ids, "logits_to_keep": logits_to_keep}
        given |= {"past_key_values": past_key_values, "use_cache": use_cache}
        outputs = getattr(base, CALL[backend])(self, **given, **others)
        seen = ops.xp.astype(image_attention_mask, outputs.logits.dtype)[:, -outputs.logits.shape[1] :]
        if image_attention_mask.shape[1] > 1 and not isinstance(logits_to_keep, int):
            seen = ops.xp.take(ops.xp.astype(image_attention_mask, outputs.logits.dtype), logits_to_keep, axis=1)
        bias = seen @ image_states
        bias = ops.xp.repeat(bias, outputs.logits.shape[0] // bias.shape[0], axis=0)
        return outputs.replace(logits=outputs.logits + bias)

    def first_step_inputs(self: Any, plan: Any, traced: Any, prompt: Any) -> Any:
        extras = dict(prompt.extras)
        images, mask = extras.pop("pixel_values"), extras["image_attention_mask"]
        first, context = base._first_step_inputs(self, plan, traced, prompt._replace(extras=extras))
        computed.append(1)
        states = ops.xp.sum(images, axis=(2, 3)) @ ops.xp.asarray(TABLE)
        context = {**context, "image_states": states, "image_attention_mask": self._last_prompt_row(traced, mask)}
        return {**first, "image_states": states}, context

    images = replace(inputs.IMAGE_SEQUENCES, axes="batch, images, height, width, channels")
    return {
        "call": call,
        "_first_step_inputs": first_step_inputs,
        "prompt_inputs": (inputs.INPUT_IDS, inputs.ATTENTION_MASK, inputs.INPUTS_EMBEDS, images, IMAGE_MASK),
    }


IDS = np.random.default_rng(7).integers(1, 13, (2, 5))
IMAGES = np.random.default_rng(8).normal(size=(2, 3, 2, 2, 4))
SEEN = np.array([[[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 0, 0]] * 2 + [[0, 1, 0]] * 3])


@each_backend
def test_a_mask_over_images_grows_with_the_tokens(backend: str) -> None:
    computed: list[int] = []
    model, plain = stub(backend, "GPT2LMHeadModel", image_decoder(backend, computed)), small("torch")
    call = {"input_ids": IDS, "pixel_values": IMAGES, "image_attention_mask": SEEN, **ASKED}
    found = model.generate(**call)
    assert computed == [1]
    ids, states = IDS, IMAGES.sum((2, 3)) @ TABLE
    bias = np.einsum("bi,biv->bv", SEEN[:, -1].astype(float), states)
    for step in range(6):
        scores = array(plain(ids).logits)[:, -1] + bias
        np.testing.assert_allclose(array(found.scores[step]), scores, atol=1e-10)
        ids = np.concatenate([ids, scores.argmax(1)[:, None]], axis=1)
    np.testing.assert_array_equal(array(found.sequences), ids)
    embeds = array(plain.transformer.wte.weight)[IDS]
    new = model.generate(**{**call, "input_ids": None, "inputs_embeds": embeds}).sequences
    np.testing.assert_array_equal(array(new), ids[:, 5:])
    assert model.generate(**call, num_beams=3, num_return_sequences=2).sequences.shape == (4, 11)
    with pytest.raises(InputError, match=r"image_attention_mask has shape \(2, 4, 3\), but \(2, 5, 3\) is needed"):
        model.generate(**{**call, "image_attention_mask": SEEN[:, 1:]})
    with pytest.raises(InputError, match=r"pixel_values has shape \(1, 3, 2, 2, 4\), but \(2, 3, 2, 2, 4\) is needed"):
        model.generate(**{**call, "pixel_values": IMAGES[:1]})


# A vocabulary beside the first one.


def more_words(backend: str) -> dict[str, Any]:
    ops, base = OPS[backend], BACKENDS[backend].GPT2LMHeadModel

    def call(
        self: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        *,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Any:
        given = {"input_ids": ops.xp.where(input_ids >= 13, input_ids - 13, input_ids), "position_ids": position_ids}
        given |= {"attention_mask": attention_mask, "past_key_values": past_key_values, "use_cache": use_cache}
        outputs = getattr(base, CALL[backend])(self, **given, **others)
        return outputs.replace(logits=ops.xp.concat([outputs.logits, outputs.logits[..., 3:6] + 1.0], axis=-1))

    return {"call": call, "_vocabulary": (16, "vocab_size + additional_vocab_size")}


@each_backend
def test_ids_of_an_additional_vocabulary_are_legal(backend: str) -> None:
    model, ids = stub(backend, "GPT2LMHeadModel", more_words(backend)), IDS.copy()
    ids[0, 1], ids[1, 4] = 15, 13
    free = array(model.generate(ids, **ASKED).sequences)
    assert (free[:, 5:] >= 13).any()
    assert model.generate(ids, **ASKED).scores[0].shape == (2, 16)
    word = int(free[:, 5:].max())
    forbidding = ({"suppress_tokens": [word]}, {"bad_words_ids": [[word]]}, {"sequence_bias": [[[word], -99.0]]})
    for options in forbidding:
        assert word not in array(model.generate(ids, **ASKED, **options).sequences)[:, 5:]
    ended = array(model.generate(ids, **ASKED, eos_token_id=[13, 14, 15]).sequences)[:, 5:]
    assert (ended >= 13).sum(1).max() <= 1
    assert model.generate(ids, **ASKED, num_beams=2, forced_eos_token_id=15).sequences[0, -1] == 15
    with pytest.raises(InputError, match=r"input_ids holds 16, but vocab_size \+ additional_vocab_size allows 0 to 15"):
        model.generate(ids + 1, **ASKED)
    with pytest.raises(InputError, match=r"eos_token_id=16, suppress_tokens=|suppress_tokens=\(17,\), eos_token_id=16"):
        model.generate(ids, **ASKED, eos_token_id=16, suppress_tokens=[17])


def test_a_config_with_an_additional_vocabulary_says_so() -> None:
    config = SMALL["GPT2LMHeadModel"].replace()
    object.__setattr__(config, "additional_vocab_size", 2)
    model = BACKENDS["torch"].GPT2LMHeadModel(config, seed=None)
    assert model._vocabulary == (15, "vocab_size + additional_vocab_size")
    assert small("torch")._vocabulary == (13, "vocab_size")


# What models say of themselves.


@each_backend
def test_models_say_what_they_read(backend: str) -> None:
    def names(found: tuple[ModelInput, ...]) -> list[str]:
        return [one.name for one in found]

    decoder, both = small(backend), small(backend, "BartForConditionalGeneration")
    assert names(decoder.prompt_inputs) == ["input_ids", "attention_mask", "inputs_embeds"]
    assert decoder.encoder_inputs == ()
    assert names(both.encoder_inputs) == ["input_ids", "attention_mask", "inputs_embeds"]
    assert {one.padding for one in inputs.SOUND_INPUTS + inputs.IMAGE_INPUTS} == {None}
