import contextlib
import errno
import importlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import diptych
from diptych import cli
from diptych.core.errors import InputError
from tests.conversion import checkpoints
from tests.conversion.tiny import edit_config, files_of


@pytest.fixture
def source(tmp_path):
    checkpoints.write(tmp_path / "source", "BertModel")
    return str(tmp_path / "source")


def test_convert_says_what_it_did(run, tmp_path, source):
    code, out, err = run("convert", source, tmp_path / "flax", "--format", "flax-msgpack", "--dtype", "bfloat16")
    assert (code, err) == (0, "")
    assert out.startswith("55 tensors of BertModel (25,904 bytes, bfloat16) converted from safetensors to flax-msgpack")
    assert set(files_of(tmp_path / "flax")) == {"config.json", "flax_model.msgpack"}


def test_convert_takes_every_option(run, tmp_path, source):
    edit_config(tmp_path / "source", mystery=1, architectures=None)
    options = ["--ignore", "pooler.dense.bias", "--ignore", "pooler.dense.weight", "--allow-missing", "pooler"]
    options += ["--ignore-config", "mystery", "--architecture", "BertModel", "--max-shard-size", "20KB"]
    options += ["--dtype", "float16", "--allow-overflow"]
    code, out, err = run("convert", source, tmp_path / "out", *options, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report["ignored"]) == set(report["missing"]) == {"pooler.dense.bias", "pooler.dense.weight"}
    assert len(report["files"]) > 1
    assert run("convert", source, tmp_path / "out", *options)[0] == 2
    assert run("convert", source, tmp_path / "out", *options, "--overwrite")[0] == 0


def test_inspect_lists_the_tensors(run, source):
    code, out, err = run("inspect", source)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["embeddings.word_embeddings.weight", "61", "×", "20", "float32", "4,880"] in lines
    assert ["class", "BertModel"] in lines
    assert f"tensors {len(checkpoints.shapes('BertModel'))} (55 float32), 51,808 bytes".split() in lines
    assert ["parameters", "12,952"] in lines


def test_names_in_files_are_no_commands_for_the_terminal(run, tmp_path, source):
    weights = load_file(tmp_path / "source" / "model.safetensors")
    save_file(weights | {"\x1b[2J\x9b1m": np.ones(3, np.float32)}, tmp_path / "source" / "model.safetensors")
    for code, (found, out, err) in ((0, run("inspect", source)), (2, run("convert", source, tmp_path / "out"))):
        assert found == code
        assert r"\x1b[2J\x9b1m" in out + err
        assert not {"\x1b", "\x9b"} & {*out, *err}


@pytest.mark.parametrize("end", ["\nEQUAL", "\u2028", "\r"])
def test_a_name_that_could_pass_for_a_line_of_output_is_refused(run, tmp_path, source, end):
    weights = load_file(tmp_path / "source" / "model.safetensors")
    save_file(weights | {f"x{end}": np.ones(3, np.float32)}, tmp_path / "source" / "model.safetensors")
    for command in (("inspect", source), ("diff", source, source), ("convert", source, tmp_path / "out")):
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert f"the name of the tensor {f'x{end}'!r} has a line break" in err


def test_inspect_as_json(run, source):
    code, out, _ = run("inspect", source, "--json")
    inspection = json.loads(out)
    assert code == 0
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in inspection["tensors"]} == checkpoints.shapes(
        "BertModel"
    )
    assert (inspection["architecture"], inspection["parameters"]) == ("BertModel", 12_952)


def test_inspect_where_no_class_is_known(run, tmp_path, source):
    edit_config(tmp_path / "source", architectures=["BertThing"], mystery=1)
    assert run("inspect", source)[0] == 2
    code, out, _ = run("inspect", source, "--ignore-config", "mystery")
    assert code == 0
    assert "none that is known here (BertThing)" in out


def test_parity_of_a_checkpoint_in_both_backends(run, source):
    code, out, err = run("parity", source)
    assert (code, err) == (0, "")
    assert "EQUAL" in out
    code, out, _ = run("parity", source, "--json", "--no-gradients", "--seed", "7", "--dtype", "float32")
    report = json.loads(out)
    assert (code, report["passed"], report["seed"], report["dtypes"]) == (0, True, 7, ["float64", "float32"])
    assert {point["kind"] for point in report["points"]} == {"module", "output"}


