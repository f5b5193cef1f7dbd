"""`IdeficsProcessor`: prompts of texts and images, processed as by transformers with the same tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

import diptych
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.interfaces import Encoding
from diptych.core.interfaces import Tokenizer as Protocol
from tests.processing.drawings import photo, pixels

WORDS = ["<unk>", "<s>", "</s>", "User", ":", "What", "is", "this", "?", "cat"]
TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
NAMES = ("input_ids", "attention_mask", "pixel_values", "image_attention_mask")


def checkpoint(directory: Path, tokens: list[str] = TOKENS, **special: Any) -> Any:
    """transformers' processor, saved with a tokenizer of words and of tokens for images."""
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", **special}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=tokens, **{"padding_side": "left", **settings}
    )
    theirs = transformers.IdeficsProcessor(IdeficsImageProcessorPil(image_size=20), fast)
    theirs.save_pretrained(directory)
    return theirs


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """transformers' processor, and the directory that it is saved in."""
    directory = tmp_path_factory.mktemp("idefics")
    return checkpoint(directory), directory


CAT, DOG, CLEAR = photo(30, 41), photo(53, 22, seed=1), pixels(24, 25, 4)
PROMPTS: dict[str, Any] = {
    "one prompt": ["User:", CAT, " What is this? "],
    "images in a row": [[CAT, DOG, "What", CAT, DOG, "this?"]],
    "different numbers of images": [["User:", CAT, "What"], ["this"], [CLEAR, "is", CAT, DOG, "this", DOG]],
    "texts in a row": [["User:", "What", CAT, "is", "this?", "cat"], ["cat"]],
    "the end of a text": [["What </s> is this", CAT, "cat </s> cat", DOG, "this"], [CAT, "</s></s> is"], ["cat"]],
    "no image": [["User: What is this?"], ["cat", "cat"]],
    "texts alone": ["User:", "What"],
    "nothing": [[], [CAT]],
}


def assert_same(found: Any, wanted: Any) -> None:
    assert set(found) == set(wanted) == set(NAMES)
    for name, values in found.items():
        assert values.dtype == (np.float32 if name == "pixel_values" else np.int64)
        np.testing.assert_array_equal(values, wanted[name].numpy(), err_msg=name)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_prompts_are_processed_as_in_transformers(saved: tuple[Any, Path], prompts: Any) -> None:
    theirs, directory = saved
    ours = diptych.load_processor(directory)
    assert ours.model_input_names == NAMES
    for options in ({"add_end_of_utterance_token": False}, {"add_end_of_utterance_token": True, "add_eos_token": True}):
        wanted = theirs(text=prompts, **options)
        assert_same(ours(text=prompts, **options), wanted)
    # as in version 4, the tokenizer's own token between utterances is used unasked; 5.23 does not find it
    assert_same(ours(text=prompts), theirs(text=prompts, add_end_of_utterance_token=True))


def test_images_beside_texts(saved: tuple[Any, Path]) -> None:
    theirs, directory = saved
    ours = diptych.load_processor(directory)
    for images, text in (([CAT, DOG], ["What", "is this"]), (CAT, "What"), ([[CAT, DOG], [CAT]], ["What", "this"])):
        wanted = theirs(images, text, add_end_of_utterance_token=True)
        assert_same(ours(images, text), wanted)
        assert_same(ours(images=images, text=text, image_size=20), wanted)
    small = {"size": {"height": 12, "width": 12}, "image_mean": [0.1, 0.2, 0.3]}
    assert_same(ours(CAT, "What", **small), theirs(CAT, "What", images_kwargs=small))


def test_padding_stands_where_the_tokenizer_says(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path, TOKENS[:2], padding_side="right", pad_token="</s>")
    ours = diptych.load_processor(tmp_path)
    prompts = [["User:", CAT, "What is this?"], [CAT, "cat"]]
    # a tokenizer without <end_of_utterance> gets none
    wanted = theirs(text=[["User:", "What", CAT, "is"], [CAT]])
    assert_same(ours(text=[["User:", "What", CAT, "is"], [CAT]]), wanted)
    assert_same(ours(text=prompts), theirs(text=prompts))
    assert_same(ours(text=prompts, padding_side="left"), theirs(text=prompts, padding_side="left"))


