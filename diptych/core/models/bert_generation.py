"""BertGeneration (Rothe et al. 2019, arXiv:1907.12461): config, and the deviations of published files."""

from typing import Any, ClassVar

from diptych.core.config import config_class
from diptych.core.models.bert import BertStackConfig, example, initial
from diptych.core.registry import Family, WordEmbeddings


@config_class
class BertGenerationConfig(BertStackConfig):
    """Defaults are google/bert_for_seq_generation_L-24_bbc_encoder; field names are those of its config.json."""

    model_type: ClassVar[str] = "bert-generation"
    accepted: ClassVar[dict[str, tuple[Any, ...]]] = {
        **BertStackConfig.accepted,
        # from the BERT models that these were initialized with; unused
        "classifier_dropout": (),
        "type_vocab_size": (),
    }

    vocab_size: int = 50_358
    hidden_size: int = 1_024
    intermediate_size: int = 4_096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 1


FAMILY = Family(
    classes=dict.fromkeys(("BertGenerationEncoder", "BertGenerationDecoder"), BertGenerationConfig),
    initial=initial,
    example=example,
    prefixes=("bert.",),
    ignored={"*embeddings.position_ids": "the numbers 0, 1, 2 …, a buffer until transformers 4.31"},
    renamed={
        "lm_head.decoder.bias": "lm_head.bias",
        "lm_head.bias": "lm_head.decoder.bias",
        "lm_head.decoder.weight": "bert.embeddings.word_embeddings.weight",
    },
    # an untied head has the decoder's bias; transformers 5 also saves the other one, with its initial values
    superseded=("lm_head.bias",),
    encoders={"text": ("BertGenerationEncoder",)},
    decoders=("BertGenerationDecoder",),
    grown=("lm_head", "*crossattention*"),
    embeddings={
        "BertGenerationEncoder": WordEmbeddings(inputs=("embeddings.word_embeddings",)),
        "BertGenerationDecoder": WordEmbeddings(inputs=("bert.embeddings.word_embeddings",), output="lm_head.decoder"),
    },
)
