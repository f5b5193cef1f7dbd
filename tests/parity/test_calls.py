"""What a call takes and returns besides its mathematics: records, tuples, switches, dtypes, features."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import diptych.backends.torch
from diptych.backends.torch.pretrained import as_array
from diptych.conversion.exact import transformers_version
from diptych.core.errors import ConfigError
from diptych.core.outputs import ModelOutput
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.sides import Jax, Oracle, Torch, leaves
from tests.parity.tiny import CONFIGS, RENAMED, WHOLE, inputs, labels_for, theirs, wide

SWITCHES = [{}, {"output_attentions": True}, {"output_hidden_states": True}]


def built(backend: str, name: str, **build: Any) -> Any:
    return getattr(BACKENDS[backend], name)(CONFIGS[name], **build)


def structure(value: Any) -> Any:
    """Nested tuples of shapes; without transformers' empty tuple of cross-attentions that BertModel does not have."""
    value = value.to_tuple() if hasattr(value, "to_tuple") else value
    if isinstance(value, tuple):
        return tuple(part for part in map(structure, value) if part != ())
    return list(value.shape)


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way to train encoder-decoder models")
@pytest.mark.parametrize("name", CONFIGS)
def test_records_and_tuples_are_those_of_transformers(name: str) -> None:
    oracle, model, twin = Oracle(name, theirs(CONFIGS[name])).model, built("torch", name), built("jax", name, seed=None)
    for switches in [*SWITCHES, labels_for(name) | SWITCHES[1] | SWITCHES[2]]:
        call = {**inputs(name), **switches}
        oracle.set_attn_implementation("exact" if "output_attentions" in switches else "sdpa")
        tensors = {
            key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in wide(call).items()
        }
        expected = oracle(**tensors)
        record = model(**call)
        assert isinstance(record, ModelOutput)
        assert type(record).__name__ == type(expected).__name__
        assert list(record.keys()) == [name for name, value in expected.items() if structure(value) != ()]
        assert structure(record.to_tuple()) == structure(expected.to_tuple())
        plain = model(**call, return_dict=False)
        assert isinstance(plain, tuple)
        assert structure(plain) == structure(record.to_tuple())
        others = structure(oracle(**tensors, return_dict=False))
        if name == "VisionEncoderDecoderModel":  # 5.23 adds the pooled images, which its record does not have
            others = tuple(part for part in others if part != [2, 9])
        if name == "SpeechEncoderDecoderModel":  # there the states aren't projected, and the features of samples follow
            others = tuple([2, 6, 12] if part == [2, 6, 18] else part for part in others if part != [2, 6, 16])
        if name.startswith("Idefics") and transformers_version() >= (5, 24):  # the image encoder's outputs are inside
            others = structure(expected)
        assert others == structure(plain)
        found = jax.eval_shape(lambda model, call=call: model(**call), twin)
        assert type(found) is type(record)
        assert found.keys() == record.keys()
        assert structure(found.to_tuple()) == structure(record.to_tuple())
    found = jax.eval_shape(lambda model: model(**call, return_dict=False), twin)
    assert structure(found) == structure(plain)


@each_backend
@pytest.mark.parametrize("name", ["BertForMaskedLM", "CLIPModel", "CLIPVisionModel"])
def test_the_config_has_the_word_where_the_call_is_silent(backend: str, name: str) -> None:
    model = built(backend, name, seed=3)
    with pytest.raises(ConfigError, match=r"write model\.config = model\.config\.replace\(output_attentions=True\)"):
        model.config.output_attentions = True
    model.config = model.config.replace(output_attentions=True, output_hidden_states=True, return_dict=False)
    loud = model(**inputs(name))
    assert isinstance(loud, tuple)
    asked = built(backend, name, seed=3)(**inputs(name), output_attentions=True, output_hidden_states=True)
    assert structure(loud) == structure(asked.to_tuple())
    quiet = model(**inputs(name), output_attentions=False, output_hidden_states=False, return_dict=True)
    assert quiet.keys() == built(backend, name, seed=3)(**inputs(name)).keys()
    with pytest.raises(ConfigError, match=f"^{name}: config is a dict, "):
        model.config = {}


def test_features_are_those_of_transformers(tmp_path: Path) -> None:
    oracle = Oracle("CLIPModel", theirs(CONFIGS["CLIPModel"]))
    ours = Torch("CLIPModel", oracle.saved(tmp_path)).model
    call = inputs("CLIPModel")
    pixels, other = call.pop("pixel_values"), np.random.default_rng(2).standard_normal((1, 3, 17, 12))
    expected = [
        oracle.model.get_text_features(**{name: torch.tensor(ids) for name, ids in call.items()}).pooler_output,
        oracle.model.get_image_features(torch.tensor(pixels).double()).pooler_output,
        oracle.model.get_image_features(torch.tensor(other), interpolate_pos_encoding=True).pooler_output,
    ]

    def features(model: Any) -> list[Any]:
        return [
            model.get_text_features(**call),
            model.get_image_features(pixels.astype(np.float64)),
            model.get_image_features(other, interpolate_pos_encoding=True),
        ]

    for found, wanted in zip(features(ours), expected, strict=True):
        assert_close(found.detach(), wanted.detach())
    with jax.enable_x64(True):
        for found, wanted in zip(jax.jit(features)(Jax("CLIPModel", tmp_path).model), expected, strict=True):
            assert_close(found, wanted.detach())


