"""What we write is byte for byte what the last Flax release of transformers wrote, as flax_listing.json recorded it."""

import hashlib
import json
from pathlib import Path

import pytest

from diptych.conversion import convert
from diptych.core.checkpoint.directory import open_checkpoint
from tests.conversion import checkpoints

LISTING = json.loads(Path(__file__).with_name("flax_listing.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny checkpoints, as safetensors."""
    root = tmp_path_factory.mktemp("published")
    for name in checkpoints.NAMES:
        checkpoints.write(root / name, name)
    return root


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(directory: Path) -> dict[str, dict]:
    """Every array, in the listing's form."""
    return {
        name.replace(".", "/"): {
            "dtype": source.dtype.name,
            "shape": list(source.shape),
            "sha256": hashlib.sha256(source.read().tobytes()).hexdigest(),
        }
        for name, source in open_checkpoint(directory, "flax-msgpack").tensors.items()
    }


def test_the_listing_holds_every_tiny_checkpoint_that_flax_had_a_class_for():
    assert set(LISTING["cases"]) == set(checkpoints.FLAX_CLASSES.values())


@pytest.mark.parametrize("name", checkpoints.FLAX_CLASSES)
def test_msgpack_is_what_flax_wrote(published, tmp_path, name):
    convert(published / name, tmp_path / "flax", format="flax-msgpack")
    recorded = LISTING["cases"][checkpoints.FLAX_CLASSES[name]]
    assert tree(tmp_path / "flax") == recorded["tree"]
    assert sha256(tmp_path / "flax" / "flax_model.msgpack") == recorded["sha256"]


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_what_flax_wrote_becomes_the_published_file_again(published, tmp_path, name):
    convert(published / name, tmp_path / "flax", format="flax-msgpack")
    convert(tmp_path / "flax", tmp_path / "back")
    assert sha256(tmp_path / "back" / "model.safetensors") == sha256(published / name / "model.safetensors")


def test_bfloat16_is_rounded_as_flax_rounds(published, tmp_path):
    convert(published / "BertModel", tmp_path / "flax", format="flax-msgpack", dtype="bfloat16")
    recorded = LISTING["bfloat16"]["FlaxBertModel"]
    assert tree(tmp_path / "flax") == recorded["tree"]
    assert sha256(tmp_path / "flax" / "flax_model.msgpack") == recorded["sha256"]


def test_shards_and_their_index_are_those_of_flax(published, tmp_path):
    recorded = LISTING["sharded"]["FlaxBertModel"]
    size = recorded["max_shard_size"]
    report = convert(published / "BertModel", tmp_path / "flax", format="flax-msgpack", max_shard_size=size)
    assert report.files == tuple(recorded["files"])
    assert {name: sha256(tmp_path / "flax" / name) for name in report.files} == {
        name: file["sha256"] for name, file in recorded["files"].items()
    }
    assert json.loads((tmp_path / "flax" / "flax_model.msgpack.index.json").read_text()) == recorded["index"]
