"""Checkpoints that torch.save wrote, read without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import diptych.backends.torch as in_torch
from diptych.conversion import convert, inspect_checkpoint, parity
from diptych.core.checkpoint.tensors import DTYPES
from diptych.core.checkpoint.torch_legacy import read_torch_legacy
from diptych.core.checkpoint.torch_zip import read_torch_zip
from diptych.core.errors import CheckpointError
from tests.conversion.tiny import digests, files_of, stored


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def as_torch_file(directory: Path, shards: int = 1, zipped: bool = True) -> Path:
    """Replaces a directory's safetensors by what transformers 4 wrote, with PyTorch's present or old format."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        return directory
    names = {name: f"pytorch_model-{n % shards + 1:05d}-of-{shards:05d}.bin" for n, name in enumerate(tensors)}
    for file in set(names.values()):
        torch.save({name: tensors[name] for name in tensors if names[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return directory


@pytest.mark.parametrize(("protocol", "zipped"), [(2, True), (5, True), (2, False), (5, False)])
def test_state_dicts_of_every_dtype_with_shared_storages_and_views(tmp_path, protocol, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state: dict[str, Any] = model.state_dict()  # an OrderedDict with _metadata
    shared = torch.arange(24.0).reshape(4, 6)
    state |= {"parameter": model[0].weight, "shared": shared, "again": shared, "row": shared[2], "t": shared.t()[1:4]}
    state |= {"scalar": torch.tensor(3), "empty": torch.empty(0, 3), "step": shared[:, ::2], "one": shared[:1].t()}
    bits = torch.arange(48, dtype=torch.uint8)
    for dtype in DTYPES.values():
        state[dtype.name] = (bits % 2).bool() if dtype.name == "bool" else bits.view(getattr(torch, dtype.name)).clone()
    torch.save(state, tmp_path / "file.bin", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = (read_torch_zip if zipped else read_torch_legacy)(tmp_path / "file.bin")
    assert list(found) == list(state)
    for name, source in found.items():
        assert (source.shape, f"torch.{source.dtype.name}") == (tuple(state[name].shape), str(state[name].dtype))
        assert source.read().tobytes() == bytes_of(state[name]), name
    assert np.shares_memory(found["shared"].read(), found["row"].read())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nn.Linear(2, 3), r"asks for torch\.nn\.modules\.linear\.Linear"),
        (torch.eye(2).to_sparse(), r"asks for torch\._utils\._rebuild_sparse_tensor"),
        (torch.zeros(2, dtype=torch.complex64), r"asks for torch\.ComplexFloatStorage"),
        (torch.zeros(2, dtype=torch.complex64).conj(), r"asks for torch\.ComplexFloatStorage"),
        (torch.empty(2, device="meta"), r"asks for torch\._utils\._rebuild_meta_tensor_no_storage"),
        (torch.float32, r"asks for torch\.float32|a dict of tensors alone is needed, but 1 of .* w \(name\)"),
        (np.zeros(2), r"asks for numpy\._core\.multiarray\._reconstruct"),
        (torch.zeros(2).untyped_storage(), r"a dict of tensors alone is needed, but 1 of .* w \(storage\)"),
        (torch.device("cpu"), r"asks for torch\.device"),
    ],
)
def test_anything_else_that_torch_saves_is_refused(tmp_path, value, message):
    torch.save({"w": value}, tmp_path / "file.bin")
    with pytest.raises(CheckpointError, match=message):
        read_torch_zip(tmp_path / "file.bin")


def test_an_expanded_tensor(tmp_path):
    torch.save({"w": torch.zeros(1).expand(3)}, tmp_path / "expanded.bin")
    with pytest.raises(CheckpointError, match=r"'w' repeats the entries of its storage \(3 of 1\), as after expand"):
        read_torch_zip(tmp_path / "expanded.bin")


@pytest.mark.parametrize("shards", [1, 3])
def test_models_load_from_them(backend, saved, copy_of, shards):
    directory = as_torch_file(copy_of("BertForMaskedLM"), shards)
    model = backend.BertForMaskedLM.from_pretrained(directory)
    assert digests(model) == stored(saved("BertForMaskedLM"))
    model.save_pretrained(directory)  # one set of weights is left
    assert not list(directory.glob("*.bin*"))
    assert digests(backend.BertForMaskedLM.from_pretrained(directory)) == digests(model)


def test_safetensors_come_first_and_flax_last(saved, copy_of):
    directory = copy_of("BertModel")
    convert(saved("BertModel"), directory / "flax", format="flax-msgpack")
    (directory / "flax" / "flax_model.msgpack").rename(directory / "flax_model.msgpack")
    torch.save({}, directory / "pytorch_model.bin")
    assert inspect_checkpoint(directory).format == "safetensors"
    as_torch_file(directory)
    assert inspect_checkpoint(directory).format == "torch"
    (directory / "pytorch_model.bin").unlink()
    assert inspect_checkpoint(directory).format == "flax-msgpack"


@pytest.mark.parametrize("format", ["safetensors", "flax-msgpack"])
def test_they_are_converted(saved, copy_of, tmp_path, format):
    directory = as_torch_file(copy_of("BertModel"), zipped=format == "safetensors")
    report = convert(directory, tmp_path / "out", format=format)
    assert (report.source_format, report.format) == ("torch", format)
    assert digests(in_torch.BertModel.from_pretrained(tmp_path / "out")) == stored(saved("BertModel"))
    with pytest.raises(ValueError, match=r"format='torch' is not known; known: safetensors, flax-msgpack"):
        convert(directory, tmp_path / "second", format="torch")
    assert list(files_of(directory)) == ["config.json", "pytorch_model.bin"]


def test_a_damaged_storage_is_neither_converted_nor_loaded(copy_of, tmp_path):
    directory = as_torch_file(copy_of("BertModel"))
    weight = in_torch.BertModel.from_pretrained(directory).pooler.dense.weight
    content = bytearray((directory / "pytorch_model.bin").read_bytes())
    content[content.index(bytes_of(weight))] ^= 1
    (directory / "pytorch_model.bin").write_bytes(content)
    message = r"pytorch_model\.bin: its data/\d+ differs from its checksum"
    with pytest.raises(CheckpointError, match=message):
        convert(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=message):
        in_torch.BertModel.from_pretrained(directory)


def test_they_are_compared_with_transformers(copy_of):
    directory = as_torch_file(copy_of("BertModel"))
    assert parity(directory, against="transformers", backend="torch", gradients=False).passed


def test_an_inspection_needs_no_torch(copy_of):
    directory = as_torch_file(copy_of("BertModel"), shards=2)
    code = (
        "import sys\n"
        "from diptych.conversion import inspect_checkpoint\n"
        "found = inspect_checkpoint(sys.argv[1])\n"
        "print(found.format, *found.files, 'torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["torch", *(f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)), "False"]
