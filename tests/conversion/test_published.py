"""The checkpoints that people use, at their real sizes and without values: every name and shape finds its place."""

import functools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion.published_names import published_names
from diptych.core.checkpoint import matching
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.registry import config_classes, families, relatives, within

BACKENDS = {"jax": in_jax, "torch": in_torch}
Shapes = dict[str, tuple[int, ...]]


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


def trocr(parameters, *, sinusoids, **sizes):
    """The decoder alone, untied; sinusoidal positions have a buffer that marks their device."""
    return Published(
        {"model_type": "trocr", "use_learned_position_embeddings": not sinusoids, "tie_word_embeddings": False}
        | {"layernorm_embedding": not sinusoids, "activation_function": "relu", "scale_embedding": True}
        | sizes,
        file="TrOCRForCausalLM",
        parameters=parameters,
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


def captions(decoder, head, words, **encoder):
    """A composite with ViT, whose file has what is tied twice, and positions or masks as buffers."""
    buffers: Shapes = {"decoder.bert.embeddings.position_ids": (1, 512)} if decoder["model_type"] == "bert" else {}
    if decoder["model_type"] == "gpt2":
        for layer in range(12):
            for attention in ("attn", "crossattention"):
                buffers[f"decoder.transformer.h.{layer}.{attention}.bias"] = (1, 1, 1024, 1024)
                buffers[f"decoder.transformer.h.{layer}.{attention}.masked_bias"] = ()
    copies = {f"decoder.{head}.weight": f"decoder.{words}.weight"}
    if head.endswith(".decoder"):
        copies[f"decoder.{head}.bias"] = f"decoder.{head.removesuffix('.decoder')}.bias"
    return Published(
        {
            "model_type": "vision-encoder-decoder",
            "encoder": {"model_type": "vit"} | encoder,
            "decoder": decoder | DECODER,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
        file="VisionEncoderDecoderModel",
        copies=copies,
        buffers=buffers,
    )


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
BASE = {
    "d_model": 768,
    "encoder_layers": 6,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_layers": 6,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
}
SWIN_BASE = {"depths": [2, 2, 18, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32]}
DONUT = SWIN_BASE | {"depths": [2, 2, 14, 2], "hidden_size": 1024}
OPENAI = {"hidden_act": "quick_gelu", "eos_token_id": 2}
DECODER = {"add_cross_attention": True, "is_decoder": True}
# the parts of composites
UNCASED = {"model_type": "bert", "vocab_size": 30_522, "max_position_embeddings": 512}
CASED = UNCASED | {"vocab_size": 28_996}
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50_265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
GENERATION = {"model_type": "bert-generation", "max_position_embeddings": 512}

PUBLISHED = {
    "openai/clip-vit-base-patch32": clip((512, 2048, 12, 8), (768, 3072, 12, 12, 32), 512, 151_277_313, **OPENAI),
    "openai/clip-vit-large-patch14": clip((768, 3072, 12, 12), (1024, 4096, 24, 16, 14), 768, 427_616_513, **OPENAI),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": clip(
        (1024, 4096, 24, 16), (1280, 5120, 32, 16, 14), 1024, 986_109_441, hidden_act="gelu"
    ),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": clip(
        (1280, 5120, 32, 20), (1664, 8192, 48, 16, 14), 1280, 2_539_567_105, hidden_act="gelu"
    ),
    "google-bert/bert-base-uncased": bert(110_106_428),
    "google-bert/bert-large-uncased": bert(336_226_108, **LARGE),
    "google/bert_for_seq_generation_L-24_bbc_encoder": Published(
        {"model_type": "bert-generation"},
        file="BertGenerationEncoder",
        buffers={"embeddings.position_ids": (1, 512)},
        fresh={"BertGenerationDecoder": ("lm_head",)},
    ),
    "FacebookAI/roberta-base": roberta("Roberta", "roberta", 124_645_632, pooler=False, vocab_size=50_265),
    "FacebookAI/roberta-large": roberta("Roberta", "roberta", 355_359_744, pooler=True, vocab_size=50_265, **LARGE),
    "FacebookAI/roberta-base as a decoder": roberta("Roberta", "roberta", None, pooler=False, **DECODER),
    "FacebookAI/xlm-roberta-base": roberta("XLMRoberta", "xlm-roberta", 278_043_648, pooler=False, vocab_size=250_002),
    "almanach/camembert-base": roberta("Camembert", "camembert", 110_621_952, pooler=True, vocab_size=32_005),
    "distilbert/distilgpt2": gpt2(81_912_576, prefix="transformer.", n_layer=6),
    "openai-community/gpt2": gpt2(124_439_808),
    "openai-community/gpt2-medium": gpt2(354_823_168, n_embd=1024, n_head=16, n_layer=24),
    "openai-community/gpt2-large": gpt2(774_030_080, n_embd=1280, n_head=20, n_layer=36),
    "openai-community/gpt2-xl": gpt2(1_557_611_200, n_embd=1600, n_head=25, n_layer=48),
    "openai-community/gpt2 as a decoder": gpt2(None, prefix="transformer.", crosses=True, **DECODER),
    "facebook/bart-base": bart("Bart", "bart", 139_420_416, "Model", **BASE),
    "facebook/bart-large-cnn": bart("Bart", "bart", 406_290_432, "ForConditionalGeneration", vocab_size=50_264),
    "facebook/bart-large-mnli": bart(
        "Bart", "bart", 407_344_131, "ForSequenceClassification", counted="ForSequenceClassification", num_labels=3
    ),
    "facebook/mbart-large-cc25": bart(
        "MBart", "mbart", 610_851_840, "ForConditionalGeneration", vocab_size=250_027, scale_embedding=True
    ),
    "facebook/mbart-large-50": bart(
        "MBart", "mbart", 610_879_488, "ForConditionalGeneration", vocab_size=250_054, scale_embedding=True
    ),
    "microsoft/trocr-small-printed's decoder": trocr(
        None,
        sinusoids=False,
        cross_attention_hidden_size=384,
        d_model=256,
        decoder_attention_heads=8,
        decoder_ffn_dim=1024,
        decoder_layers=6,
        vocab_size=64_044,
    ),
    "microsoft/trocr-base-handwritten's decoder": trocr(None, sinusoids=True, cross_attention_hidden_size=768),
    "microsoft/trocr-large-printed's decoder": trocr(None, sinusoids=True, cross_attention_hidden_size=1024),
    "microsoft/swin-tiny-patch4-window7-224": swin(
        "Swin", "swin", 28_288_354, "ForImageClassification", depths=[2, 2, 6, 2], window_size=7, num_labels=1000
    ),
    "microsoft/swin-base-patch4-window7-224-in22k": swin(
        "Swin", "swin", 109_130_249, "ForImageClassification", window_size=7, num_labels=21_841, **SWIN_BASE
    ),
    "google/vit-base-patch16-224-in21k": vit("ViT", "vit", 86_389_248, "Model"),
    "google/vit-base-patch16-224": vit("ViT", "vit", 86_567_656, "ForImageClassification"),
    "google/vit-large-patch16-384": vit("ViT", "vit", 304_715_752, "ForImageClassification", **LARGE, image_size=384),
    "facebook/deit-base-distilled-patch16-224": vit("DeiT", "deit", 87_338_192, "ForImageClassificationWithTeacher"),
    "microsoft/beit-base-patch16-224-pt22k-ft22k": beit(
        "BeitForImageClassification", num_labels=21_841, fresh={"BeitForMaskedImageModeling": ("layernorm", "lm_head")}
    ),
    "microsoft/beit-base-patch16-224-pt22k": beit(
        "BeitForMaskedImageModeling",
        shared=True,
        fresh={"BeitModel": ("pooler",), "BeitForImageClassification": ("beit.pooler", "classifier")},
    ),
    "microsoft/beit-base-finetuned-ade-640-640": beit(
        "BeitForSemanticSegmentation",
        image_size=640,
        num_labels=150,
        counted="BeitModel",
        fresh={
            "BeitModel": ("pooler",),
            "BeitForMaskedImageModeling": ("layernorm", "lm_head"),
            "BeitForImageClassification": ("beit.pooler", "classifier"),
        },
    ),
    "nlpconnect/vit-gpt2-image-captioning": captions({"model_type": "gpt2"}, "lm_head", "transformer.wte"),
    "kha-white/manga-ocr-base": captions(
        UNCASED | {"vocab_size": 6144, "num_hidden_layers": 2},
        "cls.predictions.decoder",
        "bert.embeddings.word_embeddings",
    ),
    "a captioner of ViT large and BERT, whose widths differ": captions(
        UNCASED, "cls.predictions.decoder", "bert.embeddings.word_embeddings", **LARGE, image_size=384
    ),
    "naver-clova-ix/donut-base's encoder": swin(
        "DonutSwin", "donut-swin", None, "Model", window_size=10, image_size=[2560, 1920], **DONUT
    ),
    "facebook/nougat-base's encoder, and nougat-small's": swin(
        "DonutSwin", "donut-swin", None, "Model", window_size=7, image_size=[896, 672], **DONUT
    ),
    "patrickvonplaten/bert2bert_cnn_daily_mail": composite(
        UNCASED, UNCASED, "cls.predictions.decoder", "bert.embeddings.word_embeddings"
    ),
    "patrickvonplaten/bert2gpt2-cnn_dailymail-fp16": composite(
        CASED, {"model_type": "gpt2"}, "lm_head", "transformer.wte"
    ),
    "patrickvonplaten/roberta2roberta-cnn_dailymail-fp16": composite(
        ROBERTA, ROBERTA, "lm_head.decoder", "roberta.embeddings.word_embeddings"
    ),
    "google/roberta2roberta_L-24_cnn_daily_mail": composite(
        ROBERTA | LARGE, ROBERTA | LARGE, "lm_head.decoder", "roberta.embeddings.word_embeddings"
    ),
    "google/bert2bert_L-24_wmt_de_en": composite(
        GENERATION, GENERATION, "lm_head.decoder", "bert.embeddings.word_embeddings"
    ),
    "a bert2bart, whose widths differ": composite(
        UNCASED, {"model_type": "bart"}, "lm_head", "model.decoder.embed_tokens"
    ),
}
CASES = [
    (name, architecture)
    for name, published in PUBLISHED.items()
    for architecture in families()[published.config["model_type"].replace("-", "_")].classes
]


