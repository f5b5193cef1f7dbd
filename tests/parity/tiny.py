"""Small models of every class, with dropout everywhere, for tests of what surrounds the mathematics."""

from typing import Any

import numpy as np
import transformers

from diptych.core.config import ModelConfig
from diptych.core.models.bart import BartConfig
from diptych.core.models.bert import BertConfig
from diptych.core.models.bert_generation import BertGenerationConfig
from diptych.core.models.camembert import CamembertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config
from diptych.core.models.mbart import MBartConfig
from diptych.core.models.roberta import RobertaConfig
from diptych.core.models.xlm_roberta import XLMRobertaConfig

# Sizes are those of each other's families where they can be: JAX compiles an operation once for each shape. The rates
# of dropout all differ.
_STACK: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "hidden_dropout_prob": 0.15,
    "attention_probs_dropout_prob": 0.25,
}
_LIKE_BERT: dict[str, Any] = {**_STACK, "type_vocab_size": 5, "classifier_dropout": 0.3, "num_labels": 7}
# nine positions are left for tokens
_LIKE_ROBERTA: dict[str, Any] = {**_LIKE_BERT, "max_position_embeddings": 11}
_LIKE_BART: dict[str, Any] = {
    "vocab_size": 23,
    "d_model": 12,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 19,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 17,
    "max_position_embeddings": 9,
    "dropout": 0.15,
    "attention_dropout": 0.25,
    "activation_dropout": 0.2,
    "classifier_dropout": 0.3,
    "num_labels": 7,
    "decoder_start_token_id": 4,
}
_CROSSES = {"is_decoder": True, "add_cross_attention": True}

BERT = BertConfig(**_LIKE_BERT, max_position_embeddings=9)
ROBERTA = RobertaConfig(**_LIKE_ROBERTA)
XLM_ROBERTA = XLMRobertaConfig(**_LIKE_ROBERTA)
CAMEMBERT = CamembertConfig(**_LIKE_ROBERTA)
BERT_GENERATION = BertGenerationConfig(**_STACK, max_position_embeddings=9)
BART = BartConfig(**_LIKE_BART)
MBART = MBartConfig(**_LIKE_BART, scale_embedding=True)
GPT2 = GPT2Config(
    vocab_size=23,
    n_embd=12,
    n_inner=17,
    n_layer=2,
    n_head=3,
    n_positions=9,
    resid_pdrop=0.15,
    attn_pdrop=0.25,
    embd_pdrop=0.2,
    scale_attn_by_inverse_layer_idx=True,
    bos_token_id=22,
    eos_token_id=22,
)
TEXT = CLIPTextConfig(
    vocab_size=31,
    hidden_size=15,
    intermediate_size=14,
    projection_dim=8,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=10,
    attention_dropout=0.2,
    bos_token_id=29,
    eos_token_id=30,
)
VISION = CLIPVisionConfig(
    hidden_size=20,
    intermediate_size=13,
    projection_dim=8,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=11,
    patch_size=5,
    attention_dropout=0.2,
)
BOTH = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=6, num_labels=7)
COMPOSITE = EncoderDecoderConfig(
    encoder=BERT.replace(hidden_size=9),
    decoder=GPT2.replace(**_CROSSES),
    decoder_start_token_id=4,
    pad_token_id=0,
)

