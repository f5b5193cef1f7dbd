"""Configs as they were published, and as both versions of transformers write them."""

from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

# What every config that transformers 4.57.6 writes has: `PretrainedConfig().to_dict()`, read from a run of it.
SHARED_4 = {
    "return_dict": True, "output_hidden_states": False, "output_attentions": False, "torchscript": False, "dtype": None,
    "pruned_heads": {}, "tie_word_embeddings": True, "chunk_size_feed_forward": 0, "is_encoder_decoder": False,
    "is_decoder": False, "cross_attention_hidden_size": None, "add_cross_attention": False,
    "tie_encoder_decoder": False, "architectures": None, "finetuning_task": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "task_specific_params": None, "problem_type": None, "tokenizer_class": None, "prefix": None,
    "bos_token_id": None, "pad_token_id": None, "eos_token_id": None, "sep_token_id": None,
    "decoder_start_token_id": None, "max_length": 20, "min_length": 0, "do_sample": False, "early_stopping": False,
    "num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None,
    "num_return_sequences": 1, "output_scores": False, "return_dict_in_generate": False, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "remove_invalid_values": False, "exponential_decay_length_penalty": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "_name_or_path": "", "transformers_version": "4.57.6", "tf_legacy_loss": False, "use_bfloat16": False,
}  # fmt: skip
# What 5.23 adds or spells anew.
SHARED_5 = {
    "transformers_version": "5.23.0", "architectures": None, "output_hidden_states": False, "return_dict": True,
    "dtype": None, "chunk_size_feed_forward": 0, "is_encoder_decoder": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "problem_type": None,
    "_name_or_path": "", "output_attentions": False,
}  # fmt: skip

CLIP_TOWER = {
    "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "initializer_factor": 1.0,
    "initializer_range": 0.02, "layer_norm_eps": 1e-05, "num_hidden_layers": 12, "projection_dim": 512,
}  # fmt: skip
CLIP_TEXT = CLIP_TOWER | {
    "hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 77, "num_attention_heads": 8,
    "vocab_size": 49408, "model_type": "clip_text_model",
}  # fmt: skip
CLIP_VISION = CLIP_TOWER | {
    "hidden_size": 768, "image_size": 224, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 32,
    "model_type": "clip_vision_model",
}  # fmt: skip

# openai/clip-vit-base-patch32 as it was published: the towers fully expanded by a 4.16 pre-release
EXPANDED = SHARED_4 | {"torch_dtype": None, "transformers_version": "4.16.0.dev0"}
OPENAI = {
    "_name_or_path": "openai/clip-vit-base-patch32",
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": EXPANDED | CLIP_TEXT | {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
    "text_config_dict": None,
    "transformers_version": None,
    "vision_config": EXPANDED | CLIP_VISION,
    "vision_config_dict": None,
}
# LAION's files repeat the towers' fields, which win over the expanded ones
LAION = {
    "_commit_hash": None,
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 1024,
    "text_config": EXPANDED
    | CLIP_TEXT
    | {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    | {"num_hidden_layers": 24, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
    "text_config_dict": {
        "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24,
    },
    "torch_dtype": "float32",
    "transformers_version": None,
    "vision_config": EXPANDED
    | CLIP_VISION
    | {"hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16}
    | {"num_hidden_layers": 32, "patch_size": 14},
    "vision_config_dict": {
        "hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16,
        "num_hidden_layers": 32, "patch_size": 14,
    },
}  # fmt: skip
BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
}  # fmt: skip
MULTILINGUAL = {name: value for name, value in BERT.items() if name not in ("gradient_checkpointing", "use_cache")} | {
    "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128, "pooler_type": "first_token_transform", "vocab_size": 119547,
}  # fmt: skip
CHINESE = MULTILINGUAL | {"vocab_size": 21128}
MINILM = {
    "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"], "hidden_size": 384,
    "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False, "hidden_act": "gelu", "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "intermediate_size": 1536, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 6,
    "pad_token_id": 0, "position_embedding_type": "absolute", "transformers_version": "4.8.2", "use_cache": True,
    "vocab_size": 30522,
}  # fmt: skip
NER = BERT | {
    "architectures": ["BertForTokenClassification"], "_num_labels": 3, "max_length": 512, "output_past": True,
    "id2label": {"0": "O", "1": "B-MISC", "2": "I-MISC"}, "label2id": {"O": 0, "B-MISC": 1, "I-MISC": 2},
}  # fmt: skip

PUBLISHED = {
    "openai/clip-vit-base-patch32": (CLIPConfig, OPENAI),
    "laion/CLIP-ViT-H-14": (CLIPConfig, LAION),
    "bert-base-uncased": (BertConfig, BERT),
    "bert-base-multilingual-cased": (BertConfig, MULTILINGUAL),
    "bert-base-chinese": (BertConfig, CHINESE),
    "all-MiniLM-L6-v2": (BertConfig, MINILM),
    "a named-entity recognizer": (BertConfig, NER),
    "4.57's BERT": (BertConfig, SHARED_4 | BERT | {"classifier_dropout": None, "dtype": "float32"}),
    "4.57's text tower": (CLIPTextConfig, SHARED_4 | CLIP_TEXT),
    "4.57's vision tower": (CLIPVisionConfig, SHARED_4 | CLIP_VISION | {"num_channels": 3}),
    "5.23's BERT": (BertConfig, SHARED_5 | {"model_type": "bert", "is_decoder": False, "add_cross_attention": False}),
    "5.23's CLIP": (
        CLIPConfig,
        SHARED_5 | {"model_type": "clip", "text_config": SHARED_5 | CLIP_TEXT, "vision_config": SHARED_5 | CLIP_VISION},
    ),
}
