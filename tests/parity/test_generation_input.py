"""What `generate` refuses, in both backends with the same words, and before anything is computed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import diptych.backends.torch as dp
from diptych.core.errors import InputError
from diptych.core.pretrained import generates_text
from tests.backends import BACKENDS
from tests.parity.tiny import CONFIGS
from tests.parity.writers import ABOUT, ALONE, SMALL, expected, models, small

GPT2, WRITES = "GPT2LMHeadModel", "BartForConditionalGeneration"
IDS = np.random.default_rng(0).integers(1, 13, (2, 5))
PADDED = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
LONG = np.ones((1, 41), int)

pytestmark = pytest.mark.usefixtures("without_type_checks", "x64")


@pytest.fixture(params=BACKENDS)
def idle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A model by its name that computes nothing."""

    def refusing(method: Any) -> Any:
        @functools.wraps(method)
        def refuse(*_: Any, **__: Any) -> Any:
            raise AssertionError("it computes")

        return refuse

    def prepared(name: str) -> Any:
        model = small(request.param, name)
        for method in ("forward" if request.param == "torch" else "__call__", "encode", "init_cache", "_run"):
            if hasattr(type(model), method):
                monkeypatch.setattr(type(model), method, refusing(getattr(type(model), method)))
        return model

    prepared.backend = request.param
    return prepared


