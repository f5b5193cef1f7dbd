"""What kinds of checkpoints the hub holds: how the files of a family differ from what transformers saves."""

from dataclasses import dataclass, field
from typing import Any

Shapes = dict[str, tuple[int, ...]]
SWIN_BASE = {"depths": [2, 2, 18, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32]}
DONUT = SWIN_BASE | {"depths": [2, 2, 14, 2], "hidden_size": 1024}
DECODER = {"add_cross_attention": True, "is_decoder": True}
# the parts of composites


@dataclass(frozen=True)
class Published:
    """A checkpoint of the hub.

    Attributes:
        config: what its config.json says, but for defaults.
        file: the class of which its file has the tensors, as transformers saves them.
        counted: the class whose parameters were counted, if not that of the file.
        parameters: how many there are, as published, tied ones once; None where nobody published it.
        besides: more tensors of the file.
        copies: tensors that the file has twice -> their other name.
        buffers: tensors of the file that are no weights.
        fresh: class -> modules that the file lacks.
    """

    config: dict[str, Any]
    file: str
    counted: str | None = None
    parameters: int | None = None
    besides: Shapes = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    buffers: Shapes = field(default_factory=dict)
    fresh: dict[str, tuple[str, ...]] = field(default_factory=dict)


def clip(text, vision, projection, parameters, **fields):
    """What the towers leave out has the defaults of openai/clip-vit-base-patch32."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": projection,
        "text_config": dict(zip(names, text, strict=True)) | {"model_type": "clip_text_model"} | fields,
        "vision_config": dict(zip((*names, "patch_size"), vision, strict=True))
        | {"model_type": "clip_vision_model"}
        | fields,
    }
    return Published(
        config,
        file="CLIPModel",
        parameters=parameters,
        buffers={f"{tower}.embeddings.position_ids": (1, 77) for tower in ("text_model", "vision_model")},
        fresh={"CLIPForImageClassification": ("classifier",)},
    )


def bert(parameters, **sizes):
    return Published(
        {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30_522} | sizes,
        file="BertForPreTraining",
        parameters=parameters,
        copies={
            "cls.predictions.decoder.bias": "cls.predictions.bias",
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        },
        buffers={"bert.embeddings.position_ids": (1, 512)},
        fresh={"BertForSequenceClassification": ("classifier",)},
    )


def roberta(name, model_type, parameters, *, pooler, **sizes):
    """Some files have the pooler of RobertaModel beside the head, some lack it."""
    width = sizes.get("hidden_size", 768)
    fresh = {f"{name}ForSequenceClassification": ("classifier",)}
    return Published(
        {"model_type": model_type, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
        | sizes,
        file=f"{name}ForMaskedLM",
        counted=f"{name}Model",
        parameters=parameters,
        besides={"roberta.pooler.dense.weight": (width, width), "roberta.pooler.dense.bias": (width,)}
        if pooler
        else {},
        copies={
            "lm_head.decoder.bias": "lm_head.bias",
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        },
        buffers={"roberta.embeddings.position_ids": (1, 514)},
        fresh=fresh if pooler else fresh | {f"{name}Model": ("pooler",)},
    )


def gpt2(parameters, *, prefix="", crosses=False, **sizes):
    """The files of openai lack the prefix, others have it; all have the masks of old as buffers."""
    attentions = ("attn", "crossattention") if crosses else ("attn",)
    buffers: Shapes = {}
    for layer in range(sizes.get("n_layer", 12)):
        for attention in attentions:
            buffers[f"{prefix}h.{layer}.{attention}.bias"] = (1, 1, 1024, 1024)
            buffers[f"{prefix}h.{layer}.{attention}.masked_bias"] = ()
    return Published(
        {"model_type": "gpt2"} | sizes,
        file="GPT2LMHeadModel" if prefix else "GPT2Model",
        parameters=parameters,
        copies={"lm_head.weight": f"{prefix}wte.weight"} if prefix else {},
        buffers=buffers,
    )


def bart(name, model_type, parameters, head, *, counted="Model", **sizes):
    """fairseq's version and the words of each stack stand in the first files, with or without a prefix."""
    prefix = "" if head == "Model" else "model."
    words = {f"{prefix}{stack}.embed_tokens.weight": f"{prefix}shared.weight" for stack in ("encoder", "decoder")}
    missing = {f"{name}ForSequenceClassification": ("classification_head",)}
    return Published(
        {"model_type": model_type} | sizes,
        file=f"{name}{head}",
        counted=f"{name}{counted}",
        parameters=parameters,
        copies=words | ({"lm_head.weight": "model.shared.weight"} if head == "ForConditionalGeneration" else {}),
        buffers={f"{prefix}encoder.version": (1,), f"{prefix}decoder.version": (1,)},
        fresh={} if head == "ForSequenceClassification" else missing,
    )


