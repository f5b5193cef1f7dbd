"""LoRA of the peft library: wrapped layers change what they change, and adapter and merged model agree."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import diptych.backends.torch as dp
from diptych.backends.torch import layers
from tests.assertions import assert_close
from tests.parity.tiny import CONFIGS

IDS = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 5]])

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type.*LinearInOut")

# every model looks ids up and makes logits with one table
TARGETS = {
    "BartForConditionalGeneration": ["shared", "q_proj"],
    "BertForMaskedLM": ["word_embeddings", "query"],
    "GPT2LMHeadModel": ["wte", "c_attn", "c_fc", "c_proj"],
    "RobertaForCausalLM": ["word_embeddings"],
}


def adapted(name: str, targets: list[str] | None = None, **options: Any) -> tuple[Any, Any]:
    """A model, and a copy of it with adapters that change what it computes."""
    model = getattr(dp, name)(CONFIGS[name])
    options = {"target_modules": targets, "fan_in_fan_out": name.startswith("GPT2"), **options}
    config = peft.LoraConfig(r=2, init_lora_weights=False, **options)
    config._register_custom_module({layers.LinearInOut: peft.tuners.lora.Linear})
    return model, peft.get_peft_model(copy.deepcopy(model), config)


@pytest.mark.parametrize("name", TARGETS)
def test_adapter_and_merged_model_agree(name: str, tmp_path: Path) -> None:
    model, adapter = adapted(name, TARGETS[name])
    found = adapter(IDS).logits
    assert (found - model(IDS).logits).abs().max() > 0.1
    found.square().sum().backward()
    for path, parameter in adapter.named_parameters():
        if "lora" in path and "cross" not in path:  # attention to an encoder is not asked for
            assert parameter.grad is not None and parameter.grad.abs().max() > 0.0, path
    written = None if name == "BertForMaskedLM" else adapter.generate(input_ids=IDS, max_new_tokens=3).sequences
    merged = adapter.merge_and_unload()
    assert type(merged) is type(model)
    assert_close(merged(IDS).logits.detach(), found.detach().double(), kind="float32")
    if written is not None:
        assert torch.equal(merged.generate(IDS, max_new_tokens=3).sequences, written)
    merged.save_pretrained(tmp_path)
    assert_close(type(model).from_pretrained(tmp_path)(IDS).logits.detach(), found.detach().double(), kind="float32")


def test_a_wrapped_table_changes_lookup_and_head_alike() -> None:
    model, adapter = adapted("GPT2LMHeadModel", ["wte"])
    wrapper, size = adapter.base_model.model.transformer.wte, model.config.vocab_size
    table = model.transformer.wte.weight + wrapper.get_delta_weight("default")
    assert_close(wrapper(IDS).detach(), table[IDS].detach().double(), kind="float32")
    states = torch.randn(3, model.config.n_embd)
    expected = (states.double() @ table.double().T).detach()
    assert_close(layers.tied_logits(states, wrapper, size).detach(), expected, kind="float32")


def test_parameters_can_be_targets_too() -> None:
    model, adapter = adapted("GPT2LMHeadModel", [], target_parameters=["c_attn.weight", "c_proj.weight"])
    found = adapter(IDS).logits
    assert (found - model(IDS).logits).abs().max() > 0.01
    assert_close(adapter.merge_and_unload()(IDS).logits.detach(), found.detach().double(), kind="float32")
