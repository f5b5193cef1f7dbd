"""What a stranger broke once: each of these went wrong silently, or with somebody else's error."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych import cli
from diptych.conversion import convert, parity
from diptych.core.checkpoint.safetensors import read_safetensors, write_safetensors
from diptych.core.checkpoint.tensors import from_array
from diptych.core.errors import CheckpointError, ConfigError, InputError
from tests.conversion import checkpoints


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    checkpoints.write(tmp_path / "BertModel", "BertModel")
    return tmp_path / "BertModel"


def test_what_is_built_in_cannot_change(backend: Any, directory: Path) -> None:
    model = backend.BertModel.from_pretrained(directory)
    changed = model.config.replace(hidden_act="relu", vocab_size=99)
    with pytest.raises(
        ConfigError, match=r"BertModel: vocab_size=99, hidden_act='relu' cannot change in a built model"
    ):
        model.config = changed
    model.config = model.config.replace(output_hidden_states=True, max_length=7)
    assert model(input_ids=[[1, 2]]).hidden_states is not None


@pytest.mark.usefixtures("without_type_checks")
def test_empty_batches_and_texts(backend: Any, directory: Path) -> None:
    model = backend.BertModel.from_pretrained(directory)
    assert model(input_ids=np.zeros((0, 3), int)).last_hidden_state.shape == (0, 3, model.config.hidden_size)
    with pytest.raises(InputError, match=r"^BertModel: the sequences have no tokens, but at least 1 is needed$"):
        model(input_ids=np.zeros((2, 0), int))


@pytest.mark.parametrize("label", [-1, -101, 10_000])
def test_a_label_that_is_no_class_is_nan_under_jit(label: int) -> None:
    config = in_jax.BertConfig(hidden_size=12, num_hidden_layers=1, intermediate_size=16, vocab_size=30, num_labels=4)
    model = in_jax.BertForSequenceClassification(config)
    run = jax.jit(lambda model, ids, labels: model(ids, labels=labels).loss)
    assert np.isnan(run(model, np.ones((2, 3), int), np.array([1, label])))
    assert np.isfinite(run(model, np.ones((2, 3), int), np.array([1, -100])))


def test_one_tensor_under_two_prefixes(backend: Any, directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = {name: from_array(np.array(source.read())) for name, source in read_safetensors(file).items()}
    name = "pooler.dense.bias"
    write_safetensors(file, {**tensors, f"bert.{name}": from_array(tensors[name].read() + 1)})
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias and bert\.pooler\.dense\.bias are one tensor"):
        backend.BertModel.from_pretrained(directory)
    write_safetensors(file, {**tensors, f"bert.{name}": tensors[name]})
    assert backend.BertModel.from_pretrained(directory).load_report.loaded == len(tensors)


def test_overwriting_loses_nothing_of_somebody_else(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(directory, target)
    (target / "optimizer.pt").write_bytes(b"state")
    (target / "logs").mkdir()
    with pytest.raises(CheckpointError, match=r"not part of a checkpoint and would be lost: logs, optimizer\.pt; move"):
        convert(directory, target, overwrite=True)
    assert (target / "optimizer.pt").read_bytes() == b"state"
    (target / "optimizer.pt").unlink()
    (target / "logs").rmdir()
    mine = ("NOTES.md", "adapter.deu.safetensors", "data.json", "results.txt", "thesis.model", "training_args.bin")
    for name in mine:
        (target / name).touch()
    with pytest.raises(CheckpointError, match=rf"and would be lost: {', '.join(mine)}; move"):
        convert(directory, target, overwrite=True)
    for name in mine:
        (target / name).unlink()
    (directory / "data.json").write_text("{}")
    for name in ("README.md", "LICENSE", "tokenizer.json", "modules.json", "pytorch_model.bin", "data.json"):
        (target / name).touch()
    convert(directory, target, overwrite=True, format="flax-msgpack")
    assert {path.name for path in target.iterdir()} == {"config.json", "data.json", "flax_model.msgpack"}


def test_saving_where_no_config_can_be(backend: Any, directory: Path, tmp_path: Path) -> None:
    model = backend.BertModel.from_pretrained(directory)
    with pytest.raises(CheckpointError, match="the name of the directory to save in is empty"):
        model.save_pretrained("")
    (tmp_path / "odd" / "config.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"config\.json: is a directory, but the config is to be saved there"):
        model.save_pretrained(tmp_path / "odd")
    assert [path.name for path in (tmp_path / "odd").iterdir()] == ["config.json"]


def test_parity_of_what_one_side_computes_once(directory: Path) -> None:
    inputs = {"input_ids": [[1, 2, 3], [4, 5, 6]], "attention_mask": np.ones((2, 3), np.uint8)}
    report = parity(directory, against="transformers", backend="torch", inputs=inputs, gradients=False)
    assert report.passed, str(report)
    assert report.blind == {
        "every parameter": "without gradients it is not known what these inputs reach; rows that they don't look up "
        "are not compared"
    }


def test_parity_of_tables_of_other_lengths(directory: Path) -> None:
    model = in_torch.BertModel.from_pretrained(directory)
    config = model.config.replace(max_position_embeddings=model.config.max_position_embeddings - 2)
    shorter = in_torch.BertModel(config, seed=None)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = "embeddings.position_embeddings.weight"
    state[table] = state[table][:-2]
    shorter.load_state_dict(state, assign=True)
    report = parity(model, shorter, inputs={"input_ids": [[1, 2]]}, gradients=False)
    assert not report.passed
    assert (report.first_divergence.kind, report.first_divergence.name) == ("parameter", table)


def test_parity_of_frozen_parameters(directory: Path) -> None:
    model = in_torch.BertModel.from_pretrained(directory)
    model.embeddings.requires_grad_(False)
    assert parity(model).passed
    assert not any(parameter.requires_grad for parameter in model.embeddings.parameters())
    with pytest.raises(InputError, match="parity: inputs is a list, but a mapping"):
        parity(directory, inputs=[1, 2])


def test_a_fault_of_our_own_is_no_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*arguments: Any, **keywords: Any) -> None:
        raise ZeroDivisionError("nothing to divide")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as exit:
        cli.main(["parity", "somewhere"])
    assert exit.value.code == 3
    assert "ZeroDivisionError: nothing to divide" in capsys.readouterr().err


def test_a_loss_is_finite_only_for_classes_in_torch() -> None:
    config = in_torch.BertConfig(hidden_size=12, num_hidden_layers=1, intermediate_size=16, vocab_size=30, num_labels=4)
    model = in_torch.BertForSequenceClassification(config)
    with pytest.raises(InputError, match="labels holds -1"):
        model(torch.ones((2, 3), dtype=torch.int64), labels=torch.tensor([1, -1]))
