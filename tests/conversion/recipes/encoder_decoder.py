"""A composite: BERT reads, GPT-2 writes, and their widths differ."""

from tests.conversion.recipes import bert, gpt2
from tests.conversion.recipes.parts import Config, Shapes, affine

NAMES = ("EncoderDecoderModel",)


def config(name: str) -> Config:
    return {
        "decoder": gpt2.config("GPT2LMHeadModel"),
        "decoder_start_token_id": 58,
        "encoder": bert.config("BertModel"),
        "is_encoder_decoder": True,
        "model_type": "encoder-decoder",
        "pad_token_id": 0,
    }


def shapes(name: str) -> Shapes:
    parts = ("encoder", bert.shapes("BertModel")), ("decoder", gpt2.shapes("GPT2LMHeadModel"))
    found = {f"{part}.{tensor}": shape for part, tensors in parts for tensor, shape in tensors.items()}
    return found | affine("enc_to_dec_proj", gpt2.GPT2["n_embd"], bert.SIZES["bert"]["hidden_size"])
