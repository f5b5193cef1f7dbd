"""What was changed after construction: saving names what loading would refuse."""

import re
from typing import Any

import jax
import numpy as np
import peft
import pytest
import torch
from flax import nnx
from torch.nn.utils import parametrizations, prune

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import to_jax, to_torch
from diptych.core.errors import CheckpointError
from tests.conversion.tiny import config_of, digests


def refused_save(model: Any, directory: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        model.save_pretrained(directory)
    assert not directory.exists()
    name = type(model).__name__
    start = (
        f"{name}.save_pretrained: the parameters are not those that the constructor of {name} makes, so "
        f"{name}.from_pretrained would refuse them. "
    )
    end = (
        ". Merge or remove what was added (adapters, parametrizations, quantized layers), or make it in the "
        "constructor of a subclass"
    )
    assert str(caught.value).startswith(start) and str(caught.value).endswith(end)
    return str(caught.value).removeprefix(start).removesuffix(end)


def test_parts_that_were_removed_or_added(backend, tmp_path):
    model = backend.BertForMaskedLM(config_of("BertForMaskedLM"))
    del model.cls.predictions.transform.LayerNorm
    model.bert.extra = backend.BertModel(config_of("BertModel"), seed=0).pooler.dense
    names = "cls.predictions.transform.LayerNorm"
    message = refused_save(model, tmp_path / "out")
    assert message.startswith("2 missing: ") and message.endswith(". 2 foreign: " + message.partition("foreign: ")[2])
    assert {f"{names}.weight", f"{names}.bias"} == set(message[len("2 missing: ") :].partition(". 2 ")[0].split(", "))
    assert set(message.partition("foreign: ")[2].split(", ")) == {"bert.extra.weight", "bert.extra.bias"}


def test_quantized_models(backend, tmp_path):
    model = backend.BertModel(config_of("BertModel"))
    if backend is in_jax:
        model = jax.tree.map(lambda leaf: leaf.astype("int8"), model)
    else:
        weight = model.pooler.dense.weight
        weight.requires_grad_(False).data = weight.data.to(torch.int8)
    with pytest.raises(CheckpointError) as caught:
        model.save_pretrained(tmp_path / "out")
    assert re.fullmatch(
        r"BertModel\.save_pretrained: \d+ parameters are not floating-point, as after a quantization, so "
        r"from_pretrained would refuse them: .*pooler\.dense\.weight \(int8\).*\. Save the model from before",
        str(caught.value),
    )
    assert not (tmp_path / "out").exists()


def test_layers_of_another_size(tmp_path):
    model = in_torch.BertModel(config_of("BertModel"))
    width = model.config.hidden_size
    model.pooler.dense = torch.nn.Linear(width, width + 1)
    message = refused_save(model, tmp_path / "out")
    assert message == (
        f"2 of another shape: pooler.dense.weight has shape ({width + 1}, {width}), not ({width}, {width}), "
        f"pooler.dense.bias has shape ({width + 1},), not ({width},)"
    )


def test_adapters_of_peft_until_they_are_merged(tmp_path):
    model = in_torch.BertModel(config_of("BertModel"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    message = refused_save(model, tmp_path / "out")
    assert "encoder.layer.0.attention.self.query.lora_A.default.weight" in message
    assert "encoder.layer.0.attention.self.query.weight" in message.partition("foreign: ")[0]
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "out")
    assert digests(in_torch.BertModel.from_pretrained(tmp_path / "out")) == digests(merged)


@pytest.mark.parametrize(
    ("change", "undo", "foreign"),
    [
        (
            lambda dense: prune.l1_unstructured(dense, "weight", amount=0.5),
            lambda dense: prune.remove(dense, "weight"),
            "pooler.dense.weight_orig, pooler.dense.weight_mask",
        ),
        (
            parametrizations.weight_norm,
            lambda dense: torch.nn.utils.parametrize.remove_parametrizations(dense, "weight"),
            "pooler.dense.parametrizations.weight.original0, pooler.dense.parametrizations.weight.original1",
        ),
    ],
    ids=["pruning", "weight norm"],
)
def test_parametrizations_of_torch_until_they_are_removed(tmp_path, change, undo, foreign):
    model = in_torch.BertModel(config_of("BertModel"))
    change(model.pooler.dense)
    assert refused_save(model, tmp_path / "out") == f"1 missing: pooler.dense.weight. 2 foreign: {foreign}"
    undo(model.pooler.dense)
    model.save_pretrained(tmp_path / "out")


def test_adapters_of_flax(tmp_path):
    model = in_jax.BertModel(config_of("BertModel"))
    width = model.config.hidden_size
    model.pooler.dense = nnx.LoRA(width, 2, width, base_module=model.pooler.dense, rngs=nnx.Rngs(0))
    message = refused_save(model, tmp_path / "out")
    assert message.startswith("2 missing: pooler.dense.") and ". 4 foreign: pooler.dense." in message


def test_a_subclass_makes_its_own_layers(backend, tmp_path):
    class Tagger(backend.BertModel):
        def __init__(self, config: Any, *, width: int = 3, **build: Any) -> None:
            super().__init__(config, **build)
            donor = backend.BertForSequenceClassification(config.replace(num_labels=width), **build)
            self.classifier = donor.classifier

    model = Tagger(config_of("BertModel"), width=5)
    model.save_pretrained(tmp_path / "out")
    assert digests(Tagger.from_pretrained(tmp_path / "out", width=5)) == digests(model)
    del model.classifier
    assert refused_save(model, tmp_path / "second").startswith("2 missing: classifier.")


def test_what_changes_a_model_by_its_own_methods_is_saved(backend, tmp_path):
    config = config_of("EncoderDecoderModel")
    model = backend.EncoderDecoderModel(config)
    size = model.decoder.config.vocab_size
    model.decoder.resize_token_embeddings(size + 3)
    model.save_pretrained(tmp_path / "composite")
    assert digests(backend.EncoderDecoderModel.from_pretrained(tmp_path / "composite")) == digests(model)
    without = backend.BertModel(config_of("BertModel"), add_pooling_layer=False)
    without.resize_token_embeddings(7)
    without.save_pretrained(tmp_path / "bert")
    again = backend.BertModel.from_pretrained(tmp_path / "bert", add_pooling_layer=False)
    assert digests(again) == digests(without)


def test_copies_and_programs_keep_what_was_constructed(tmp_path):
    model = in_jax.BertModel(config_of("BertModel"))
    halved = jax.jit(lambda model: jax.tree.map(lambda leaf: leaf / 2, model))(model)
    for copy in (halved, nnx.merge(*nnx.split(model)), to_jax(to_torch(model))):
        copy.save_pretrained(tmp_path / "out")
    del halved.pooler
    assert refused_save(halved, tmp_path / "second").startswith("2 missing: pooler.dense.")
    before = in_jax.BertModel.from_pretrained(tmp_path / "out")
    assert np.array_equal(before.pooler.dense.bias[...], model.pooler.dense.bias[...])
    assert jax.tree.structure(before) == jax.tree.structure(model)
