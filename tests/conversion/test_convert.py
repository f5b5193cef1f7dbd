import importlib
import json
import shutil
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, inspect_checkpoint, to_jax, to_torch
from diptych.core import registry
from diptych.core.checkpoint import parallel
from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.checkpoint.tensors import from_array
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError, ConfigError, InputError
from tests.assertions import assert_close
from tests.conversion import checkpoints
from tests.conversion.tiny import (
    ARCHITECTURES,
    CONSTANT,
    DTYPES,
    arrays,
    bits,
    config_of,
    digests,
    edit_config,
    files_of,
    inputs_of,
    rewrite,
    theirs,
)

module = importlib.import_module("diptych.conversion.convert")
tensors_module = importlib.import_module("diptych.core.checkpoint.tensors")
FORMATS = ("safetensors", "flax-msgpack", "orbax")


@pytest.fixture(autouse=True, scope="module")
def _in_parts():
    """Tensors are read in parts, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors_module, "PART", 1000)
        yield


@pytest.mark.parametrize(("architecture", "dtype"), DTYPES)
def test_there_and_back_is_bit_exact(tmp_path, architecture, dtype):
    model = getattr(in_torch, architecture)(config_of(architecture), seed=5, dtype=dtype)
    model.save_pretrained(tmp_path / "source")
    there = convert(model, tmp_path / "flax", format="flax-msgpack", max_shard_size="10KB", manifest=True)
    back = convert(tmp_path / "flax", tmp_path / "back", manifest=True)
    assert {tensor.name: tensor.digest for tensor in there.tensors} == digests(model)
    assert there.tensors == back.tensors
    assert there.dtypes == {dtype: len(there.tensors)}
    assert len(there.files) > 1
    assert inspect_checkpoint(tmp_path / "flax").format == there.format == back.source_format == "flax-msgpack"
    written = (tmp_path / "back" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "source" / "model.safetensors").read_bytes()
    assert digests(getattr(in_torch, architecture).from_pretrained(tmp_path / "flax")) == digests(model)


@pytest.mark.parametrize("architecture", [next(iter(family.classes)) for family in registry.families().values()])
def test_every_family_through_orbax_and_both_live_models(tmp_path, architecture):
    model = getattr(in_torch, architecture)(config_of(architecture), seed=5)
    report = convert(to_jax(model), tmp_path / "orbax", format="orbax", manifest=True)
    again = convert(tmp_path / "orbax", tmp_path / "out", manifest=True)
    assert {tensor.name: tensor.digest for tensor in report.tensors} == digests(model)
    assert (report.tensors, again.source_format) == (again.tensors, "orbax")
    loaded = getattr(in_jax, architecture).from_pretrained(tmp_path / "orbax")
    assert digests(to_torch(loaded)) == digests(model)


def save_with_torch(directory, tensors, zipped):
    """Writes a pytorch_model.bin."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    given = {
        name: torch.from_numpy(array.view(f"i{array.itemsize}").copy())
        .view(kinds[array.itemsize])
        .view(getattr(torch, array.dtype.name))
        for name, array in tensors.items()
    }
    torch.save(given, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


@settings(max_examples=settings().max_examples // 33)
@given(
    name=st.sampled_from(checkpoints.NAMES),
    source=st.sampled_from(["safetensors", "bin", "old bin"]),
    formats=st.permutations(FORMATS),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pair_of_formats_keeps_each_tensors_dtype_and_every_bit(tmp_path_factory, name, source, formats, seed):
    root = tmp_path_factory.mktemp("drawn")
    checkpoints.write(root / "source", name)
    random = np.random.default_rng(seed)
    tensors = {}
    for path, shape in checkpoints.shapes(name).items():
        dtype = random.choice([*FLOATS.values(), np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)])
        tensors[path] = np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    if source == "safetensors":
        write_checkpoint(root / "source", {path: from_array(array) for path, array in tensors.items()})
    else:
        (root / "source" / "model.safetensors").unlink()
        save_with_torch(root / "source", tensors, zipped=source == "bin")
    first, second, third = formats
    before = root / "source"
    for number, format in enumerate((first, second, third, first, third, second, first, "safetensors")):
        convert(before, root / str(number), format=format)
        before = root / str(number)
    back = arrays(before)
    assert {path for path in back if not path.endswith(CONSTANT)} == set(tensors)
    for path, array in tensors.items():
        assert back[path].dtype == array.dtype
        np.testing.assert_array_equal(bits(back[path]), bits(array))


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


def test_values_too_large_for_the_dtype(tmp_path, source):
    def enlarge(tensors):
        tensors["pooler.dense.weight"][3, 4:6] = 1e6
        tensors["embeddings.LayerNorm.bias"][1] = -1e38
        tensors["pooler.dense.bias"][0] = np.inf  # which float16 can say

    rewrite(source, enlarge)
    assert convert(source, tmp_path / "wide", dtype="bfloat16").overflowed == {}
    with pytest.raises(
        CheckpointError,
        match=r"source: values of 2 tensors are too large for float16: embeddings\.LayerNorm\.bias \(1 value\), "
        r"pooler\.dense\.weight \(2 values\)\. Choose a wider dtype, or make them infinite with allow_overflow=True",
    ):
        convert(source, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    report = convert(source, tmp_path / "out", dtype="float16", allow_overflow=True)
    assert report.overflowed == {"embeddings.LayerNorm.bias": 1, "pooler.dense.weight": 2}
    assert "2 with values that overflowed, as allowed: embeddings.LayerNorm.bias (1), pooler.dense.weight (2)" in str(
        report
    )
    assert arrays(tmp_path / "out")["pooler.dense.weight"][3, 4:6].tolist() == [np.inf, np.inf]


def test_float8_is_kept_and_widened(tmp_path, source):
    kinds = {"query": ml_dtypes.float8_e4m3fn, "key": ml_dtypes.float8_e5m2}
    tensors = {name: array.astype(kinds.get(name.split(".")[-2], np.float32)) for name, array in arrays(source).items()}
    write_checkpoint(source, {name: from_array(array) for name, array in tensors.items()})
    for format in ("orbax", "flax-msgpack"):
        convert(source, tmp_path / format, format=format)
        convert(tmp_path / format, tmp_path / f"{format} back")
        assert (tmp_path / f"{format} back" / "model.safetensors").read_bytes() == (
            source / "model.safetensors"
        ).read_bytes()
    model = in_torch.BertModel.from_pretrained(source, dtype="float16")
    name = "encoder.layer.0.attention.self.query.weight"
    np.testing.assert_array_equal(model._sources()[name].read(), tensors[name].astype(np.float16))
    only = {name: from_array(array.astype(ml_dtypes.float8_e5m2)) for name, array in tensors.items()}
    write_checkpoint(source, only)
    with pytest.raises(CheckpointError, match=r"holds tensors of float8_e5m2, in which no model computes; say dtype=…"):
        in_torch.BertModel.from_pretrained(source)


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
    with pytest.raises(ConfigError, match=r"config\.json: model_type=None is not known; known: bart, beit, b"):
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
    assert report.not_copied == ("checkpoint-1/", "tf_model.h5", "training.log")
    assert str(report).endswith("\n3 not copied: checkpoint-1/, tf_model.h5, training.log")
    assert set(files_of(tmp_path / "out")) == {*along, "config.json", "flax_model.msgpack"}
    assert all((tmp_path / "out" / name).read_text() == f"this is {name}" for name in along)


def test_metadata_says_pytorch_and_keeps_the_rest(tmp_path, source):
    tensors = load_file(source / "model.safetensors")
    save_file(tensors, source / "model.safetensors", metadata={"format": "tf", "made by": "me"})
    convert(source, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").metadata == {"format": "pt", "made by": "me"}


def test_one_tensor_at_a_time_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors_module, "PART", 1 << 18)
    monkeypatch.setattr(parallel, "HELD", 1 << 20)
    config = config_of("BertModel").replace(vocab_size=20_000, hidden_size=100, intermediate_size=10_000)
    model = in_torch.BertModel(config, dtype="float32")
    model.save_pretrained(tmp_path / "source")
    largest = max(source.nbytes for source in model._sources().values())
    del model
    convert(tmp_path / "source", tmp_path / "warm")  # whatever is imported
    (tmp_path / "torch").mkdir()
    shutil.copy(tmp_path / "source" / "config.json", tmp_path / "torch")
    torch.save(load_torch_file(tmp_path / "source" / "model.safetensors"), tmp_path / "torch" / "pytorch_model.bin")
    for source, format, dtype in (
        ("source", "safetensors", "bfloat16"),
        ("source", "flax-msgpack", None),
        ("source", "flax-msgpack", "float64"),
        ("flax-msgpack-None", "safetensors", None),
        ("torch", "safetensors", "bfloat16"),
    ):
        held = largest * FLOATS[dtype or "float32"].itemsize // 4
        tracemalloc.start()
        convert(tmp_path / source, tmp_path / f"{format}-{dtype}", format=format, dtype=dtype, overwrite=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < held + 2e6, (source, format, dtype, peak, held)


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
    with pytest.raises(CheckpointError, match="out: is there already"):  # before tensors are looked at
        convert(source, tmp_path / "out")
    with pytest.raises(InputError, match="max_shard_size: 'many' is no size"):
        convert(source, tmp_path / "out", overwrite=True, max_shard_size="many")
    assert set(files_of(tmp_path / "out")) == {"config.json", "flax_model.msgpack"}