CONFIGS: dict[str, ModelConfig] = {
    "BertModel": BERT,
    "BertForPreTraining": BERT,
    "BertLMHeadModel": BERT.replace(**_CROSSES),
    "BertForMaskedLM": BERT,
    "BertForSequenceClassification": BERT,
    "BertGenerationEncoder": BERT_GENERATION,
    "BertGenerationDecoder": BERT_GENERATION.replace(**_CROSSES, tie_word_embeddings=False),
    "RobertaModel": ROBERTA,
    "RobertaForCausalLM": ROBERTA.replace(**_CROSSES),
    "RobertaForMaskedLM": ROBERTA.replace(tie_word_embeddings=False),
    "RobertaForSequenceClassification": ROBERTA,
    "GPT2Model": GPT2,
    "GPT2LMHeadModel": GPT2.replace(**_CROSSES),
    "BartModel": BART,
    "BartForConditionalGeneration": BART,
    "BartForSequenceClassification": BART,
    "BartForCausalLM": BART,
    "MBartModel": MBART.replace(tie_word_embeddings=False),
    "MBartForConditionalGeneration": MBART.replace(tie_word_embeddings=False),
    "MBartForSequenceClassification": MBART,
    "MBartForCausalLM": MBART.replace(tie_word_embeddings=False),
    "EncoderDecoderModel": COMPOSITE,
    "CLIPTextModel": TEXT,
    "CLIPTextModelWithProjection": TEXT,
    "CLIPVisionModel": VISION,
    "CLIPVisionModelWithProjection": VISION,
    "CLIPModel": BOTH,
    "CLIPForImageClassification": BOTH,
}
"""Every class that has something of its own, and a config for it."""
RENAMED: dict[str, ModelConfig] = {
    f"{name}{head}": config
    for name, config in (("XLMRoberta", XLM_ROBERTA), ("Camembert", CAMEMBERT))
    for head in ("Model", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification")
}
"""The classes that are another one's under another name, and a config for each."""

WHOLE = (
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "RobertaForCausalLM",
    "GPT2LMHeadModel",
    "BartForConditionalGeneration",
    "MBartForSequenceClassification",
    "CLIPModel",
    "CLIPForImageClassification",
)
"""Classes that have every layer between them, for tests that take long."""
# a step of gradient descent that lowers the loss of a new model; CLIP's normalised vectors start out short
RATES = {"BertForMaskedLM": 1e-2, "CLIPModel": 1e-5}


def writes(name: str) -> bool:
    """Whether a class reads one text and writes another."""
    return name.startswith(("Bart", "MBart", "EncoderDecoder")) and not name.endswith("ForCausalLM")


def inputs(name: str, *, seed: int = 0) -> dict[str, Any]:
    """A batch of two, the second text padded."""
    random, config = np.random.default_rng(seed), (CONFIGS | RENAMED)[name]
    texts: dict[str, Any] = {}
    if "Vision" not in name and "Image" not in name:
        ids, pad = random.integers(2, 23, (2, 6)), config.pad_token_id or 0
        if name.startswith("CLIP"):
            ids[0, -1] = ids[1, 3] = TEXT.eos_token_id
            pad = 0
        if name.endswith("ForSequenceClassification") and writes(name):
            ids[ids == config.eos_token_id] = 3
            ids[:, 3] = config.eos_token_id
        ids[1, 4:] = pad
        texts = {"input_ids": ids, "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2])}
    if name.startswith("CLIP") and not name.startswith("CLIPText"):
        return texts | {"pixel_values": random.standard_normal((2, 3, 11, 11)).astype(np.float32)}
    if writes(name) and not name.endswith("ForSequenceClassification"):
        texts["decoder_input_ids"] = random.integers(2, 23, (2, 4))
        texts["decoder_attention_mask"] = np.array([[1] * 3 + [0], [1] * 4])
    elif getattr(config, "attends", False) and not writes(name):
        texts["encoder_hidden_states"] = random.standard_normal((2, 5, 12)).astype(np.float32)
        texts["encoder_attention_mask"] = np.array([[1] * 5, [1] * 3 + [0] * 2])
    return texts


def labels_for(name: str) -> dict[str, Any]:
    """What gives the class a loss."""
    random = np.random.default_rng(1)
    if name.endswith(("LM", "LMHeadModel", "Decoder", "ForPreTraining", "ForConditionalGeneration", "DecoderModel")):
        extra = {"next_sentence_label": np.array([1, 0])} if name == "BertForPreTraining" else {}
        return {"labels": random.integers(0, 23, (2, 4 if writes(name) else 6)), **extra}
    if name.endswith("Classification"):
        return {"labels": np.array([2, 5])}
    return {"return_loss": True} if name == "CLIPModel" else {}


def wide(call: dict[str, Any]) -> dict[str, Any]:
    """The call in float64, as a model in float64 of transformers needs it."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value
        for name, value in call.items()
    }


def theirs(config: ModelConfig) -> Any:
    """The same config of transformers, whose models keep no cache."""
    data = config.to_dict() | {"use_cache": False}
    for part in ("encoder", "decoder"):
        if isinstance(data.get(part), dict):
            data[part] = data[part] | {"use_cache": False}
    return transformers.AutoConfig.for_model(**data)