@pytest.mark.parametrize("name", WHOLE)
def test_computation_follows_the_parameters(name: str, tmp_path: Path) -> None:
    oracle = Oracle(name, theirs(CONFIGS[name]))
    oracle.saved(tmp_path)
    call = {**inputs(name), "output_hidden_states": True, "output_attentions": True}
    expected = oracle.outputs(wide(call), exact=True)
    for dtype in ("float32", "float16", "bfloat16"):
        model = getattr(diptych.backends.torch, name).from_pretrained(tmp_path, dtype=dtype)
        found = model(**call)
        ours = Jax(name, tmp_path, dtype=dtype)
        also = ours.outputs(call)
        assert str(model.dtype) == f"torch.{dtype}" and ours.model.dtype.name == dtype
        for path, value in leaves(found).items():
            assert str(value.dtype) == f"torch.{dtype}", path
            assert also[path].dtype.name == dtype, path
            assert_close(as_array(value), expected[path], kind=dtype, name=path)
            assert_close(also[path], expected[path], kind=dtype, name=path)


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_parameters_compute_in_bfloat16_in_jax(name: str) -> None:
    model = built("jax", name, seed=None, compute_dtype="bfloat16")
    assert model.dtype.name == "float32"
    output = jax.eval_shape(lambda model: model(**inputs(name), output_hidden_states=True), model)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(output)} == {"bfloat16"}
    if name in WHOLE:
        gradients = jax.eval_shape(jax.grad(lambda model: model(**inputs(name))[0].astype("float32").sum()), model)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(gradients)} == {"float32"}


@pytest.mark.parametrize("name", ["BertForMaskedLM", "CLIPModel"])
def test_autocast_computes_in_bfloat16_in_torch(name: str) -> None:
    model = built("torch", name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs(name))
    plain = model(**inputs(name))
    difference = (output[0] - plain[0]).abs().max() / plain[0].abs().max()
    assert 0 < difference < 0.05  # a few roundings of 2**-9 each


@pytest.mark.parametrize("kind", [np.asarray, lambda value: value.tolist(), torch.tensor, jax.numpy.asarray])
@each_backend
def test_inputs_may_be_of_any_library(backend: str, kind: Any) -> None:
    model = built(backend, "BertForMaskedLM")
    call = {**inputs("BertForMaskedLM"), **labels_for("BertForMaskedLM")}
    expected = model(**call)
    found = model(**{name: kind(value) for name, value in call.items()})
    assert np.array_equal(np.asarray(found.logits.tolist()), np.asarray(expected.logits.tolist()))
    assert found.loss.item() == expected.loss.item()


def test_int32_labels_count_like_int64_ones() -> None:
    for backend in BACKENDS:
        for name in ("BertForMaskedLM", "BertForSequenceClassification", "CLIPForImageClassification"):
            model, call = built(backend, name), inputs(name)
            labels = labels_for(name)["labels"]
            losses = [model(**call, labels=labels.astype(dtype)).loss.item() for dtype in (np.int64, np.int32)]
            assert losses[0] == losses[1] > 0


def test_a_loss_without_a_label_is_nan_everywhere() -> None:
    labels = np.full((2, 6), -100)
    oracle = Oracle("BertForMaskedLM", theirs(CONFIGS["BertForMaskedLM"]))
    call = {**inputs("BertForMaskedLM"), "labels": labels}
    assert np.isnan(oracle.outputs(call)["loss"])
    for backend in BACKENDS:
        output = built(backend, "BertForMaskedLM")(**call)
        assert np.isnan(output.loss.item()) and np.isfinite(np.asarray(output.logits.tolist())).all()


def test_a_batch_is_its_rows() -> None:
    call = inputs("CLIPModel")
    model = built("torch", "CLIPModel")
    run = jax.jit(lambda model, call: model(**call))
    for forward in (lambda call: model(**call), lambda call: run(built("jax", "CLIPModel"), call)):
        together = forward(call)
        for row in range(2):
            alone = forward({name: value[row : row + 1] for name, value in call.items()})
            for name in ("text_embeds", "image_embeds"):
                found, expected = (np.asarray(output[name].tolist()) for output in (alone, together))
                assert_close(found[0].astype(np.float32), expected[row], kind="float32", name=name)


@pytest.mark.parametrize("name", RENAMED)
def test_a_class_of_another_name_has_nothing_of_its_own(name: str) -> None:
    for backend in BACKENDS.values():
        cls = getattr(backend, name)
        assert vars(cls).keys() <= {"__module__", "__doc__", "__parameters__"} | vars(cls.__base__).keys()
        own = {key for key, value in vars(cls).items() if callable(value) and value.__qualname__.startswith(f"{name}.")}
        # Donut's encoder stands in its classifier under a name of its own
        assert own == ({"__init__", "_base"} if name == "DonutSwinForImageClassification" else set())
        base = name.replace("XLMRoberta", "Roberta").replace("Camembert", "Roberta").replace("DonutSwin", "Swin")
        assert cls.__base__.__name__ == base
