"""Sound files of every format, whole and damaged."""

import os
import re
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile

from diptych.core.errors import InputError
from diptych.core.processing.audio_config import AudioProcessorConfig
from diptych.core.processing.audio_processor import AudioProcessor
from diptych.core.processing.recordings import read_recording, resample
from tests.processing.sounds import cut, tones, write

FORMATS = [
    ("wav", "PCM_16", 2e-4),
    ("wav", "PCM_U8", 1e-2),
    ("wav", "PCM_24", 1e-6),
    ("wav", "FLOAT", 1e-7),
    ("wav", "DOUBLE", 1e-7),
    ("flac", "PCM_16", 2e-4),
    ("aiff", "PCM_16", 2e-4),
    ("ogg", "VORBIS", 0.1),
    ("ogg", "OPUS", 0.1),
    ("mp3", "MPEG_LAYER_III", 0.1),
]


@pytest.mark.parametrize(("ending", "subtype", "error"), FORMATS)
def test_files_give_mono_samples(tmp_path, ending, subtype, error):
    left, right = tones(300, 500, 400, seconds=0.5), tones(700, 900, 800, seconds=0.5)
    path = write(tmp_path / f"sound.{ending}", np.stack([left, right], axis=1), subtype=subtype)
    found = read_recording(path, 16_000)
    wanted = (left + right) / 2
    assert found.samples.dtype == np.float32 and found.damage is None and found.samples.shape == wanted.shape
    assert np.abs(found.samples - wanted).max() < error + 0.01 * (error > 0.05)
    half = read_recording(path, 8_000)
    assert half.sampling_rate == 8_000
    np.testing.assert_array_equal(half.samples, resample(found.samples, 16_000, 8_000))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_blocks_are_resampled_as_a_whole(tmp_path, rate):
    samples = tones(300, 500, 400, seconds=2.0, rate=rate).astype(np.float32)
    found = read_recording(write(tmp_path / "sound.wav", samples, rate, subtype="FLOAT"), 16_000).samples
    np.testing.assert_array_equal(found, resample(samples, rate, 16_000))
    assert len(found) == 6 * 16_000


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("wav", r"its end is missing after \d+ of 96000 bytes"),
        ("aiff", r"its end is missing after \d+ of 96008 bytes"),
        ("flac", r"it is damaged 1\.\d+ s after its start \(flac decoder lost sync\)"),
        ("ogg", "its end is missing"),
        ("mp3", r"its end is missing after 1\.\d\d of 3\.00 s"),
    ],
)
def test_what_a_damaged_file_has_is_read(tmp_path, ending, message):
    samples = np.random.default_rng(0).standard_normal(48_000) * 0.1
    path = write(tmp_path / f"sound.{ending}", samples)
    whole, found = read_recording(path, 16_000), read_recording(cut(path), 16_000)
    assert found.damage is not None and re.match(message, found.damage)
    assert 1_000 < len(found.samples) < 40_000
    np.testing.assert_allclose(found.samples[:1_000], whole.samples[:1_000], atol=1e-6)


def test_a_file_that_was_written_into_a_pipe_is_whole(tmp_path):
    path = write(tmp_path / "sound.wav", tones(300))
    data = bytearray(path.read_bytes())
    place = data.index(b"data")
    data[place + 4 : place + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    found = read_recording(path, 16_000)
    assert found.damage is None and len(found.samples) == 1600


def test_a_name_that_is_no_text(tmp_path):
    path = write(tmp_path / "name.wav", tones(300)).rename(tmp_path / os.fsdecode(b"\xff.wav"))
    assert len(read_recording(path, 16_000).samples) == 1600


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.wav: no such file, but the path of a recording is needed"):
        read_recording(tmp_path / "absent.wav", 16_000)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match=r"pipe\.wav: is a pipe or device, but the path of a recording is needed"):
        read_recording(tmp_path / "pipe.wav", 16_000)
    for name in ("talk.m4a", "talk.webm", "talk.raw", "talk.wav", "talk.mp3"):
        (tmp_path / name).write_bytes(b"no sound at all " * 9)
        with pytest.raises(InputError, match=rf"{name}: is no sound file .* ffmpeg -i '.*{name}' -ac 1 -ar 16000"):
            read_recording(tmp_path / name, 16_000)
    for name, reason in (
        ("talk.raw", "samples without a header, which would say"),
        ("talk.mp3", "Format not recognized"),
    ):
        with pytest.raises(InputError, match=rf"{name}: is no sound file that libsndfile reads \({reason}"):
            read_recording(tmp_path / name, 16_000)
    empty = write(tmp_path / "empty.wav", np.zeros(0))
    with pytest.raises(InputError, match=r"empty\.wav: has no samples$"):
        read_recording(empty, 16_000)
    torn = cut(write(tmp_path / "torn.flac", tones(300)), 0.05)
    with pytest.raises(InputError, match=r"cut_torn\.flac: "):
        read_recording(torn, 16_000)
    nan = write(tmp_path / "nan.wav", np.array([0.0, np.nan]), subtype="FLOAT")
    with pytest.raises(InputError, match=r"nan\.wav: sample 1 is nan, but samples must be finite"):
        read_recording(nan, 16_000)


def test_missing_libraries_are_named(monkeypatch, tmp_path):
    path = write(tmp_path / "sound.wav", tones(300))
    for module, message in (("soxr", "resampling needs soxr"), ("soundfile", "reading sound files needs soundfile")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"{message}, which is not installed; pip install 'diptych\[audio\]'"):
            read_recording(path, 8_000)


def test_a_long_file_takes_the_memory_of_its_samples(tmp_path):
    """Read, resampled and normalized."""
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 32_000, 2) as file:
        for _ in range(60):
            file.write(np.zeros((32_000, 2)))
    tracemalloc.start()
    try:
        found = AudioProcessor(AudioProcessorConfig(return_attention_mask=True))(tmp_path / "long.wav")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.input_values.shape == found.attention_mask.shape == (1, 60 * 16_000)
    assert most < found.input_values.nbytes + found.attention_mask.nbytes + 3_000_000
