"""CamemBERT, which is RoBERTa under another name."""

from tests.families import roberta

# 3 heads of 7; 12 positions for tokens
FAMILY = roberta.twin(
    "Camembert",
    "camembert",
    {
        "hidden_size": 21,
        "intermediate_size": 45,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "vocab_size": 51,
        "max_position_embeddings": 14,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 5,
        "eos_token_id": 6,
    },
    in_flax=False,
)