def trocr(*, sinusoids, **sizes):
    """The decoder alone, untied; sinusoidal positions have a buffer that marks their device."""
    return Published(
        {"model_type": "trocr", "use_learned_position_embeddings": not sinusoids, "tie_word_embeddings": False}
        | {"layernorm_embedding": not sinusoids, "activation_function": "relu", "scale_embedding": True}
        | sizes,
        file="TrOCRForCausalLM",
        buffers={"model.decoder.embed_positions._float_tensor": (1,)} if sinusoids else {},
    )


def vit(name, model_type, parameters, head, **sizes):
    """Where a file has a head, it lacks the pooler."""
    heads = {"ForImageClassification": ("classifier",)}
    if model_type == "deit":
        heads["ForImageClassificationWithTeacher"] = ("cls_classifier", "distillation_classifier")
    fresh = {f"{name}{other}": modules for other, modules in heads.items() if other != head}
    fresh |= {f"{name}ForMaskedImageModeling": ("decoder", f"{model_type}.embeddings.mask_token")}
    return Published(
        {"model_type": model_type, "num_labels": 1000} | sizes,
        file=f"{name}{head}",
        parameters=parameters,
        fresh=fresh if head == "Model" else fresh | {f"{name}Model": ("pooler",)},
    )


def swin(name, model_type, parameters, head, *, depths, **sizes):
    """Each layer's file has the places in its table, as numbers in a buffer."""
    prefix = "" if head == "Model" else "swin."
    places = (sizes["window_size"] ** 2,) * 2
    buffers: Shapes = {
        f"{prefix}encoder.layers.{stage}.blocks.{block}.attention.self.relative_position_index": places
        for stage, depth in enumerate(depths)
        for block in range(depth)
    }
    return Published(
        {"model_type": model_type, "depths": depths} | sizes,
        file=f"{name}{head}",
        parameters=parameters,
        buffers=buffers,
        fresh={f"{name}ForImageClassification": ("classifier",)}
        if head == "Model"
        else {f"{name}ForMaskedImageModeling": ("decoder", "swin.embeddings.mask_token")},
    )


def speech(name, model_type, architecture, parameters=None, **sizes):
    """A speech encoder; files of the base model have no heads, and files with one head lack the other's."""
    heads = {f"{name}ForCTC": ("lm_head",), f"{name}ForSequenceClassification": ("projector", "classifier")}
    if name == "Wav2Vec2":
        heads["Wav2Vec2ForPreTraining"] = ("quantizer", "project_hid", "project_q")
    return Published(
        {"model_type": model_type, "architectures": [name + architecture], **sizes},
        file=name + architecture,
        parameters=parameters,
        fresh={other: missing for other, missing in heads.items() if other != name + architecture},
    )


