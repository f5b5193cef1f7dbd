"""Tools that look for torch's own layers, replace or wrap them, find what they look for: the models still work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.utils import parametrizations, prune

import diptych.backends.torch as dp
from diptych.backends.torch import layers
from diptych.conversion import convert, diff
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.parity.tiny import CONFIGS

IDS = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 5]])


def built(name: str, **build: Any) -> Any:
    return getattr(dp, name)(CONFIGS[name], **build)


def test_layers_are_exactly_torchs() -> None:
    linear, norm, table = layers.Linear(3, 4), layers.LayerNorm(3, 1e-3), layers.Embedding(5, 3, padding_idx=1)
    assert [type(linear), type(norm), type(table)] == [nn.Linear, nn.LayerNorm, nn.Embedding]
    assert type(layers.Conv2d(3, 4, 2)) is nn.Conv2d and issubclass(layers.Dropout, nn.Dropout)
    before = torch.get_rng_state()
    assert linear.weight.is_meta and table.padding_idx == 1 and norm.eps == 1e-3
    built("CLIPModel")
    assert torch.equal(torch.get_rng_state(), before)  # nobody draws values that are not kept


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", ["BertLMHeadModel", "BartForConditionalGeneration"])
def test_quantization_finds_every_linear_layer(name: str) -> None:
    model = built(name)
    with torch.no_grad():
        expected = model(IDS).logits
        model.generate(IDS, max_new_tokens=1)  # leaves the layers as they were
        quantized = quantize_dynamic(model, {nn.Linear})
        found = quantized(IDS).logits
    assert not [module for module in quantized.modules() if isinstance(module, nn.Linear)]
    assert sum(type(module) is torch.ao.nn.quantized.dynamic.Linear for module in quantized.modules()) > 5
    assert 0.0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
    assert quantized.generate(IDS, max_new_tokens=2).sequences.shape[0] == 2


def test_pruned_and_parametrized_layers_compute_with_their_own_weights() -> None:
    model = built("BertForMaskedLM")
    query, key = (getattr(model.bert.encoder.layer[0].attention.self, name) for name in ("query", "key"))
    words = model.bert.embeddings.word_embeddings
    prune.l1_unstructured(query, "weight", amount=0.5)
    prune.l1_unstructured(words, "weight", amount=0.5)
    parametrizations.weight_norm(key)
    with torch.no_grad():
        key.parametrizations.weight.original0.mul_(2.0)
        found = model(IDS).logits
        for module in (query, words):
            prune.remove(module, "weight")
        nn.utils.parametrize.remove_parametrizations(key, "weight")
        expected = model(IDS).logits
    assert_close(found, expected.double(), kind="float32")
    assert (built("BertForMaskedLM")(IDS).logits - found).abs().max() > 1e-2
    assert (words.weight == 0.0).sum() == words.weight.numel() // 2


TIED = ["BartForConditionalGeneration", "BertForPreTraining", "CLIPTextModel", "GPT2LMHeadModel", "RobertaForMaskedLM"]


@pytest.mark.parametrize("name", TIED)
def test_state_dicts_of_transformers_fit(name: str, tmp_path: Path) -> None:
    model, other = built(name), built(name, seed=1)
    model.save_pretrained(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path).state_dict()
    assert theirs.keys() != model.state_dict().keys()
    assert str(other.load_state_dict(theirs)) == "<All keys matched successfully>"
    for path, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[path], value), path


def test_other_state_dicts_are_torchs_error() -> None:
    model, theirs = built("GPT2LMHeadModel"), built("GPT2LMHeadModel").state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*lm_head.weight"):
        model.load_state_dict({**theirs, "lm_head.weight": theirs["transformer.wte.weight"] + 1.0})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra"):
        model.load_state_dict({**theirs, "extra": None})
    with pytest.raises(RuntimeError, match=r"Missing key.*ln_f"):
        model.load_state_dict({path: value for path, value in theirs.items() if "ln_f" not in path})
    assert model.load_state_dict({"other": torch.ones(1)}, strict=False).unexpected_keys == ["other"]


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("gpu", "device='gpu': Expected one of cpu"),
        ({"": 0}, r"device={'': 0}: empty\(\).*dict"),
    ],
)
def test_devices_that_torch_lacks_are_an_error(device: Any, reason: str) -> None:
    with pytest.raises(InputError, match=f"{reason}.*; this build of torch computes on "):
        built("BertModel", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("device", ["cuda", 0])
def test_a_gpu_that_is_not_there_is_an_error(device: Any, tmp_path: Path) -> None:
    built("BertModel").save_pretrained(tmp_path)
    for make in (
        lambda: built("BertModel", device=device),
        lambda: dp.BertModel.from_pretrained(tmp_path, device=device),
    ):
        with pytest.raises(InputError, match=f"device={device!r}: .*; this build of torch computes on cpu"):
            make()


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "GPT2LMHeadModel"])
def test_sharded_models_generate_and_are_saved(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(name)
    expected, written = model(IDS).logits, model.generate(IDS, max_new_tokens=2).sequences
    with one_process():
        mesh = init_device_mesh("cpu", (1,))
        for block in model.transformer.h if name.startswith("GPT2") else model.model.encoder.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        with pytest.raises(InputError, match=r"generate: the parameters are sharded by FSDP2.*register_fsdp_forward"):
            model.generate(IDS)
        assert torch.equal(model(IDS).logits, expected)
        register_fsdp_forward_method(model, "generate")
        assert torch.equal(model.generate(IDS, max_new_tokens=2).sequences, written)
        model(IDS, labels=IDS).loss.backward()
        model.save_pretrained(tmp_path / "first")
        convert(model, tmp_path / "converted")
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        model.save_pretrained(tmp_path / "second")
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        with pytest.raises(InputError, match=r"convert: several processes hold a part .* call save_pretrained in all"):
            convert(model, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    assert diff(tmp_path / "first", tmp_path / "converted").equal
    assert torch.equal(getattr(dp, name).from_pretrained(tmp_path / "first")(IDS).logits, expected)
