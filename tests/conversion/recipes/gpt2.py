"""GPT-2: alone, and with its head as the decoder of a composite."""

from tests.conversion.recipes.parts import DECODER, Config, Shapes, Sizes, affine

NAMES = ("GPT2LMHeadModel", "GPT2Model")

# 4 heads of 6
GPT2: Sizes = {
    "n_embd": 24,
    "n_inner": 52,
    "n_head": 4,
    "n_layer": 2,
    "vocab_size": 59,
    "n_positions": 17,
    "bos_token_id": 58,
    "eos_token_id": 58,
}


def config(name: str) -> Config:
    fields: Config = {
        **GPT2,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": 17,
        "resid_pdrop": 0.1,
    }
    return fields | DECODER if name == "GPT2LMHeadModel" else fields


def shapes(name: str) -> Shapes:
    """The output layer is the word embeddings and is not stored again."""
    crosses = name == "GPT2LMHeadModel"
    prefix = "transformer." if crosses else ""
    width, inner = GPT2["n_embd"], GPT2["n_inner"]
    found: Shapes = {
        f"{prefix}wte.weight": (GPT2["vocab_size"], width),
        f"{prefix}wpe.weight": (GPT2["n_positions"], width),
        **affine(f"{prefix}ln_f", width),
    }
    for index in range(GPT2["n_layer"]):
        layer = f"{prefix}h.{index}"
        found |= affine(f"{layer}.ln_1", width) | affine(f"{layer}.ln_2", width)
        found |= _linear_in_out(f"{layer}.attn.c_attn", 3 * width, width) | _linear_in_out(
            f"{layer}.attn.c_proj", width, width
        )
        found |= _linear_in_out(f"{layer}.mlp.c_fc", inner, width) | _linear_in_out(f"{layer}.mlp.c_proj", width, inner)
        if crosses:
            found |= affine(f"{layer}.ln_cross_attn", width)
            found |= _linear_in_out(f"{layer}.crossattention.c_attn", 2 * width, width)
            for projection in ("q_attn", "c_proj"):
                found |= _linear_in_out(f"{layer}.crossattention.{projection}", width, width)
    return found


def _linear_in_out(path: str, out: int, width: int) -> Shapes:
    """GPT-2's linear layer, published the other way round."""
    return {f"{path}.weight": (width, out), f"{path}.bias": (out,)}
