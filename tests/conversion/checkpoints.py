"""Tiny checkpoints in the published PyTorch layout, the same bytes on every machine.

`record_flax.py` and the tests write them from this one recipe, each in its own environment; so only numpy and
safetensors may be imported here. Every size in a config differs from the others: a transposed or misplaced tensor
cannot fit by chance.
"""

import hashlib
import json
from math import prod, sqrt
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Config = dict[str, object]
Shapes = dict[str, tuple[int, ...]]

# 6 heads of 8
CLIP_TEXT: dict[str, int] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "vocab_size": 67,
    "max_position_embeddings": 13,
    "projection_dim": 18,
    "pad_token_id": 1,
    "bos_token_id": 65,
    "eos_token_id": 66,
}
# 7 heads of 5; 16 patches, 17 positions
CLIP_VISION: dict[str, int] = {
    "hidden_size": 35,
    "intermediate_size": 56,
    "num_attention_heads": 7,
    "num_hidden_layers": 4,
    "num_channels": 3,
    "image_size": 36,
    "patch_size": 9,
    "projection_dim": 18,
}
# 5 heads of 4
BERT: dict[str, int] = {
    "hidden_size": 20,
    "intermediate_size": 44,
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "vocab_size": 61,
    "max_position_embeddings": 19,
    "type_vocab_size": 7,
    "pad_token_id": 0,
}
# 4 heads of 6
GPT2: dict[str, int] = {
    "n_embd": 24,
    "n_inner": 52,
    "n_head": 4,
    "n_layer": 2,
    "vocab_size": 59,
    "n_positions": 17,
    "bos_token_id": 58,
    "eos_token_id": 58,
}
LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")

CLIP_NAMES = ("CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel")
BERT_NAMES = ("BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification", "BertModel")
GPT2_NAMES = ("GPT2LMHeadModel", "GPT2Model")
NAMES = (*BERT_NAMES, *CLIP_NAMES, *GPT2_NAMES)


def config(name: str) -> Config:
    """The config.json of the checkpoint `name`, one of NAMES, with the fields that files on the hub have."""
    common: Config = {"architectures": [name], "torch_dtype": "float32", "transformers_version": "4.57.6"}
    clip: Config = {
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
    }
    text: Config = {**clip, **CLIP_TEXT, "model_type": "clip_text_model"}
    vision: Config = {**clip, **CLIP_VISION, "model_type": "clip_vision_model"}
    bert: Config = {
        **BERT,
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "use_cache": True,
    }
    gpt2: Config = {
        **GPT2,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": 17,
        "resid_pdrop": 0.1,
    }
    match name:
        case "CLIPModel":
            return common | {
                "initializer_factor": 1.0,
                "logit_scale_init_value": 2.6592,
                "model_type": "clip",
                "projection_dim": CLIP_TEXT["projection_dim"],
                "text_config": text,
                "vision_config": vision,
            }
        case "CLIPTextModel" | "CLIPTextModelWithProjection":
            return common | text
        case "CLIPVisionModel":
            return common | vision
        case "BertForSequenceClassification":
            labels: Config = {
                "id2label": {str(index): label for index, label in enumerate(LABELS)},
                "label2id": {label: index for index, label in enumerate(LABELS)},
            }
            return common | bert | labels
        case "BertForMaskedLM" | "BertForPreTraining" | "BertModel":
            return common | bert
        case "GPT2Model":
            return common | gpt2
        case "GPT2LMHeadModel":  # as the decoder of a composite
            return common | gpt2 | {"add_cross_attention": True, "is_decoder": True}
        case _:
            raise ValueError(f"checkpoints.config: name={name!r} must be one of {', '.join(NAMES)}.")


def shapes(name: str) -> Shapes:
    """Every published tensor name of the checkpoint `name`, one of NAMES, with its shape."""
    width = BERT["hidden_size"]
    match name:
        case "CLIPModel":
            projections = _clip_text_projection() | _clip_visual_projection()
            return _clip_text() | _clip_vision() | projections | {"logit_scale": ()}
        case "CLIPTextModel":
            return _clip_text()
        case "CLIPTextModelWithProjection":
            return _clip_text() | _clip_text_projection()
        case "CLIPVisionModel":
            return _clip_vision()
        case "BertModel":
            return _bert("", pooler=True)
        case "BertForMaskedLM":
            return _bert("bert.", pooler=False) | _bert_predictions()
        case "BertForPreTraining":
            return _bert("bert.", pooler=True) | _bert_predictions() | _affine("cls.seq_relationship", 2, width)
        case "BertForSequenceClassification":
            return _bert("bert.", pooler=True) | _affine("classifier", len(LABELS), width)
        case "GPT2Model":
            return _gpt2("", crosses=False)
        case "GPT2LMHeadModel":
            return _gpt2("transformer.", crosses=True)
        case _:
            raise ValueError(f"checkpoints.shapes: name={name!r} must be one of {', '.join(NAMES)}.")


def values(name: str, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Draws the float32 values of one tensor: near normal, with standard deviation 0.05.

    Each is a sum of four 16-bit integers, so that nothing depends on numpy's distributions (which may change between
    versions) or on the machine's mathematics library: numpy promises the raw stream of Philox only.

    Args:
        name: the tensor's published name; with the seed it alone decides the values.
        shape: the tensor's shape.
        seed: draws another checkpoint of the same names.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(prod(shape))
    sums = np.asarray(words).reshape(-1, 1).view(np.uint16).sum(axis=1, dtype=np.int64)
    uniforms = (sums - 2 * 65_535) / 65_536  # a sum of four centred uniforms: variance 4 / 12
    return (0.05 * sqrt(3) * uniforms).astype(np.float32).reshape(shape)


