"""Checkpoints with random weights at published sizes, created once by transformers; all sides load the same files.
And checkpoints of zeros that take no space."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
from safetensors import safe_open

BERT_BASE: dict[str, Any] = {}
CLIP_B32: dict[str, Any] = {}
CLIP_L14: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
"""The fields of openai/clip-vit-large-patch14 that differ from the defaults, which are those of bert-base and
clip-vit-base-patch32."""

SMALL_BERT = {"hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 384}
SMALL_GPT2 = {"n_embd": 96, "n_layer": 2, "n_head": 4}
BART_BASE: dict[str, Any] = {
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
}
"""The fields of facebook/bart-base that differ from the defaults, which are those of bart-large."""
SMALL_BART = {
    "d_model": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 384,
    "decoder_ffn_dim": 384,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
IDEFICS: dict[str, Any] = {
    "vocab_size": 32_000,
    "additional_vocab_size": 2,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "cross_layer_interval": 2,
    "qk_layer_norms": True,
    "use_resampler": True,
    "alpha_initializer": "ones",
    "vision_config": {
        "embed_dim": 256,
        "image_size": 112,
        "patch_size": 14,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "perceiver_config": {
        "resampler_n_latents": 64,
        "resampler_depth": 2,
        "resampler_n_heads": 4,
        "resampler_head_dim": 64,
        "qk_layer_norms_perceiver": True,
    },
}
"""All parts of HuggingFaceM4/idefics-9b and its vocabulary, with an eighth of the width and a quarter of the layers."""
SMALL_IDEFICS: dict[str, Any] = {
    **IDEFICS,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vision_config": {**IDEFICS["vision_config"], "embed_dim": 64, "intermediate_size": 128, "num_hidden_layers": 1},
}
IDEFICS_9B: dict[str, Any] = {
    **IDEFICS,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "cross_layer_interval": 4,
    "alpha_initializer": "zeros",
    "vision_config": {
        "embed_dim": 1280,
        "image_size": 224,
        "patch_size": 14,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
    },
    "perceiver_config": {"qk_layer_norms_perceiver": True},
}
"""The sizes of HuggingFaceM4/idefics-9b."""
IDEFICS_HALF_GIGABYTE: dict[str, Any] = {
    **IDEFICS_9B,
    "hidden_size": 1024,
    "intermediate_size": 2752,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "vision_config": {**IDEFICS_9B["vision_config"], "embed_dim": 640, "num_hidden_layers": 4},
}
SMALL_CLIP = {
    "projection_dim": 64,
    "text_config": {**SMALL_BERT, "projection_dim": 64},
    "vision_config": {**SMALL_BERT, "projection_dim": 64},
}


def checkpoint(name: str, architecture: str, fields: dict[str, Any]) -> Path:
    """The directory of a cached checkpoint."""

    def built() -> Any:
        import transformers

        model_class = getattr(transformers, architecture)
        return model_class(model_class.config_class(**fields))

    return _saved(name, built)


VARIED = 0.2
"""initializer_range with which random models with GPT-2 generate different tokens; with 0.02, they repeat one."""


def bert2gpt2(*, small: bool = False, deviation: float = 0.02) -> Path:
    """The directory of a cached encoder-decoder of bert-base and gpt2."""

    def built() -> Any:
        from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2Config

        spread = {"initializer_range": deviation}
        encoder: Any = BertConfig.from_dict((SMALL_BERT if small else {}) | spread)
        decoder: Any = GPT2Config.from_dict((SMALL_GPT2 if small else {}) | spread)
        config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        config.decoder_start_token_id, config.pad_token_id = 50_256, 0  # no label is padding
        return EncoderDecoderModel(config)

    return _saved(f"{'small-' * small}bert2gpt2{'-varied' * (deviation == VARIED)}", built)


def gpt2(*, small: bool = False) -> Path:
    """The directory of a cached GPT-2 of the smallest published size."""

    def built() -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config.from_dict((SMALL_GPT2 if small else {}) | {"initializer_range": VARIED}))

    return _saved("small-gpt2-varied" if small else "gpt2-varied", built)


def vit_gpt2(*, small: bool = False) -> Path:
    """The directory of a cached captioner of ViT-base and gpt2."""

    def built() -> Any:
        from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

        spread = {"initializer_range": VARIED}
        encoder: Any = ViTConfig.from_dict((SMALL_BERT if small else {}) | spread)
        decoder: Any = GPT2Config.from_dict((SMALL_GPT2 if small else {}) | spread)
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        return VisionEncoderDecoderModel(config)

    return _saved(f"{'small-' * small}vit-gpt2-varied", built)


def wav2vec2_bart(*, small: bool = False) -> Path:
    """The directory of a cached transcriber of wav2vec2-base and the decoder of bart-base."""

    def built() -> Any:
        from transformers import BartConfig, SpeechEncoderDecoderConfig, SpeechEncoderDecoderModel, Wav2Vec2Config

        encoder: Any = Wav2Vec2Config.from_dict(SMALL_BERT if small else {})
        decoder: Any = BartConfig.from_dict((SMALL_BART if small else BART_BASE) | {"init_std": VARIED})
        config = SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        return SpeechEncoderDecoderModel(config)

    return _saved(f"{'small-' * small}wav2vec2-bart-varied", built)


def idefics(*, small: bool = False) -> Path:
    """The directory of a cached reduced IDEFICS."""
    fields = SMALL_IDEFICS if small else IDEFICS
    name = f"{'small-' * small}idefics-varied"
    return checkpoint(name, "IdeficsForVisionText2Text", {**fields, "initializer_range": VARIED})


def bart_base(*, small: bool = False) -> Path:
    """The directory of a cached bart-base, with enlarged position embeddings: otherwise it repeats one token."""

    def built() -> Any:
        from transformers import BartConfig, BartForConditionalGeneration

        model = BartForConditionalGeneration(BartConfig.from_dict(SMALL_BART if small else BART_BASE))
        model.model.decoder.embed_positions.weight.data.mul_(10)
        return model

    return _saved("small-bart-base-varied" if small else "bart-base-varied", built)


def sparse_idefics(name: str, fields: dict[str, Any], shard_size: int, where: Path | None = None) -> Path:
    """The directory of a cached IDEFICS of zeros in bfloat16, whose files consist of a header and a hole.

    Args:
        name: of the directory.
        fields: of its config.
        shard_size: the maximum size of a file in bytes.
        where: the folder of the directory, by default that of the cached checkpoints.
    """
    from diptych.conversion.slots import slots_of
    from diptych.core.models.idefics import IdeficsConfig

    directory = (where or peers.CACHE / "checkpoints") / name
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    architecture = "IdeficsForVisionText2Text"
    config: Any = IdeficsConfig.from_dict({**fields, "model_type": "idefics", "architectures": [architecture]})
    shards, end = list[dict[str, Any]](), shard_size
    for slot in slots_of(architecture, config):
        size = 2 * math.prod(slot.shape)
        if end + size > shard_size:
            shards.append({})
            end = 0
        shards[-1][slot.path] = {"dtype": "BF16", "shape": slot.shape, "data_offsets": [end, end + size]}
        end += size
    files = dict[str, str]()
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        files |= dict.fromkeys(shard, file)
        header = json.dumps({"__metadata__": {"format": "pt"}, **shard}).encode()
        header += b" " * (-len(header) % 8)
        with (directory / file).open("wb") as handle:
            handle.write(len(header).to_bytes(8, "little") + header)
            handle.truncate(handle.tell() + max(tensor["data_offsets"][1] for tensor in shard.values()))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    return directory


def _saved(name: str, built: Callable[[], Any]) -> Path:
    directory = peers.CACHE / "checkpoints" / name
    if not (directory / "config.json").exists():
        import torch

        logging.getLogger("transformers").setLevel(logging.ERROR)
        print(f"creating {directory}", flush=True)
        partial = directory.with_name(f".{name}.{os.getpid()}")
        torch.manual_seed(0)
        built().save_pretrained(partial, max_shard_size="10GB")
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    return directory


def largest_tensor(file: Path) -> int:
    """Bytes of the largest tensor of a safetensors file."""
    with safe_open(file, "numpy") as tensors:
        return max(tensors.get_tensor(name).nbytes for name in tensors.keys())  # noqa: SIM118 -- not a dict


def size(file: Path, counts: Callable[[str], bool]) -> int:
    """Total bytes of the tensors of a safetensors file whose name `counts` accepts."""
    with safe_open(file, "numpy") as tensors:
        return sum(tensors.get_tensor(name).nbytes for name in tensors.keys() if counts(name))  # noqa: SIM118


def as_msgpack(directory: Path) -> Path:
    """The same checkpoint as one flax_model.msgpack, beside it."""
    from diptych.conversion import convert

    target = directory.with_name(f"{directory.name}-msgpack")
    if not target.exists():
        print(f"creating {target}", flush=True)
        convert(directory, target, format="flax-msgpack", max_shard_size=None)
    for file in target.iterdir():
        file.read_bytes()  # into the page cache
    return target
