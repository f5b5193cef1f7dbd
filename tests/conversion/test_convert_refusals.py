"""What convert refuses, and what stays on the disk when it fails."""

import contextlib
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import diptych.backends.torch as in_torch
from diptych import cli
from diptych.conversion import convert
from diptych.core import interrupts
from diptych.core.checkpoint import atomic
from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.errors import CheckpointError, ConfigError, InputError
from tests.conversion import checkpoints
from tests.conversion.tiny import arrays, edit_config, files_of, rewrite

module = importlib.import_module("diptych.conversion.convert")
tensors_module = importlib.import_module("diptych.core.checkpoint.tensors")
FORMATS = ("safetensors", "flax-msgpack")


@pytest.fixture(autouse=True, scope="module")
def _in_parts():
    """Tensors are read in parts, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors_module, "PART", 1000)
        yield


def replace_index(directory, change):
    """The weights in two shards, with an index that is then changed."""
    write_checkpoint(directory, open_checkpoint(directory).tensors, max_shard_size="30KB")
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = change(index["weight_map"])
    path.write_text(json.dumps(index))


def first_elsewhere(name):
    return lambda weight_map: {key: name if i == 0 else file for i, (key, file) in enumerate(weight_map.items())}


def only_msgpack(directory, content):
    (directory / "model.safetensors").unlink()
    (directory / "flax_model.msgpack").write_bytes(content)


def cut(directory, size):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


BAD_SOURCES = {
    "no directory": (lambda d: d.rename(d.with_name("gone")), CheckpointError, "source: no such directory"),
    "no config": (lambda d: (d / "config.json").unlink(), ConfigError, r"config\.json: no such file"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), CheckpointError, "holds no weights: looked for model"),
    "no object": (lambda d: (d / "config.json").write_text("[1]"), ConfigError, r"config\.json: holds a JSON list"),
    "no JSON": (lambda d: (d / "config.json").write_text("{"), ConfigError, r"config\.json: not JSON"),
    "unknown type": (
        lambda d: edit_config(d, model_type="bort"),
        ConfigError,
        "model_type='bort' is not known; .*bert",
    ),
    "unknown class": (
        lambda d: edit_config(d, architectures=["X"]),
        ConfigError,
        r"\['X'\] names no known class; those of model_type 'bert': BertModel, .* convert it with architecture=…",
    ),
    "unknown fields": (lambda d: edit_config(d, one=1, two=2), ConfigError, r"does not know one, two;.*ignore_config"),
    "sizes": (lambda d: edit_config(d, num_attention_heads=3), ConfigError, "hidden_size=20 must be .*_heads=3"),
    "activation": (lambda d: edit_config(d, hidden_act="gulu"), ConfigError, "hidden_act='gulu'.*one of gelu"),
    "truncated": (lambda d: cut(d, -9), CheckpointError, r"model\.safetensors: .*"),
    "no header": (lambda d: cut(d, 5), CheckpointError, "has 5 bytes, too few for a safetensors file"),
    "header too long": (
        lambda d: cut(d, 100),
        CheckpointError,
        r"announces a header of \d+ bytes, but the file has 100",
    ),
    "missing tensor": (
        lambda d: rewrite(d, lambda tensors: {n: a for n, a in tensors.items() if n != "pooler.dense.bias"}),
        CheckpointError,
        r"1 tensor is missing: pooler\.dense\.bias \(allow_missing=\('pooler',\) converts without them",
    ),
    "unknown tensors": (
        lambda d: rewrite(d, lambda tensors: tensors | {"lora_A": np.ones(3), "lora_B": np.ones(3)}),
        CheckpointError,
        r"2 tensors belong to no class of the family: lora_A, lora_B \(ignore=\('lora_A', 'lora_B',\)",
    ),
    "wrong shape": (
        lambda d: rewrite(d, lambda tensors: tensors | {"pooler.dense.bias": np.ones(21, np.float32)}),
        CheckpointError,
        r"pooler\.dense\.bias has shape \(21,\), BertModel needs \(20,\)",
    ),
    "two of one": (
        lambda d: rewrite(d, lambda tensors: tensors | {"embeddings.LayerNorm.gamma": np.ones(20, np.float32)}),
        CheckpointError,
        r"embeddings\.LayerNorm\.\w+ and embeddings\.LayerNorm\.\w+ are one tensor in the model",
    ),
    "whole numbers": (
        lambda d: rewrite(d, lambda tensors: tensors | {"pooler.dense.bias": np.ones(20, np.int32)}),
        CheckpointError,
        r"1 tensor has a dtype other than float64, .*: pooler\.dense\.bias \(int32\)",
    ),
    "index out": (
        lambda d: replace_index(d, first_elsewhere("../x.safetensors")),
        CheckpointError,
        r"'\.\./x\.safetensors' of the checkpoint is .*, outside of the directory",
    ),
    "index absolute": (
        lambda d: replace_index(d, first_elsewhere("/etc/passwd")),
        CheckpointError,
        "'/etc/passwd' of the checkpoint is /etc/passwd, outside of the directory",
    ),
    "no shard": (
        lambda d: replace_index(d, first_elsewhere("model-00009-of-00009.safetensors")),
        CheckpointError,
        "names files that are not there: model-00009",
    ),
    "no tree": (
        lambda d: only_msgpack(d, b"\x93\x01\x02\x03"),
        CheckpointError,
        "holds type list at the top, not a map",
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("damage", "error", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_bad_source_is_a_clear_error_and_nothing_is_written(tmp_path, source, damage, error, message, format):
    damage(source)
    before = files_of(tmp_path)
    with pytest.raises(error, match=message):
        convert(source, tmp_path / "deep" / "out", format=format)
    assert files_of(tmp_path) == before
    assert not (tmp_path / "deep").exists()


def test_a_link_out_of_the_directory_is_refused(tmp_path, source):
    replace_index(source, lambda weight_map: weight_map)
    shard = sorted(source.glob("model-*.safetensors"))[0]
    shard.rename(tmp_path / "outside.safetensors")
    shard.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(CheckpointError, match=r"is \S*outside\.safetensors, outside of the directory"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "gguf"}, "format='gguf' is not known; known: safetensors, flax-msgpack"),
        ({"dtype": "int8"}, "dtype='int8' is not supported; supported: float64, float32, float16, bfloat16"),
        ({"max_shard_size": "many"}, "max_shard_size: 'many' is no size"),
        ({"architecture": "GPT9"}, r"architecture='GPT9' is not known; known of model_type '.*: \w+, \w+"),
        ({"ignore": "pooler"}, r"ignore='pooler' must be a tuple of names, such as \('pooler',\)"),
        ({"ignore_config": "x"}, "ignore_config='x' must be a tuple"),
        ({"allow_missing": "x"}, "allow_missing='x' must be a tuple"),
    ],
)
def test_a_bad_argument_is_a_clear_error_and_nothing_is_written(tmp_path, source, arguments, message):
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "out", **arguments)
    assert files_of(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_an_unknown_keyword_is_refused_for_any_source(tmp_path, source):
    for origin in (source, object()):
        with pytest.raises(TypeError, match=r"convert: unknown keyword formatt; known: format, dtype, .*, revision, "):
            convert(origin, tmp_path / "out", formatt="orbax")


def test_a_destination_without_a_name_is_refused(tmp_path, source, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["convert", str(source), ""])
    assert "convert: the name of the destination is empty; give the directory to create" in capsys.readouterr().err
    convert(source, ".")
    assert sorted(os.listdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".", "is the source itself; give another directory"),
        ("inside/deeper", "lies inside the source .*; give a directory outside of it"),
        ("..", "holds the source .*; give a directory beside it"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_source_and_destination_stay_apart(tmp_path, place, message, linked):
    source = tmp_path / "parent" / "source"
    checkpoints.write(source, "BertModel")
    (tmp_path / "link").symlink_to(source)
    before = files_of(tmp_path)
    destination = os.path.normpath(source / place)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "link" if linked else source, destination, overwrite=True)
    assert files_of(tmp_path) == before


def test_unknown_and_missing_tensors_have_a_way_out(tmp_path, source):
    rewrite(source, lambda tensors: (tensors.pop("pooler.dense.bias"), tensors | {"lora.A": np.ones(3)})[1])
    report = convert(source, tmp_path / "out", ignore=("lora",), allow_missing=("pooler.dense.bias",))
    assert report.ignored == ("lora.A",)
    assert report.missing == ("pooler.dense.bias",)
    assert set(arrays(tmp_path / "out")) == set(checkpoints.shapes("BertModel")) - {"pooler.dense.bias"}


@pytest.mark.parametrize("format", FORMATS)
def test_what_differs_when_it_is_read_back_is_not_put_in_place(tmp_path, source, monkeypatch, format):
    def careless(directory, tensors, **options):
        files = write_checkpoint(directory, tensors, **options)
        content = bytearray(files[0].read_bytes())
        content[-1] ^= 1
        files[0].write_bytes(content)
        return files

    monkeypatch.setattr(module, "write_checkpoint", careless)
    with pytest.raises(CheckpointError, match=r"\S+ differs from what was written when it is read back; the disk"):
        convert(source, tmp_path / "out", format=format)
    assert os.listdir(tmp_path) == ["source"]


def test_a_full_disk_is_an_oserror_with_the_path_and_leaves_nothing(tmp_path, source):
    code = (
        "import resource, sys\n"
        "from diptych.conversion import convert\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: convert(sys.argv[1], sys.argv[2])\n"
        "except OSError as error: print(error.errno, error.filename)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "new" / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    number, path = run.stdout.split()
    assert int(number) == errno.EFBIG
    assert path.endswith("model.safetensors")
    assert os.listdir(tmp_path) == ["source"]


def test_a_disk_that_fills_up_with_the_small_files_leaves_nothing(tmp_path, source, monkeypatch):
    (source / "vocab.txt").write_text("a b c")

    def full(_source, _target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*vocab\.txt'"):
        convert(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_run_leaves_nothing_new_at_the_destination(tmp_path, source, overwrite):
    destination = tmp_path / "out"
    if overwrite:
        convert(source, destination)
    before = files_of(destination)
    code = (
        "import sys, time\n"
        "from diptych.conversion import convert\n"
        "def slow(size): print('written', flush=True); time.sleep(0.05)\n"
        "convert(sys.argv[1], sys.argv[2], format='flax-msgpack', overwrite=True, progress=slow)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(destination)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):  # in the middle of the weights
            assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert files_of(destination) == before
    assert destination.exists() is overwrite
    assert all(name.startswith(".") for name in set(os.listdir(tmp_path)) - {"source", "out"})
    convert(source, destination, overwrite=overwrite)
    assert set(files_of(destination)) == {"config.json", "model.safetensors"}


def test_a_terminated_command_cleans_up(tmp_path, source):
    code = (
        "import sys, time\n"
        "import diptych.conversion as module\n"
        "from diptych import cli\n"
        "convert = module.convert\n"
        "def slow(size): print('written', flush=True); time.sleep(0.05)\n"
        "module.convert = lambda *names, **options: convert(*names, **(options | {'progress': slow}))\n"
        "cli.main(['convert', *sys.argv[1:]])\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert os.listdir(tmp_path) == ["source"]


def test_conversions_end_at_random_moments(tmp_path):
    """Two in the ordinary suite, many more in `make test-long`."""
    kills = settings().max_examples // 34
    command = [sys.executable, "-m", "tests.conversion.killed", str(tmp_path), str(kills), "0"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stderr.splitlines()[-1].split()) == kills


def test_an_interrupted_run_cleans_up(tmp_path, source):
    def interrupt(_size):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    assert os.listdir(tmp_path) == ["source"]


def test_a_signal_that_a_callback_swallows_ends_the_run(tmp_path, source, monkeypatch):
    """Python swallows what a callback of its garbage collector raises, and JAX has one."""

    def swallow(*_):
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)

    ends = []
    monkeypatch.setattr(module.companions, "copy_companions", swallow)
    monkeypatch.setattr(os, "_exit", ends.append)
    for existing in (False, True):
        if existing:
            (tmp_path / "out").mkdir()
        with pytest.raises(SystemExit):
            cli.main(["convert", str(source), str(tmp_path / "out")])
        assert sorted(os.listdir(tmp_path)) == (["out", "source"] if existing else ["source"])
    assert (ends, os.listdir(tmp_path / "out"), interrupts.received) == ([143, 143], [], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_result_takes_its_place_comes_too_late(tmp_path, source, monkeypatch, capsys, number):
    """Exit code 130 or 143 would say that there is no result."""
    exchange, rename = atomic._exchange, os.replace

    def rename_with_signals(before, after):
        signal.raise_signal(number)
        rename(before, after)
        signal.raise_signal(number)

    def exchange_with_signals(*moves):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", rename_with_signals)
            exchange(*moves)

    monkeypatch.setattr(atomic, "_exchange", exchange_with_signals)
    monkeypatch.setattr(os, "_exit", sys.exit)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["convert", str(source), str(tmp_path / "out"), "--overwrite"])
    finally:
        signal.signal(signal.SIGINT, found)
    assert (end.value.code, interrupts.received) == (0, [])
    assert "read back and found equal" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]
    assert "model.safetensors" in os.listdir(tmp_path / "out")


@pytest.mark.parametrize(("damage", "error", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_from_pretrained_refuses_the_same(source, damage, error, message):
    damage(source)
    message = message.partition(r" \(allow_missing")[0]
    read = in_torch.load if "names no known" in message else in_torch.BertModel.from_pretrained
    with pytest.raises(error, match=message):
        read(source)
