"""Texts about recordings: written as transformers writes them, from composites of speech encoders and text decoders."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import parity
from diptych.core.errors import ConfigError, InputError
from diptych.core.models.bert import BertConfig
from diptych.core.models.speech_encoder_decoder import SpeechEncoderDecoderConfig
from diptych.core.models.vit import ViTConfig
from diptych.core.models.wav2vec2 import Wav2Vec2Config
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.conversion.tiny import digests
from tests.parity import oracle
from tests.parity.tiny import CONFIGS
from tests.parity.writers import HEARING, array, assert_same, expected, models

pytestmark = pytest.mark.usefixtures("x64")

NAME = "SpeechEncoderDecoderModel"
RANDOM = np.random.default_rng(7)
MASK = np.array([[1] * 40, [1] * 28 + [0] * 12])
SOUND = RANDOM.standard_normal((2, 40)) * MASK
TOKENS = np.array([[4, 5, 7, 2], [4, 2, 9, 8]])
IDS = {"decoder_start_token_id": 4, "pad_token_id": 0}
ASKED = {"max_new_tokens": 7, "eos_token_id": None, **IDS}
BEAMS = {"num_beams": 3, "num_return_sequences": 2}


def written(model: Any, call: dict[str, Any]) -> Any:
    return model.generate(**call, output_scores=True, output_logits=True)


@pytest.mark.parametrize("pair", HEARING)
def test_texts_are_those_of_transformers(pair: str) -> None:
    made = models(pair)
    texts = set()
    for options in ({}, BEAMS):
        call = {"input_values": SOUND, "attention_mask": MASK, **ASKED, **options}
        wanted = expected(made.theirs, {"inputs": call.pop("input_values"), **call})
        found = written(made.torch, {"input_values": SOUND, **call})
        assert_same(found, wanted)
        if pair == HEARING[0]:
            assert_same(written(made.jax, {"input_values": SOUND, **call}), wanted)
        texts |= {tuple(row) for row in array(found.sequences)[:: found.sequences.shape[0] // 2].tolist()}
    assert len(texts) >= 2, "a text does not depend on its recording"


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_the_mask_is_that_of_the_states_behind_an_adapter(kernel: int) -> None:
    fields = {"add_adapter": True, "adapter_kernel_size": kernel, "num_adapter_layers": 2, "output_hidden_size": 14}
    config = CONFIGS[NAME].with_part("encoder", CONFIGS[NAME].encoder.replace(**fields))
    model = in_torch.SpeechEncoderDecoderModel(config, seed=2, dtype="float64")
    sound, states = np.random.default_rng(3).standard_normal((2, 160)), []
    mask = np.array([[1] * 160, [1] * 118 + [0] * 42])
    for length in mask.sum(1):
        states.append(model.encode(sound[:1, :length]).last_hidden_state)
        assert states[-1].shape == (1, config.encoder.feature_lengths(int(length)), 14)
    read = model.encode(sound, mask)
    assert array(read.attention_mask).sum(1).tolist() == [one.shape[1] for one in states]
    whole = model(sound, mask, TOKENS)
    alone = model(encoder_outputs=read.last_hidden_state[1:, : states[1].shape[1]], decoder_input_ids=TOKENS[1:])
    assert_close(array(alone.logits), array(whole.logits)[1:], name="logits")
    assert whole.encoder_last_hidden_state.shape == (*read.last_hidden_state.shape[:2], 12)


@each_backend
def test_an_adapter_of_another_width_is_projected(backend: str, tmp_path: Path) -> None:
    """Upstream builds the projection for hidden_size, and then fails; the oracle gets the one that fits."""
    encoder = transformers.Wav2Vec2Config(**CONFIGS[NAME].encoder.to_dict())
    encoder.add_adapter, encoder.num_adapter_layers, encoder.output_hidden_size = True, 1, 14
    decoder = transformers.BertConfig(**CONFIGS["BertLMHeadModel"].to_dict())
    decoder.is_decoder = decoder.add_cross_attention = True
    config = transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **IDS)
    theirs = oracle.built(NAME, config)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        theirs(torch.tensor(SOUND), decoder_input_ids=torch.tensor(TOKENS))
    theirs.enc_to_dec_proj = torch.nn.Linear(14, decoder.hidden_size, dtype=torch.float64)
    ours = BACKENDS[backend].SpeechEncoderDecoderModel.from_pretrained(oracle.saved(theirs, tmp_path))
    wanted = theirs(torch.tensor(SOUND), decoder_input_ids=torch.tensor(TOKENS), attention_mask=torch.tensor(MASK))
    found = ours(SOUND, MASK, TOKENS)
    for name in ("logits", "encoder_last_hidden_state"):
        assert_close(array(found[name]), wanted[name].detach().numpy(), name=name)


@each_backend
def test_a_cache_and_given_states_change_nothing(backend: str) -> None:
    model = BACKENDS[backend].SpeechEncoderDecoderModel(CONFIGS[NAME], seed=2, dtype="float64")
    whole = model(inputs=SOUND, attention_mask=MASK, decoder_input_ids=TOKENS)
    read = model.encode(input_values=SOUND, attention_mask=MASK)
    assert read.last_hidden_state.shape == (2, 6, 18) and array(read.attention_mask).sum(1).tolist() == [6, 4]
    cache = model.init_cache(2, 6)
    first = model.decode(TOKENS[:, :2], read, past_key_values=cache)
    for mask in ({}, {"attention_mask": MASK}):
        rest = model(decoder_input_ids=TOKENS[:, 2:], past_key_values=first.past_key_values, **mask)
        same = not mask and array(rest.logits).shape
        logits = np.concatenate([array(first.logits), array(rest.logits)], axis=1)
        if mask:  # without one, the later tokens attend to the frames of padding too
            assert_close(logits, array(whole.logits), name="logits")
        else:
            assert same and np.abs(logits - array(whole.logits)).max() > 1e-6
    states = read.last_hidden_state
    again = model(encoder_outputs=states, attention_mask=MASK, decoder_input_ids=TOKENS, logits_to_keep=2)
    assert_close(array(again.logits), array(whole.logits)[:, 2:], name="logits")
    assert_close(array(again.encoder_last_hidden_state), array(whole.encoder_last_hidden_state), name="states")
    decoded = model.decode(TOKENS, states, read.attention_mask)
    assert_close(array(decoded.logits), array(whole.logits), name="decode")
    assert_close(
        array(model(encoder_outputs=read, decoder_input_ids=TOKENS).logits), array(whole.logits), name="record"
    )
    generated = model.generate(input_values=SOUND, attention_mask=MASK, **ASKED).sequences
    same_name = model.generate(SOUND, attention_mask=MASK, **ASKED).sequences
    np.testing.assert_array_equal(array(generated), array(same_name))
    for given in ({"encoder_outputs": states, "attention_mask": MASK}, {"encoder_outputs": read}):
        np.testing.assert_array_equal(array(generated), array(model.generate(**given, **ASKED).sequences))


REFUSED = [
    ({"inputs": SOUND, "input_values": SOUND}, "inputs and input_values are the same; give one of them"),
    ({"inputs": SOUND[:, :5]}, "input_values has 5 samples, but at least 10 are needed for a state"),
    ({"inputs": SOUND, "attention_mask": MASK[:, :6]}, r"attention_mask has shape \(2, 6\), but \(2, 40\) is needed"),
    ({"inputs": SOUND, "attention_mask": MASK * [[1], [0]]}, "attention_mask leaves 0 samples of row 1, which make no"),
    ({"inputs": np.full((2, 40), np.nan)}, "input_values"),
    ({"inputs": (SOUND * 99).astype(np.int16)}, "input_values has dtype int16, but floats are needed"),
    (
        {"encoder_outputs": np.zeros((2, 6, 18)), "attention_mask": MASK[:, :6]},
        "attention_mask covers 6 samples, which",
    ),
    ({"encoder_outputs": np.zeros((2, 6, 12))}, r"encoder_outputs has shape \(2, 6, 12\), but \(2, 6, 18\) is needed"),
    ({}, "input_values is needed, got None"),
]


REFUSED_BY_GENERATE = [
    ({}, "generate: one of input_values, encoder_outputs is needed, got none"),
    ({"inputs": np.ones((2, 40), int)}, "generate: input_values has dtype int64, but floats are needed"),
    ({"inputs": SOUND, "encoder_no_repeat_ngram_size": 2}, "generate: encoder_no_repeat_ngram_size needs input_ids"),
    (
        {"encoder_outputs": np.zeros((2, 6, 18)), "attention_mask": MASK[:, :6]},
        "attention_mask covers 6 samples, which",
    ),
    ({"inputs": SOUND, "input_values": SOUND}, "generate: inputs and input_values are the same; give one of them"),
    ({"input_values": SOUND[:, :5]}, r"generate: input_values has 5 samples, but at least 10 are needed for a state"),
    ({"input_values": SOUND * np.nan}, "generate: input_values holds NaN or infinite samples"),
    ({"input_values": SOUND, "attention_mask": MASK[:, :6]}, r"\(2, 40\) is needed, as many as there are samples"),
    (
        {"input_values": SOUND, "attention_mask": MASK * [[1], [0]]},
        "generate: attention_mask leaves 0 samples of row 1",
    ),
]


@each_backend
def test_bad_calls_are_refused(backend: str) -> None:
    model = BACKENDS[backend].SpeechEncoderDecoderModel(CONFIGS[NAME], seed=2, dtype="float64")
    for call, message in REFUSED:
        with pytest.raises(InputError, match=message):
            model(decoder_input_ids=TOKENS, **call)
    with pytest.raises(InputError, match="vocab_size allows 0 to 22"):
        model(SOUND, labels=np.array([[3, 23], [1, 2]]))
    with pytest.raises(TypeError, match="call has no keyword decoder_position_ids; it takes inputs, "):
        model.encode(SOUND, decoder_position_ids=np.array([[4]]))
    with pytest.raises(TypeError, match="the model does not take input_ids; it takes input_values, attention_mask"):
        model.generate(input_ids=TOKENS)
    for call, message in REFUSED_BY_GENERATE:  # before a compiled program, which could not tell
        with pytest.raises(InputError, match=message):
            model.generate(**call, **ASKED)
    with pytest.raises(InputError, match="reading 90 tokens, but the decoder has positions for 9"):
        model.generate(input_values=SOUND, **ASKED | {"max_new_tokens": 90})


def test_the_feature_encoder_is_frozen_for_a_call_or_for_good() -> None:
    call = {"inputs": SOUND, "attention_mask": MASK, "labels": TOKENS}
    model = in_torch.SpeechEncoderDecoderModel(CONFIGS[NAME], seed=2, dtype="float64")
    gradients: list[dict[str, bool]] = []
    for frozen in (False, True):
        model.zero_grad()
        model(**call, freeze_feature_encoder=frozen).loss.backward()
        moved = {path: parameter.grad is not None for path, parameter in model.named_parameters()}
        gradients.append({path.split(".")[1]: hit for path, hit in moved.items() if path.startswith("encoder.")})
    assert gradients[0]["feature_extractor"] and not gradients[1]["feature_extractor"]
    assert gradients[1]["feature_projection"]
    model.freeze_feature_encoder()
    names = set(model.frozen_parameters)
    assert names and all(path.startswith("encoder.feature_extractor.") for path in names)

    same = in_jax.SpeechEncoderDecoderModel(CONFIGS[NAME], seed=2, dtype="float64")
    found = jax.grad(lambda model: model(**call, freeze_feature_encoder=True).loss)(same)
    leaves = jax.tree.leaves(found.encoder.feature_extractor)
    assert leaves and not any(np.any(leaf) for leaf in leaves)
    assert np.any(found.encoder.feature_projection.projection.kernel[...])
    same.freeze_feature_encoder()
    assert set(same.frozen_parameters) == names


def save(directory: Path, name: str, **keywords: Any) -> Path:
    return oracle.saved(getattr(in_torch, name)(CONFIGS[name], **keywords), directory)


@each_backend
def test_two_checkpoints_become_one_model_that_transformers_reads(backend: str, tmp_path: Path) -> None:
    made = BACKENDS[backend].SpeechEncoderDecoderModel
    sound, gpt2 = save(tmp_path / "sound", "Wav2Vec2ForCTC"), save(tmp_path / "gpt2", "GPT2Model")
    model = made.from_encoder_decoder_pretrained(sound, gpt2, encoder_hidden_dropout=0.0, **IDS)
    assert "decoder.transformer.h.0.ln_cross_attn.weight" in model.fresh_parameters
    assert {"encoder: lm_head.weight", "encoder: lm_head.bias"} <= {*model.load_report.left_out}
    assert model.config.encoder.hidden_dropout == 0.0
    model.save_pretrained(tmp_path / "saved")
    assert digests(made.from_pretrained(tmp_path / "saved")) == digests(model)
    theirs, info = transformers.SpeechEncoderDecoderModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    sound = SOUND.astype(np.float32)
    call = {"inputs": torch.tensor(sound), "decoder_input_ids": torch.tensor(TOKENS)}
    found = model(inputs=sound, decoder_input_ids=TOKENS).logits
    assert_close(array(found), theirs(**call).logits.detach().numpy(), kind="float32")
    if backend == "torch":
        report = parity(tmp_path / "saved", against="transformers", backend=backend)
        assert report.passed and report.only_candidate == (), str(report)


def test_only_readers_of_sound_are_its_encoders() -> None:
    decoder = BertConfig(is_decoder=True, add_cross_attention=True)
    assert SpeechEncoderDecoderConfig() == SpeechEncoderDecoderConfig(encoder=Wav2Vec2Config(), decoder=decoder)
    message = (
        "'vit' cannot be the sound encoder of a composite, since it encodes image; model_types that can: .*wav2vec2"
    )
    with pytest.raises(ConfigError, match=f"^SpeechEncoderDecoderConfig: encoder: {message}"):
        SpeechEncoderDecoderConfig(encoder=ViTConfig(), decoder=decoder)