def composite(encoder, decoder, head, words):
    """Files of before transformers 4.31: what is tied stands there twice, and positions are buffers.

    Args:
        encoder, decoder: what their configs say.
        head, words: where the decoder's output layer stands, and its words.
    """
    buffers = {"encoder.embeddings.position_ids": (1, encoder["max_position_embeddings"])}
    if decoder["model_type"] == "gpt2":
        layers = range(decoder.get("n_layer", 12))
        buffers |= {f"decoder.transformer.h.{layer}.crossattention.bias": (1, 1, 1024, 1024) for layer in layers}
    copies = {f"decoder.{head}.weight": f"decoder.{words}.weight"}
    if head.endswith(".decoder"):
        copies[f"decoder.{head}.bias"] = f"decoder.{head.removesuffix('.decoder')}.bias"
    return Published(
        {
            "model_type": "encoder-decoder",
            "encoder": encoder,
            "decoder": decoder | DECODER,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
        file="EncoderDecoderModel",
        copies=copies,
        buffers=buffers,
    )


def transcriber(encoder, decoder):
    """A composite that reads sound, whose decoder's output layer is tied to its words, and stored with them."""
    return Published(
        {
            "model_type": "speech-encoder-decoder",
            "encoder": {"model_type": "wav2vec2", **encoder},
            "decoder": decoder | DECODER,
            "pad_token_id": 1,
            "decoder_start_token_id": 2,
        },
        file="SpeechEncoderDecoderModel",
        copies={"decoder.lm_head.weight": "decoder.model.decoder.embed_tokens.weight"},
    )


def beit(file, *, fresh, shared=False, counted=None, **fields):
    """The numbers of the distances are buffers, one for each table."""
    side = fields.get("image_size", 224) // 16
    tables = ["encoder"] if shared else [f"encoder.layer.{layer}.attention.attention" for layer in range(12)]
    shape = (side**2 + 1, side**2 + 1)
    return Published(
        {
            "model_type": "beit",
            "use_relative_position_bias": not shared,
            "use_shared_relative_position_bias": shared,
            "use_mask_token": shared,
            "out_indices": [3, 5, 7, 11],
        }
        | fields,
        file=file,
        counted=counted,
        buffers={f"beit.{table}.relative_position_bias.relative_position_index": shape for table in tables},
        fresh=fresh,
    )


def captions(encoder, decoder, head, words):
    """A composite that reads images, whose file has what is tied twice, and positions or masks as buffers.

    Args:
        encoder, decoder: what their configs say.
        head, words: where the decoder's output layer stands, and its words; None where they are not tied.
    """
    buffers: Shapes = {"decoder.bert.embeddings.position_ids": (1, 512)} if decoder["model_type"] == "bert" else {}
    if decoder["model_type"] == "gpt2":
        for layer in range(12):
            for attention in ("attn", "crossattention"):
                buffers[f"decoder.transformer.h.{layer}.{attention}.bias"] = (1, 1, 1024, 1024)
                buffers[f"decoder.transformer.h.{layer}.{attention}.masked_bias"] = ()
    if encoder["model_type"] == "donut-swin":
        shape = (encoder["window_size"] ** 2,) * 2
        for stage, depth in enumerate(encoder["depths"]):
            for block in range(depth):
                name = f"encoder.encoder.layers.{stage}.blocks.{block}.attention.self.relative_position_index"
                buffers[name] = shape
    copies = {} if words is None else {f"decoder.{head}.weight": f"decoder.{words}.weight"}
    if head.endswith(".decoder"):
        copies[f"decoder.{head}.bias"] = f"decoder.{head.removesuffix('.decoder')}.bias"
    return Published(
        {
            "model_type": "vision-encoder-decoder",
            "encoder": encoder,
            "decoder": decoder | DECODER,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
        file="VisionEncoderDecoderModel",
        copies=copies,
        buffers=buffers,
    )


def donut(image_size, **decoder):
    """Donut and Nougat: DonutSwin and the decoder of MBart."""
    window = 10 if max(image_size) > 1000 else 7
    encoder = {"model_type": "donut-swin", "image_size": image_size, "window_size": window} | DONUT
    sizes = {"d_model": 1024, "scale_embedding": True, "add_final_layer_norm": True}
    return captions(encoder, {"model_type": "mbart"} | sizes | decoder, "lm_head", "model.decoder.embed_tokens")


def recognizer(encoder, decoder):
    """TrOCR: ViT or DeiT, and its own decoder, whose head is not tied."""
    return captions(encoder, decoder, "output_projection", None)


def idefics(**sizes):
    """Files of transformers 4.32: every layer has its rotary frequencies, and the images' positions are numbered."""
    config = {"model_type": "idefics", "vocab_size": 32_000, "additional_vocab_size": 2, "use_resampler": True} | sizes
    layers = config["num_hidden_layers"]
    head = config["hidden_size"] // config["num_attention_heads"]
    paths = [f"layers.{layer}.self_attn" for layer in range(layers)]
    gated = range(layers // config["cross_layer_interval"])
    paths += [f"gated_cross_attn_layers.{layer}.cross_attn" for layer in gated]
    patches = (config["vision_config"]["image_size"] // config["vision_config"]["patch_size"]) ** 2
    return Published(
        config,
        file="IdeficsForVisionText2Text",
        buffers={
            **{f"model.{path}.rotary_emb.inv_freq": (head // 2,) for path in paths},
            "model.vision_model.embeddings.position_ids": (1, patches + 1),
        },
    )
