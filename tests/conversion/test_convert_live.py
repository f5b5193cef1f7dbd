"""Live models as the source of a conversion, and casts that both frameworks make alike."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert
from diptych.core.checkpoint.strips import permute
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError, InputError
from tests.conversion.tiny import bits, config_of, digests, files_of


@pytest.mark.parametrize("format", ["safetensors", "flax-msgpack", "orbax"])
def test_a_live_model_is_converted_like_its_directory(tmp_path, models, backend, format):
    model = models(backend.NAME, "BertForMaskedLM")
    report = convert(model, tmp_path / "live", format=format, dtype="bfloat16", max_shard_size="10KB")
    model.save_pretrained(tmp_path / "saved")
    again = convert(tmp_path / "saved", tmp_path / "out", format=format, dtype="bfloat16", max_shard_size="10KB")
    assert report.tensors == again.tensors
    assert (report.source, report.source_format) == ("the BertForMaskedLM", backend.NAME)
    assert (report.missing, report.ignored, report.copied) == ((), (), ())
    if format != "orbax":  # whose files have random names
        one, other = (files_of(tmp_path / name) for name in ("live", "out"))
        assert one | {"config.json": None} == other | {"config.json": None}
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("live", "out"))
    assert one == other
    assert digests(in_torch.load(tmp_path / "live")) == digests(in_torch.load(tmp_path / "saved", dtype="bfloat16"))


def test_a_model_of_transformers(tmp_path, saved):
    theirs = transformers.CLIPTextModel.from_pretrained(saved("CLIPTextModel"))
    report = convert(theirs, tmp_path / "out")
    assert (report.source, report.source_format) == ("the CLIPTextModel of transformers", "transformers")
    assert digests(in_jax.load(tmp_path / "out")) == digests(
        in_jax.CLIPTextModel.from_pretrained(saved("CLIPTextModel"))
    )
    again, info = transformers.CLIPTextModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert again.config.vocab_size == theirs.config.vocab_size


def test_what_a_live_model_has_besides(tmp_path):
    model = in_torch.BertModel(config_of("BertModel"), add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.LayerNorm.half()  # each tensor keeps its dtype
    model.generation_config = {"max_length": 7}
    report = convert(model, tmp_path / "out", format="flax-msgpack")
    assert report.dtypes == {"float32": len(report.tensors) - 2, "float16": 2}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["max_length"] == 7
    loaded = in_jax.BertModel.from_pretrained(tmp_path / "out", add_pooling_layer=False, dtype="float32")
    one, other = (each.encoder.layer[0].output.dense for each in (loaded, model))
    np.testing.assert_array_equal(one.kernel[...], other.weight.detach().T)


def test_live_models_that_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"^builtins\.int is not a known model class"):
        convert(3, tmp_path / "out")
    model = in_torch.BertModel(config_of("BertModel"), seed=None)
    with pytest.raises(InputError, match="convert: architecture, ignore must go with a directory, but the s"):
        convert(model, tmp_path / "out", ignore=("a",), architecture="BertModel")
    with pytest.raises(CheckpointError, match="has no values"):
        convert(model, tmp_path / "out")
    model = in_torch.BertModel(config_of("BertModel"))
    model.lora = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"2 tensors belong to no class of the family: lora\.weight, lora\.bias"):
        convert(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Casts


def hard_values(dtype):
    """Random bits, and values around the middles between neighbours, subnormal numbers and the largest ones."""
    kind = FLOATS[dtype]
    random = np.frombuffer(np.random.default_rng(0).bytes(4_000 * kind.itemsize), kind)
    middles = np.array([1 + n * 2.0**-place for place in (8, 11, 24) for n in (1, 3)])
    around = np.concatenate([middles, middles + 2.0**-30, middles - 2.0**-30])
    near = np.outer(np.ldexp(1.0, np.arange(-150, 128)), around).ravel()
    largest = np.array([65504, 65519.99, 65520, 3.39e38, 3.4e38, 0])
    return np.concatenate([random, near.astype(kind), largest.astype(kind)])


@np.errstate(all="ignore")
@pytest.mark.parametrize("target", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("source", FLOATS)
def test_casts_are_those_of_the_frameworks(source, target):
    values = hard_values(source)
    if source == "float64" and target != "float32":
        # the frameworks go through float32, and so round some values twice: only those that float32 has are compared
        values = values[values.astype(np.float32) == values]
    found = permute(values, (0,), target)
    number = found == found  # a NaN stays one, but not with the same bits everywhere
    torch_values = torch.from_numpy(bits(values).view(f"i{values.itemsize}")).view(getattr(torch, source))
    theirs = torch_values.to(getattr(torch, target)).view(torch.uint8).numpy().view(FLOATS[target])
    np.testing.assert_array_equal(bits(found)[number], bits(theirs)[number])
    with jax.enable_x64(True):
        theirs = np.asarray(jnp.asarray(values).astype(target))
    # XLA takes subnormal float32 and float64 values for 0
    kinds = [FLOATS[kind] for kind in (source, target) if kind != "float16"]
    smallest = max((float(ml_dtypes.finfo(kind).smallest_normal) for kind in kinds), default=0)
    compared = number & ((np.abs(values.astype(np.float64)) >= smallest) | (values == 0))
    np.testing.assert_array_equal(bits(found)[compared], bits(theirs)[compared])
