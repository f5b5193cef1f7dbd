"""Text in, text out: the tokenizer of a checkpoint, and generation with it, as `diptych generate` does it."""

from diptych.text.generation import generate_text as generate_text
from diptych.text.tokenizer_settings import TOKENIZER_FILE as TOKENIZER_FILE
from diptych.text.tokenizers import load_tokenizer as load_tokenizer
from diptych.text.writing import Text as Text

__all__ = ["TOKENIZER_FILE", "Text", "generate_text", "load_tokenizer"]