def family_of(name):
    return families()[PUBLISHED[name].config["model_type"].replace("-", "_")]


@functools.cache
def config_of(name):
    fields = PUBLISHED[name].config
    return config_classes()[fields["model_type"]].from_json(json.dumps(fields), source=name)


@functools.cache
def saved_by_transformers(name, architecture):
    """Name -> shape of what `save_pretrained` of transformers writes, which stores tied tensors once."""
    config = transformers.AutoConfig.for_model(**PUBLISHED[name].config)
    their_class = getattr(transformers, architecture)
    if not isinstance(config, their_class.config_class):
        part = "text_config" if their_class.config_class is transformers.CLIPTextConfig else "vision_config"
        config = type(getattr(config, part))(
            **getattr(config, part).to_dict() | {"projection_dim": config.projection_dim}
        )
    with torch.device("meta"):
        model = their_class(config)
    tied = model.all_tied_weights_keys  # a tied name -> the name that holds it
    on_disk = published_names(model)
    kept = {key: tensor for key, tensor in model.state_dict().items() if key not in tied and tensor.is_floating_point()}
    return {on_disk[key]: tuple(tensor.shape) for key, tensor in kept.items()}


def file_of(name):
    """Name -> shape of what the hub's file has."""
    published = PUBLISHED[name]
    shapes = saved_by_transformers(name, published.file)
    copies = {copy: shapes[original] for copy, original in published.copies.items()}
    return shapes | published.besides | copies | published.buffers