def test_paths_are_images_and_arrays_come_in_any_framework(saved: tuple[Any, Path], tmp_path: Path) -> None:
    ours = diptych.load_processor(saved[1])
    CAT.save(tmp_path / "cat.png")
    prompt = ["User:", tmp_path / "cat.png", "What"]
    wanted = saved[0](text=["User:", CAT, "What"])
    assert_same(ours(text=prompt), wanted)
    assert_same(ours(str(tmp_path / "cat.png"), "What"), saved[0](CAT, "What"))
    for name, values in ours(text=prompt, return_tensors="pt").items():
        assert type(values) is type(wanted[name]) and values.equal(wanted[name])
    ids = ours(text=prompt).input_ids
    assert ours.batch_decode(ids, skip_special_tokens=True) == saved[0].batch_decode(ids, skip_special_tokens=True)


def test_what_is_saved_is_read_by_both(saved: tuple[Any, Path], tmp_path: Path) -> None:
    ours = diptych.load_processor(saved[1])
    ours.save_pretrained(tmp_path)
    prompts = PROMPTS["different numbers of images"]
    again = diptych.load_processor(tmp_path)
    assert again.image_processor.config == ours.image_processor.config
    np.testing.assert_array_equal(again(text=prompts).pixel_values, ours(text=prompts).pixel_values)
    back = IdeficsImageProcessorPil.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same(ours(text=prompts), transformers.IdeficsProcessor(back, tokenizer)(text=prompts))
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (written["processor_class"], written["image_size"]) == ("IdeficsProcessor", 20)  # which version 4 reads


def test_files_of_version_4(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """As beside idefics-9b: a side in place of a size, and the defaults of Llama's tokenizer."""
    diptych.load_processor(saved[1]).save_pretrained(tmp_path)
    fields = {"image_processor_type": "IdeficsImageProcessor", "image_size": 20, "image_num_channels": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**fields, "processor_class": "IdeficsProcessor"}))
    settings = {"tokenizer_class": "LlamaTokenizerFast", "pad_token": {"content": "<unk>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": TOKENS}))
    prompts = PROMPTS["texts in a row"]
    ours = diptych.load_processor(tmp_path)
    assert_same(ours(text=prompts), saved[0](text=prompts, add_end_of_utterance_token=True))
    assert diptych.load_processor(tmp_path).image_processor.config.replace(image_size=7).size == (7, 7)


class Bytes:
    """A tokenizer of another kind: a letter for each token."""

    TOKENS = ("<s>", "</s>", "<unk>", *TOKENS)

    class Encoded:
        type_ids = attention_mask = ()

        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

    def encode_batch(self, input: Any, *, add_special_tokens: bool = True) -> list[Encoding]:
        assert not add_special_tokens
        for number, token in enumerate(self.TOKENS):
            input = [text.replace(token, chr(number)) for text in input]
        return [self.Encoded([ord(letter) for letter in text]) for text in input]

    def decode_batch(self, sequences: Any, *, skip_special_tokens: bool = True) -> list[str]:
        return ["".join(map(chr, row)) for row in sequences]

    def token_to_id(self, token: str) -> int | None:
        return self.TOKENS.index(token) if token in self.TOKENS else None

    def get_vocab_size(self) -> int:
        return 128


