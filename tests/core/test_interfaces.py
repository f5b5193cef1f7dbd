import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from diptych.core.interfaces import AudioProcessor, Encoding, ImageProcessor, Tokenizer


def word_level():
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "rose": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def test_a_tokenizer_of_tokenizers_fits_as_it_is():
    tokenizer: Tokenizer = word_level()
    assert isinstance(tokenizer, Tokenizer)
    encodings = tokenizer.encode_batch(["a rose", "rose is a rose"], add_special_tokens=True)
    assert all(isinstance(encoding, Encoding) for encoding in encodings)
    assert [list(encoding.ids) for encoding in encodings] == [[2, 3, 0, 0], [3, 1, 2, 3]]
    assert [list(encoding.attention_mask) for encoding in encodings] == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert [list(encoding.type_ids) for encoding in encodings] == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert tokenizer.decode_batch([[2, 3, 0]], skip_special_tokens=True) == ["a rose"]
    assert tokenizer.token_to_id("rose") == 3 and tokenizer.token_to_id("tulip") is None
    assert tokenizer.get_vocab_size() == 4


def test_what_is_something_else_does_not_fit():
    for other in (None, "text", len, {"ids": [1]}, word_level()):
        assert not isinstance(other, Encoding)
        assert not isinstance(other, ImageProcessor)
        assert not isinstance(other, AudioProcessor)
    assert not isinstance(word_level().encode("a"), Tokenizer)


class Scale:
    model_input_names = ("pixel_values",)

    def preprocess(self, images, **options):
        return {"pixel_values": np.asarray(images) / 255}


class Centre:
    model_input_names = ("input_values",)
    sampling_rate = 16_000

    def __call__(self, raw_speech, **options):
        return {"input_values": raw_speech - raw_speech.mean()}


def test_anything_with_the_members_fits():
    assert isinstance(Scale(), ImageProcessor) and not isinstance(Scale(), AudioProcessor)
    assert isinstance(Centre(), AudioProcessor) and not isinstance(Centre(), ImageProcessor)
