"""Downloads through the real huggingface_hub, from a server on loopback that serves and fails as the hub does."""

import numpy as np
import pytest
from huggingface_hub import constants

from diptych.core.checkpoint.directory import open_checkpoint, write_checkpoint
from diptych.core.checkpoint.hub import HubOptions, repository_of
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.checkpoint.tensors import from_array
from diptych.core.errors import CheckpointError
from diptych.core.registry import config_classes
from tests.hub_server import COMMIT, REPOSITORY

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(700, np.float32)}


def write(directory, format="safetensors"):
    write_checkpoint(directory, {name: from_array(values) for name, values in WEIGHTS.items()}, format=format)
    (directory / "config.json").write_text('{"model_type": "bert"}')


@pytest.fixture
def hub(hub_server):
    write(hub_server.root)
    return hub_server


def values(directory, variant=None):
    return {name: tensor.read() for name, tensor in open_checkpoint(directory, variant=variant).tensors.items()}


def assert_complete(directory, variant=None):
    found = values(directory, variant)
    assert found.keys() == WEIGHTS.keys()
    for name, expected in WEIGHTS.items():
        np.testing.assert_array_equal(found[name], expected)


def test_a_checkpoint_is_downloaded_once_into_the_ordinary_cache(hub, tmp_path, monkeypatch):
    (hub.root / "pytorch_model.bin").write_bytes(b"never fetched")
    directory = locate(REPOSITORY, token="secret")
    assert directory == tmp_path / "cache" / "models--owner--tiny" / "snapshots" / COMMIT
    assert_complete(directory)
    assert repository_of(directory) == (REPOSITORY, COMMIT)
    assert hub.fetched() == ["config.json", "model.safetensors"]
    assert {token for _, path, token in hub.requests if REPOSITORY in path} == {"Bearer secret"}
    hub.requests.clear()
    assert locate(REPOSITORY, revision="v2") == locate(REPOSITORY, revision=COMMIT) == directory
    assert hub.fetched() == []
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(REPOSITORY) == locate(REPOSITORY, local_files_only=True) == directory
    assert hub.requests == []


def test_configs_alone_are_downloaded_for_what_needs_no_weights(hub, tmp_path):
    locate(REPOSITORY, only=CONFIGS, cache_dir=tmp_path / "other")
    assert hub.fetched() == ["config.json"]
    assert not (tmp_path / "cache").exists()


def test_a_subfolder_of_a_repository(hub):
    write(hub.root / "text" / "large", "flax-msgpack")
    write(hub.root / "text" / "large" / "other")
    directory = locate(REPOSITORY, subfolder="text/large")
    assert_complete(directory)
    assert hub.fetched() == ["text/large/config.json", "text/large/flax_model.msgpack"]
    assert repository_of(directory) == (REPOSITORY, COMMIT)
    with pytest.raises(CheckpointError, match="owner/tiny: has no files of a checkpoint in a subfolder image"):
        locate(REPOSITORY, subfolder="image")


@pytest.mark.parametrize(
    "names",
    [
        {"model.safetensors": "model.fp16.safetensors"},
        {
            "model.safetensors.index.json": "model.safetensors.index.fp16.json",
            "model-00001-of-00002.safetensors": "model.fp16-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors": "model.fp16-00002-of-00002.safetensors",
        },
        {
            "model.safetensors.index.json": "model.fp16.safetensors.index.json",
            "model-00001-of-00002.safetensors": "model-00001-of-00002.fp16.safetensors",
            "model-00002-of-00002.safetensors": "model-00002-of-00002.fp16.safetensors",
        },
    ],
    ids=["one file", "shards", "shards as of old"],
)
def test_a_variant_of_the_weights(hub, names):
    sources = {name: from_array(tensor) for name, tensor in WEIGHTS.items()}
    write_checkpoint(hub.root, sources, max_shard_size=None if len(names) == 1 else 100)
    for old, new in names.items():
        text = (hub.root / old).read_bytes()
        for name in names:
            if old.endswith(".json"):
                text = text.replace(f'"{name}"'.encode(), f'"{names[name]}"'.encode())
        (hub.root / old).unlink()
        (hub.root / new).write_bytes(text)
    write_checkpoint(hub.root, {"usual": from_array(np.ones(1, np.float16))})
    assert_complete(locate(REPOSITORY, variant="fp16"), "fp16")
    assert hub.fetched() == sorted(["config.json", *names.values()])
    assert_complete(hub.root, "fp16")
    assert [*values(locate(REPOSITORY))] == [*values(hub.root)] == ["usual"]
    message = r"has no weights of variant 'ema'; there are: fp16, none, without variant="
    with pytest.raises(CheckpointError, match=f"^owner/tiny: {message}"):
        locate(REPOSITORY, variant="ema")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(hub.root, variant="ema")


FAULTS = [
    ("api", 401, "401 Unauthorized"),
    ("api", 404, "LocalEntryNotFoundError: Got: HfHubHTTPError: Client error '404 Not Found'"),
    ("api", 429, "429 Too Many Requests"),
    ("api", 500, "500 Internal Server Error"),
    ("api", "html", "JSONDecodeError: Expecting value"),
    ("model.safetensors", 401, "401"),
    ("model.safetensors", 429, "429"),
    ("model.safetensors", 500, "500"),
    ("model.safetensors", "html", "does not seem to be served by a Hugging Face Hub"),
    ("model.safetensors", "break", "RemoteProtocolError: peer closed connection without sending complete message"),
    ("model.safetensors", "short", "OSError: Consistency check failed: file should be of size"),
]


@pytest.mark.parametrize(("where", "fault", "cause"), FAULTS)
def test_a_fault_is_one_error_and_leaves_nothing_half_written(hub, tmp_path, where, fault, cause):
    hub.faults[where] = fault
    message = f"^owner/tiny: no such directory, and the Hugging Face hub, asked for revision v2, answered .*{cause}"
    with pytest.raises(CheckpointError, match=message) as caught:
        locate(REPOSITORY, revision="v2")
    assert "\n" not in str(caught.value)
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [name for name in left if "safetensors" in name or "incomplete" in name]
    hub.faults.clear()
    assert_complete(locate(REPOSITORY, revision="v2"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_does_not_have_the_announced_hash_is_removed(hub, tmp_path, name):
    hub.faults[name] = "bytes"
    message = f"owner/tiny: {name} of revision main arrived with another hash than the Hugging Face hub announced"
    with pytest.raises(CheckpointError, match=message):
        locate(REPOSITORY)
    cached = [path.name for path in (tmp_path / "cache").rglob("*")]
    assert name not in cached
    assert hub.etag(name) not in cached
    hub.faults.clear()
    assert_complete(locate(REPOSITORY))


def test_an_unknown_repository_and_an_unknown_revision_are_named(hub):
    with pytest.raises(CheckpointError, match=r"owner/other: .*answered RepositoryNotFoundError: 404 Client Error"):
        locate("owner/other")
    with pytest.raises(CheckpointError, match="asked for revision v3, answered RevisionNotFoundError: 404 Client"):
        locate(REPOSITORY, revision="v3")


def test_no_config_has_a_field_that_is_an_option_of_the_hub():
    for config_class in config_classes().values():
        assert not HubOptions.__annotations__.keys() & config_class.__dataclass_fields__.keys()
