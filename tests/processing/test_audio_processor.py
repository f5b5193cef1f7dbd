"""Audio processors against the feature extractor of transformers, bit for bit."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers

from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.processing.audio_config import AudioProcessorConfig
from diptych.core.processing.audio_processor import AudioProcessor
from diptych.processing import load_processor
from tests.processing.sounds import tones, write

LENGTHS = [(1,), (16_001,), (400, 399, 7), (50_003, 49_991)]
OPTIONS = [
    {"padding": True},
    {"padding": "longest", "pad_to_multiple_of": 64},
    {"padding": "max_length", "max_length": 130, "truncation": True},
    {"padding": True, "max_length": 130, "truncation": True, "pad_to_multiple_of": 50},
    {"padding": False},
]


@pytest.mark.parametrize(("normalizes", "masks"), [*itertools.product([True, False], [True, False])])
def test_samples_are_those_of_transformers(normalizes, masks):
    random = np.random.default_rng(5)
    fields = {"do_normalize": normalizes, "return_attention_mask": masks, "padding_value": -0.5}
    theirs = transformers.Wav2Vec2FeatureExtractor(**fields)
    ours = AudioProcessor(AudioProcessorConfig(**fields))
    assert ours.model_input_names == (("input_values", "attention_mask") if masks else ("input_values",))
    for lengths, options in itertools.product(LENGTHS, OPTIONS):
        rows = [random.standard_normal(length) * 0.05 + 0.01 for length in lengths]
        given = rows[0].astype(np.float32) if len(rows) == 1 else rows
        if options["padding"] is False and len(rows) > 1:
            with pytest.raises(
                InputError, match=r"recordings: they come out in different lengths \(.*\); padding=True"
            ):
                ours(given, **options)
            continue
        wanted = theirs(given, sampling_rate=16_000, return_tensors="np", **options)
        found = ours(given, sampling_rate=16_000, **options)
        assert set(found) == set(wanted)
        for name, values in found.items():
            assert values.dtype == wanted[name].dtype
            np.testing.assert_array_equal(values, wanted[name])


def test_recordings_of_every_kind():
    ours = AudioProcessor(AudioProcessorConfig(return_attention_mask=True))
    samples = tones(300, 500).astype(np.float32)
    wanted = ours(samples)
    for same in (samples.tolist(), [samples], samples[None], torch.tensor(samples), [torch.tensor(samples)]):
        for name, values in ours(same).items():
            np.testing.assert_array_equal(values, wanted[name])
    pair = ours([samples, samples[:700]], return_tensors="pt")
    assert isinstance(pair.input_values, torch.Tensor)
    np.testing.assert_array_equal(pair.input_values[1, 700:], 0)
    np.testing.assert_array_equal(pair.input_values[1, :700], ours(samples[:700]).input_values[0])
    narrow = ours(torch.tensor(samples, dtype=torch.float16)).input_values  # normalized in float32
    assert narrow.dtype == np.float32 and np.abs(narrow - wanted.input_values).max() < 1e-2
    short = torch.tensor(samples, dtype=torch.bfloat16)
    np.testing.assert_array_equal(ours(short).input_values, ours(short.float()).input_values)
    whole = (samples * 30_000).astype(np.int16)
    theirs = transformers.Wav2Vec2FeatureExtractor()(whole, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(ours(whole).input_values[0], theirs, rtol=1e-4, atol=1e-6)


def test_other_rates_are_resampled(tmp_path):
    ours = AudioProcessor(AudioProcessorConfig(do_normalize=False))
    slow, fast = tones(300, seconds=1.0), tones(300, seconds=1.0, rate=44_100)
    found = ours(fast, sampling_rate=44_100).input_values[0]
    assert len(found) == len(slow)
    assert np.abs(found - slow)[100:-100].max() < 0.06  # the noise differs
    path = write(tmp_path / "fast.wav", fast, 44_100, subtype="FLOAT")
    np.testing.assert_allclose(ours(path).input_values[0], found, atol=1e-6)


REFUSED = [
    ([], {}, "recordings: none are given, but at least one is needed"),
    (np.zeros(0), {}, "recording: has no samples"),
    ([np.ones(5), []], {}, r"recordings\[1\]: has no samples"),
    ([0.0, float("nan"), 1.0], {}, "recording: sample 1 is nan, but samples must be finite numbers"),
    ([np.array([1.0, -np.inf])], {}, r"recordings\[0\]: sample 1 is -inf"),
    (np.ones((40, 2)), {}, r"an array of shape \(40, 2\) has its channels last"),
    ([np.ones((2, 40))], {}, r"recordings\[0\]: has shape \(2, 40\), but samples of one channel"),
    (np.ones((2, 2, 40)), {}, r"recording: has shape \(2, 2, 40\), but samples of one channel"),
    (np.array(["a"]), {}, "recording: is an array of <U1, but a recording is needed"),
    ([None], {}, r"recordings\[0\]: is of type NoneType, but a recording is needed"),
    (5.0, {}, r"recording: has shape \(\), but samples of one channel"),
    (np.ones(5, np.complex64), {}, "recording: is an array of complex64"),
    ("absent.wav", {}, "absent.wav: no such file, but the path of a recording is needed"),
    (["absent.wav", [np.nan]], {}, r"absent.wav: no such file.*; recordings\[1\]: sample 0 is nan"),
    (np.ones(5), {"padding": "shortest"}, "padding='shortest' must be True, False, 'longest'"),
    (np.ones(5), {"padding": "max_length"}, "max_length is needed for truncation=True and padding='max_length'"),
    (np.ones(5), {"truncation": True}, "max_length is needed for truncation=True"),
    (np.ones(5), {"max_length": 3.5, "truncation": True}, r"max_length=3\.5 must be 1 or more, a whole number"),
    (np.ones(5), {"max_length": 0}, "max_length=0 must be 1 or more"),
    (np.ones(5), {"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 must be 1 or more"),
    ([np.ones(9), np.ones(5)], {"padding": "max_length", "max_length": 6}, r"different lengths \(6, 9 samples\)"),
    *(
        (np.ones(5), {"sampling_rate": rate}, f"sampling_rate={rate} must be a whole number from 1 to 16777216")
        for rate in (0, -1, 44100.5, float("inf"), True)
    ),
    (np.ones(1), {"sampling_rate": 44_100}, "recording: 1 samples at 44100 Hz are none at 16000 Hz"),
    (np.ones(5), {"sampling_rate": "8000"}, "sampling_rate='8000' must be a whole number"),
    (np.array([0.0, 1e300]), {}, "recording: sample 1 is inf, but samples must be finite numbers"),
    (
        np.array([0.0, -1e30]),
        {},
        "recording: has samples as large as -1e\\+30, but those of sound lie between -1 and 1",
    ),
    (np.ones(5), {"return_tensors": "tf"}, "return_tensors='tf' is not known"),
]


@pytest.mark.parametrize(("recordings", "options", "message"), REFUSED)
def test_bad_recordings_are_refused(recordings, options, message):
    with pytest.raises(InputError, match=message):
        AudioProcessor(AudioProcessorConfig())(recordings, **options)


def test_whole_numbers_need_normalization():
    with pytest.raises(InputError, match=r"recording: holds whole numbers, but the model reads samples from -1 to 1"):
        AudioProcessor(AudioProcessorConfig(do_normalize=False))(np.arange(9, dtype=np.int16))


def test_configs_are_those_of_published_files(tmp_path):
    first = {
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0,
        "sampling_rate": 8000,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(first))
    ours = AudioProcessor.from_pretrained(tmp_path)
    assert ours.config == AudioProcessorConfig(sampling_rate=8000) and ours.sampling_rate == 8000
    ours.save_pretrained(tmp_path / "saved")
    theirs = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "saved")
    assert theirs.to_dict() == transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).to_dict()
    theirs.save_pretrained(tmp_path / "again")
    assert AudioProcessor.from_pretrained(tmp_path / "again").config == ours.config
    nested = {"feature_extractor": {**first, "return_attention_mask": True}, "processor_class": "Wav2Vec2Processor"}
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "processor_config.json").write_text(json.dumps(nested))
    found = AudioProcessor.from_pretrained(tmp_path / "nested").config
    assert found.return_attention_mask and found.to_dict()["processor_class"] == "Wav2Vec2Processor"
    (tmp_path / "bare").mkdir()
    with pytest.raises(CheckpointError, match="so it does not say how recordings are processed"):
        AudioProcessor.from_pretrained(tmp_path / "bare")
    for model, what in ({"model_type": "hubert"}, "recordings"), ({"encoder": {"model_type": "vit"}}, "images"):
        (tmp_path / "bare" / "config.json").write_text(json.dumps(model))
        with pytest.raises(CheckpointError, match=f"so it does not say how {what} are processed; copy the file"):
            load_processor(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"encoder": {"model_type": "wavlm"}}))
    (tmp_path / "bare" / "processor_config.json").write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))
    with pytest.raises(CheckpointError, match="with 'feature_extractor' in it"):
        load_processor(tmp_path / "bare")


BAD_CONFIGS = [
    ({"feature_extractor_type": "WhisperFeatureExtractor"}, "feature_extractor_type='WhisperFeatureExtractor' is not"),
    ({"padding_side": "left", "feature_size": 80}, "padding_side='left' is not supported; .*; feature_size=80 is not"),
    ({"hop": 3}, r"does not know hop; it knows do_normalize, .* pass ignore_config=\('hop',\)"),
    ({"sampling_rate": 0}, "sampling_rate=0 must lie between 1 and"),
    ({"sampling_rate": "16k", "do_normalize": 1}, "sampling_rate='16k' must be int; do_normalize=1 must be bool"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CONFIGS)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=f"file: .*{message}"):
        AudioProcessorConfig.from_dict(fields, source="file")
    if "hop" in fields:
        assert AudioProcessorConfig.from_dict(fields, ignore=("hop",)).to_dict()["hop"] == 3
