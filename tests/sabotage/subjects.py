"""Small models to plant faults in: no two sizes alike, every weight random, so that no fault can hide in a constant."""

from typing import Any

import numpy as np

from diptych.core.models.bart import BartConfig
from diptych.core.models.bert import BertConfig
from diptych.core.models.bert_generation import BertGenerationConfig
from diptych.core.models.camembert import CamembertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.models.gpt2 import GPT2Config
from diptych.core.models.mbart import MBartConfig
from diptych.core.models.roberta import RobertaConfig
from diptych.core.models.xlm_roberta import XLMRobertaConfig
from diptych.core.random import generator

_STACK: dict[str, Any] = {
    "vocab_size": 41,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
}
_LIKE_BERT: dict[str, Any] = {**_STACK, "type_vocab_size": 3, "num_labels": 5}
_LIKE_BART: dict[str, Any] = {
    "vocab_size": 41,
    "d_model": 12,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 22,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 17,
    "num_labels": 5,
}
_CROSSES: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}

BERT = BertConfig(**_LIKE_BERT)
ROBERTA = RobertaConfig(**_LIKE_BERT)
GPT2 = GPT2Config(
    vocab_size=41, n_embd=12, n_layer=2, n_head=3, n_inner=20, n_positions=17, add_cross_attention=True, is_decoder=True
)
TEXT = CLIPTextConfig(
    vocab_size=43,
    hidden_size=12,
    intermediate_size=22,
    projection_dim=10,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=13,
    eos_token_id=42,
    bos_token_id=41,
)
VISION = CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=26,
    projection_dim=10,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=15,
    patch_size=5,
)
CLIP = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=10, num_labels=6)
CONFIGS: dict[str, Any] = {
    "BertForPreTraining": BERT,
    "BertForMaskedLM": BERT,
    "BertForSequenceClassification": BERT,
    "BertLMHeadModel": BertConfig(**_LIKE_BERT, **_CROSSES),
    "BertGenerationDecoder": BertGenerationConfig(**_STACK, **_CROSSES, tie_word_embeddings=False),
    "RobertaForCausalLM": RobertaConfig(**_LIKE_BERT, **_CROSSES),
    "RobertaForSequenceClassification": ROBERTA,
    "XLMRobertaForMaskedLM": XLMRobertaConfig(**_LIKE_BERT),
    "CamembertForMaskedLM": CamembertConfig(**_LIKE_BERT, tie_word_embeddings=False),
    "GPT2LMHeadModel": GPT2,
    "BartForConditionalGeneration": BartConfig(**_LIKE_BART),
    "BartForCausalLM": BartConfig(**_LIKE_BART, tie_word_embeddings=False),
    "MBartForSequenceClassification": MBartConfig(**_LIKE_BART, tie_word_embeddings=False),
    "CLIPModel": CLIP,
    "CLIPForImageClassification": CLIP,
    "CLIPTextModelWithProjection": TEXT,
    "CLIPVisionModel": VISION,
}


def torch_model(name: str, config: Any = None) -> Any:
    """A float64 torch model with every weight random."""
    import torch

    import diptych.backends.torch as backend

    model = getattr(backend, name)(CONFIGS[name] if config is None else config, seed=0, dtype="float64")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = generator(1, path).standard_normal(tuple(parameter.shape))
            parameter += torch.as_tensor(0.1 * noise)
    return model


def corrupted(values: np.ndarray) -> np.ndarray:
    """The values transposed if they are square, else in reverse order; a single number with its sign changed."""
    if values.ndim >= 2 and values.shape[0] == values.shape[1]:
        return values.swapaxes(0, 1)
    return -values if values.size == 1 else values.ravel()[::-1].reshape(values.shape)