def test_a_verb_passes_on_how_to_load(run, monkeypatch):
    given = []

    def refuse(source, *_others, **options):
        given.append((source, {name: value for name, value in options.items() if name in EXPECTED}))
        raise InputError("enough")

    EXPECTED = {
        "revision": "v2",
        "subfolder": "text",
        "variant": "fp16",
        "token": "secret",
        "ignore_config": ("field",),
    }
    for home, name in (("inspect", "inspect_checkpoint"), ("convert", "convert"), ("parity", "parity")):
        monkeypatch.setattr(importlib.import_module(f"diptych.conversion.{home}"), name, refuse)
    flags = [
        f"--{name.replace('_', '-')}={value if name != 'ignore_config' else 'field'}"
        for name, value in EXPECTED.items()
    ]
    for verb in (("inspect", "owner/name"), ("convert", "owner/name", "out"), ("parity", "owner/name")):
        assert run(*verb, *flags) == (2, "", "diptych: enough\n")
    assert given == [("owner/name", EXPECTED)] * 3


def test_generate_and_classify_pass_on_what_to_download(run, monkeypatch):
    given = []

    def note(source, *_, changes, revision, variant, **options):
        assert "token" not in options  # it was not given
        given.append((source, changes, revision, variant))

    for home, name in (("text", "generate_text"), ("images", "classify_images")):
        monkeypatch.setattr(importlib.import_module(f"diptych.{home}"), name, note)
    flags = ("--revision", "v2", "--variant", "fp16", "--set", "add_pooling_layer=false")
    run("generate", "owner/name", "--ids", "5", *flags)
    run("classify", "owner/name", "--image", "cat.jpg", *flags)
    assert given == [("owner/name", {"add_pooling_layer": False}, "v2", "fp16")] * 2


def test_parity_against_transformers_on_inputs_of_ones_own(run, tmp_path, source):
    np.savez(tmp_path / "batch.npz", input_ids=np.array([[5, 6, 60]]), attention_mask=np.array([[1, 1, 0]]))
    options = ("--against", "transformers", "--backend", "jax", "--input", tmp_path / "batch.npz", "--json")
    code, out, _ = run("parity", source, *options)
    report = json.loads(out)
    assert (code, report["passed"]) == (0, True)
    assert set(report["inputs"]) == {"input_ids", "attention_mask"}
    assert (report["reference"]["backend"], report["candidate"]["backend"]) == ("transformers", "jax")


def test_what_is_not_equal_is_exit_code_1(run, tmp_path, source):
    checkpoints.write(tmp_path / "other", "BertModel", seed=1)
    code, out, _ = run("parity", source, tmp_path / "other", "--no-gradients")
    assert code == 1
    assert "NOT EQUAL" in out
    assert "embeddings.word_embeddings" in out


def test_diff_names_what_differs_and_its_exit_code_says_whether(run, tmp_path, source):
    assert run("convert", source, tmp_path / "flax", "--format", "flax-msgpack")[0] == 0
    code, out, err = run("diff", source, tmp_path / "flax")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "SAME: 55 tensors and the config are equal"
    checkpoints.write(tmp_path / "other", "BertModel", seed=1)
    code, out, _ = run("diff", source, tmp_path / "other")
    rows = [line.split() for line in out.splitlines()]
    assert code == 1
    assert any(row[:3] == ["embeddings.word_embeddings.weight", "values", "1220"] for row in rows)
    assert "DIFFERENT: 55 tensors with other values; 0 tensors the same" in out
    code, out, _ = run("diff", source, tmp_path / "other", "--json")
    assert (code, json.loads(out)["equal"], len(json.loads(out)["tensors"])) == (1, False, 55)


def test_a_manifest_is_written_and_verified(run, tmp_path, source):
    assert run("convert", source, tmp_path / "made", "--manifest")[0] == 0
    code, out, err = run("verify", tmp_path / "made")
    assert (code, err) == (0, "")
    assert out.startswith("VERIFIED: 55 tensors are as ")
    checkpoints.write(tmp_path / "other", "BertModel", seed=1)
    manifest = tmp_path / "made" / "diptych_manifest.json"
    code, out, _ = run("verify", tmp_path / "other", "--manifest", manifest, "--json")
    assert (code, len(json.loads(out)["changed"])) == (1, 55)


