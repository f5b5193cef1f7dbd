"""Checkpoints of the hub: their configs, and the names and shapes of their files."""

from tests.conversion.published_files import (
    DECODER,
    DONUT,
    SWIN_BASE,
    Published,
    bart,
    beit,
    bert,
    captions,
    clip,
    composite,
    donut,
    gpt2,
    idefics,
    recognizer,
    roberta,
    speech,
    swin,
    transcriber,
    trocr,
    vit,
)

IDEFICS_9B = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "cross_layer_interval": 4,
    "qk_layer_norms": True,
    "vision_config": {"embed_dim": 1280, "image_size": 224, "patch_size": 14, "num_attention_heads": 16},
    "perceiver_config": {"qk_layer_norms_perceiver": True},
}
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
OPENAI = {"hidden_act": "quick_gelu", "eos_token_id": 2}
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
    "HuggingFaceM4/idefics-9b": idefics(**IDEFICS_9B),
    "HuggingFaceM4/idefics-9b-instruct": idefics(**IDEFICS_9B | {"eos_token_id": [2, 32_001]}),
    "HuggingFaceM4/idefics-80b": idefics(
        **IDEFICS_9B
        | {"hidden_size": 8192, "intermediate_size": 22_016, "num_hidden_layers": 80, "num_attention_heads": 64}
    ),
    "HuggingFaceM4/tiny-random-idefics": idefics(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        cross_layer_interval=1,
        alpha_initializer="ones",
        alpha_type="vector",
        vision_config={
            "embed_dim": 32,
            "image_size": 30,
            "intermediate_size": 37,
            "num_attention_heads": 4,
            "num_hidden_layers": 5,
            "patch_size": 2,
        },
        perceiver_config={
            "resampler_depth": 2,
            "resampler_head_dim": 8,
            "resampler_n_heads": 2,
            "resampler_n_latents": 16,
        },
    ),
    "a bert2bart, whose widths differ": composite(
        UNCASED, {"model_type": "bart"}, "lm_head", "model.decoder.embed_tokens"
    ),
}
