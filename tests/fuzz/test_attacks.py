"""Attacks by name: each is refused, nothing is executed, and the error says what and where; see SECURITY.md."""

import io
import json
import os
import pickle
import re
import zipfile
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
import soundfile
import tokenizers
from PIL import Image

from diptych.backends.jax import orbax  # noqa: F401 - not while a file is read
from diptych.core.checkpoint import companions
from diptych.core.checkpoint.zarr import METADATA
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.text.processing import TextProcessor
from diptych.text.writing import tokens_of
from tests.core import torch_files
from tests.fuzz import orbax_files
from tests.fuzz.__main__ import SECONDS, write
from tests.fuzz.guard import guarded
from tests.fuzz.readers import PICKLES, READERS

GADGETS = (
    "builtins eval", "builtins exec", "builtins getattr", "builtins __import__", "builtins open", "os system",
    "posix system", "nt system", "subprocess Popen", "subprocess check_output", "pty spawn", "runpy run_path",
    "importlib import_module", "sys modules", "socket socket", "shutil rmtree", "webbrowser open", "pickle loads",
    "marshal loads", "types CodeType", "types FunctionType", "functools partial", "operator attrgetter",
    "torch._inductor.codecache compile_file", "timeit timeit", "operator methodcaller", "ctypes CDLL", "numpy load",
    "numpy.testing runstring", "numpy._core.multiarray scalar", "torch load", "torch.jit load", "torch.hub load",
    "torch FloatStorage.from_file", "torch._utils _rebuild_device_tensor_from_numpy", "collections Counter",
    "collections OrderedDict.__class__", "torch Size.__class__.__base__", "torch.storage _load_from_bytes",
    "code InteractiveInterpreter", "copyreg _reconstructor", "builtins type", "builtins bytearray",
)  # fmt: skip


def refusal(directory, name, files):
    """The error with which a reader refuses files."""
    write(directory, files)
    with (
        pytest.raises((CheckpointError, ConfigError, InputError)) as error,
        guarded(directory, SECONDS),
    ):
        READERS[name].read(directory)
    return str(error.value)


@pytest.mark.parametrize("gadget", GADGETS)
def test_no_name_of_a_pickle_is_imported(tmp_path, gadget):
    module, name = gadget.split()
    by_stack = b"\x80\x04" + torch_files.value(module) + torch_files.value(name) + b"\x93)R."
    for payload in (f"\x80\x02c{module}\n{name}\n)R.".encode("latin-1"), by_stack):
        message = refusal(tmp_path, "pickle", {"data.pkl": payload})
        assert f"asks for {module}.{name}, which diptych does not read; nothing was executed" in message


def test_no_pickle_of_an_attack_is_executed(tmp_path):
    for payload in PICKLES[2:]:
        assert "nothing was executed" in refusal(tmp_path, "pickle", {"data.pkl": payload})
    inner = torch_files.write(tmp_path / "inner", torch_files.members(PICKLES[2])).read_bytes()
    for content in (inner, PICKLES[2], {"w": inner}):  # a pickle inside of a pickle stays bytes
        message = refusal(tmp_path, "pickle", {"data.pkl": pickle.dumps(content, 4)})
        assert "its pickle has the instruction" in message


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"\x80\x02(X\x01\x00\x00\x00xtQ.", "its pickle is damaged"),
        (torch_files.pickled({"w": torch_files.storage(kind="module")}), "has a persistent id of type"),
        (torch_files.pickled({"w": torch_files.storage(type="torch.Size")}), "has a persistent id of type torch.Size"),
        (b"\x80\x02P1\n.", "has the instruction PERSID"),
        (b"\x80\x02\x82\x01.", "has the instruction EXT1"),
        (b"\x80\x02(i__main__\nX\n.", "has the instruction INST"),
        (b"\x80\x02" + torch_files.imported("torch.Size") + b")\x81.", "has the instruction NEWOBJ"),
        (b"\x80\x02]q\x00h\x00a.", "holds a list"),  # a list in itself
        (b"\x80\x02" + b"(" * 100_000 + b".", "its pickle is damaged"),
    ],
)
def test_other_ways_into_a_pickle(tmp_path, opcodes, message):
    assert message in refusal(tmp_path, "pickle", {"data.pkl": opcodes})


