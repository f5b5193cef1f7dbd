"""CLIP: both towers, together and alone."""

from tests.conversion.recipes.parts import Config, Shapes, Sizes, affine

NAMES = ("CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel")

# 6 heads of 8
TEXT: Sizes = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "vocab_size": 67,
    "max_position_embeddings": 13,
    "projection_dim": 18,
    "pad_token_id": 1,
    "bos_token_id": 65,
    "eos_token_id": 66,
}
# 7 heads of 5; 16 patches, 17 positions
VISION: Sizes = {
    "hidden_size": 35,
    "intermediate_size": 56,
    "num_attention_heads": 7,
    "num_hidden_layers": 4,
    "num_channels": 3,
    "image_size": 36,
    "patch_size": 9,
    "projection_dim": 18,
}


def config(name: str) -> Config:
    tower: Config = {
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
    }
    text: Config = {**tower, **TEXT, "model_type": "clip_text_model"}
    vision: Config = {**tower, **VISION, "model_type": "clip_vision_model"}
    both: Config = {
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": TEXT["projection_dim"],
        "text_config": text,
        "vision_config": vision,
    }
    return both if name == "CLIPModel" else text if name.startswith("CLIPText") else vision


def shapes(name: str) -> Shapes:
    text_projection: Shapes = {"text_projection.weight": (TEXT["projection_dim"], TEXT["hidden_size"])}
    visual_projection: Shapes = {"visual_projection.weight": (VISION["projection_dim"], VISION["hidden_size"])}
    match name:
        case "CLIPModel":
            return _text() | _vision() | text_projection | visual_projection | {"logit_scale": ()}
        case "CLIPTextModel":
            return _text()
        case "CLIPTextModelWithProjection":
            return _text() | text_projection
        case _:
            return _vision()


def _encoder(tower: str, sizes: Sizes) -> Shapes:
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    found: Shapes = {}
    for index in range(sizes["num_hidden_layers"]):
        layer = f"{tower}.encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= affine(f"{layer}.self_attn.{projection}", width, width)
        found |= affine(f"{layer}.layer_norm1", width) | affine(f"{layer}.layer_norm2", width)
        found |= affine(f"{layer}.mlp.fc1", inner, width) | affine(f"{layer}.mlp.fc2", width, inner)
    return found


def _text() -> Shapes:
    width = TEXT["hidden_size"]
    return {
        "text_model.embeddings.token_embedding.weight": (TEXT["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (TEXT["max_position_embeddings"], width),
        **_encoder("text_model", TEXT),
        **affine("text_model.final_layer_norm", width),
    }


def _vision() -> Shapes:
    width, patch = VISION["hidden_size"], VISION["patch_size"]
    positions = (VISION["image_size"] // patch) ** 2 + 1
    return {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, VISION["num_channels"], patch, patch),
        "vision_model.embeddings.position_embedding.weight": (positions, width),
        **affine("vision_model.pre_layrnorm", width),  # the published spelling
        **_encoder("vision_model", VISION),
        **affine("vision_model.post_layernorm", width),
    }
