"""`load_processor`: the processors of checkpoints, called and saved as those of transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import diptych
from diptych.core.errors import CheckpointError, InputError
from tests.processing.drawings import photo

WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "cat": 4, "dog": 5}


def checkpoint(directory: Path, processor_class: str, *, nested: bool = False) -> Any:
    """transformers' processor, saved; `nested` as version 5 does, else as version 4 did."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    images = ViTImageProcessorPil(size={"height": 12, "width": 15})
    both = getattr(transformers, processor_class)(images, fast)
    both.save_pretrained(directory)
    if not nested:
        data = json.loads((directory / "processor_config.json").read_text())
        old = {**data["image_processor"], "processor_class": processor_class}
        (directory / "preprocessor_config.json").write_text(json.dumps(old))
        (directory / "processor_config.json").unlink()
    return both


@pytest.mark.parametrize("processor_class", ["TrOCRProcessor", "DonutProcessor", "NougatProcessor", "CLIPProcessor"])
@pytest.mark.parametrize("nested", [False, True])
def test_calls_are_those_of_transformers(tmp_path: Path, processor_class: str, nested: bool) -> None:
    theirs = checkpoint(tmp_path, processor_class, nested=nested)
    ours = diptych.load_processor(tmp_path)
    image, texts = photo(20, 31), ["a cat", "a"]
    assert ours.model_input_names == ("pixel_values", "input_ids", "attention_mask")
    wanted = theirs(images=image, return_tensors="np")
    np.testing.assert_array_equal(ours(images=image, return_tensors="np").pixel_values, wanted["pixel_values"])
    wanted = theirs(text=texts, return_tensors="np", padding=True)
    found = ours(text=texts)
    assert set(found) == {"input_ids", "attention_mask"} <= set(wanted)
    for name, values in found.items():
        np.testing.assert_array_equal(values, wanted[name])
    wanted = theirs(images=[image] * 2, text=texts, return_tensors="np", padding=True)
    found = ours(images=[image] * 2, text=texts)
    assert set(found) <= set(wanted) and ("labels" in found) == ("labels" in wanted)
    for name, values in found.items():
        np.testing.assert_array_equal(values, wanted[name])
    ids = theirs.tokenizer(texts, padding=True)["input_ids"]
    for skips in (False, True):
        decoded = ours.batch_decode(np.array(ids), skip_special_tokens=skips)
        assert [text.split() for text in decoded] == [
            text.split() for text in theirs.batch_decode(ids, skip_special_tokens=skips)
        ]
    assert ours.decode(ids[0], skip_special_tokens=True) == "a cat"
    assert ours.tokenizer.token_to_id("dog") == 5


def test_what_is_saved_is_read_by_both(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "first", "TrOCRProcessor", nested=True)
    ours = diptych.load_processor(tmp_path / "first")
    ours.save_pretrained(tmp_path / "second")
    ours.save_pretrained(tmp_path / "first")  # where its files are already
    image = photo(20, 31)
    wanted = ours(image, "a dog")
    again = diptych.load_processor(tmp_path / "second")
    assert again.image_processor.config == ours.image_processor.config
    for name, values in again(image, "a dog").items():
        np.testing.assert_array_equal(values, wanted[name])
    back = ViTImageProcessorPil.from_pretrained(tmp_path / "second")
    assert back.to_dict().items() >= {**theirs.image_processor.to_dict()}.items()
    assert (
        json.loads((tmp_path / "second" / "preprocessor_config.json").read_text())["processor_class"]
        == "TrOCRProcessor"
    )
    with pytest.raises(CheckpointError, match="is a file, but a directory is needed"):
        ours.save_pretrained(tmp_path / "second" / "preprocessor_config.json")


def test_a_checkpoint_without_a_tokenizer_reads_images(tmp_path: Path) -> None:
    ViTImageProcessorPil(size={"height": 12, "width": 15}).save_pretrained(tmp_path)
    ours = diptych.load_processor(str(tmp_path))
    assert ours.tokenizer is None and ours.model_input_names == ("pixel_values",)
    assert ours(photo(20, 31), return_tensors="pt").pixel_values.shape == (1, 3, 12, 15)
    assert repr(ours).startswith(f"Processor('{tmp_path}', ImageProcessor(ImageProcessorConfig(")
    for call in (lambda: ours(text="a cat"), lambda: ours.batch_decode([[3]])):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
            call()
    with pytest.raises(InputError, match="processor: images or text is needed, got neither"):
        ours()


def test_padding_needs_a_token(tmp_path: Path) -> None:
    checkpoint(tmp_path, "CLIPProcessor")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"pad_token": {"content": "</s>"}}))
    ours = diptych.load_processor(tmp_path)
    assert ours(text=["a cat", "a"]).input_ids.tolist() == [[1, 3, 4, 2], [1, 3, 2, 2]]
    settings.write_text("{}")
    assert ours(text=["a cat", "a dog"]).attention_mask.tolist() == [[1] * 4] * 2
    with pytest.raises(InputError, match=r"texts of several lengths are padded, but .*tokenizer_config\.json names no"):
        ours(text=["a cat", "a"])
    with pytest.raises(InputError, match="processor: the texts have no tokens"):
        ours(text="", add_special_tokens=False)
    with pytest.raises(InputError, match="processor: a text is needed, but 3 is of type int"):
        ours(text=["a cat", 3])