def test_a_bomb_is_not_unpacked(tmp_path):
    bomb = torch_files.write(tmp_path / "bomb", {"archive/data.pkl": bytes(1 << 26)}, zipfile.ZIP_DEFLATED).read_bytes()
    assert len(bomb) < 1 << 17
    assert "is compressed or encrypted" in refusal(tmp_path, "torch", {"pytorch_model.bin": bomb})


def of_shape(reader, *shape):
    """A file that declares an empty tensor of this shape."""
    if reader == "msgpack":
        array = msgpack.ExtType(1, msgpack.packb((shape, "float32", b"")))
        return {"flax_model.msgpack": msgpack.packb({"a": array})}
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    return {"model.safetensors": len(header).to_bytes(8, "little") + header}


@pytest.mark.parametrize("reader", ["safetensors", "msgpack"])
@pytest.mark.parametrize("shape", [(2**63,) * 100_000, (2**63,) * 300, (0,) * 33, (0, 2**63)])
def test_shapes_that_no_array_has(tmp_path, reader, shape):
    """Their product takes hours, or has more digits than Python prints."""
    assert "an array can have" in refusal(tmp_path, reader, of_shape(reader, *shape)).replace("no array", "an array")


def test_numbers_of_thousands_of_digits(tmp_path):
    files = of_shape("safetensors", 3)
    header = files["model.safetensors"][8:].replace(b"[3]", b"[1" + b"0" * 4000 + b", 1" + b"0" * 4000 + b"]")
    data = len(header).to_bytes(8, "little") + header
    assert "has the header entry" in refusal(tmp_path, "safetensors", {"model.safetensors": data})
    files = dict(READERS["orbax"].seeds[0])
    files["c/.zarray"] = files["c/.zarray"].replace(b"[40]", b"[1" + b"0" * 4000 + b", 1" + b"0" * 4000 + b"]")
    assert "in chunks of" in refusal(tmp_path, "orbax", files)


def test_chunks_that_no_array_has(tmp_path):
    part = msgpack.ExtType(1, msgpack.packb(((1,), "float32", bytes(4))))
    shape = {str(axis): 2**63 for axis in range(50_000)}
    tree = {"a": {"__msgpack_chunked_array__": True, "shape": shape, "chunks": {"0": part}}}
    assert "which no array can have" in refusal(tmp_path, "msgpack", {"flax_model.msgpack": msgpack.packb(tree)})


def test_names_that_grow_with_each_array_below(tmp_path):
    tree = {"K" * 500_000: {str(number): {} for number in range(50_000)}}
    message = refusal(tmp_path, "msgpack", {"flax_model.msgpack": msgpack.packb(tree)})
    assert "has a name of more than 1000 characters" in message


def test_a_tuple_of_itself_many_times_over(tmp_path):
    """Its text has 2 ** 60 parts, and so has its hash."""
    nested = b")q\x00" + b"".join(b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(60))
    first = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    version = refusal(tmp_path, "old torch", {"pytorch_model.bin": first + b"\x80\x02" + nested + b"."})
    assert "is in version <tuple> of PyTorch's old format" in version
    pickles = (b"M\xe9\x03.", b"}.", b"}.", b"]" + nested + b"a.")
    keys = refusal(tmp_path, "old torch", {"pytorch_model.bin": first + b"".join(b"\x80\x02" + one for one in pickles)})
    assert "lists the storages <list>, but its tensors are in []" in keys
    pairs = b"\x80\x02" + torch_files.imported("collections.OrderedDict") + b"]" + nested + b"N\x86a\x85R."
    assert "a tuple in place of a str" in refusal(tmp_path, "pickle", {"data.pkl": pairs})


