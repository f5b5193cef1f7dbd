import errno
import re
import sys
from fnmatch import fnmatch

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from diptych.core.checkpoint.locate import locate
from diptych.core.errors import CheckpointError, InputError


class Hub:
    """Stands in for the hub: downloads which files of a repository the patterns select, and remembers the calls."""

    def __init__(self, root, files):
        self.root, self.files, self.calls = root, files, []

    def snapshot_download(self, repo_id, **options):
        self.calls.append((repo_id, options))
        for name in self.files:
            ignored = any(fnmatch(name, pattern) for pattern in options["ignore_patterns"])
            if not ignored and any(fnmatch(name, pattern) for pattern in options["allow_patterns"]):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).touch()
        return str(self.root)

    def downloaded(self):
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "snapshot").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    hub = Hub(tmp_path / "snapshot", [])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


COMMON = [
    *("config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json", "vocab.txt"),
    *("README.md", "LICENSE", "LICENSE.md", "spiece.model", "chat_template.jinja", "processor_config.json"),
]
OTHER = [
    "tf_model.h5",
    "onnx/model.onnx",
    "onnx/config.json",
    "training.log",
    "vae/model.safetensors",
    "model.fp16.safetensors",
]


def test_a_directory_is_itself_and_nobody_is_asked(hub, tmp_path):
    (tmp_path / "elsewhere" / "gpt2").mkdir()
    assert locate("gpt2").samefile(tmp_path / "elsewhere" / "gpt2")
    assert locate(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    with pytest.raises(CheckpointError, match=r"gpt2: is on the disk, but revision='v2'; only names on the hub have"):
        locate("gpt2", revision="v2")
    assert hub.calls == []


@pytest.mark.parametrize(
    "weights",
    [
        ["model.safetensors"],
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ],
)
def test_safetensors_are_downloaded_and_nothing_that_is_not_read(hub, weights):
    hub.files = [*COMMON, *OTHER, *weights, "pytorch_model.bin", "flax_model.msgpack"]
    assert locate("owner/name.v1") == hub.root
    assert hub.downloaded() == sorted([*COMMON, *weights])
    assert [name for name, _ in hub.calls] == ["owner/name.v1"]


@pytest.mark.parametrize(
    "weights",
    [
        ["pytorch_model.bin"],
        ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
    ],
)
def test_torch_files_are_downloaded_where_there_are_no_safetensors(hub, weights):
    hub.files = [*COMMON, *OTHER, "adapter_model.bin", "training_args.bin", "flax_model.msgpack", *weights]
    hub.files.remove("model.fp16.safetensors")
    (hub.root / "model.fp16.safetensors").touch()  # from an earlier download of something else
    assert locate("name") == hub.root
    assert hub.downloaded() == sorted([*COMMON, "model.fp16.safetensors", *weights])


@pytest.mark.parametrize(
    "weights",
    [
        ["flax_model.msgpack"],
        ["flax_model.msgpack.index.json", "flax_model-00001-of-00002.msgpack", "flax_model-00002-of-00002.msgpack"],
    ],
)
def test_flax_files_are_downloaded_where_there_are_no_others(hub, weights):
    hub.files = [*COMMON, "pytorch_model.fp16.bin", "flax_model_old.msgpack", *weights]
    assert locate("name") == hub.root
    assert hub.downloaded() == sorted([*COMMON, *weights])


def test_the_options_are_passed_on(hub, tmp_path):
    hub.files = ["model.safetensors"]
    locate("a/b", revision="refs/pr/1", cache_dir=tmp_path, local_files_only=True, token="secret")
    ((name, options),) = hub.calls
    del options["allow_patterns"], options["ignore_patterns"]
    assert (name, options) == (
        "a/b",
        {"revision": "refs/pr/1", "cache_dir": tmp_path, "local_files_only": True, "token": "secret"},
    )


def test_a_file_is_not_a_directory(hub, tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is a file; give the directory that holds it"):
        locate(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["/no/such", "./no", "../no", "a/b/c", "no such", "", "-x", "a/", "é/b", "~/x"])
def test_what_is_no_id_is_not_asked_for(hub, name):
    with pytest.raises(CheckpointError, match=f"^{name}: no such directory, and no id of a model on the Hugging Face"):
        locate(name)
    assert hub.calls == []


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("not in the cache"),
        ConnectionError(errno.ECONNREFUSED, "not in the cache"),
        RuntimeError("not in the cache"),
    ],
)
def test_what_the_hub_answers_is_told(hub, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    answer = rf"{type(error).__name__}: .*not in the cache"
    message = f"a/b: no such directory, and the Hugging Face hub, asked for revision main, answered {answer}"
    with pytest.raises(CheckpointError, match=message) as caught:
        locate("a/b")
    assert caught.value.__cause__ is error


def test_the_real_client_without_a_cache_is_an_error_that_names_the_model(tmp_path):
    with pytest.raises(CheckpointError, match="diptych-tests/absent: no such directory, and the Hugging Face hub"):
        locate("diptych-tests/absent", cache_dir=tmp_path, local_files_only=True)


def test_a_full_disk_stays_an_oserror(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "blob")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(OSError, match="No space left on device: 'blob'"):
        locate("a/b")


def test_without_the_client_the_extra_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"a/b: no such directory; .*pip install 'diptych\[hub\]'"):
        locate("a/b")


def test_a_subfolder_of_a_directory_may_not_leave_it(hub, tmp_path):
    inside, outside = tmp_path / "checkpoint" / "text" / "large", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    (tmp_path / "checkpoint" / "link").symlink_to(outside)
    assert locate(tmp_path / "checkpoint", subfolder="text/large", token="unused", cache_dir="unused") == inside
    with pytest.raises(CheckpointError, match=r"checkpoint/image: no such directory; subfolders here: link, text"):
        locate(tmp_path / "checkpoint", subfolder="image")
    with pytest.raises(CheckpointError, match=r"checkpoint/link: is outside of .*checkpoint, at .*elsewhere; give"):
        locate(tmp_path / "checkpoint", subfolder="link")
    for name in ("..", "text/../..", "/etc", "", "a//b", "a*", 5):
        with pytest.raises(InputError, match=rf"subfolder={re.escape(repr(name))} must be a relative path without"):
            locate(tmp_path / "checkpoint", subfolder=name)


@pytest.mark.parametrize("variant", ["../fp16", "", "fp*", ".", 16])
def test_a_variant_is_a_part_of_a_file_name(hub, variant):
    with pytest.raises(InputError, match=rf"variant={re.escape(repr(variant))} must be a part of the weights' file"):
        locate("a/b", variant=variant)


def test_an_unknown_option_is_a_type_error(hub):
    with pytest.raises(TypeError, match="unknown keyword branch; for a checkpoint there are revision, subfolder, "):
        locate("a/b", branch="v2")
