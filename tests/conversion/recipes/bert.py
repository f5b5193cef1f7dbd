"""BERT and the families that are built like it: BertGeneration, RoBERTa, XLM-RoBERTa, CamemBERT."""

from tests.conversion.recipes.parts import CLASSIFIER, DECODER, LABELS, Config, Shapes, Sizes, affine

NAMES = (
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertLMHeadModel",
    "BertModel",
    "BertGenerationDecoder",
    "BertGenerationEncoder",
    "CamembertModel",
    "RobertaForCausalLM",
    "RobertaForMaskedLM",
    "RobertaForSequenceClassification",
    "RobertaModel",
    "XLMRobertaModel",
)

SIZES: dict[str, Sizes] = {
    # 5 heads of 4
    "bert": {
        "hidden_size": 20,
        "intermediate_size": 44,
        "num_attention_heads": 5,
        "num_hidden_layers": 3,
        "vocab_size": 61,
        "max_position_embeddings": 19,
        "type_vocab_size": 7,
        "pad_token_id": 0,
    },
    # 6 heads of 3
    "bert-generation": {
        "hidden_size": 18,
        "intermediate_size": 42,
        "num_attention_heads": 6,
        "num_hidden_layers": 2,
        "vocab_size": 53,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    },
    # 3 heads of 7; 12 positions for tokens
    "camembert": {
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
    # 7 heads of 4; 21 positions for tokens
    "roberta": {
        "hidden_size": 28,
        "intermediate_size": 60,
        "num_attention_heads": 7,
        "num_hidden_layers": 2,
        "vocab_size": 57,
        "max_position_embeddings": 23,
        "type_vocab_size": 3,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    # 3 heads of 5; 15 positions for tokens
    "xlm-roberta": {
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
}


def config(name: str) -> Config:
    fields: Config = {
        **SIZES[_family(name)],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5 if _is_roberta(name) else 1e-12,
        "model_type": _family(name),
        "position_embedding_type": "absolute",
        "use_cache": True,
    }
    if _family(name) != "bert-generation":
        fields["classifier_dropout"] = None
    if _decodes(name):
        fields |= DECODER
    return fields | CLASSIFIER if name.endswith("ForSequenceClassification") else fields


def shapes(name: str) -> Shapes:
    sizes = SIZES[_family(name)]
    bare = name.endswith(("Model", "Encoder")) and name != "BertLMHeadModel"
    prefix = "" if bare else "roberta." if _is_roberta(name) else "bert."
    found = _layers(prefix, sizes, crosses=_decodes(name))
    width = sizes["hidden_size"]
    pooled = ("BertModel", "BertForPreTraining", "BertForSequenceClassification")
    if name in pooled or (bare and _is_roberta(name)):
        found |= affine(f"{prefix}pooler.dense", width, width)
    if bare:
        return found
    if name.endswith("ForSequenceClassification"):
        if not _is_roberta(name):
            return found | affine("classifier", len(LABELS), width)
        return found | affine("classifier.dense", width, width) | affine("classifier.out_proj", len(LABELS), width)
    if name == "BertForPreTraining":
        found |= affine("cls.seq_relationship", 2, width)
    return found | _words(name, sizes)


def _family(name: str) -> str:
    owners = ("BertGeneration", "bert-generation"), ("Bert", "bert"), ("Camembert", "camembert"), ("XLM", "xlm-roberta")
    return next((family for start, family in owners if name.startswith(start)), "roberta")


def _is_roberta(name: str) -> bool:
    return not name.startswith("Bert")


def _decodes(name: str) -> bool:
    """Whether the checkpoint is the decoder of a composite."""
    return name.endswith(("ForCausalLM", "LMHeadModel", "Decoder"))


def _layers(prefix: str, sizes: Sizes, *, crosses: bool) -> Shapes:
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    embeddings = f"{prefix}embeddings"
    found: Shapes = {
        f"{embeddings}.word_embeddings.weight": (sizes["vocab_size"], width),
        f"{embeddings}.position_embeddings.weight": (sizes["max_position_embeddings"], width),
        **affine(f"{embeddings}.LayerNorm", width),
    }
    if "type_vocab_size" in sizes:
        found[f"{embeddings}.token_type_embeddings.weight"] = (sizes["type_vocab_size"], width)
    for index in range(sizes["num_hidden_layers"]):
        layer = f"{prefix}encoder.layer.{index}"
        for attention in ("attention", "crossattention") if crosses else ("attention",):
            for projection in ("self.query", "self.key", "self.value", "output.dense"):
                found |= affine(f"{layer}.{attention}.{projection}", width, width)
            found |= affine(f"{layer}.{attention}.output.LayerNorm", width)
        found |= affine(f"{layer}.intermediate.dense", inner, width) | affine(f"{layer}.output.dense", width, inner)
        found |= affine(f"{layer}.output.LayerNorm", width)
    return found


def _words(name: str, sizes: Sizes) -> Shapes:
    """The head of language models; its decoder's weight is the word embeddings and is not stored again."""
    width, vocabulary = sizes["hidden_size"], sizes["vocab_size"]
    if _family(name) == "bert-generation":
        return {"lm_head.bias": (vocabulary,)}
    if _is_roberta(name):
        dense, norm = affine("lm_head.dense", width, width), affine("lm_head.layer_norm", width)
        return {"lm_head.bias": (vocabulary,)} | dense | norm
    dense = affine("cls.predictions.transform.dense", width, width)
    return {"cls.predictions.bias": (vocabulary,)} | dense | affine("cls.predictions.transform.LayerNorm", width)