BAD = [
    (("inspect", "{tmp}/nowhere"), "nowhere: no such directory, and no id of a model"),
    (("convert", "{tmp}/nowhere", "{tmp}/out"), "nowhere: no such directory"),
    (("parity", "{tmp}/nowhere"), "nowhere: no such directory"),
    (("diff", "{source}", "{tmp}/nowhere"), "nowhere: no such directory"),
    (("verify", "{source}"), "diptych_manifest.json: no such file; convert writes a manifest"),
    (("convert", "{source}", "{source}"), "is the source itself"),
    (("convert", "{source}", "{source}/inside"), "lies inside the source"),
    (("convert", "{source}", "{tmp}/out", "--format", "gguf"), "format='gguf' is not known; known: safetensors, flax"),
    (("convert", "{source}", "{tmp}/out", "--dtype", "int8"), "dtype='int8' is not supported"),
    (("convert", "{source}", "{tmp}/out", "--max-shard-size", "0"), "max_shard_size: '0' is no size"),
    (("convert", "{source}", "{tmp}/out", "--architecture", "X"), "architecture='X' is not known"),
    (("convert", "{source}", "{tmp}/out", "--ignore", "pooler.*"), "2 tensors are missing: pooler.dense."),
    (("convert", "{source}", "/proc/out"), "/proc"),
    (("parity", "{source}", "--input", "{tmp}/none.npz"), "none.npz"),
    (("parity", "{source}", "--input", "{source}/config.json"), "config.json: is no .npz file of plain arrays"),
    (("parity", "{source}", "--dtype", "int8"), "int8"),
    (("parity", "{source}", "--backend", "mxnet"), "mxnet"),
    (("parity", "{source}", "--against", "keras"), "keras"),
]


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(run, tmp_path, source, arguments, message, json_too):
    before = files_of(tmp_path)
    arguments = [argument.format(tmp=tmp_path, source=source) for argument in arguments]
    code, out, err = run(*arguments, *(["--json"] if json_too else []))
    assert (code, out) == (2, "")
    assert err.startswith("diptych: ")
    assert err.count("\n") == 1
    assert message in err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda directory: (directory / "config.json").write_text("[]"),
        lambda directory: (directory / "config.json").unlink(),
        lambda directory: (directory / "model.safetensors").write_bytes(b"x" * 100),
        lambda directory: edit_config(directory, model_type="bort"),
        lambda directory: edit_config(directory, hidden_size=21),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "convert", "parity"])
def test_a_bad_directory_is_exit_code_2_for_every_verb(run, tmp_path, source, verb, damage):
    damage(tmp_path / "source")
    code, out, err = run(verb, source, *([tmp_path / "out"] if verb == "convert" else []))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"diptych: {source}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [{"input_ids": np.array([None])}, {"input_ids": np.array([[3.5, 2.0]])}])
def test_bad_arrays_are_exit_code_2(run, tmp_path, source, content):
    np.savez(tmp_path / "batch.npz", **content)
    code, out, err = run("parity", source, "--input", tmp_path / "batch.npz")
    assert (code, out) == (2, "")
    assert err.startswith("diptych: ")


def test_unknown_options_are_exit_code_2(run, source):
    code, _, err = run("inspect", source, "--colour")
    assert code == 2
    assert "--colour" in err
    assert run("inspekt", source)[0] == 2
    assert run("convert", source)[0] == 2


def test_an_absent_framework_is_exit_code_2(run, tmp_path, source, monkeypatch):
    monkeypatch.setattr("diptych.core.backends.PACKAGES", {})
    code, out, err = run("convert", source, tmp_path / "out")
    assert (code, out) == (2, "")
    assert (
        "diptych: neither JAX with Flax nor PyTorch is installed; pip install 'diptych[jax]' or 'diptych[torch]'" in err
    )
    assert not (tmp_path / "out").exists()


def test_a_fault_of_ours_is_not_bad_input(monkeypatch, source, capsys):
    def broken(*_arguments, **_options):
        raise ValueError("a fault")

    monkeypatch.setattr(importlib.import_module("diptych.conversion.inspect"), "open_checkpoint", broken)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", source])
    assert stopped.value.code == 3
    assert "ValueError: a fault" in capsys.readouterr().err


