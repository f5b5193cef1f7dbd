"""A torch model is an nn.Module like any other: compile, functional_call, optim, copies, devices."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

import diptych.backends.torch as dp
from tests.assertions import assert_close
from tests.parity.tiny import CONFIGS, RATES, WHOLE, inputs, labels_for

WHERE = ("name", list(CONFIGS))


def built(name: str, **build: Any) -> Any:
    return getattr(dp, name)(CONFIGS[name], **build)


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in inputs(name).items()}


def assert_same_outputs(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for left, right in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.usefixtures("without_type_checks")
def test_it_compiles_in_one_graph(name: str) -> None:
    torch.compiler.reset()
    model = built(name)
    call = tensors(name) | {"output_hidden_states": True, "output_attentions": name == "CLIPModel"}
    call |= {key: torch.as_tensor(value) for key, value in labels_for(name).items() if key != "return_loss"}
    expected = model(**call)
    expected[0].sum().backward()
    gradients = {path: parameter.grad for path, parameter in model.named_parameters()}
    model.zero_grad()
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(**call)
    found[0].sum().backward()
    assert type(found) is type(expected)
    for left, right in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        assert_close(left.detach(), right.detach().double(), kind="float32")
    for path, parameter in model.named_parameters():
        if gradients[path] is not None:
            assert_close(parameter.grad, gradients[path].double(), kind="float32", largest=1e2, name=path)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "CLIPModel"])
def test_it_is_a_function_of_its_parameters(name: str) -> None:
    model, other = built(name, seed=1), built(name, seed=2)
    swapped = functional_call(model, dict(other.named_parameters()), (), tensors(name))
    assert_same_outputs(swapped, other(**tensors(name)))

    def total(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(model, parameters, (), tensors(name))[0].square().sum()

    gradients = grad(total)(dict(other.named_parameters()))
    other(**tensors(name))[0].square().sum().backward()
    for path, parameter in other.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(gradients[path].detach(), expected.double(), kind="float32", largest=1e2, name=path)


def test_a_stack_of_models_runs_at_once() -> None:
    models = [built("BertModel", seed=seed) for seed in range(2)]
    stacked, _ = torch.func.stack_module_state(models)
    skeleton = built("BertModel", seed=None)
    ids = tensors("BertModel")["input_ids"]
    with sdpa_kernel(SDPBackend.MATH):  # torch warns that its fused one runs model by model
        together = vmap(lambda parameters: functional_call(skeleton, parameters, (ids,)).pooler_output)(stacked)
    for index, model in enumerate(models):
        assert_close(together[index].detach(), model(ids).pooler_output.detach().double(), kind="float32")


OF_ONE_ROW = ["BartForSequenceClassification", "BertForMaskedLM", "CLIPTextModel", "GPT2LMHeadModel", "RobertaModel"]


@pytest.mark.parametrize("name", OF_ONE_ROW)
def test_gradients_for_each_row_at_once(name: str) -> None:
    model, call = built(name), tensors(name)
    if "labels" in model.call_keywords:
        call["labels"] = torch.as_tensor(labels_for(name)["labels"])

    def total(parameters: dict[str, torch.Tensor], row: dict[str, torch.Tensor]) -> torch.Tensor:
        output = functional_call(model, parameters, (), {key: value[None] for key, value in row.items()})
        return output[0].square().sum()

    parameters = dict(model.named_parameters())
    with sdpa_kernel(SDPBackend.MATH):  # torch warns that its fused one runs row by row
        together = vmap(grad(total), in_dims=(None, 0))(parameters, call)
    for index in range(len(call["input_ids"])):
        model.zero_grad()
        total(parameters, {key: value[index] for key, value in call.items()}).backward()
        for path, parameter in parameters.items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert_close(together[path][index].detach(), expected.double(), kind="float32", largest=1e2, name=path)


@pytest.mark.parametrize("name", ["BartForCausalLM", "GPT2LMHeadModel"])
def test_decoding_with_a_cache_for_each_row_at_once(name: str) -> None:
    model = built(name)
    ids, mask = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 5]]), torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])

    def last(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = model(ids[None, :2], mask[None, :2], use_cache=True)
        return model(ids[None, 2:], mask[None], past_key_values=first.past_key_values).logits[0]

    for recorded in (True, False):
        with torch.set_grad_enabled(recorded), sdpa_kernel(SDPBackend.MATH):
            together = vmap(last)(ids, mask)
            for index in range(2):
                expected = last(ids[index], mask[index]).detach().double()
                assert_close(together[index].detach(), expected, kind="float32")


@pytest.mark.parametrize("name", RATES)
def test_one_step_lowers_the_loss(name: str) -> None:
    call = tensors(name) | ({"return_loss": True} if name == "CLIPModel" else {"labels": tensors(name)["input_ids"]})
    model = built(name)
    optimizer = torch.optim.SGD(model.parameters(), RATES[name])
    before = model(**call).loss
    before.backward()
    optimizer.step()
    assert model(**call).loss < before


@pytest.mark.parametrize(*WHERE)
def test_copies_are_whole_and_independent(name: str, tmp_path: Path) -> None:
    model = built(name)
    expected = model(**tensors(name))
    torch.save(model, tmp_path / "model.pt")
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    fresh = built(name, seed=9)
    fresh.load_state_dict(model.state_dict())
    for made in (*copies, fresh):
        assert_same_outputs(made(**tensors(name)), expected)
        assert made.config == model.config
    with torch.no_grad():
        for parameter in copies[0].parameters():
            parameter.add_(1.0)
    assert_same_outputs(model(**tensors(name)), expected)
    buffers = {path.rpartition(".")[2] for path, _ in model.named_buffers()}
    assert buffers <= {"final_logits_bias", "running_mean", "running_var"}


def test_values_go_where_device_says(tmp_path: Path) -> None:
    built("BertModel").save_pretrained(tmp_path)
    for device in ("cpu", torch.device("cpu"), "meta"):
        for model in (built("BertModel", device=device), dp.BertModel.from_pretrained(tmp_path, device=device)):
            assert {parameter.device for parameter in model.parameters()} == {torch.device(device)}
            assert model.device == torch.device(device)
    with torch.device("meta"):
        assert built("BertModel").device.type == "meta"
    filled = built("BertModel", seed=None).to_empty(device="cpu")
    filled.load_state_dict(built("BertModel").state_dict())
    assert_same_outputs(filled(**tensors("BertModel")), built("BertModel")(**tensors("BertModel")))
    with pytest.raises(
        TypeError,
        match="BertModel has no keyword sharding; it has add_pooling_layer, seed, dtype, gradient_check",
    ):
        dp.BertModel(CONFIGS["BertModel"], sharding="cpu")


def test_inputs_come_to_the_models_device_and_dtype() -> None:
    model = built("CLIPVisionModel", seed=None)
    assert model(torch.zeros(2, 3, 11, 11)).pooler_output.is_meta
    wide = built("CLIPVisionModel", dtype="float64")
    assert wide(torch.zeros(2, 3, 11, 11)).pooler_output.dtype == torch.float64


def test_global_defaults_change_nothing() -> None:
    expected = built("CLIPModel")(**tensors("CLIPModel"))
    torch.set_default_dtype(torch.float64)
    try:
        found = built("CLIPModel")(**tensors("CLIPModel"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_outputs(found, expected)