@functools.cache
def slots_of(backend, name, architecture, config=None):
    """The parameters of a class; those that a checkpoint's config gives it, if no other is given."""
    if config is None:
        config = config_of(name).part(family_of(name).classes[architecture])
    return tuple(getattr(BACKENDS[backend], architecture)(config, seed=None)._leaves())


def unread():
    raise AssertionError("a tensor was read")


@pytest.fixture
def matched(monkeypatch):
    """Matches tensors that have no values with the slots, which are the same in both backends."""
    # where a tensor comes from stands for its values: two are equal that come from one
    monkeypatch.setattr(matching, "read_bytes", lambda source, name: source.origin)

    def match(name, architecture, shapes, copied=None, **options):
        config, copies = config_of(name), PUBLISHED[name].copies
        family = within(family_of(name), config)
        tensors = {
            key: TensorSource(shape, np.dtype(np.float32), unread, copies.get(key, key))
            for key, shape in shapes.items()
        }
        target = matching.Target(
            architecture,
            slots_of("torch", name, architecture),
            family,
            lambda: [
                {f"{below}{slot.path}" for slot in slots_of("torch", name, other, part)}
                for below, other, part in relatives(family, config)
            ],
            copied or {},
        )
        return matching.match(matching.NamedTensors(name, tensors), target, **options)

    return match


def bare(name, family):
    """A tensor's name without a base model's prefix, so that a slot and what fills it have one."""
    for prefix in family.prefixes:
        name = name.removeprefix(prefix)
    return name.replace("decoder.embed_tokens.", "shared.")  # where a decoder of BART's stands alone