def test_an_ordered_dict_of_pairs(tmp_path):
    start = b"\x80\x02" + torch_files.imported("collections.OrderedDict") + b"]("
    number, twice = b"K\x05N\x86", (torch_files.value("a") + b"N\x86") * 2
    assert "a int in place of a str" in refusal(tmp_path, "pickle", {"data.pkl": start + number + b"e\x85R."})
    assert "the name a twice" in refusal(tmp_path, "pickle", {"data.pkl": start + twice + b"e\x85R."})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff" * 500_000, "a number of more than 64 bits"),
        (b"\x0a\x84\x80\x08" + b"\x0a\x80\x80\x08" + b"a" * 131_072, "a piece of 131072 bytes"),
    ],
)
def test_pieces_and_numbers_without_end(tmp_path, data, message):
    assert message in refusal(tmp_path, "sentencepiece", {"sentencepiece.bpe.model": data})


DEEP = json.loads("[" * 101 + "]" * 101)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"model_type": "bert", "architectures": DEEP}), "is nested more than 100 levels deep"),
        (json.dumps(DEEP), "is nested more than 100 levels deep"),
        ('{"model_type": "\\ud800"}', "surrogates not allowed"),
        ('{"model_type": "bert", "model_type": "gpt2"}', "has the same name twice: model_type"),
        ('{"model_type": "bert", "layer_norm_eps": NaN}', "must be finite float"),
        ('{"model_type": "bert", "layer_norm_eps": 1e999}', "must be finite float"),
        ('{"model_type": "bert", "hidden_size": 1' + "0" * 5000 + "}", "not JSON"),
        (
            '{"model_type": "bert", "num_hidden_layers": -1}',
            "num_hidden_layers=-1",
        ),
    ],
)
def test_hostile_json(tmp_path, text, message):
    assert message in refusal(tmp_path, "config", {"config.json": text.encode()})


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 600, "\0"])
def test_names_of_shards_that_no_file_can_have(tmp_path, name):
    index = json.dumps({"weight_map": {"a": name}}).encode()
    assert "must be a file name" in refusal(tmp_path, "index", {"model.safetensors.index.json": index})


def test_an_index_that_names_an_index(tmp_path):
    index = json.dumps({"weight_map": {"a": "model.safetensors.index.json"}}).encode()
    assert "announces a header of" in refusal(tmp_path, "index", {"model.safetensors.index.json": index})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": {"eos_token": 5}}, "eos_token=5 (or special_tokens_map.json) is of another type"),
        ({"tokenizer_config.json": {"tokenizer_class": ["x"]}}, "tokenizer_class=['x']"),
        ({"tokenizer_config.json": {"do_lower_case": "no"}}, "do_lower_case=no"),
        ({"tokenizer_config.json": {"additional_special_tokens": 1}}, "additional_special_tokens=1"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"-1": "x"}}}, "added_tokens_decoder={'-1': 'x'}"),
        (
            {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}, "added_tokens.json": {"a": "b"},
             "vocab.json": {"<s>": 0}, "merges.txt": "#version: 0.2"},
            "must have an id for each token",
        ),
        ({"config.json": {"model_type": "hubert"}, "vocab.json": {"eng": {"a": 1}, "deu": 2}}, "is no vocabulary of a"),
        ({"config.json": {"model_type": "hubert"}, "vocab.json": {"a": 2**40}}, "is no vocabulary of a"),
        ({"config.json": {"model_type": "hubert"}, "tokenizer.json": {"added_tokens": [1]}}, "is no vocabulary of a"),
    ],
)  # fmt: skip
def test_hostile_tokenizer_files(tmp_path, files, message):
    contents = {name: data if isinstance(data, str) else json.dumps(data) for name, data in files.items()}
    assert message in refusal(tmp_path, "tokenizer", {name: text.encode() for name, text in contents.items()})


def test_a_sound_file_that_would_grow_without_end(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(9, np.float32), 10)
    message = refusal(tmp_path, "sound", {"sound": (tmp_path / "x.wav").read_bytes()})
    assert "declares 10 samples per second, but at least 160 are needed to make 16000 of them" in message


