"""From sound files to texts with the command: random weights, and sound that is synthesised."""

import json
import shutil
import warnings

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers

from diptych.backends import torch as in_torch
from diptych.backends.jax.generation import _all_steps
from diptych.core.errors import InputError
from diptych.core.processing.recordings import read_recording
from diptych.sound import recognition, transcribe
from diptych.sound.files import find_recordings
from diptych.sound.windows import Window, overlapping_windows, quiet_windows
from diptych.text.ctc import load_ctc_tokenizer
from tests.hub_server import REPOSITORY
from tests.processing.sounds import cut, tones, write

WORDS = ["[PAD]", "[START]", "[END]", *(f"w{number}" for number in range(16)), "de_DE"]
PAD, START, END = range(3)
LETTERS = {token: id for id, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAN"])}
RATE = 100
"""Samples per second: windows of seconds are short."""
SMALL = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 14,
    "conv_dim": (6, 7),
    "conv_kernel": (5, 3),
    "conv_stride": (2, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 1.5,
    "feat_extract_norm": "layer",
}


def save(model, directory, *, vocabulary=None, **fields):
    """A checkpoint with an audio processor and a tokenizer."""
    model.save_pretrained(directory)
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE, **fields}
    (directory / "preprocessor_config.json").write_text(json.dumps(extractor))
    if vocabulary is not None:
        (directory / "vocab.json").write_text(json.dumps(vocabulary))
        settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "target_lang": "eng" if "eng" in vocabulary else None}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        return directory
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:3])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directories by name; weights are so large that texts depend on the sound."""
    folder = tmp_path_factory.mktemp("sound")
    config = in_torch.Wav2Vec2Config(**SMALL, vocab_size=len(LETTERS), mask_time_prob=0.0)
    save(in_torch.Wav2Vec2ForCTC(config, seed=5), folder / "ctc", vocabulary=LETTERS)
    grouped = config.replace(feat_extract_norm="group")
    save(in_torch.Wav2Vec2ForCTC(grouped, seed=5), folder / "grouped", vocabulary=LETTERS)
    decoder = in_torch.GPT2Config(
        vocab_size=len(WORDS), n_embd=12, n_layer=1, n_head=3, n_positions=20, initializer_range=1.0, eos_token_id=END
    )
    made = in_torch.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(
        config, decoder.replace(bos_token_id=START), decoder_start_token_id=START, pad_token_id=PAD
    )
    model = in_torch.SpeechEncoderDecoderModel(made, seed=3)
    model.generation_config = model.generation_config.replace(
        suppress_tokens=(PAD, START, END), max_new_tokens=5, eos_token_id=None
    )
    save(model, folder / "writer")
    in_torch.Wav2Vec2Model(config, seed=3).save_pretrained(folder / "bare")
    save(in_torch.Wav2Vec2Model(config, seed=3), folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A directory of recordings at several rates: a long one, two short ones, and a file that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    long = np.concatenate([tones(3, 7, 5, rate=RATE, seconds=2.1, seed=seed) for seed in range(4)])
    write(folder / "long.wav", long, RATE, subtype="FLOAT")
    write(folder / "short.flac", tones(9, 4, rate=RATE, seconds=1.2), RATE)
    write(folder / "fast.wav", np.stack([tones(9, 4, rate=RATE * 3, seconds=1.2)] * 2, axis=1), RATE * 3)
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.mark.parametrize("name", ["ctc", "grouped"])
@pytest.mark.parametrize(("window", "overlap"), [(30.0, None), (6.0, None), (4.0, 0.5), (4.1, 0.0), (9.97, 1.33)])
def test_windows_are_those_of_the_pipeline_of_transformers(checkpoints, sounds, name, window, overlap):
    path = checkpoints / name
    theirs = transformers.pipeline(
        "automatic-speech-recognition",
        model=transformers.Wav2Vec2ForCTC.from_pretrained(path),
        feature_extractor=transformers.Wav2Vec2FeatureExtractor.from_pretrained(path),
        tokenizer=transformers.Wav2Vec2CTCTokenizer.from_pretrained(path),
    )
    samples = read_recording(sounds / "long.wav", RATE).samples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = {"chunk_length_s": window, "stride_length_s": overlap, "return_timestamps": "word"}
        wanted = theirs({"raw": samples, "sampling_rate": RATE}, **asked)
    found = transcribe(path, sounds / "long.wav", window=window, overlap=overlap, backend="torch", batch_size=3)[0]
    assert found.text == wanted["text"] and len(found.parts) > 3
    assert [(one.text, (one.start, one.end)) for one in found.parts] == [
        (one["text"], one["timestamp"]) for one in wanted["chunks"]
    ]


@pytest.mark.parametrize("name", ["ctc", "writer"])
def test_both_backends_write_the_same(checkpoints, sounds, name):
    files, before = [sounds / "long.wav", sounds / "short.flac"], _all_steps._cache_size()
    found = {
        backend: transcribe(checkpoints / name, files, window=7.0, backend=backend) for backend in ("jax", "torch")
    }
    assert found["jax"] == found["torch"]
    assert len({one.text for one in found["jax"]}) == 2
    if name == "ctc":
        assert recognition._jax_program()._cache_size() <= 4
    else:  # of the decoder: one for half a window and one for a whole one, with the rows of a batch
        assert _all_steps._cache_size() - before <= 2


def test_a_writers_windows_are_joined(checkpoints, sounds, run):
    path, audio = checkpoints / "writer", sounds / "long.wav"
    found = transcribe(path, audio, window=9.0, backend="torch")[0]
    model = in_torch.SpeechEncoderDecoderModel.from_pretrained(path)
    samples = read_recording(audio, RATE).samples
    windows = quiet_windows(samples, 9.0, RATE)
    assert len(windows) > 2 and len(found.parts) == len(windows)
    texts = []
    for window in windows:
        part = samples[window.start : window.stop]
        values = (part - part.mean()) / np.sqrt(part.var() + 1e-7)
        ids = model.generate(input_values=values[None]).sequences[0, 1:].tolist()
        texts.append(" ".join(WORDS[id] for id in ids))
    assert found.text == " ".join(texts) and [part.text for part in found.parts] == texts
    assert [(part.start, part.end) for part in found.parts] == [(w.start / RATE, w.stop / RATE) for w in windows]
    command = ("generate", path, "--audio", audio, "--backend", "torch", "--window", 9)
    assert run(*command) == (0, f"{found.text}\n", "")
    assert run(*command, "--batch-size", 2) == (0, f"{found.text}\n", "")
    code, out, _ = run(*command, "--timestamps")
    assert code == 0 and out.splitlines() == [f"{part.start:.2f} {part.end:.2f} {part.text}" for part in found.parts]
    code, out, _ = run(*command, "--language", "de_DE", "--max-new-tokens", 1)
    assert code == 0 and out.split() == ["de_DE"] * len(windows)


@pytest.mark.parametrize("name", ["ctc", "grouped"])
def test_windows_of_several_recordings_are_read_at_once(checkpoints, sounds, monkeypatch, name):
    """Of different lengths too: padding is ignored by a group norm as well."""
    files, batches = [sounds / file for file in ("long.wav", "short.flac", "long.wav")], []
    whole = recognition._best_tokens
    alone = [transcribe(checkpoints / name, file, window=9.0, backend="torch", batch_size=1)[0] for file in files]
    monkeypatch.setattr(
        recognition, "_best_tokens", lambda *call: batches.append(call[2]["input_values"]) or whole(*call)
    )
    assert transcribe(checkpoints / name, files, window=9.0, backend="torch", batch_size=6) == alone
    assert [len(batch) for batch in batches] == [6, 3]


def test_the_command_writes_every_recording(checkpoints, sounds, run, tmp_path):
    path, output = checkpoints / "ctc", tmp_path / "texts.txt"
    texts = transcribe(path, [sounds], backend="torch")
    assert [one.audio for one in texts] == [str(sounds / name) for name in ("fast.wav", "long.wav", "short.flac")]
    code, out, err = run("generate", path, "--audio", sounds, "--output", output, "--backend", "torch")
    assert (code, out, err) == (0, "", "")
    assert output.read_text() == "".join(f"{one.audio}: {one.text}\n" for one in texts)
    more = (sounds / "short.flac", sounds / "long.wav")
    code, out, _ = run("generate", path, "--audio", *more, "--json", "--timestamps", "--backend", "torch")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["text"] for line in lines] == [texts[2].text, texts[1].text]
    assert lines[0]["parts"][0] == {
        "text": texts[2].parts[0].text, "start": texts[2].parts[0].start, "end": texts[2].parts[0].end,
    }  # fmt: skip


def test_a_broken_file_stops_no_other(checkpoints, sounds, run, tmp_path):
    torn = cut(write(tmp_path / "talk.wav", tones(3, 7, rate=RATE, seconds=3.0), RATE))
    dot = write(tmp_path / "dot.wav", np.ones(6), RATE)
    files = (torn, sounds / "notes.txt", dot, sounds / "absent.ogg", sounds / "short.flac")
    code, out, err = run("generate", checkpoints / "ctc", "--audio", *files, "--backend", "torch")
    assert code == 2 and [line.split(": ")[0] for line in out.splitlines()] == [str(torn), str(sounds / "short.flac")]
    for message in (
        f"{torn}: its end is missing after 578 of 1200 bytes; what is there is read",
        f"{sounds / 'notes.txt'}: is no sound file that libsndfile reads",
        f"{dot}: has 6 samples at 100 Hz, but the model needs at least 9",
        f"{sounds / 'absent.ogg'}: no such file",
    ):
        assert f"diptych: {message}" in err
    with pytest.warns(UserWarning, match=r"cut_talk\.wav: its end is missing"):
        (found,) = transcribe(checkpoints / "ctc", torn, backend="torch")
    assert found.text and json.loads(found.to_json())["damage"].startswith("its end is missing after 578 of 1200")
    with pytest.raises(InputError, match="but the model needs at least 9"):
        transcribe(checkpoints / "ctc", dot, backend="torch")


def test_a_language_has_its_adapter_and_its_vocabulary(sounds, run, tmp_path, hub_server):
    config = in_torch.Wav2Vec2Config(
        **SMALL, do_stable_layer_norm=True, vocab_size=len(LETTERS), adapter_attn_dim=5, mask_time_prob=0.0
    )
    french = {token: id for id, token in enumerate([*LETTERS, "É"])}
    directory = save(
        in_torch.Wav2Vec2ForCTC(config, seed=5), tmp_path / "mms", vocabulary={"eng": LETTERS, "fra": french}
    )
    from safetensors.torch import save_file

    other = in_torch.Wav2Vec2ForCTC(config.replace(vocab_size=len(french)), seed=6)
    tensors = {
        name: value for name, value in other.state_dict().items() if "adapter_layer" in name or "lm_head" in name
    }
    save_file(tensors, directory / "adapter.fra.safetensors")
    english = transcribe(directory, sounds / "long.wav", backend="torch")[0]
    found = transcribe(directory, sounds / "long.wav", backend="torch", language="fra")[0]
    assert found.text != english.text and max(found.ids) == len(french) - 1 and "É" in found.text
    assert load_ctc_tokenizer(directory, {}, {}, "fra").decode_frames(found.ids).text == found.text
    shutil.copytree(directory, hub_server.root / "mms")
    of_hub = {"subfolder": "mms", "revision": "v2"}
    assert transcribe(REPOSITORY, sounds / "long.wav", backend="torch", language="fra", **of_hub) == [found]
    code, _, err = run("generate", directory, "--audio", sounds / "long.wav", "--language", "deu", "--backend", "torch")
    assert code == 2 and "language='deu' is not known; known: eng, fra" in err


def test_recordings_are_found_by_their_endings(sounds, tmp_path):
    for name in (".hidden.wav", "._mac.flac", "notes.txt", "talk.M4A", "b.wav"):
        (tmp_path / name).touch()
    (tmp_path / "more.wav").mkdir()
    assert find_recordings(tmp_path) == [str(tmp_path / name) for name in ("b.wav", "talk.M4A")]
    assert find_recordings(str(sounds / "*.wav")) == [str(sounds / "fast.wav"), str(sounds / "long.wav")]
    assert find_recordings([sounds / "gone.mp3"]) == [str(sounds / "gone.mp3")]
    for recordings in (np.zeros(16), [np.zeros(16)], b"long.wav"):
        with pytest.raises(InputError, match=r"^recordings: something of type .*\(samples, sampling_rate=…\) returns"):
            find_recordings(recordings)


def test_quiet_windows_end_where_it_is_quiet():
    samples = np.ones(1000)
    samples[330:350], samples[700:720], samples[100:120] = 0, 0.1, 0
    found = quiet_windows(samples, 4.0, RATE)
    assert found[0].start == 0 and 335 <= found[0].stop <= 345 and 705 <= found[1].stop <= 715
    assert [one.stop for one in found[:-1]] == [one.start for one in found[1:]] and found[-1].stop == 1000
    assert quiet_windows(samples[:400], 4.0, RATE) == [Window(0, 400)]
    assert min(one.stop - one.start for one in quiet_windows(samples[:401], 4.0, RATE)) >= 100


BAD = [
    ("ctc", ("--text", "a"), "generate: with --audio, --text, --ids, --source-language and --target-language have no"),
    ("ctc", ("--image", "x.png"), "generate: a model reads images or sound; give one of --image and --audio"),
    ("ctc", ("--num-beams", 2), "ctc: Wav2Vec2ForCTC has no options of generation, such as num_beams"),
    ("ctc", ("--window", 0), "generate: window=0 must be greater than 0"),
    ("ctc", ("--window", "inf"), "generate: window=inf must be greater than 0, and finite"),
    (
        "ctc",
        ("--window", 0.05),
        "generate: window=0.05 seconds are 5 samples at 100 Hz, but the model needs at least 9",
    ),
    (
        "writer",
        ("--window", 0.3),
        "generate: window=0.3 seconds are 30 samples at 100 Hz, but the model needs at least 36",
    ),
    ("ctc", ("--overlap", "nan"), "generate: overlap=nan must be 0 or more, and finite"),
    ("ctc", ("--overlap", -1), "generate: overlap=-1 must be 0 or more, and finite"),
    (
        "writer",
        ("--max-new-tokens", 90),
        "generate: max_length=91 means reading 90 tokens, but the decoder has positions",
    ),
    ("ctc", ("--window", 2, "--overlap", 1), "generate: overlap=1 leaves nothing of window=2 seconds; less than half"),
    ("ctc", ("--language", "fra"), "ctc: language='fra', but the model has no adapters for languages"),
    ("ctc", ("--batch-size", 0), "generate: batch_size=0 must be greater than 0"),
    ("writer", ("--overlap", 1), "writer: overlap=1, but only the windows of a CTC model overlap"),
    ("writer", ("--language", "fr_XX"), "generate: language='fr_XX' is no token of the tokenizer"),
    ("writer", ("--num-beams", 2, "--num-return-sequences", 2), "generate: num_return_sequences must be 1 for record"),
    ("encoder", (), "encoder: Wav2Vec2Model writes no texts; a class with a language model's head is needed"),
    ("bare", (), "bare: has no preprocessor_config.json"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(run, checkpoints, sounds, name, options, message):
    audio = ("--audio", sounds / "short.flac")
    code, out, err = run("generate", checkpoints / name, *audio, *options, "--backend", "torch")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_flags_of_recordings_need_one(run, checkpoints, sounds):
    code, _, err = run("generate", checkpoints / "ctc", "--image", sounds / "notes.txt")
    assert code == 2 and "ctc: its processor reads sound, not images" in err
    code, _, err = run("generate", checkpoints / "ctc", "--text", "w1")
    assert code == 2 and "ctc: Wav2Vec2ForCTC reads no text, so it cannot start from prompts; it writes texts of" in err
    code, _, err = run("generate", checkpoints / "writer", "--text", "w1", "--timestamps")
    assert code == 2 and "generate: --timestamps is for recordings, but there is no --audio" in err
    assert overlapping_windows(10, 1.0, 0.0, RATE, 4) == [Window(0, 10)]
