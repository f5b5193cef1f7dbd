"""Checkpoints of published sizes with random weights, made once by transformers, the same files for all sides."""

import logging
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
"""What openai/clip-vit-large-patch14 says beyond the defaults, which are bert-base's and clip-vit-base-patch32's."""

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
"""What facebook/bart-base says beyond the defaults, which are bart-large's."""
SMALL_BART = {
    "d_model": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 384,
    "decoder_ffn_dim": 384,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
SMALL_CLIP = {
    "projection_dim": 64,
    "text_config": {**SMALL_BERT, "projection_dim": 64},
    "vision_config": {**SMALL_BERT, "projection_dim": 64},
}


def checkpoint(name: str, architecture: str, fields: dict[str, Any]) -> Path:
    """A directory with the checkpoint, in the cache."""

    def built() -> Any:
        import transformers

        config_class = transformers.BertConfig if architecture == "BertModel" else transformers.CLIPConfig
        return getattr(transformers, architecture)(config_class(**fields))

    return _saved(name, built)


VARIED = 0.2
"""The deviation of new weights with which GPT-2 and bert2gpt2 write many tokens; with 0.02 they repeat one."""


def bert2gpt2(*, small: bool = False, deviation: float = 0.02) -> Path:
    """A directory with bert-base and gpt2 as an encoder and a decoder with cross-attention, in the cache."""

    def built() -> Any:
        from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2Config

        spread = {"initializer_range": deviation}
        encoder: Any = BertConfig.from_dict((SMALL_BERT if small else {}) | spread)
        decoder: Any = GPT2Config.from_dict((SMALL_GPT2 if small else {}) | spread)
        config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        config.decoder_start_token_id, config.pad_token_id = 50_256, 0  # no label is a pad
        return EncoderDecoderModel(config)

    return _saved(f"{'small-' * small}bert2gpt2{'-varied' * (deviation == VARIED)}", built)


def gpt2(*, small: bool = False) -> Path:
    """A directory with the smallest of GPT-2's sizes, in the cache."""

    def built() -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config.from_dict((SMALL_GPT2 if small else {}) | {"initializer_range": VARIED}))

    return _saved("small-gpt2-varied" if small else "gpt2-varied", built)


def bart_base(*, small: bool = False) -> Path:
    """A directory with bart-base, in the cache; positions say most, or it repeats one token whatever its weights."""

    def built() -> Any:
        from transformers import BartConfig, BartForConditionalGeneration

        model = BartForConditionalGeneration(BartConfig.from_dict(SMALL_BART if small else BART_BASE))
        model.model.decoder.embed_positions.weight.data.mul_(10)
        return model

    return _saved("small-bart-base-varied" if small else "bart-base-varied", built)


def _saved(name: str, built: Callable[[], Any]) -> Path:
    directory = peers.CACHE / "checkpoints" / name
    if not (directory / "config.json").exists():
        import torch

        logging.getLogger("transformers").setLevel(logging.ERROR)
        print(f"making {directory}", flush=True)
        partial = directory.with_name(f".{name}.{os.getpid()}")
        torch.manual_seed(0)
        built().save_pretrained(partial, max_shard_size="10GB")
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    return directory


def largest_tensor(file: Path) -> int:
    """Bytes of the largest tensor of a safetensors file."""
    with safe_open(file, "numpy") as tensors:
        return max(tensors.get_tensor(name).nbytes for name in tensors.keys())  # noqa: SIM118 -- it is no dict


def size(file: Path, counts: Callable[[str], bool]) -> int:
    """Bytes of the tensors of a safetensors file whose names count."""
    with safe_open(file, "numpy") as tensors:
        return sum(tensors.get_tensor(name).nbytes for name in tensors.keys() if counts(name))  # noqa: SIM118
