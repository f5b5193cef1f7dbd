"""BART and MBart: encoder and decoder of other depths, heads and inner widths."""

from tests.conversion.recipes.parts import CLASSIFIER, LABELS, Config, Shapes, Sizes, affine

NAMES = (
    "BartForCausalLM",
    "BartForConditionalGeneration",
    "BartForSequenceClassification",
    "BartModel",
    "MBartForConditionalGeneration",
    "MBartModel",
)

# 6 heads of 6 read, 4 of 9 write; 23 positions
BART: Sizes = {
    "d_model": 36,
    "encoder_layers": 2,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 52,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 68,
    "vocab_size": 71,
    "max_position_embeddings": 21,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
# 5 heads of 6 read, 10 of 3 write; 24 positions
MBART: Sizes = {
    "d_model": 30,
    "encoder_layers": 3,
    "encoder_attention_heads": 5,
    "encoder_ffn_dim": 46,
    "decoder_layers": 2,
    "decoder_attention_heads": 10,
    "decoder_ffn_dim": 58,
    "vocab_size": 73,
    "max_position_embeddings": 22,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def config(name: str) -> Config:
    multilingual = name.startswith("MBart")
    fields: Config = {
        **(MBART if multilingual else BART),
        "activation_dropout": 0.1,
        "activation_function": "gelu",
        "attention_dropout": 0.1,
        "classifier_dropout": 0.0,
        "decoder_layerdrop": 0.0,
        "dropout": 0.1,
        "encoder_layerdrop": 0.0,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "model_type": "mbart" if multilingual else "bart",
        "num_hidden_layers": 3 if multilingual else 2,
        "scale_embedding": multilingual,
        "use_cache": True,
    }
    if name.endswith("ForCausalLM"):
        fields |= {"is_decoder": True, "is_encoder_decoder": False}
    return fields | CLASSIFIER if name.endswith("ForSequenceClassification") else fields


def shapes(name: str) -> Shapes:
    """The words are stored once, whatever reads and writes them."""
    multilingual = name.startswith("MBart")
    sizes = MBART if multilingual else BART
    width, vocabulary = sizes["d_model"], sizes["vocab_size"]
    prefix = "" if name.endswith("Model") else "model."
    decoder = _stack(f"{prefix}decoder", sizes, "decoder", normed=multilingual)
    if name.endswith("ForCausalLM"):
        return {"model.decoder.embed_tokens.weight": (vocabulary, width)} | decoder
    encoder = _stack(f"{prefix}encoder", sizes, "encoder", normed=multilingual)
    found: Shapes = {f"{prefix}shared.weight": (vocabulary, width)} | encoder | decoder
    if name.endswith("ForConditionalGeneration"):
        found["final_logits_bias"] = (1, vocabulary)
    if name.endswith("ForSequenceClassification"):
        found |= affine("classification_head.dense", width, width)
        found |= affine("classification_head.out_proj", len(LABELS), width)
    return found


def _stack(path: str, sizes: Sizes, side: str, *, normed: bool) -> Shapes:
    """The encoder or the decoder; two rows of the positions are no token's."""
    width, inner = sizes["d_model"], sizes[f"{side}_ffn_dim"]
    found: Shapes = {f"{path}.embed_positions.weight": (sizes["max_position_embeddings"] + 2, width)}
    found |= affine(f"{path}.layernorm_embedding", width)
    if normed:
        found |= affine(f"{path}.layer_norm", width)
    for index in range(sizes[f"{side}_layers"]):
        layer = f"{path}.layers.{index}"
        for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                found |= affine(f"{layer}.{attention}.{projection}", width, width)
            found |= affine(f"{layer}.{attention}_layer_norm", width)
        found |= affine(f"{layer}.fc1", inner, width) | affine(f"{layer}.fc2", width, inner)
        found |= affine(f"{layer}.final_layer_norm", width)
    return found