def test_any_tokenizer_serves(saved: tuple[Any, Path]) -> None:
    ours = diptych.load_processor(saved[1])
    ours.tokenizer = Bytes()
    assert isinstance(ours.tokenizer, Protocol)
    found = ours(text=[["A ", CAT, " B"], ["A"]])  # spaces at the ends are dropped
    assert found.input_ids.tolist() == [[0, ord("A"), 3, 4, 3, ord("B")], [2, 2, 2, 2, 0, ord("A")]]
    assert found.image_attention_mask[..., 0].tolist() == [[0, 0, 0, 1, 1, 1], [0] * 6]


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (None, {}, "processor: text is needed, with the images between the texts or beside them as images=…"),
    (None, {"images": CAT}, "processor: text is needed"),
    ([], {}, "processor: text is empty, but at least one prompt is needed"),
    (3, {}, "processor: text is of type int, but a prompt or a list of prompts is needed"),
    ([[CAT], "cat"], {}, "processor: prompt 1 is of type str beside lists; put it into a list"),
    (
        ["cat", [[CAT, CAT], "cat"]][1:],
        {},
        "processor: item 0 of prompt 0 is of type list and holds several, but one text or",
    ),
    ([np.zeros((2, 5, 5, 3))], {}, "processor: item 0 of prompt 0 is of type ndarray and holds several, but one"),
    (
        [["cat"], ["is", "https://example.org/cat.png"]],
        {},
        "processor: item 1 of prompt 1: https://example.org/cat.png is a URL; download it, and give the path of the",
    ),
    ("What", {"images": "https://example.org/cat.png"}, "https://example.org/cat.png is a URL; download it, and give"),
    (
        [CAT, "What", 7, None],
        {},
        "images[0][1]: is an int, but an image is needed: a path, a Pillow image, or an array",
    ),
    ([CAT, Path("absent.png"), Path("no.png")], {}, "absent.png: no such file, but the path of an image is needed; no"),
    (
        ["<image>", CAT],
        {},
        "processor: the prompt has 2 <image> for 1 image; put each image between the texts, without",
    ),
    ([["cat"], ["<image>"]], {}, "processor: prompt 1 has 1 <image> for 0 images; put each image between the texts"),
    (["cat", CAT], {"images": CAT}, "processor: text has other items than texts, but with images=… it may not; leave"),
    (["cat", "is"], {"images": CAT}, "processor: 2 texts and 1 images; give one image or a list of images for each"),
    ("cat", {"padding_side": "up"}, "padding_side='up' must be left or right"),
    ("cat \udcff", {}, "\\udcff' is not valid Unicode (surrogates not allowed)"),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD, ids=[row[-1][:40] for row in BAD])
def test_bad_prompts_are_named(saved: tuple[Any, Path], text: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        diptych.load_processor(saved[1])(text=text, **options)
    assert message in str(caught.value)


def test_tokens_that_are_missing_are_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, [])
    ours = diptych.load_processor(tmp_path)
    assert ours(text="cat").image_attention_mask.tolist() == [[[0], [0]]]  # a text needs none of them
    message = f"{tmp_path}: its tokenizer has no "
    with pytest.raises(CheckpointError, match=f"^{message}<fake_token_around_image>, which stands around images$"):
        ours(CAT, "cat")
    with pytest.raises(CheckpointError, match=f"^{message}<end_of_utterance>, which ends utterances$"):
        ours(text="cat", add_end_of_utterance_token=True)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"^{message}bos_token, which begins every prompt$"):
        diptych.load_processor(tmp_path)(text="cat")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    with pytest.raises(CheckpointError, match=f"^{message}eos_token, which add_eos_token asks for$"):
        diptych.load_processor(tmp_path)(text="cat", add_eos_token=True)
    (tmp_path / "tokenizer_config.json").write_text('{"padding_side": "up"}')
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: padding_side='up' must be left or right"):
        diptych.load_processor(tmp_path)(text="cat")
    (tmp_path / "tokenizer.json").unlink()  # which is said first
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        diptych.load_processor(tmp_path)(text="cat")
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json, nor a processor_config\.json"):
        diptych.load_processor(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": {"shortest_edge": 20}}, "size=20, but IdeficsImageProcessor needs a height and a width"),
        ({"do_center_crop": True}, "do_center_crop=True is not supported by IdeficsImageProcessor"),
        ({"image_num_channels": 1}, "image_num_channels=1 is not supported; supported: 3, None"),
        ({"colour": 3}, "IdeficsImageProcessor does not know colour; it knows crop_size"),
    ],
)
def test_fields_that_are_not_known_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    data = {"image_processor_type": "IdeficsImageProcessor", **fields}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        diptych.load_processor(tmp_path)
    assert message in str(caught.value)