def test_an_image_that_a_file_cannot_hold(tmp_path):
    data = bytearray(READERS["image"].seeds[0]["image"])
    data[16:24] = (9_000).to_bytes(4, "big") * 2  # the size in the header of a PNG, and the checksum of it
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    message = refusal(tmp_path, "image", {"image": bytes(data)})
    assert f"a damaged image (9000 x 9000 pixels cannot come from {len(data)} bytes)" in message


@pytest.mark.parametrize("version", [2, 3])
def test_memory_that_tensorstore_would_reserve(tmp_path, version):
    """It ends the process where it gets none."""
    files = READERS["orbax"].seeds[version - 2]
    name = f"c/{METADATA[version]}"
    text = files[name].replace(b"40", b"1" + b"0" * 14)
    message = refusal(tmp_path, "orbax", {**files, name: text})
    assert re.search(r"declares arrays of 800000000000024 bytes in 2 chunks, but its files have \d+ bytes", message)


def test_a_database_that_points_elsewhere(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "run").mkdir()
    files = dict(READERS["orbax"].seeds[2])
    (name,) = (name for name in files if name.startswith("d/"))
    (outside / name[-23:]).write_bytes(files.pop(name))
    up = f"../outside/{name[-23:]}"
    assert len(up) == len(name)
    files["manifest.ocdbt"] = orbax_files.seal(files["manifest.ocdbt"].replace(name.encode(), up.encode()))
    message = refusal(tmp_path / "run", "orbax", files)
    assert "cannot be read" in message and "Invalid key" in message


def test_a_pipe_in_a_directory(tmp_path):
    directory = tmp_path / "model.orbax"
    write(tmp_path, {f"model.orbax/{name}": data for name, data in READERS["orbax"].seeds[0].items()})
    os.mkfifo(directory / "c" / "1")
    with pytest.raises(CheckpointError, match=r"c/1: is neither a file nor a directory"), guarded(tmp_path, SECONDS):
        READERS["orbax"].read(tmp_path)


def test_an_image_that_is_drawn_again_and_again(tmp_path):
    stream = io.BytesIO()
    Image.new("L", (40, 40)).save(stream, "JPEG", progressive=True)
    start, scan, end = stream.getvalue().rpartition(b"\xff\xda")
    write(tmp_path, {"image": stream.getvalue()})
    READERS["image"].read(tmp_path)
    many = start + (scan + end.removesuffix(b"\xff\xd9")) * 101 + b"\xff\xd9"
    assert "scans of all pixels" in refusal(tmp_path, "image", {"image": many})


def test_what_lies_outside_is_not_copied_along(tmp_path):
    (tmp_path / "secret").write_text("key")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "vocab.txt").symlink_to(Path("..") / "secret")
    with pytest.raises(CheckpointError, match=r"the file 'vocab\.txt' of the checkpoint is .*secret, outside of"):
        companions.find_companions(tmp_path / "checkpoint", companions.ALL)


def test_a_panic_of_the_tokenizers_library_is_a_damaged_file(tmp_path):
    data = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).to_str())
    data["model"]["continuing_subword_prefix"] = "#" * 9
    message = refusal(tmp_path, "tokenizer", {"tokenizer.json": json.dumps(data).encode()})
    assert "tokenizer.json: is no tokenizer that tokenizers reads (range" in message


def test_a_pattern_that_takes_too_long(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"x": 0}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(x+x+)+y"), "isolated")
    with pytest.raises(CheckpointError, match=r"generate: the tokenizer cannot read the text \(Onig: .*retry-limit"):
        tokens_of(tokenizer, "x" * 40)
    with pytest.raises(CheckpointError, match=r"processor: the tokenizer cannot read the text \(Onig"):
        TextProcessor(tokenizer, tmp_path).encode(["x" * 40])


def test_the_tests_of_each_guarantee_are_there():
    root = Path(__file__).parents[2]
    rows = [line for line in (root / "SECURITY.md").read_text().splitlines() if line.startswith("| **")]
    named = [re.findall(r"`(tests/[^`]+)`", row) for row in rows]
    assert len(named) == 9 and all(named)
    assert all((root / path).is_file() for paths in named for path in paths)
