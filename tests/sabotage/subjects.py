"""Small models to plant faults in: no two sizes alike, every weight random, so that no fault can hide in a constant."""

from typing import Any

import numpy as np

from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.random import generator

BERT = BertConfig(
    vocab_size=41,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=17,
    type_vocab_size=3,
    num_labels=5,
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