WRONG: list[tuple[str, dict[str, Any], str]] = [
    # how long texts get
    (GPT2, {"max_length": 5}, "the prompt has 5 tokens, but max_length=5; max_new_tokens adds to it"),
    (GPT2, {"max_length": 3}, "the prompt has 5 tokens, but max_length=3; max_new_tokens adds to it"),
    (GPT2, {"input_ids": LONG}, "the prompt has 41 tokens, but the decoder has positions for 40"),
    (GPT2, {"input_ids": LONG[:, :40]}, "the prompt has 40 tokens, but max_length=40; max_new_tokens adds to it"),
    (
        GPT2,
        {"max_new_tokens": 37},
        "max_length=42 means reading 41 tokens, but the decoder has positions for 40",
    ),
    (WRITES, {"max_length": 42}, "max_length=42 means reading 41 tokens, but the decoder has positions for 40"),
    (
        WRITES,
        {"input_ids": LONG},
        "the number of tokens to read is 41, but the number of the encoder's positions=40",
    ),
    (WRITES, {"decoder_input_ids": LONG}, r"decoder_input_ids has shape \(1, 41\), but \(2, 41\) is needed, as many "),
    # ids
    (GPT2, {"input_ids": IDS + 8}, "input_ids holds 19, but vocab_size allows 0 to 12"),
    (GPT2, {"input_ids": -IDS}, "input_ids holds -11, but vocab_size allows 0 to 12"),
    (WRITES, {"input_ids": IDS + 8}, "input_ids holds 19, but vocab_size allows 0 to 12"),
    (WRITES, {"decoder_input_ids": IDS + 8}, "decoder_input_ids holds 19, but vocab_size allows 0 to 12"),
    (GPT2, {"eos_token_id": 13}, "eos_token_id=13, but vocab_size allows 0 to 12"),
    (GPT2, {"eos_token_id": [2, 14, 13]}, r"eos_token_id=\(14, 13\), but vocab_size allows 0 to 12"),
    (GPT2, {"pad_token_id": 99}, "pad_token_id=99, but vocab_size allows 0 to 12"),
    (WRITES, {"decoder_start_token_id": 13}, "decoder_start_token_id=13, but vocab_size allows 0 to 12"),
    (GPT2, {"input_ids": None, "bos_token_id": 13}, "bos_token_id holds 13, but vocab_size allows 0 to 12"),
    (
        GPT2,
        {"bad_words_ids": [[3, 13]], "suppress_tokens": [15], "sequence_bias": [[[14], 1.0]], "pad_token_id": 16},
        r"sequence_bias=\(14,\), bad_words_ids=\(13,\), suppress_tokens=\(15,\), pad_token_id=16, but vocab_size "
        "allows 0 to 12",
    ),
    (GPT2, {"forced_eos_token_id": 13}, r"forced_eos_token_id=\(13,\), but vocab_size allows 0 to 12"),
    (GPT2, {"forced_bos_token_id": 13}, r"forced_bos_token_id=\(13,\), but vocab_size allows 0 to 12"),
    (GPT2, {"begin_suppress_tokens": [13]}, r"begin_suppress_tokens=\(13,\), but vocab_size allows 0 to 12"),
    # texts
    (GPT2, {"input_ids": IDS[0]}, r"input_ids has shape \(5,\), but \(batch, tokens\) is needed"),
    (GPT2, {"input_ids": IDS[None]}, r"input_ids has shape \(1, 2, 5\), but \(batch, tokens\) is needed"),
    (GPT2, {"input_ids": IDS.astype(float)}, "input_ids has dtype float64, but ids must be integers"),
    (WRITES, {"input_ids": IDS.astype(float)}, "input_ids has dtype float64, but ids must be integers"),
    (GPT2, {"input_ids": IDS[:, :0]}, "the sequences have no tokens, but at least 1 is needed"),
    (WRITES, {"input_ids": IDS[:, :0]}, "the sequences have no tokens, but at least 1 is needed"),
    (WRITES, {"decoder_input_ids": IDS[:, :0]}, "the sequences have no tokens, but at least 1 is needed"),
    (GPT2, {"input_ids": IDS[:0]}, r"input_ids has shape \(0, 5\), but at least one row is needed"),
    (WRITES, {"input_ids": IDS[:0]}, r"input_ids has shape \(0, 5\), but at least one row is needed"),
    (
        WRITES,
        {"input_ids": None, "encoder_outputs": np.zeros((0, 5, 12))},
        r"encoder_outputs has shape \(0, 5, 12\), but at least one row is needed",
    ),
    (GPT2, {"input_ids": [[1, 2], [3]]}, "input_ids has rows of different lengths; pad them to one"),
    (GPT2, {"input_ids": "abc"}, "input_ids must hold numbers, but numpy reads it as str"),
    (GPT2, {"attention_mask": PADDED[:, 1:]}, r"attention_mask has shape \(2, 4\), but \(2, 5\) is needed"),
    (WRITES, {"attention_mask": PADDED[:1]}, r"attention_mask has shape \(1, 5\), but \(2, 5\) is needed"),
    (
        GPT2,
        {"attention_mask": PADDED, "pad_token_id": None},
        "attention_mask has padding, but pad_token_id=None; pass pad_token_id=…",
    ),
    (
        WRITES,
        {"decoder_input_ids": IDS, "decoder_attention_mask": PADDED, "pad_token_id": None},
        "decoder_attention_mask has padding, but pad_token_id=None; pass pad_token_id=…",
    ),
    (
        WRITES,
        {"decoder_input_ids": IDS[:1]},
        r"decoder_input_ids has shape \(1, 5\), but \(2, 5\) is needed, as many rows as there are to read",
    ),
    (
        WRITES,
        {"decoder_input_ids": IDS, "decoder_attention_mask": PADDED[:, :3]},
        r"decoder_attention_mask has shape \(2, 3\), but \(2, 5\) is needed",
    ),
    # what there is to begin with or to read
    (GPT2, {"input_ids": None, "bos_token_id": None}, "bos_token_id is needed, or input_ids"),
    (
        WRITES,
        {"decoder_start_token_id": None, "bos_token_id": None},
        "decoder_start_token_id or bos_token_id is needed",
    ),
    (WRITES, {"input_ids": None}, "one of input_ids, inputs_embeds, encoder_outputs is needed, got none"),
    (
        WRITES,
        {"encoder_outputs": np.zeros((2, 5, 12)), "inputs_embeds": np.zeros((2, 5, 12))},
        "one of input_ids, inputs_embeds, encoder_outputs is needed, got input_ids and inputs_embeds and "
        "encoder_outputs",
    ),
    (WRITES, {"input_ids": None, "encoder_outputs": ()}, "encoder_outputs.last_hidden_state is needed, got None"),
    (
        WRITES,
        {"input_ids": None, "encoder_outputs": np.zeros((2, 12))},
        r"encoder_outputs has shape \(2, 12\), but \(batch, tokens, hidden_size\) is needed",
    ),
    (
        WRITES,
        {"input_ids": None, "encoder_outputs": np.zeros((2, 5, 12), int)},
        "encoder_outputs has dtype int64, but floats are needed",
    ),
    (
        WRITES,
        {"input_ids": None, "inputs_embeds": IDS},
        "inputs_embeds has dtype int64, but floats are needed",
    ),
    (
        WRITES,
        {"input_ids": None, "encoder_outputs": np.zeros((2, 5, 12)), "encoder_no_repeat_ngram_size": 2},
        "encoder_no_repeat_ngram_size needs input_ids",
    ),
    # the rest
    (GPT2, {"seed": 1.5}, "seed=1.5 must be a whole number"),
    (GPT2, {"seed": None}, "seed=None must be a whole number"),
    (GPT2, {"seed": True}, "seed=True must be a whole number"),
    (GPT2, {"past_key_values": ((1, 2),)}, "past_key_values is a tuple, but a cache of diptych's is needed, such as "),
]


