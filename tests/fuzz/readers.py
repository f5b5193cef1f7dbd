"""The readers of files from elsewhere, each with files that it reads, from which hostile ones are made."""

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import soundfile
import tokenizers
from PIL import Image
from safetensors.numpy import save

from diptych.conversion.manifest import read_manifest
from diptych.core.checkpoint.companions import MANIFEST
from diptych.core.checkpoint.directory import open_checkpoint
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.msgpack import read_msgpack
from diptych.core.checkpoint.safetensors import read_metadata, read_safetensors
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.checkpoint.torch_legacy import read_torch_legacy
from diptych.core.checkpoint.torch_pickle import read_state_dict
from diptych.core.checkpoint.torch_zip import read_torch_zip
from diptych.core.generation.options import GenerationConfig
from diptych.core.processing.audio_processor import AudioProcessor
from diptych.core.processing.config_files import processes_sound
from diptych.core.processing.image_processor import ImageProcessor
from diptych.core.processing.pictures import to_picture
from diptych.core.processing.recordings import read_recording
from diptych.core.registry import config_classes, read_config
from diptych.text.sentencepiece import read_model
from diptych.text.tokenizers import load_special_tokens, load_tokenizer
from tests.core import torch_files
from tests.fuzz import orbax_files
from tests.fuzz.mutation import mutate, mutate_json

Files = dict[str, bytes]
ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(3, dtype=np.int64),
    "b": np.ones(4, np.float16),
}


@dataclass(frozen=True)
class Reader:
    """A reader, and the files that hostile ones are made from.

    Attributes:
        read: reads everything in a directory.
        seeds: the contents of directories, by path.
        change: a hostile variant of a file, from its name, its bytes and those of another one.
    """

    read: Callable[[Path], object]
    seeds: tuple[Files, ...]
    change: Callable[[random.Random, str, bytes, bytes], bytes]

    def hostile(self, draw: random.Random) -> Files:
        """A directory of which one file is changed."""
        files, other = dict(draw.choice(self.seeds)), draw.choice(self.seeds)
        name = draw.choice(sorted(files))
        files[name] = self.change(draw, name, files[name], draw.choice(list(other.values())))
        return files


