"""Manifests of conversions, and checks against them."""

import json
import os
from importlib.metadata import version

import numpy as np
import pytest

from diptych.conversion import convert, verify
from diptych.core.checkpoint.companions import MANIFEST
from diptych.core.errors import CheckpointError
from tests.conversion import checkpoints
from tests.conversion.tiny import edit_config, rewrite
from tests.hub_server import COMMIT, REPOSITORY


@pytest.fixture
def converted(tmp_path, source):
    """A directory that was converted with a manifest."""
    convert(source, tmp_path / "made", dtype="bfloat16", manifest=True)
    return tmp_path / "made"


def test_a_manifest_says_what_was_made_and_from_what(tmp_path, hub_server):
    checkpoints.write(hub_server.root, "BertModel")
    report = convert(REPOSITORY, tmp_path / "made", format="flax-msgpack", revision="v2", manifest=True)
    manifest = json.loads((tmp_path / "made" / MANIFEST).read_text())
    assert (manifest["source"], manifest["revision"]) == (REPOSITORY, COMMIT)
    assert (manifest["source_format"], manifest["format"]) == ("safetensors", "flax-msgpack")
    assert manifest["versions"]["numpy"] == version("numpy")
    assert manifest["tensors"] == {
        tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": tensor.digest}
        for tensor in report.tensors
    }
    assert MANIFEST not in report.copied


def test_what_was_converted_is_verified_also_in_another_format(converted, tmp_path):
    found = verify(converted)
    assert found.passed
    assert len(found.verified) == len(checkpoints.shapes("BertModel"))
    assert str(found) == f"VERIFIED: {len(found.verified)} tensors are as {converted / MANIFEST} says"
    convert(converted, tmp_path / "flax", format="flax-msgpack")
    assert not (tmp_path / "flax" / MANIFEST).exists()
    assert verify(tmp_path / "flax", manifest=converted / MANIFEST).passed


def test_names_of_files_may_hold_bytes_that_are_no_characters(tmp_path, source):
    odd = source.rename(tmp_path / os.fsdecode(b"old\xff"))
    convert(odd, tmp_path / os.fsdecode(b"new\xff"), manifest=True)
    assert verify(tmp_path / os.fsdecode(b"new\xff")).passed
    manifest = json.loads((tmp_path / os.fsdecode(b"new\xff") / MANIFEST).read_bytes())
    assert manifest["source"] == f"{tmp_path}/old\\xff"


def test_a_config_alone_that_differs_is_named(converted):
    edit_config(converted, layer_norm_eps=0.5)
    verdict = str(verify(converted)).splitlines()[-1]
    whole = len(checkpoints.shapes("BertModel"))
    assert verdict == f"DIFFERENT: all {whole} tensors are as {converted / MANIFEST} says, but the config differs"


def test_every_difference_is_named(converted):
    def damage(tensors):
        del tensors["pooler.dense.bias"]
        tensors["embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"].copy()
        tensors["embeddings.LayerNorm.bias"].view(np.uint16)[4] ^= 1
        tensors["embeddings.LayerNorm.weight"] = tensors["embeddings.LayerNorm.weight"].astype(np.float32)
        tensors["pooler.dense.weight"] = tensors["pooler.dense.weight"][:-1]
        tensors["adapter.weight"] = np.ones(3, np.float32)

    rewrite(converted, damage)
    edit_config(converted, layer_norm_eps=0.5, finetuning_task="x")
    found = verify(converted)
    assert not found.passed
    assert (found.missing, found.extra, found.changed) == (
        ("pooler.dense.bias",),
        ("adapter.weight",),
        ("embeddings.LayerNorm.bias",),
    )
    assert found.shapes == {"pooler.dense.weight": ((20, 20), (19, 20))}
    assert found.dtypes == {"embeddings.LayerNorm.weight": ("bfloat16", "float32")}
    lines = str(found).splitlines()
    assert lines[:-1] == [
        "missing: pooler.dense.bias",
        "extra: adapter.weight",
        "changed values: embeddings.LayerNorm.bias",
        "changed shape: pooler.dense.weight, [20, 20] to [19, 20]",
        "changed dtype: embeddings.LayerNorm.weight, bfloat16 to float32",
        *lines[5:7],
    ]
    assert lines[5] == "changed config: layer_norm_eps, 1e-12 in the manifest and 0.5 in config.json"
    assert lines[6] == 'changed config: finetuning_task, absent in the manifest and "x" in config.json'
    whole = len(checkpoints.shapes("BertModel"))
    assert lines[-1] == f"DIFFERENT: only {whole - 4} of {whole} tensors are as {converted / MANIFEST} says"
    assert json.loads(found.to_json())["passed"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"diptych_manifest\.json: no such file; convert writes a manifest with manifest=True"),
        ("[]", "must be a JSON object"),
        ('{"manifest_version": 2}', "manifest_version=2 is not known; version 1 is. Update diptych"),
        ('{"manifest_version": 1}', "not a manifest of a conversion, or damaged"),
        (
            '{"manifest_version": 1, "architecture": "X", "config": {}, "tensors": [1]}',
            "not a manifest of a conversion",
        ),
        ('{"manifest_version": 1, "architecture": "X", "config": 5, "tensors": {}}', "not a manifest of"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(converted, text, message):
    (converted / MANIFEST).unlink()
    if text is not None:
        (converted / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        verify(converted)