def assert_names_agree(name, found):
    family = family_of(name)
    assert [bare(filling.name, family) for filling in found.fillings] == [
        bare(filling.slot.path, family) for filling in found.fillings
    ]


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_both_backends_have_the_same_parameters(name, architecture):
    slots = slots_of("torch", name, architecture)
    assert len(set(slots)) == len(slots) > 0
    assert Counter(slots) == Counter(slots_of("jax", name, architecture))


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_every_tensor_that_transformers_saves_has_its_place(name, architecture, matched):
    shapes = saved_by_transformers(name, architecture)
    found = matched(name, architecture, shapes)
    assert len(found.fillings) == len(shapes) == len(slots_of("torch", name, architecture))
    assert found.left_out == found.ignored == found.fresh == found.constant == ()
    assert all(filling.axes == tuple(range(len(filling.slot.shape))) for filling in found.fillings)
    assert_names_agree(name, found)


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_every_class_is_filled_from_the_published_file(name, architecture, matched):
    published, file = PUBLISHED[name], file_of(name)
    missing = published.fresh.get(architecture, ())
    found = matched(name, architecture, file, allow_fresh=missing)
    used = [filling.name for filling in found.fillings]
    assert sorted([*used, *found.left_out, *found.ignored]) == sorted(file)
    assert (
        set(published.buffers)
        <= set(found.ignored)
        <= {
            *published.buffers,
            *published.copies,
            *published.copies.values(),
        }
    )
    assert not set(found.left_out) & set(published.buffers)
    assert_names_agree(name, found)
    assert {module for module in missing for slot in found.fresh if f"{slot.path}.".startswith(f"{module}.")} == set(
        missing
    )
    assert all(f"{slot.path}.".startswith(tuple(f"{module}." for module in missing)) for slot in found.fresh)
    # a file without it means zeros
    assert {slot.path for slot in found.constant} <= {"final_logits_bias"} - set(file)
    slots = slots_of("torch", name, architecture)
    assert len(found.fillings) + len(found.fresh) + len(found.constant) == len(slots)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if PUBLISHED[name].parameters is not None])
def test_the_number_of_parameters_is_the_published_one(name):
    slots = slots_of("torch", name, PUBLISHED[name].counted or PUBLISHED[name].file)
    assert sum(int(np.prod(slot.shape)) for slot in slots) == PUBLISHED[name].parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_tensor_out_of_place_is_noticed(name, matched):
    """A sample of the names in turn missing, and in turn of another shape."""
    architecture = PUBLISHED[name].counted or PUBLISHED[name].file
    shapes = saved_by_transformers(name, architecture)
    for key in list(shapes)[:: max(1, len(shapes) // 20)]:
        without = {other: shape for other, shape in shapes.items() if other != key}
        with pytest.raises(ValueError, match="1 tensor is missing: "):
            matched(name, architecture, without)
        with pytest.raises(ValueError, match="1 tensor has another shape: "):
            matched(name, architecture, shapes | {key: (*shapes[key][:-1], 3)})


def test_cross_attention_belongs_to_no_class_without_it(matched):
    shapes = saved_by_transformers("openai-community/gpt2 as a decoder", "GPT2LMHeadModel")
    with pytest.raises(ValueError, match=r"96 tensors belong to no class of the family: transformer\.h\.0\.cross"):
        matched("openai-community/gpt2", "GPT2LMHeadModel", shapes)


def test_a_shared_model_gives_its_encoder_what_the_decoder_has(matched):
    """patrickvonplaten/roberta_shared_bbc_xsum: as transformers saves it; its pooler is apart."""
    name, family = "patrickvonplaten/roberta2roberta-cnn_dailymail-fp16", families()["encoder_decoder"]
    whole = saved_by_transformers(name, "EncoderDecoderModel")
    shapes = {key: shape for key, shape in whole.items() if not key.startswith("encoder.") or "pooler" in key}
    tied = config_of(name).replace(tie_encoder_decoder=True)
    copied = family.copied(tied, [slot.path for slot in slots_of("torch", name, "EncoderDecoderModel")])
    found = matched(name, "EncoderDecoderModel", shapes, copied=copied)
    assert len(found.fillings) == len(whole) and {filling.name for filling in found.fillings} == set(shapes)
    twins = {filling.slot.path: filling.name for filling in found.fillings if filling.slot.path != filling.name}
    assert twins == copied and len(twins) == len(whole) - len(shapes) > 190
    assert twins["encoder.encoder.layer.3.output.dense.bias"] == "decoder.roberta.encoder.layer.3.output.dense.bias"
    assert not any("crossattention" in twin for twin in twins.values())
    with pytest.raises(ValueError, match="197 tensors are missing: encoder"):
        matched(name, "EncoderDecoderModel", shapes)
