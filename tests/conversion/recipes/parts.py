"""What the recipes of several families have in common."""

Config = dict[str, object]
Shapes = dict[str, tuple[int, ...]]
Sizes = dict[str, int]

LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
CLASSIFIER: Config = {
    "id2label": {str(index): label for index, label in enumerate(LABELS)},
    "label2id": {label: index for index, label in enumerate(LABELS)},
}
"""The fields of a classifier."""
DECODER: Config = {"add_cross_attention": True, "is_decoder": True}
"""The fields of the decoder of a composite."""


def affine(path: str, *shape: int) -> Shapes:
    """A linear layer (out, in), or a norm (width,)."""
    return {f"{path}.weight": shape, f"{path}.bias": shape[:1]}
