import json

import pytest

from diptych.core.config import CacheShape
from diptych.core.errors import ConfigError
from diptych.core.models.trocr import TrOCRConfig

# the decoders of microsoft/trocr-base-handwritten and of microsoft/trocr-small-printed as they were published
BASE = {
    "_name_or_path": "", "activation_dropout": 0.0, "activation_function": "relu", "add_cross_attention": True,
    "architectures": None, "attention_dropout": 0.0, "bad_words_ids": None, "bos_token_id": 0,
    "chunk_size_feed_forward": 0, "classifier_dropout": 0.0, "cross_attention_hidden_size": 768, "d_model": 1024,
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0, "decoder_layers": 12,
    "decoder_start_token_id": 2, "diversity_penalty": 0.0, "do_sample": False, "dropout": 0.1, "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2, "finetuning_task": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "init_std": 0.02, "is_decoder": True,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layernorm_embedding": False,
    "length_penalty": 1.0, "max_length": 20, "max_position_embeddings": 1024, "min_length": 0, "model_type": "trocr",
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": 1,
    "prefix": None, "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False, "scale_embedding": True,
    "sep_token_id": None, "task_specific_params": None, "temperature": 1.0, "tie_encoder_decoder": False,
    "tie_word_embeddings": False, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": None,
    "torchscript": False, "transformers_version": "4.12.0.dev0", "use_bfloat16": False, "use_cache": False,
    "use_learned_position_embeddings": False, "vocab_size": 50265,
}  # fmt: skip
SMALL = BASE | {
    "cross_attention_hidden_size": 384, "d_model": 256, "decoder_attention_heads": 8, "decoder_ffn_dim": 1024,
    "decoder_layers": 6, "layernorm_embedding": True, "max_position_embeddings": 512, "transformers_version": "4.14.1",
    "use_learned_position_embeddings": True, "vocab_size": 64044,
}  # fmt: skip


@pytest.mark.parametrize("published", [BASE, SMALL], ids=["base", "small"])
def test_a_published_config_is_rewritten_with_nothing_dropped_and_nothing_invented(published):
    config = TrOCRConfig.from_json(json.dumps(published))
    written = json.loads(config.to_json())
    assert {field: written[field] for field in published} == published
    assert set(written) == set(published)
    assert TrOCRConfig.from_json(config.to_json()) == config


def test_the_defaults_differ_from_barts_in_a_few_fields():
    config = TrOCRConfig()
    assert config.cache_shape == CacheShape(layers=12, heads=16, head_width=64, positions=512)
    assert (config.vocab_size, config.d_model, config.decoder_start_token_id) == (50_265, 1024, 2)
    assert config.use_learned_position_embeddings and config.layernorm_embedding
    assert config.has_cross_attention and not config.scale_embedding


def test_cross_attention_takes_the_encoders_width():
    assert TrOCRConfig().cross_attention_width == 1024
    assert TrOCRConfig.from_dict(SMALL).cross_attention_width == 384


def test_sinusoidal_positions_are_counted_from_the_padding():
    assert TrOCRConfig.from_dict(BASE).padding_position == 1
    assert TrOCRConfig.from_dict(SMALL).padding_position is None


def test_other_names_may_repeat_a_field_but_not_contradict_it():
    aliases = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8}
    assert TrOCRConfig.from_dict(SMALL | aliases) == TrOCRConfig.from_dict(SMALL)
    with pytest.raises(ConfigError, match=r"^here: num_hidden_layers=12, but decoder_layers=6, which means the same"):
        TrOCRConfig.from_dict(SMALL | {"num_hidden_layers": 12}, source="here")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder_attention_heads": 7}, "d_model=1024 must be a positive multiple of decoder_attention_heads=7"),
        ({"decoder_layers": 0, "decoder_ffn_dim": 0}, "decoder_layers=0, decoder_ffn_dim=0 must be 1 or more"),
        ({"dropout": 1.5, "activation_dropout": 2}, "dropout=1.5, activation_dropout=2 must lie between 0 and 1"),
        ({"cross_attention_hidden_size": 0}, "cross_attention_hidden_size=0 must be 1 or more"),
        ({"use_learned_position_embeddings": False, "pad_token_id": 50_265},
         "pad_token_id=50265 must be 0 or more and below vocab_size=50265: use_learned_position_emb"),
        ({"use_learned_position_embeddings": False, "pad_token_id": None}, "pad_token_id=None must be 0 or more and"),
        ({"use_learned_position_embeddings": False, "d_model": 3, "decoder_attention_heads": 1},
         "d_model=3 must be 4 or more with use_learned_position_embeddings=False, which needs two frequencies"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True is not supported by TrOCRConfig; supported: False"),
        ({"encoder_layers": 12}, "TrOCRConfig does not know encoder_layers; it knows "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        TrOCRConfig.from_dict(values, source="here")
    assert str(caught.value).removeprefix("here: ").removeprefix("TrOCRConfig: ").startswith(message)
