"""From image files to texts and classes, as `diptych generate --image` and `diptych classify` do it."""

from diptych.classification import Classification as Classification
from diptych.images.classification import classify_images as classify_images
from diptych.images.generation import generate_text_from_images as generate_text_from_images
from diptych.images.prompts import generate_text_with_images as generate_text_with_images
from diptych.images.prompts import reads_images_in_prompts as reads_images_in_prompts

__all__ = [
    "Classification",
    "classify_images",
    "generate_text_from_images",
    "generate_text_with_images",
    "reads_images_in_prompts",
]
