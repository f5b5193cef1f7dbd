"""The ledger of undeclared config fields: what a published `config.json` may hold besides a family's own fields."""

from collections.abc import Mapping
from typing import Any

_REASONS: Mapping[str, str] = {
    "an option of text generation, which generate() reads": """
        do_sample max_length max_new_tokens min_length min_new_tokens early_stopping num_beams num_beam_groups
        diversity_penalty temperature top_k top_p top_h min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty
        encoder_repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
        force_words_ids constraints num_return_sequences output_scores output_logits return_dict_in_generate
        forced_bos_token_id forced_eos_token_id decoder_start_token_id remove_invalid_values renormalize_logits
        exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias penalty_alpha
        guidance_scale assistant_confidence_threshold assistant_lookbehind num_assistant_tokens
        num_assistant_tokens_schedule target_lookbehind token_healing low_memory cache_implementation cache_config
        watermarking_config stop_strings""",
    "where the checkpoint comes from and how its text was tokenised": """
        _name_or_path name_or_path _commit_hash transformers_version tokenizer_class prefix task_specific_params
        finetuning_task model_card auto_map sep_token_id cls_token_id mask_token_id unk_token_id language license
        processor_class feature_extractor_type author created_date kobart_version""",
    "how another library stores or runs the model; the mathematics stays the same": """
        torch_dtype dtype use_bfloat16 torchscript tf_legacy_loss xla_device use_return_dict gradient_checkpointing
        chunk_size_feed_forward use_cache output_past return_legacy_cache attn_implementation _attn_implementation
        _attn_implementation_internal _attn_implementation_autoset _experts_implementation
        _experts_implementation_internal _output_attentions""",
    "names of the classes; only their number counts": "id2label label2id _num_labels",
}

HOUSEKEEPING: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Fields that any published config may have and that do not affect what a model computes -> the reason."""

ABSENT: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "per_layer_config": (None,),
}
"""Fields of features that a family supports only if its config declares them -> the values that switch them off.

Other values are refused, and so is any value of a field that is in neither table.
"""
