import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import diptych.backends.torch as in_torch
from diptych.conversion import convert, inspect_checkpoint
from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.checkpoint.tensors import from_array
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError, ConfigError, InputError
from tests.assertions import assert_close
from tests.conversion import checkpoints
from tests.conversion.tiny import ARCHITECTURES, bits, config_of, digests, edit_config, files_of, inputs_of, theirs

module = importlib.import_module("diptych.conversion.convert")
FORMATS = ("safetensors", "flax-msgpack")


@pytest.fixture
def source(tmp_path):
    """A BertModel with the files that come with one."""
    directory = tmp_path / "source"
    checkpoints.write(directory, "BertModel")
    return directory


def rewrite(directory: Path, change) -> None:
    """Changes the tensors of a directory's only file."""
    tensors = load_file(directory / "model.safetensors")
    tensors = change(dict(tensors)) or tensors
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def arrays(directory: Path) -> dict[str, np.ndarray]:
    return {name: source.read() for name, source in open_checkpoint(directory).tensors.items()}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back_is_bit_exact(tmp_path, architecture, dtype):
    model = getattr(in_torch, architecture)(config_of(architecture), seed=5, dtype=dtype)
    model.save_pretrained(tmp_path / "source")
    there = convert(tmp_path / "source", tmp_path / "flax", format="flax-msgpack", max_shard_size="10KB")
    back = convert(tmp_path / "flax", tmp_path / "back")
    assert {tensor.name: tensor.digest for tensor in there.tensors} == digests(model)
    assert there.tensors == back.tensors
    assert there.dtypes == {dtype: len(there.tensors)}
    assert len(there.files) > 1
    assert inspect_checkpoint(tmp_path / "flax").format == there.format == back.source_format == "flax-msgpack"
    written = (tmp_path / "back" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "source" / "model.safetensors").read_bytes()
    for directory in ("flax", "back"):
        loaded = getattr(in_torch, architecture).from_pretrained(tmp_path / directory)
        assert digests(loaded) == digests(model)