def test_idle_models_would_say_so(idle: Any) -> None:
    for name in (GPT2, WRITES):
        with pytest.raises(AssertionError, match="it computes"):
            idle(name).generate(IDS, pad_token_id=0)


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_does_not_fit_the_model_is_refused(idle: Any, name: str, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}\.generate: {message}"):
        idle(name).generate(**{"input_ids": IDS, "pad_token_id": 0, **call})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"top_p": 0.0}, "top_p=0.0 must be above 0, and 1 at most$"),
        ({"top_p": 1.01}, "top_p=1.01 must be above 0, and 1 at most$"),
        ({"temperature": 0}, "temperature=0 must be above 0; do_sample=False takes the best token each time$"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 must be num_beams=2 at most"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs do_sample=True or as many beams"),
        ({"eos_token_id": -1, "pad_token_id": -2}, "eos_token_id=-1 must not be negative; pad_token_id=-2 must not be"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 is not supported$"),
        ({"max_new_tokens": 0}, r"max_new_tokens=0 must be from 1 to 2\*\*30$"),
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0 must be int or null$"),
    ],
)
def test_impossible_options_are_refused(idle: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^GenerationConfig: {message}"):
        idle(GPT2).generate(IDS, **call)
    with pytest.raises(InputError, match=f"^GenerationConfig: {message}"):
        idle(GPT2).generate(IDS, generation_config=call)


def test_the_first_argument_is_the_main_input(idle: Any) -> None:
    for name in (GPT2, WRITES):
        with pytest.raises(
            InputError, match=f"^{name}.generate: input_ids has dtype float64, but ids must be integers"
        ):
            idle(name).generate(IDS.astype(float))
        with pytest.raises(InputError, match=f"^{name}.generate: inputs and input_ids are the same; give one of them"):
            idle(name).generate(IDS, input_ids=IDS)


def test_options_that_nobody_knows_are_named_with_the_nearest_ones(idle: Any) -> None:
    message = r"^GenerationConfig has no option max_new_token \(did you mean max_new_tokens\?\), zzz$"
    with pytest.raises(TypeError, match=message):
        idle(GPT2).generate(IDS, max_new_token=3, zzz=2)
    with pytest.raises(
        InputError, match=r"^generation_config is a int, but a GenerationConfig or a mapping of options"
    ):
        idle(GPT2).generate(IDS, generation_config=3)


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        (GPT2, {"pixel_values": np.zeros((2, 3, 4, 4))}, "the model does not take pixel_values; it takes "),
        (WRITES, {"pixel_values": np.zeros((2, 3, 4, 4))}, "the model does not take pixel_values; it takes "),
        (
            WRITES,
            {"input_values": np.zeros((2, 9)), "token_type_ids": IDS},
            "the model does not take input_values, token_type_ids; it takes ",
        ),
        (GPT2, {"encoder_outputs": np.zeros((2, 5, 12))}, "the model does not take encoder_outputs; it takes "),
        (GPT2, {"decoder_input_ids": IDS}, "the model does not take decoder_input_ids; it takes input_ids, "),
    ],
)
def test_what_a_model_does_not_take_is_refused(idle: Any, name: str, call: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\.generate: {message}"):
        idle(name).generate(IDS, **call)


class Streamer:
    def put(self, value: Any) -> None:
        raise AssertionError("it writes")

    end = put


def test_beams_cannot_be_streamed(idle: Any) -> None:
    with pytest.raises(InputError, match=r"generate: num_beams=3, but a streamer needs num_beams=1"):
        idle(GPT2).generate(IDS, num_beams=3, streamer=Streamer())
    with pytest.raises(InputError, match="the prompt has 5 tokens, but max_length=4"):
        idle(GPT2).generate(IDS, max_length=4, streamer=Streamer())


def test_a_cache_must_fit(idle: Any) -> None:
    plain = small(idle.backend, GPT2)
    cache = plain(IDS[:, :3], past_key_values=plain.init_cache(2, 9)).past_key_values
    other = small(idle.backend, "BertLMHeadModel", "float32").init_cache(2, 9)
    three, full = plain.init_cache(3, 9), plain(IDS, past_key_values=plain.init_cache(2, 9)).past_key_values
    model = idle(GPT2)
    for given, message in [
        (cache, r"past_key_values\.capacity is 9, but max_length - 1=10"),
        (three, r"past_key_values \(layers, batch, heads, head width\) has shape \(1, 3, 3, 4\), but \(1, 2, 3, 4\)"),
        (other, r"past_key_values has dtype (torch\.)?float32, but the model has (torch\.)?float64"),
        (full, "past_key_values has seen 5 tokens, but the prompt has 5"),
    ]:
        with pytest.raises(InputError, match=rf"^GPT2LMHeadModel\.generate: {message}"):
            model.generate(IDS, past_key_values=given, max_new_tokens=6, pad_token_id=0)


def test_a_cache_out_of_a_trace_is_refused() -> None:
    model = small("jax", GPT2)

    @jax.jit
    def program(ids: Any, cache: Any) -> Any:
        return model.generate(ids, past_key_values=cache, max_new_tokens=2, pad_token_id=0).sequences

    with pytest.raises(
        InputError, match="past_key_values is traced, so its length is unknown; call generate outside of"
    ):
        program(jnp.asarray(IDS), model.init_cache(2, 9))


def test_padding_on_the_right_is_warned_of() -> None:
    for backend in BACKENDS:
        with pytest.warns(UserWarning, match=r"generate: attention_mask has padding on the right, .* on the left"):
            small(backend).generate(IDS, attention_mask=PADDED[:, ::-1], max_new_tokens=2, pad_token_id=0)


def test_pads_take_no_position_of_an_encoder_that_does_not_count_them() -> None:
    """RoBERTa's padding has the id 1, so that of 43 positions 41 are left."""
    ids = np.random.default_rng(0).integers(2, 29, (1, 42))
    asked = {"decoder_start_token_id": 4, "pad_token_id": 3, "max_new_tokens": 3}
    sides = models("roberta gpt2")
    for model in (sides.torch, sides.jax):
        message = "generate: the number of tokens to read is 42, but the number of the encoder's positions=41"
        with pytest.raises(InputError, match=message):
            model.generate(ids, **asked)
    ids[0, 7] = 1
    wanted = expected(sides.theirs, {"input_ids": ids, "attention_mask": ids != 1, **asked}).sequences
    for model in (sides.torch, sides.jax):
        np.testing.assert_array_equal(
            np.asarray(model.generate(ids, attention_mask=ids != 1, **asked).sequences), wanted
        )


def test_only_what_can_write_does() -> None:
    """A head over words, and a decoder below it."""
    writers = {name for name in CONFIGS if generates_text(getattr(dp, name))}
    composites = {"EncoderDecoderModel", "SpeechEncoderDecoderModel", "VisionEncoderDecoderModel"}
    assert writers == {*ALONE, *ABOUT, *composites, "IdeficsForVisionText2Text"}
    for backend in BACKENDS.values():
        assert {name for name in CONFIGS if generates_text(getattr(backend, name))} == writers
        encoder = backend.BertLMHeadModel(CONFIGS["BertModel"], dtype="float64")
        with pytest.raises(
            InputError, match=r"^BertLMHeadModel\.generate: the model is not a decoder; .*is_decoder=True"
        ):
            encoder.generate(IDS)


def test_the_room_is_used_to_the_last_place() -> None:
    """The newest token needs no position."""
    for backend in BACKENDS:
        found = small(backend).generate(IDS[:1], max_new_tokens=36, pad_token_id=0).sequences
        assert found.shape == (1, 41)
    assert isinstance(small("torch").generate(LONG[:, :40], max_new_tokens=1).sequences, torch.Tensor)
    assert SMALL[GPT2].n_positions == 40


def test_models_say_what_generate_reads(idle: Any) -> None:
    def names(found: Any) -> list[str]:
        return [one.name for one in found]

    decoder, both = idle(GPT2), idle(WRITES)
    assert (
        names(decoder.prompt_inputs) == names(both.encoder_inputs) == ["input_ids", "attention_mask", "inputs_embeds"]
    )
    assert decoder.encoder_inputs == ()