def write(directory: Path, name: str, *, seed: int = 0) -> None:
    """Writes config.json and model.safetensors of the checkpoint `name` into a directory, made if absent."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(name), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = {tensor: values(tensor, shape, seed=seed) for tensor, shape in shapes(name).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _affine(path: str, *shape: int) -> Shapes:
    return {f"{path}.weight": shape, f"{path}.bias": shape[:1]}


def _clip_encoder(tower: str, sizes: dict[str, int]) -> Shapes:
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    found: Shapes = {}
    for index in range(sizes["num_hidden_layers"]):
        layer = f"{tower}.encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= _affine(f"{layer}.self_attn.{projection}", width, width)
        found |= _affine(f"{layer}.layer_norm1", width) | _affine(f"{layer}.layer_norm2", width)
        found |= _affine(f"{layer}.mlp.fc1", inner, width) | _affine(f"{layer}.mlp.fc2", width, inner)
    return found


def _clip_text() -> Shapes:
    width = CLIP_TEXT["hidden_size"]
    return {
        "text_model.embeddings.token_embedding.weight": (CLIP_TEXT["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (CLIP_TEXT["max_position_embeddings"], width),
        **_clip_encoder("text_model", CLIP_TEXT),
        **_affine("text_model.final_layer_norm", width),
    }


def _clip_text_projection() -> Shapes:
    return {"text_projection.weight": (CLIP_TEXT["projection_dim"], CLIP_TEXT["hidden_size"])}


def _clip_vision() -> Shapes:
    width, patch = CLIP_VISION["hidden_size"], CLIP_VISION["patch_size"]
    positions = (CLIP_VISION["image_size"] // patch) ** 2 + 1
    return {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, CLIP_VISION["num_channels"], patch, patch),
        "vision_model.embeddings.position_embedding.weight": (positions, width),
        **_affine("vision_model.pre_layrnorm", width),  # the published spelling
        **_clip_encoder("vision_model", CLIP_VISION),
        **_affine("vision_model.post_layernorm", width),
    }


def _clip_visual_projection() -> Shapes:
    return {"visual_projection.weight": (CLIP_VISION["projection_dim"], CLIP_VISION["hidden_size"])}


def _bert(prefix: str, *, pooler: bool) -> Shapes:
    width, inner = BERT["hidden_size"], BERT["intermediate_size"]
    embeddings = f"{prefix}embeddings"
    found: Shapes = {
        f"{embeddings}.word_embeddings.weight": (BERT["vocab_size"], width),
        f"{embeddings}.position_embeddings.weight": (BERT["max_position_embeddings"], width),
        f"{embeddings}.token_type_embeddings.weight": (BERT["type_vocab_size"], width),
        **_affine(f"{embeddings}.LayerNorm", width),
    }
    for index in range(BERT["num_hidden_layers"]):
        layer = f"{prefix}encoder.layer.{index}"
        for projection in ("self.query", "self.key", "self.value", "output.dense"):
            found |= _affine(f"{layer}.attention.{projection}", width, width)
        found |= _affine(f"{layer}.attention.output.LayerNorm", width) | _affine(f"{layer}.output.LayerNorm", width)
        found |= _affine(f"{layer}.intermediate.dense", inner, width) | _affine(f"{layer}.output.dense", width, inner)
    return found | _affine(f"{prefix}pooler.dense", width, width) if pooler else found


def _bert_predictions() -> Shapes:
    """The head of masked language models; its decoder's weight is the word embeddings and is not stored again."""
    width = BERT["hidden_size"]
    return {
        "cls.predictions.bias": (BERT["vocab_size"],),
        **_affine("cls.predictions.transform.dense", width, width),
        **_affine("cls.predictions.transform.LayerNorm", width),
    }


def _conv1d(path: str, out: int, width: int) -> Shapes:
    """GPT-2's linear layer, published the other way round."""
    return {f"{path}.weight": (width, out), f"{path}.bias": (out,)}


def _gpt2(prefix: str, *, crosses: bool) -> Shapes:
    """The decoder; its output layer is the word embeddings and is not stored again."""
    width, inner = GPT2["n_embd"], GPT2["n_inner"]
    found: Shapes = {
        f"{prefix}wte.weight": (GPT2["vocab_size"], width),
        f"{prefix}wpe.weight": (GPT2["n_positions"], width),
        **_affine(f"{prefix}ln_f", width),
    }
    for index in range(GPT2["n_layer"]):
        layer = f"{prefix}h.{index}"
        found |= _affine(f"{layer}.ln_1", width) | _affine(f"{layer}.ln_2", width)
        found |= _conv1d(f"{layer}.attn.c_attn", 3 * width, width) | _conv1d(f"{layer}.attn.c_proj", width, width)
        found |= _conv1d(f"{layer}.mlp.c_fc", inner, width) | _conv1d(f"{layer}.mlp.c_proj", width, inner)
        if crosses:
            found |= _affine(f"{layer}.ln_cross_attn", width)
            found |= _conv1d(f"{layer}.crossattention.c_attn", 2 * width, width)
            for projection in ("q_attn", "c_proj"):
                found |= _conv1d(f"{layer}.crossattention.{projection}", width, width)
    return found