def change_text(draw: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    """Bytes, or the values of JSON."""
    return mutate_json(draw, data) if name.endswith(".json") and draw.random() < 0.75 else mutate(draw, data, other)


def _read_all(tensors: Mapping[str, TensorSource]) -> None:
    for source in tensors.values():
        assert source.read().nbytes == source.nbytes


# Weights


def _change_safetensors(draw: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    if draw.random() < 0.4:
        return mutate(draw, data, other)
    length = int.from_bytes(data[:8], "little")
    header = change_text(draw, "header.json", data[8 : 8 + length].rstrip(), other)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _read_safetensors(directory: Path) -> None:
    read_metadata(directory / "model.safetensors")
    _read_all(read_safetensors(directory / "model.safetensors"))


def _zip(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _pickle(dtype: str = "torch.FloatStorage") -> bytes:
    storage = torch_files.storage("0", 6, dtype)
    return torch_files.pickled({
        "w": torch_files.tensor(storage), "x": torch_files.tensor(storage, (3,), (1,), 3),
    })  # fmt: skip


class _Attack:
    """Pickles as a call, in the way of most malicious files."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def _attacks() -> list[bytes]:
    nested = _Attack(eval, _Attack(str, "__import__('os').system('touch /tmp/owned')"))
    found = [_Attack(eval, "1"), _Attack(exec, "1"), _Attack(open, "/tmp/owned", "w"), nested, {"w": nested}]
    found += [_Attack(__import__, "os"), _Attack(getattr, dict, "clear"), _Attack(Path, "/tmp/owned"), [nested, 1]]
    return [pickle.dumps(attack, protocol) for attack in found for protocol in (0, 2, 4)]


PICKLES = (_pickle(), _pickle("torch.BFloat16Storage"), *_attacks())
_MEMBERS = {"version": b"3\n", "byteorder": b"little", "data/0": torch_files.FLOATS.tobytes()}


def _archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    return _zip({f"archive/{name}": content for name, content in members.items()}, compression)


_ARCHIVES = tuple(_archive({"data.pkl": content, **_MEMBERS}) for content in PICKLES)


def _change_torch(draw: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    if draw.random() < 0.4:
        return mutate(draw, data, other)
    members = {"data.pkl": draw.choice(PICKLES), **_MEMBERS}
    chosen = draw.choice(("data.pkl", "data.pkl", *members))
    members[chosen] = mutate(draw, members[chosen], draw.choice(PICKLES))
    if draw.random() < 0.1:
        members[draw.choice(("../../x", "/x", "constants.pkl", "data/1", "data.pkl/"))] = members[chosen]
    compression = zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED
    return _archive(members, compression)


def _array(array: np.ndarray) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def _trees() -> list[Any]:
    small = {name: _array(array) for name, array in ARRAYS.items()}
    nested = {"a": {"kernel": small["b"], "bias": small["a.bias"]}, "b": small["a.weight"]}
    chunks = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 2}, "chunks": {"0": small["b"]}}
    return [nested, {"a": chunks}, {"a": {"b": {"c": {"d": small["b"]}}}, "x": msgpack.ExtType(3, b"\x93\x90")}]


def _change_msgpack(draw: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    if draw.random() < 0.6:
        return mutate(draw, data, other)
    return msgpack.packb(_grow(draw, 0), use_bin_type=True)


def _grow(draw: random.Random, depth: int) -> Any:
    """A tree with leaves of any kind."""
    if draw.random() < 0.6 - depth * 0.15:
        keys = draw.sample(("a", "b", "c", "0", "1", "shape", "chunks", "__msgpack_chunked_array__", "", "a.b"), 3)
        return {key: _grow(draw, depth + 1) for key in keys}
    shape = tuple(draw.choice((0, 1, 2, 2**31, 2**63, 2**64 - 1)) for _ in range(draw.randrange(40)))
    array = (draw.choice((shape, (2,), (2, 0))), draw.choice(("float32", "bfloat16", "object", "V8")), b"\0" * 8)
    leaf = msgpack.packb(draw.choice((array, array, (1,), [array] * 3, array[::-1])))
    return draw.choice((msgpack.ExtType(draw.choice((1, 1, 1, 2, 3, 127)), leaf), 2**63, -1, None, "x", [1], 1.5))


_INDEX = {
    "metadata": {"total_size": 24},
    "weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}
_SHARDS: Files = {
    "model.safetensors.index.json": json.dumps(_INDEX).encode(),
    "model-00001-of-00002.safetensors": save({"a.weight": ARRAYS["a.weight"]}, metadata={"format": "pt"}),
    "model-00002-of-00002.safetensors": save({"b": ARRAYS["b"]}, metadata={"format": "pt"}),
}


_MANIFEST = {
    "manifest_version": 1, "architecture": "BertModel", "source": "owner/name", "revision": None,
    "source_format": "torch", "format": "safetensors",
    "versions": {"diptych": "0.1.0", "numpy": "2.0.0"},
    "config": {"model_type": "bert"},
    "tensors": {"a": {"dtype": "float32", "shape": [2, 3], "sha256": "0" * 64}},
}  # fmt: skip


def _read_manifest(directory: Path) -> None:
    found = read_manifest(directory / MANIFEST)
    assert {type(found.architecture), *map(type, found.tensors)} <= {str}
    hash(tuple(found.tensors.values()))


def _read_checkpoint(directory: Path) -> None:
    _read_all(open_checkpoint(directory).tensors)


# Configs


def _configs() -> tuple[Files, ...]:
    found: list[Files] = []
    for config_class in config_classes().values():
        try:
            text = config_class().to_json()
        except (TypeError, ValueError):  # a composite has no parts by default
            continue
        found.append({"config.json": text.encode()})
    bert, gpt2 = (json.loads(config_classes()[name]().to_json()) for name in ("bert", "gpt2"))
    composite = {"model_type": "encoder-decoder", "encoder": bert, "decoder": gpt2 | {"add_cross_attention": True}}
    labels = bert | {
        "id2label": {"0": "no", "1": "yes"},
        "label2id": {"no": 0, "yes": 1},
        "architectures": ["BertModel"],
    }
    return (*found, *({"config.json": json.dumps(config).encode()} for config in (composite, labels)))


def _read_config(directory: Path) -> None:
    config = read_config(directory)
    hash(config)
    assert type(config).from_json(config.to_json()) == config
    config.token_ids_outside(), config.id2label, GenerationConfig.of_model(config)
    architecture_of(directory)


_GENERATION = {
    "max_length": 20, "num_beams": 4, "do_sample": True, "eos_token_id": [1, 2], "bad_words_ids": [[1], [2, 3]],
    "sequence_bias": [[[1, 2], 0.5]], "temperature": 0.5, "stop_strings": ["a"], "early_stopping": "never",
    "exponential_decay_length_penalty": [3, 1.5], "transformers_version": "5.0", "suppress_tokens": [1], "watermark": 1,
}  # fmt: skip


def _read_generation(directory: Path) -> None:
    config = GenerationConfig.from_pretrained(directory)
    hash(config), config.to_json(), config.replace(top_k=3)


_IMAGES = tuple(
    {"preprocessor_config.json": json.dumps({"image_processor_type": name, "size": size, **more}).encode()}
    for name, size, more in (
        (
            "ViTImageProcessor",
            {"height": 4, "width": 6},
            {"resample": 2, "rescale_factor": 0.1, "auto_map": {"a": "b"}},
        ),
        ("CLIPImageProcessor", 5, {"crop_size": 4, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 2.0]}),
        ("DonutImageProcessor", [6, 4], {"do_pad": True, "do_align_long_axis": True, "do_thumbnail": True}),
        ("IdeficsImageProcessor", None, {"image_size": 4, "processor_class": "IdeficsProcessor"}),
    )
)
_SOUND = {"sampling_rate": 16_000, "do_normalize": True, "feature_size": 1, "padding_side": "right", "padding_value": 0}
_NESTED = {"image_processor": json.loads(_IMAGES[0]["preprocessor_config.json"]), "processor_class": "ViTProcessor"}
_PROCESSORS = (
    *_IMAGES,
    {"preprocessor_config.json": json.dumps(_SOUND).encode()},
    {"processor_config.json": json.dumps({"feature_extractor": _SOUND}).encode()},
    {"processor_config.json": json.dumps(_NESTED).encode()},
)
_PIXELS = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def _read_processor(directory: Path) -> None:
    if processes_sound(directory):
        AudioProcessor.from_pretrained(directory).config.to_json()
        return
    processor = ImageProcessor.from_pretrained(directory)
    processor.config.to_json()
    size, crop = processor.config.size, processor.config.crop_size
    if max(*(size if isinstance(size, tuple) else (size,)), *crop) < 300:
        processor(_PIXELS)


# Tokenizers


def _message(*fields: tuple[int, bytes | int]) -> bytes:
    parts: list[bytes] = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(value))
        else:
            parts.append(_varint(number << 3 | 2) + _varint(len(value)) + value)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def _sentencepiece(kind: int) -> bytes:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((text, 1) for text in ("▁", "a", "b", "ab", "▁a"))]
    listed = [
        (1, _message((1, text.encode()), (3, number)) + b"\x15" + struct.pack("<f", -index))
        for index, (text, number) in enumerate(pieces)
    ]
    return _message(*listed, (2, _message((3, kind), (35, 0), (40, 0))), (3, _message((1, b"nfkc"))))


def _tokenizers() -> tuple[Files, ...]:
    def named(name: str, **more: Any) -> Files:
        return {"tokenizer_config.json": json.dumps({"tokenizer_class": name, **more}).encode()}

    words = "\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b")).encode()
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4, "<unk>": 5, "<pad>": 6, "<mask>": 7}
    bpe = {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": b"#version: 0.2\na b\n"}
    added = {"special_tokens_map.json": b'{"eos_token": {"content": "</s>", "lstrip": false}}',
             "added_tokens.json": b'{"<x>": 8}'}  # fmt: skip
    decoder = {"8": {"content": "<y>", "special": True}}
    letters = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}
    languages = {"eng": letters, "deu": letters | {"C": 7}}
    whole = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).to_str().encode()
    ctc = named("Wav2Vec2CTCTokenizer", target_lang="eng", pad_token="<pad>", do_lower_case=True)
    return (
        {"vocab.txt": words, **named("BertTokenizer", do_lower_case=True, added_tokens_decoder={})},
        {**bpe, **named("RobertaTokenizer", add_prefix_space=True), **added},
        {**bpe, **named("GPT2TokenizerFast", added_tokens_decoder=decoder, add_bos_token=True)},
        {"sentencepiece.bpe.model": _sentencepiece(1), **named("XLMRobertaTokenizer", model_max_length=10**30)},
        {"spiece.model": _sentencepiece(2), **named("BertGenerationTokenizer")},
        {"sentencepiece.bpe.model": _sentencepiece(1), **named("MBartTokenizer", src_lang="de_DE")},
        {"tokenizer.json": whole, **named("BertTokenizer", additional_special_tokens=["<z>"], padding_side="left")},
        {"vocab.json": json.dumps(languages).encode(), **ctc},
        {"vocab.json": json.dumps(letters).encode(), "config.json": b'{"model_type": "hubert"}'},
        {"tokenizer.json": json.dumps({"model": {"vocab": letters}, "added_tokens": [{"id": 7, "content": "x"}]})
         .encode(),
         **named("Wav2Vec2CTCTokenizer")},
    )  # fmt: skip


def _read_tokenizer(directory: Path) -> None:
    load_special_tokens(directory)
    tokenizer = load_tokenizer(directory)
    tokenizer.get_vocab_size()


def _read_sentencepiece(directory: Path) -> None:
    model = read_model(directory / "sentencepiece.bpe.model")
    model.merges  # noqa: B018


# Images and sound


def _image(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def _sound(kind: str, subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.sin(np.arange(400) / 9).astype(np.float32), 8_000, subtype, format=kind)
    return stream.getvalue()


def _of_format(name: str, *contents: bytes) -> tuple[Files, ...]:
    return tuple({name: content} for content in contents)


READERS: Mapping[str, Reader] = {
    "safetensors": Reader(
        _read_safetensors,
        _of_format("model.safetensors", save(ARRAYS, metadata={"format": "pt"}), save({})),
        _change_safetensors,
    ),
    "torch": Reader(
        lambda directory: _read_all(read_torch_zip(directory / "pytorch_model.bin")),
        _of_format("pytorch_model.bin", *_ARCHIVES),
        _change_torch,
    ),
    "old torch": Reader(
        lambda directory: _read_all(read_torch_legacy(directory / "pytorch_model.bin")),
        _of_format(
            "pytorch_model.bin",
            *(torch_files.legacy(content, {"0": (6, torch_files.FLOATS.tobytes())}) for content in PICKLES),
        ),
        lambda draw, name, data, other: mutate(draw, data, other),
    ),
    "pickle": Reader(
        lambda directory: read_state_dict((directory / "data.pkl").read_bytes(), "data.pkl"),
        _of_format("data.pkl", *PICKLES),
        lambda draw, name, data, other: mutate(draw, data, other),
    ),
    "msgpack": Reader(
        lambda directory: _read_all(read_msgpack(directory / "flax_model.msgpack")),
        _of_format("flax_model.msgpack", *map(msgpack.packb, _trees())),
        _change_msgpack,
    ),
    "index": Reader(_read_checkpoint, (_SHARDS,), change_text),
    "manifest": Reader(
        _read_manifest,
        _of_format(MANIFEST, json.dumps(_MANIFEST).encode()),
        change_text,
    ),
    "orbax": Reader(_read_checkpoint, orbax_files.checkpoints(), orbax_files.change),
    "config": Reader(_read_config, _configs(), change_text),
    "generation": Reader(
        _read_generation, _of_format("generation_config.json", json.dumps(_GENERATION).encode()), change_text
    ),
    "processor": Reader(_read_processor, _PROCESSORS, change_text),
    "tokenizer": Reader(_read_tokenizer, _tokenizers(), change_text),
    "sentencepiece": Reader(
        _read_sentencepiece, _of_format("sentencepiece.bpe.model", _sentencepiece(1), _sentencepiece(2)), change_text
    ),
    "image": Reader(
        lambda directory: to_picture("image", directory / "image", 3),
        _of_format(
            "image", _image("PNG"), _image("JPEG"), _image("GIF"), _image("BMP"), _image("TIFF"), _image("WEBP")
        ),
        change_text,
    ),
    "sound": Reader(
        lambda directory: read_recording(directory / "sound", 16_000),
        _of_format(
            "sound", _sound("WAV"), _sound("FLAC"), _sound("OGG"), _sound("AIFF"), _sound("AU"), _sound("WAV", "FLOAT")
        ),
        change_text,
    ),
}
