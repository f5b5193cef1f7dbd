"""Small models of every class, with dropout everywhere, for tests of what surrounds the mathematics."""

from typing import Any

import numpy as np

from diptych.core.config import ModelConfig
from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.core.models.gpt2 import GPT2Config

BERT = BertConfig(
    vocab_size=23,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=17,
    max_position_embeddings=9,
    type_vocab_size=5,
    classifier_dropout=0.3,
    num_labels=7,
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
GPT2 = GPT2Config(
    vocab_size=23,
    n_embd=12,
    n_inner=17,
    n_layer=2,
    n_head=3,
    n_positions=9,
    scale_attn_by_inverse_layer_idx=True,
    bos_token_id=22,
    eos_token_id=22,
)

CONFIGS: dict[str, ModelConfig] = {
    "BertModel": BERT,
    "BertForPreTraining": BERT,
    "BertForMaskedLM": BERT,
    "BertForSequenceClassification": BERT,
    "CLIPTextModel": TEXT,
    "CLIPTextModelWithProjection": TEXT,
    "CLIPVisionModel": VISION,
    "CLIPVisionModelWithProjection": VISION,
    "CLIPModel": BOTH,
    "CLIPForImageClassification": BOTH,
}
"""Every class of both families and a config for it."""

WHOLE = ("BertForMaskedLM", "BertForSequenceClassification", "CLIPModel", "CLIPForImageClassification")
"""Classes that have every layer between them, for tests that take long."""
# a step of gradient descent that lowers the loss of a new model; CLIP's normalised vectors start out short
RATES = {"BertForMaskedLM": 1e-2, "CLIPModel": 1e-5}


def inputs(name: str, *, seed: int = 0) -> dict[str, Any]:
    """A batch of two, the second text padded."""
    random = np.random.default_rng(seed)
    texts: dict[str, Any] = {}
    if "Vision" not in name and "Image" not in name:
        ids = random.integers(1, 23, (2, 6))
        if name.startswith("CLIP"):
            ids[0, -1] = ids[1, 3] = TEXT.eos_token_id
        ids[1, 4:] = 0
        texts = {"input_ids": ids, "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2])}
    if name.startswith("Bert") or name.startswith("CLIPText"):
        return texts
    return texts | {"pixel_values": random.standard_normal((2, 3, 11, 11)).astype(np.float32)}
