"""The classes of recordings with the command: random weights, and sound that is synthesised."""

import io
import json
import sys

import numpy as np
import pytest
import transformers

from diptych.backends import torch as in_torch
from diptych.core.errors import InputError
from diptych.core.processing.recordings import read_recording
from diptych.sound import classify_recordings, transcribe
from diptych.sound.windows import Window, equal_windows
from tests.assertions import assert_close
from tests.cli.test_audio import LETTERS, RATE, SMALL, save
from tests.processing.sounds import cut, tones, write

NAMES = ("yes", "no", "up", "down")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directories by name; weights are so large that the classes depend on the sound."""
    folder = tmp_path_factory.mktemp("classifiers")
    fields = {**SMALL, "initializer_range": 0.8, "classifier_proj_size": 9, "num_labels": len(NAMES)}
    for name, norm in (("Wav2Vec2", "layer"), ("Hubert", "group"), ("WavLM", "layer")):
        config = getattr(in_torch, f"{name}Config")(**{**fields, "feat_extract_norm": norm})
        config = config.replace(id2label=dict(enumerate(NAMES)))
        model = getattr(in_torch, f"{name}ForSequenceClassification")(config, seed=5)
        model.save_pretrained(folder / name)
        extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE}
        (folder / name / "preprocessor_config.json").write_text(json.dumps(extractor))
    config = in_torch.Wav2Vec2Config(**SMALL, vocab_size=len(LETTERS))
    save(in_torch.Wav2Vec2ForCTC(config, seed=5), folder / "ctc", vocabulary=LETTERS)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    write(folder / "a.wav", tones(3, 7, rate=RATE, seconds=1.3), RATE, subtype="FLOAT")
    write(folder / "b.flac", tones(9, 4, 2, rate=RATE, seconds=2.1), RATE)
    return folder


@pytest.mark.parametrize("name", ["Wav2Vec2", "Hubert", "WavLM"])
def test_the_classes_are_those_of_the_pipeline_of_transformers(checkpoints, sounds, name):
    path, samples = checkpoints / name, read_recording(sounds / "a.wav", RATE).samples
    theirs = transformers.pipeline("audio-classification", model=str(path), feature_extractor=str(path), top_k=4)
    wanted = theirs({"raw": samples, "sampling_rate": RATE})
    found = {backend: classify_recordings(path, sounds, backend=backend) for backend in ("torch", "jax")}
    assert [one.audio for one in found["torch"]] == [str(sounds / "a.wav"), str(sounds / "b.flac")]
    for rows in found.values():
        assert [label for label, _ in rows[0].probabilities] == [one["label"] for one in wanted]
        for row, other in zip(rows, found["torch"], strict=True):
            values, others = ([value for _, value in sorted(one.probabilities)] for one in (row, other))
            np.testing.assert_allclose(values, others, atol=1e-5)
        np.testing.assert_allclose([p for _, p in rows[0].probabilities], [one["score"] for one in wanted], atol=1e-5)
    first, second = (np.log([value for _, value in sorted(one.probabilities)]) for one in found["torch"])
    assert np.abs(first - second).max() > 0.01, "the classes do not depend on the sound"


def test_parts_of_a_long_recording_are_averaged(checkpoints, sounds):
    path, samples = checkpoints / "Wav2Vec2", read_recording(sounds / "b.flac", RATE).samples
    windows = equal_windows(len(samples), 2.5, RATE)
    assert windows == [Window(0, 210), Window(210, 420), Window(420, 630)]
    (found,) = classify_recordings(path, sounds / "b.flac", window=2.5, batch_size=2, backend="torch")
    parts = []
    for number, window in enumerate(windows):
        write(sounds.parent / f"{number}.wav", samples[window.start : window.stop], RATE, subtype="FLOAT")
        parts += classify_recordings(path, sounds.parent / f"{number}.wav", backend="torch")
    for label, probability in found.probabilities:
        mean = np.mean([dict(one.probabilities)[label] for one in parts])
        assert_close(np.float32(probability), np.float32(mean), kind="float32", name=label)
    assert [equal_windows(length, 0.1, RATE) for length in (1, 10)] == [[Window(0, 1)], [Window(0, 10)]]


def test_a_broken_file_stops_no_other(checkpoints, sounds, run, tmp_path):
    torn = cut(write(tmp_path / "talk.wav", tones(3, 7, rate=RATE, seconds=3.0), RATE))
    (tmp_path / "notes.txt").write_text("no sound")
    files = (torn, tmp_path / "notes.txt", sounds / "absent.ogg", sounds / "b.flac")
    command = ("classify", checkpoints / "Wav2Vec2", "--backend", "torch", "--audio")
    code, out, err = run(*command, *files, "--top", 2, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["audio"] for row in rows]) == (2, [str(torn), str(sounds / "b.flac")])
    assert rows[0]["damage"].startswith("its end is missing") and "damage" not in rows[1]
    wanted = classify_recordings(checkpoints / "Wav2Vec2", sounds / "b.flac", top=2, backend="torch")[0]
    for row, (label, value) in zip(rows[1]["labels"], wanted.probabilities, strict=True):  # padded, and alone
        assert row == {"label": label, "probability": pytest.approx(value, abs=1e-6)}
    named = sorted(line.split(": ")[1] for line in err.splitlines())
    assert named == sorted(map(str, (torn, tmp_path / "notes.txt", sounds / "absent.ogg")))
    code, out, err = run(*command, sounds / "b.flac", "--top", 1)
    label, probability = wanted.probabilities[0]
    assert (code, err) == (0, "") and f"{sounds / 'b.flac'}" in out and f"{label} " in out
    assert f"{probability:.2%}" in out


def test_a_recording_from_stdin(checkpoints, sounds, run, monkeypatch):
    contents = (sounds / "b.flac").read_bytes()
    for verb, name in (("classify", "Wav2Vec2"), ("generate", "ctc")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(contents)))
        code, out, err = run(verb, checkpoints / name, "--backend", "torch", "--audio", "-", "--json")
        row = json.loads(out)
        assert (code, err, row["audio"]) == (0, "", "-")
        if verb == "classify":
            (wanted,) = classify_recordings(checkpoints / name, sounds / "b.flac", backend="torch")
            assert [one["label"] for one in row["labels"]] == [label for label, _ in wanted.probabilities]
        else:
            assert row["text"] == transcribe(checkpoints / name, sounds / "b.flac", backend="torch")[0].text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no sound")))
    code, _, err = run("classify", checkpoints / "Wav2Vec2", "--backend", "torch", "--audio", "-")
    assert code == 2 and err.startswith("diptych: -: is no sound file that libsndfile reads (")


BAD = [
    ("ctc", ("--audio", "a.wav"), "Wav2Vec2ForCTC does not classify recordings; a …ForSequenceClassification of a"),
    ("Wav2Vec2", ("--audio", "a.wav", "--image", "b"), "classify: a model reads images or sound; give one of --image"),
    ("Wav2Vec2", ("--audio", "a.wav", "--labels", "x"), "classify: --labels and --template are for images"),
    ("Wav2Vec2", ("--image", "a.png", "--window", 3), "classify: --window is for recordings, but there is no --audio"),
    ("Wav2Vec2", ("--audio", "a.wav", "--window", 0), "classify: window=0 must be greater than 0, and finite"),
    ("Wav2Vec2", ("--audio", "a.wav", "--window", 0.1), "classify: window=0.1 seconds are 10 samples at 100 Hz, but"),
    ("Wav2Vec2", ("--audio", "a.wav", "--top", 0), "classify: top=0 must be 1 or more"),
    ("Wav2Vec2", ("--audio", "-", "-"), "recordings: standard input (-) is given more than once, but can be read once"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(run, checkpoints, sounds, monkeypatch, name, options, message):
    monkeypatch.chdir(sounds)
    code, out, err = run("classify", checkpoints / name, "--backend", "torch", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("diptych: ") and message in err


def test_a_closed_stdin_is_said(checkpoints, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match=r"^-: standard input is closed$"):
        classify_recordings(checkpoints / "Wav2Vec2", "-", backend="torch")
