"""`diff`: what differs between two checkpoints of any formats, or live models."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, diff
from diptych.core.errors import CheckpointError, InputError
from tests.conversion import checkpoints
from tests.conversion.tiny import arrays, edit_config, rewrite
from tests.conversion.tiny import theirs as model_of_transformers
from tests.hub_server import REPOSITORY

NAME = "embeddings.LayerNorm.weight"


@pytest.fixture
def pair(tmp_path):
    """Two directories with the same BertModel."""
    for name in ("one", "other"):
        checkpoints.write(tmp_path / name, "BertModel")
    return tmp_path / "one", tmp_path / "other"


def change(directory, name, values):
    rewrite(directory, lambda tensors: tensors.update({name: values}))


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "CLIPModel", "GPT2LMHeadModel", "SwinModel"])
def test_another_format_spelling_and_the_live_models_are_the_same(saved, tmp_path, architecture):
    directory = saved(architecture)
    convert(directory, tmp_path / "flax", format="flax-msgpack")
    loaded = in_torch.load(directory), in_jax.load(tmp_path / "flax")
    for other in (tmp_path / "flax", *loaded):
        found = diff(directory, other)
        assert found.equal, str(found)
        assert len(found.same) >= len(loaded[0].state_dict())
        assert found.verdict() == f"SAME: {len(found.same)} tensors and the config are equal"
    assert diff(*loaded).equal


def test_a_model_of_transformers_and_a_file_of_another_class_with_other_names(saved, tmp_path):
    theirs = model_of_transformers("BertForMaskedLM").eval()
    theirs.save_pretrained(tmp_path / "whole")
    assert diff(theirs, tmp_path / "whole").equal
    theirs.bert.save_pretrained(tmp_path / "base")
    found = diff(tmp_path / "whole", tmp_path / "base")
    assert "bert.embeddings.word_embeddings.weight" in found.same
    assert found.only_reference and all(name.startswith("cls.") for name in found.only_reference)
    assert (found.only_candidate, found.tensors) == ((), ())
    assert [difference.name for difference in found.config] == ["architectures"]


def test_values_that_differ_are_measured_and_found(pair):
    one, other = pair
    values = arrays(one)[NAME].copy()
    values[[2, 5]] += [1e-3, -2e-3]
    change(other, NAME, values)
    (found,) = diff(one, other).tensors
    reference = arrays(one)[NAME].astype(np.float64)
    distance = abs(float(values[5]) - reference[5])
    assert (found.name, found.kind, found.count, found.where) == (NAME, "values", 2, (5,))
    assert found.pair == (reference[5], float(values[5]))
    assert found.max_absolute == distance
    assert found.units == pytest.approx(distance / (np.finfo(np.float32).eps * np.abs(reference).max()))
    assert f"{NAME}: 2 of 20 entries (float32), by up to {distance:.2e}" in str(diff(one, other))


@pytest.mark.parametrize("format", ["flax-msgpack", "orbax"])
def test_the_index_in_a_kernel_is_that_of_the_published_layout(pair, tmp_path, format):
    one, other = pair
    name = "encoder.layer.0.intermediate.dense.weight"
    values = arrays(one)[name].copy()
    values[3, 7] += 1
    change(other, name, values)
    convert(other, tmp_path / "out", format=format)
    (found,) = diff(one, tmp_path / "out").tensors
    assert (found.name, found.where, found.shapes) == (name, (3, 7), (values.shape, values.shape))


def test_nan_equals_nan_and_nothing_else(pair):
    one, other = pair
    values = arrays(one)[NAME].copy()
    values[1] = np.nan
    for directory in pair:
        change(directory, NAME, values)
    assert diff(one, other).equal
    values[3:5] = np.nan, np.inf
    change(other, NAME, values)
    (found,) = diff(one, other).tensors
    assert (found.count, found.max_absolute, found.units, found.where) == (2, np.inf, np.inf, (3,))
    assert json.loads(diff(one, other).to_json())["tensors"][0]["max_absolute"] == "inf"


def test_a_tensor_of_zeros_and_one_of_another_sign_of_zero(pair):
    one, other = pair
    zeros = np.zeros(20, np.float32)
    change(one, NAME, zeros)
    change(other, NAME, -zeros)
    assert diff(one, other).equal
    change(other, NAME, zeros + 1)
    assert diff(one, other).tensors[0].units == np.inf


def test_a_dtype_alone_is_told_apart_from_values(pair, tmp_path):
    one, _ = pair
    convert(one, tmp_path / "half", dtype="float16")
    found = diff(one, tmp_path / "half")
    assert (found.same, found.config) == ((), ())
    assert {difference.kind for difference in found.tensors} == {"dtype"}
    assert found.verdict() == f"DIFFERENT: {len(found.tensors)} tensors with another dtype only; 0 tensors the same"
    assert f"{NAME}: equal, but float32 and float16" in str(found)
    values = arrays(tmp_path / "half")[NAME].copy()
    values[0] *= np.float16(1.25)
    change(tmp_path / "half", NAME, values)
    (found,) = diff(one, tmp_path / "half").of_kind("values")
    reference = arrays(one)[NAME].astype(np.float64)
    assert found.dtypes == ("float32", "float16")
    assert found.where == (0,)
    assert found.units == pytest.approx(found.max_absolute / (2.0**-10 * np.abs(reference).max()))


def test_what_overflowed_is_another_value(pair, tmp_path):
    one, _ = pair
    large = np.full_like(arrays(one)[NAME], 1e30)
    change(one, NAME, large)
    convert(one, tmp_path / "half", dtype="float16", allow_overflow=True)
    (found,) = diff(one, tmp_path / "half").of_kind("values")
    assert (found.name, found.count, found.max_absolute) == (NAME, large.size, np.inf)


def test_integers_and_unknown_tensors_are_compared_by_their_own_names(pair):
    one, other = pair
    for directory, integer, narrow in ((one, 2**60, 1.5), (other, 2**60 + 1, 1.0)):
        rewrite(
            directory,
            lambda tensors, integer=integer, narrow=narrow: tensors.update(
                counts=np.array([1, integer]),
                mixed=np.array([narrow], np.float32) if narrow == 1.5 else np.array([1]),
                narrow=np.array([narrow, 448], np.float16),
            ),
        )
    rewrite(
        one,
        lambda tensors: tensors.update({"adapter.a": np.ones(2, np.float32), "embeddings.position_ids": np.ones(1)}),
    )
    rewrite(other, lambda tensors: tensors.update({"adapter.b": np.ones(2, np.float32)}))
    found = diff(one, other)
    assert (found.only_reference, found.only_candidate) == (("adapter.a",), ("adapter.b",))
    by_name = {difference.name: difference for difference in found.tensors}
    assert (by_name["counts"].kind, by_name["counts"].count, by_name["counts"].where) == ("values", 1, (1,))
    assert (by_name["mixed"].kind, by_name["mixed"].max_absolute, by_name["mixed"].units) == ("values", 0.5, 0.5)
    assert (by_name["narrow"].kind, by_name["narrow"].units) == ("values", pytest.approx(0.5 / (2.0**-10 * 448)))


def test_shapes_and_config_fields(pair):
    one, other = pair
    change(other, NAME, np.ones(19, np.float32))
    edit_config(other, hidden_dropout_prob=0.25, transformers_version="9.9", dtype="bfloat16", top_k=3)
    found = diff(one, other)
    (difference,) = found.tensors
    assert (difference.kind, str(difference)) == ("shape", "[20] and [19]")
    before = in_torch.BertConfig.from_pretrained(one).hidden_dropout_prob
    assert [str(difference) for difference in found.config] == [f"hidden_dropout_prob: {before} and 0.25"]
    assert "1 tensor with another shape, 1 config field with another value" in found.verdict()


def test_what_cannot_be_compared_is_refused(pair, tmp_path):
    one, other = pair
    with pytest.raises(InputError, match=r"revision must go with a checkpoint, but the BertModel is a live model"):
        diff(in_torch.load(one), other, revision="v2")
    with pytest.raises(InputError, match="dict is not a known model class"):
        diff(one, {})
    with pytest.raises(TypeError, match="diff has no keyword candidate_dtype"):
        diff(one, other, candidate_dtype="float32")
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is empty"):
        diff(one, other)


def test_names_on_the_hub_have_options_of_their_own(pair, hub_server):
    checkpoints.write(hub_server.root, "BertModel")
    save_file(arrays(hub_server.root), hub_server.root / "model.ema.safetensors")
    change(hub_server.root, NAME, np.zeros(20, np.float32))
    assert diff(REPOSITORY, pair[0], variant="ema", token="secret").equal
    found = diff(REPOSITORY, REPOSITORY, candidate_variant="ema", candidate_revision="v2")
    assert [difference.name for difference in found.tensors] == [NAME]