@settings(max_examples=settings().max_examples // 10)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_each_tensor_keeps_its_dtype_and_every_bit(tmp_path_factory, seed, data):
    root = tmp_path_factory.mktemp("drawn")
    checkpoints.write(root / "source", "CLIPVisionModel")
    random = np.random.default_rng(seed)
    dtypes = st.sampled_from(list(FLOATS.values()))
    tensors = {}
    for name, shape in checkpoints.shapes("CLIPVisionModel").items():
        dtype = data.draw(dtypes) if name.endswith(("0.mlp.fc1.weight", "embedding", "bias")) else np.dtype("float32")
        tensors[name] = np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    write_checkpoint(root / "source", {name: from_array(array) for name, array in tensors.items()})
    convert(root / "source", root / "flax", format="flax-msgpack")
    convert(root / "flax", root / "back")
    back = arrays(root / "back")
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(bits(back[name]), bits(array))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_dtype_for_all_tensors(tmp_path, source, format, dtype):
    before = arrays(source)
    report = convert(source, tmp_path / "out", format=format, dtype=dtype)
    assert {(tensor.source_dtype, tensor.dtype) for tensor in report.tensors} == {("float32", dtype)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype
    loaded = in_torch.BertModel.from_pretrained(tmp_path / "out")
    for name, tensor in loaded._sources().items():
        np.testing.assert_array_equal(bits(tensor.read()), bits(before[name].astype(FLOATS[dtype])))


def test_values_too_large_for_the_dtype_are_refused(tmp_path, source):
    def enlarge(tensors):
        tensors["pooler.dense.weight"][3, 4] = 1e6
        tensors["pooler.dense.bias"][0] = np.inf  # which float16 can say

    rewrite(source, enlarge)
    convert(source, tmp_path / "wide", dtype="bfloat16")
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.weight holds float32 values .* too large for float16"):
        convert(source, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_what_we_write_and_computes_the_same(tmp_path, architecture):
    model = theirs(architecture).eval()
    model.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "flax", format="flax-msgpack")
    convert(tmp_path / "flax", tmp_path / "ours", max_shard_size="40KB")
    loaded, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    for (name, mine), (other, their) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(mine, their), name
    mine, their = (each.double()(**inputs_of(each)) for each in (loaded, model))
    assert mine.keys() == their.keys()
    compared = [name for name, value in their.items() if isinstance(value, torch.Tensor)]
    assert compared
    for name in compared:  # torch sums in another order where a file puts a matrix at another address
        kind = str(their[name].dtype).removeprefix("torch.")  # it takes some losses in float32
        assert_close(mine[name].detach().numpy(), their[name].detach().numpy(), kind=kind, name=name)


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertModel", "BertForSequenceClassification"])
def test_heads_of_other_classes_are_kept_whatever_config_json_names(tmp_path, architecture):
    pretraining = checkpoints.shapes("BertForPreTraining")
    checkpoints.write(tmp_path / "source", "BertForPreTraining")
    edit_config(tmp_path / "source", architectures=[architecture])
    needed = () if architecture != "BertForSequenceClassification" else ("classifier",)
    report = convert(tmp_path / "source", tmp_path / "flax", format="flax-msgpack", allow_missing=needed)
    convert(tmp_path / "flax", tmp_path / "back", allow_missing=needed)
    assert len(report.tensors) == len(pretraining)
    prefix = "" if architecture == "BertModel" else "bert."
    assert set(arrays(tmp_path / "back")) == {
        prefix + name.removeprefix("bert.") if name.startswith("bert.") else name for name in pretraining
    }
    heads = {name for name in pretraining if name.startswith("cls.")}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    relation = {name for name in heads if "seq_relationship" in name}
    owned = {"BertForMaskedLM": relation | pooler}.get(architecture, heads)
    assert set(report.other_classes) == owned
    assert {path.split(".")[0] for path in report.missing} == set(needed)
    checkpoints.write(tmp_path / "reference", "BertForPreTraining")
    wanted = digests(in_torch.BertForPreTraining.from_pretrained(tmp_path / "reference"))
    assert digests(in_torch.BertForPreTraining.from_pretrained(tmp_path / "back")) == wanted


def test_old_spellings_become_the_present_ones(tmp_path):
    directory = tmp_path / "source"
    checkpoints.write(directory, "BertForPreTraining")
    edit_config(directory, architectures=["BertForMaskedLM"])

    def age(tensors):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in tensors.items()
        }
        old["bert.embeddings.position_ids"] = np.arange(19)[None]
        old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].copy()
        return old

    rewrite(directory, age)
    report = convert(directory, tmp_path / "out")
    assert set(arrays(tmp_path / "out")) == set(checkpoints.shapes("BertForPreTraining"))
    assert set(report.ignored) == {"bert.embeddings.position_ids", "cls.predictions.decoder.weight"}
    assert "2 ignored: " in str(report)


@pytest.mark.parametrize("architecture", ["CLIPTextModel", "CLIPVisionModel"])
def test_a_prefix_that_is_missing_is_written(tmp_path, architecture):
    theirs(architecture).save_pretrained(tmp_path / "theirs")  # which writes no text_model.
    convert(tmp_path / "theirs", tmp_path / "out")
    assert set(arrays(tmp_path / "out")) == set(checkpoints.shapes(architecture))


