"""What checkpoints of the hub hold: their configs, and the names and shapes of their files."""

from dataclasses import dataclass, field
from typing import Any

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
PAGE = {"image_size": 384, "qkv_bias": False}
TROCR_SMALL = {
    "cross_attention_hidden_size": 384,
    "d_model": 256,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 1024,
    "decoder_layers": 6,
    "vocab_size": 64_044,
}
VIT = {"model_type": "vit"}
WORDS = "bert.embeddings.word_embeddings"
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
STABLE = LARGE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
XLSR_1B = STABLE | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 48}
XLSR_2B = STABLE | {"hidden_size": 1920, "intermediate_size": 7680, "num_hidden_layers": 48}
ADAPTED = {"add_adapter": True, "output_hidden_size": 1024}
MBART_50 = {"model_type": "mbart", "activation_function": "relu", "scale_embedding": True, "vocab_size": 250_054}

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
    "microsoft/trocr-small-printed's decoder": trocr(sinusoids=False, **TROCR_SMALL),
    "microsoft/trocr-base-handwritten's decoder": trocr(sinusoids=True, cross_attention_hidden_size=768),
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
    "facebook/wav2vec2-base": speech("Wav2Vec2", "wav2vec2", "ForPreTraining"),
    "facebook/wav2vec2-large-xlsr-53": speech(
        "Wav2Vec2", "wav2vec2", "ForPreTraining", **STABLE, codevector_dim=768, proj_codevector_dim=768
    ),
    "facebook/wav2vec2-base-960h": speech("Wav2Vec2", "wav2vec2", "ForCTC", 94_396_320),
    "facebook/wav2vec2-large-960h-lv60-self": speech("Wav2Vec2", "wav2vec2", "ForCTC", **STABLE),
    "facebook/mms-1b-all": speech("Wav2Vec2", "wav2vec2", "ForCTC", **XLSR_1B, vocab_size=154, adapter_attn_dim=16),
    "facebook/wav2vec2-xls-r-300m-21-to-en, and -en-to-15": transcriber(STABLE | ADAPTED, MBART_50),
    "facebook/wav2vec2-xls-r-1b-21-to-en, and -en-to-15": transcriber(XLSR_1B | ADAPTED, MBART_50),
    "facebook/wav2vec2-xls-r-2b-21-to-en, and -en-to-15": transcriber(XLSR_2B | ADAPTED, MBART_50),
    "patrickvonplaten/wav2vec2-2-bart-large": transcriber(
        STABLE | ADAPTED, {"model_type": "bart", "max_position_embeddings": 1024}
    ),
    "facebook/hubert-base-ls960": speech("Hubert", "hubert", "Model"),
    "facebook/hubert-large-ls960-ft": speech("Hubert", "hubert", "ForCTC", **STABLE),
    "microsoft/wavlm-base, and -plus": speech("WavLM", "wavlm", "Model"),
    "microsoft/wavlm-large": speech("WavLM", "wavlm", "Model", **STABLE | {"conv_bias": False}),
    "nlpconnect/vit-gpt2-image-captioning": captions(VIT, {"model_type": "gpt2"}, "lm_head", "transformer.wte"),
    "kha-white/manga-ocr-base": captions(
        VIT, UNCASED | {"vocab_size": 6144, "num_hidden_layers": 2}, "cls.predictions.decoder", WORDS
    ),
    "a captioner of ViT large and BERT, whose widths differ": captions(
        VIT | LARGE | {"image_size": 384}, UNCASED, "cls.predictions.decoder", WORDS
    ),
    "microsoft/trocr-small-printed": recognizer(
        {"model_type": "deit", "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6} | PAGE,
        trocr(sinusoids=False, **TROCR_SMALL).config,
    ),
    "microsoft/trocr-base-stage1": recognizer(
        VIT | PAGE,
        trocr(sinusoids=True, cross_attention_hidden_size=768, layernorm_embedding=False).config,
    ),
    "microsoft/trocr-large-handwritten": recognizer(
        VIT | LARGE | PAGE, trocr(sinusoids=True, cross_attention_hidden_size=1024).config
    ),
    "TexTeller, which reads grey images": recognizer(
        VIT | {"image_size": 448, "num_channels": 1},
        trocr(sinusoids=False, vocab_size=15_000, max_position_embeddings=1_024, d_model=768).config,
    ),
    "naver-clova-ix/donut-base": donut(
        [2560, 1920], vocab_size=57_525, decoder_layers=4, max_position_embeddings=1_536
    ),
    "facebook/nougat-base": donut([896, 672], vocab_size=50_000, decoder_layers=10, max_position_embeddings=4_096),
    "facebook/nougat-small": donut([896, 672], vocab_size=50_000, decoder_layers=4, max_position_embeddings=3_584),
    "naver-clova-ix/donut-base's encoder": swin(
        "DonutSwin", "donut-swin", None, "Model", window_size=10, image_size=[2560, 1920], **DONUT
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
