"""XLM-RoBERTa, which is RoBERTa under another name."""

from tests.families import roberta

# 3 heads of 5; 15 positions for tokens
FAMILY = roberta.twin(
    "XLMRoberta",
    "xlm-roberta",
    {
        "hidden_size": 15,
        "intermediate_size": 33,
        "num_attention_heads": 3,
        "num_hidden_layers": 4,
        "vocab_size": 55,
        "max_position_embeddings": 17,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    in_flax=True,
)