def test_safetensors_with_names_and_layouts_of_flax_are_read(tmp_path, source):
    convert(source, tmp_path / "flax", format="flax-msgpack")
    tensors = open_checkpoint(tmp_path / "flax").tensors
    (tmp_path / "flax" / "flax_model.msgpack").unlink()
    write_checkpoint(tmp_path / "flax", tensors, metadata={"format": "flax"})
    convert(tmp_path / "flax", tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert inspect_checkpoint(tmp_path / "flax").parameters == inspect_checkpoint(source).parameters


def test_a_directory_that_names_no_class_can_be_told(tmp_path, source):
    edit_config(source, architectures=None, model_type=None)
    report = convert(source, tmp_path / "out", architecture="BertModel")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert report.architecture == "BertModel"
    assert (config["architectures"], config["model_type"]) == (["BertModel"], "bert")
    assert in_torch.load(tmp_path / "out").num_parameters() > 0
    with pytest.raises(ConfigError, match=r"config\.json: model_type=None is not known; known: bart, bert, "):
        convert(source, tmp_path / "second")


def test_the_config_keeps_every_field(tmp_path):
    directory = tmp_path / "source"
    checkpoints.write(directory, "CLIPModel")
    edit_config(directory, torch_dtype="float16", mystery=[1, {"two": None}])
    before = json.loads((directory / "config.json").read_text())
    before["text_config"]["torch_dtype"] = "float16"
    (directory / "config.json").write_text(json.dumps(before))
    convert(directory, tmp_path / "out", ignore_config=("mystery",), dtype="bfloat16")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after.pop("torch_dtype") == after["text_config"].pop("torch_dtype") == "bfloat16"
    assert before.pop("torch_dtype") == before["text_config"].pop("torch_dtype") == "float16"
    assert after == before
    assert list(after) == list(before)


def test_the_config_says_the_dtype_that_the_tensors_have(tmp_path, source):
    edit_config(source, torch_dtype="float16")  # but they are float32; transformers would round them
    convert(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"
    edit_config(source, torch_dtype=None)
    convert(source, tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["dtype"] == "float32"
    assert transformers.BertModel.from_pretrained(tmp_path / "second").dtype == torch.float32


def test_small_files_come_along_and_weights_of_other_formats_do_not(tmp_path, source):
    along = ("tokenizer.json", "vocab.txt", "README.md", "merges.txt", "spiece.model", "chat_template.jinja", "LICENSE")
    left = ("pytorch_model.bin", "tf_model.h5", "pytorch_model.bin.index.json", "training.log")
    for name in (*along, *left):
        (source / name).write_text(f"this is {name}")
    (source / "checkpoint-1").mkdir()
    report = convert(source, tmp_path / "out", format="flax-msgpack")
    assert report.copied == tuple(sorted(along))
    assert set(files_of(tmp_path / "out")) == {*along, "config.json", "flax_model.msgpack"}
    assert all((tmp_path / "out" / name).read_text() == f"this is {name}" for name in along)


def test_metadata_says_pytorch_and_keeps_the_rest(tmp_path, source):
    tensors = load_file(source / "model.safetensors")
    save_file(tensors, source / "model.safetensors", metadata={"format": "tf", "made by": "me"})
    convert(source, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").metadata == {"format": "pt", "made by": "me"}


def test_one_tensor_at_a_time_is_held(tmp_path):
    config = config_of("BertModel").replace(vocab_size=20_000, hidden_size=100, intermediate_size=10_000)
    model = in_torch.BertModel(config, dtype="float32")
    model.save_pretrained(tmp_path / "source")
    largest = max(source.nbytes for source in model._sources().values())
    del model
    convert(tmp_path / "source", tmp_path / "warm")  # whatever is imported
    for format, dtype in (("safetensors", "bfloat16"), ("flax-msgpack", None), ("flax-msgpack", "float64")):
        held = largest * FLOATS[dtype or "float32"].itemsize // 4
        tracemalloc.start()
        convert(tmp_path / "source", tmp_path / f"{format}-{dtype}", format=format, dtype=dtype)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < held + 2e6, (format, dtype, peak, held)


def test_progress_counts_every_byte_twice(tmp_path, source, capsys):
    seen = []
    report = convert(source, tmp_path / "out", progress=seen.append)
    assert sum(seen) == 2 * report.nbytes
    assert len(seen) == 2 * len(report.tensors)
    convert(source, tmp_path / "quiet")  # stderr is no terminal here
    assert capsys.readouterr() == ("", "")
    convert(source, tmp_path / "bar", progress=True)
    assert "verifying" in capsys.readouterr().err


def test_the_report_is_plain_data(tmp_path, source):
    report = convert(source, tmp_path / "out", format="flax-msgpack", dtype="float16")
    data = json.loads(report.to_json())
    assert data["architecture"] == "BertModel"
    assert data["nbytes"] == sum(int(np.prod(shape)) * 2 for shape in checkpoints.shapes("BertModel").values())
    assert len(data["tensors"]) == len(checkpoints.shapes("BertModel"))
    assert str(report).startswith("55 tensors of BertModel (25,904 bytes, float16) converted from safetensors to flax-")


def test_overwriting_is_asked_for(tmp_path, source):
    convert(source, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"out: is there already and not empty; .*overwrite=True"):
        convert(source, tmp_path / "out", format="flax-msgpack")
    assert files_of(tmp_path / "out") == before
    convert(source, tmp_path / "out", format="flax-msgpack", overwrite=True)
    assert set(files_of(tmp_path / "out")) == {"config.json", "flax_model.msgpack"}
    rewrite(source, lambda tensors: {"strange": np.ones(3)})
    with pytest.raises(CheckpointError, match="does not fit BertModel: 1 tensor belongs to no class"):
        convert(source, tmp_path / "out", overwrite=True)
    assert set(files_of(tmp_path / "out")) == {"config.json", "flax_model.msgpack"}


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
        r"\['X'\] names no known .*CLIPModel",
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
        r"'\.\./x\.safetensors' of the sharded checkpoint is .*, outside of the directory",
    ),
    "index absolute": (
        lambda d: replace_index(d, first_elsewhere("/etc/passwd")),
        CheckpointError,
        "'/etc/passwd' of the sharded checkpoint is /etc/passwd, outside of the directory",
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
        ({"architecture": "GPT9"}, "architecture='GPT9' is not known; known: BartModel, "),
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
    with pytest.raises(CheckpointError, match=r"\S+ differs from what was written when it is read back \(SHA-256"):
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

    monkeypatch.setattr(module.shutil, "copyfile", full)
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


def test_an_interrupted_run_cleans_up(tmp_path, source):
    def interrupt(_size):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    assert os.listdir(tmp_path) == ["source"]


def test_an_inspection_lists_what_is_there(tmp_path):
    checkpoints.write(tmp_path, "BertForPreTraining")
    edit_config(tmp_path, architectures=["TFBertThing", "BertForMaskedLM"])
    rewrite(tmp_path, lambda tensors: tensors | {"bert.embeddings.position_ids": np.arange(19)[None]})
    inspection = inspect_checkpoint(tmp_path)
    shapes = checkpoints.shapes("BertForPreTraining")
    assert inspection.architecture == "BertForMaskedLM"
    assert inspection.config_class == "BertConfig"
    assert inspection.parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert inspection.nbytes == 4 * inspection.parameters + 8 * 19
    assert inspection.dtypes == {"float32": len(shapes), "int64": 1}
    assert {tensor.name: tensor.shape for tensor in inspection.tensors if tensor.role == "parameter"} == shapes
    assert json.loads(inspection.to_json())["files"] == {
        "model.safetensors": (tmp_path / "model.safetensors").stat().st_size
    }


def test_an_inspection_needs_no_framework(source):
    code = (
        "import sys\n"
        "from diptych.conversion import inspect_checkpoint\n"
        "inspect_checkpoint(sys.argv[1])\n"
        "print([name for name in ('jax', 'torch') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("damage", "error", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_from_pretrained_refuses_the_same(source, damage, error, message):
    damage(source)
    message = message.partition(r" \(allow_missing")[0]
    read = in_torch.load if "names no known" in message else in_torch.BertModel.from_pretrained
    with pytest.raises(error, match=message):
        read(source)