def test_a_full_disk_is_exit_code_2_and_leaves_nothing(tmp_path, source):
    code = (
        "import resource, sys\n"
        "from diptych.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "convert", source, str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert "File too large" in run.stderr
    assert "model.safetensors" in run.stderr
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("verb", [(), ("convert",), ("inspect",), ("parity",), ("generate",), ("classify",)])
def test_help_has_examples(run, verb):
    code, out, err = run(*verb, "--help")
    assert (code, err) == (0, "")
    assert (
        ("diptych " + verb[0] + " " in out)
        if verb
        else all(name in out for name in ("convert", "inspect", "parity", "generate", "classify"))
    )
    assert not verb or "Examples:" in out
    assert run(*verb, "-h")[1] == out


def test_the_version(run):
    assert run("--version") == (0, f"diptych {diptych.__version__}\n", "")


def test_help_loads_no_framework():
    code = (
        "import sys\n"
        "from diptych.cli import main\n"
        "try: main(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('jax', 'flax', 'torch', 'transformers', 'numpy') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("json_too", [False, True])
def test_a_bar_is_shown_on_a_terminal_unless_json_is_asked_for(tmp_path, source, json_too):
    command = [sys.executable, "-m", "diptych", "convert", source, str(tmp_path / "out")]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    process = subprocess.Popen(
        [*command, *(["--json"] if json_too else [])], stdout=subprocess.PIPE, stderr=end, stdin=end
    )
    out, _ = process.communicate(timeout=100)
    os.write(end, b"end")  # so that there is something to read
    shown = os.read(terminal, 100_000)
    os.close(end)
    os.close(terminal)
    assert process.returncode == 0
    assert (b"verifying" in shown) is not json_too
    assert b"verifying" not in out


class _Broken(io.RawIOBase):
    """A stream that cannot be written."""

    def __init__(self, error):
        self.error = error

    def writable(self):
        return True

    def write(self, _):
        raise self.error


def test_streams_that_are_closed_or_broken(run, monkeypatch):
    bad = ("generate", "absent", "--text", "-")
    monkeypatch.setattr(sys, "stdin", None)
    assert run(*bad) == (2, "", "diptych: --text -: stdin is closed\n")
    monkeypatch.setattr(sys, "stdout", None)
    assert run("--version") == (2, "", "diptych: stdout: is closed, so the output is lost\n")
    monkeypatch.setattr(sys, "stderr", None)
    assert run(*bad) == (2, "", "")
    for error, code in ((BrokenPipeError(errno.EPIPE, ""), 141), (OSError(errno.ENOSPC, ""), 2)):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(_Broken(error), write_through=True))
        assert run("--version")[0] == code
    assert run(*bad)[0] == 2


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", "é猫\udcff"), ("latin-1", r"é\u732b\udcff")])
def test_characters_that_a_stream_cannot_encode(run, monkeypatch, encoding, printed):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stderr", stream)
    assert run("generate", "absent", "--text", "w1", "--output", "é猫\udcff/x")[0] == 2
    text = stream.buffer.getvalue().decode(encoding, "surrogateescape")
    assert text == f"diptych: --output {printed}/x: there is no directory {printed}\n"


def test_an_interrupt_skips_what_python_does_at_its_end(monkeypatch):
    """JAX crashed there: the exit code was that of a segmentation fault."""
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    for code in (130, 143, 2):
        monkeypatch.setattr(cli, "app", lambda code=code, **_: sys.exit(code))
        with pytest.raises(SystemExit) as stopped:
            cli.main([])
        assert stopped.value.code == code
    assert ends == [130, 143]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("ends_with", [ImportError("numpy failed to import"), None])
def test_a_signal_that_an_import_swallows_still_counts(monkeypatch, capsys, number, code, ends_with):
    """numpy turns an interrupt into an ImportError, which would be exit code 2."""

    def app(**_):
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            signal.raise_signal(number)
        if ends_with is not None:
            raise ends_with

    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(cli, "app", app)
    found = signal.signal(number, signal.default_int_handler)  # a shell's background jobs ignore an interrupt
    try:
        with pytest.raises(SystemExit):
            cli.main([])
        said = "diptych: interrupted\n" if number == signal.SIGINT else ""
        assert (ends, capsys.readouterr()) == ([code], ("", said))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, found)
