"""Prompts with images between texts, continued by the command: random weights, and images that are drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

import diptych
from diptych.backends import torch as in_torch
from diptych.conversion import image_inputs
from diptych.core.errors import InputError
from diptych.core.models.idefics import IdeficsVisionConfig
from diptych.images import generate_text_with_images
from diptych.images.prompts import parse_prompt
from tests.processing.drawings import photo

WORDS = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(20))]
TOKENS = ["<fake_token_around_image>", "<image>"]
BACKENDS = ("jax", "torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model whose weights are so large that its texts depend on the images; and two images."""
    directory = tmp_path_factory.mktemp("idefics")
    vision = {"image_size": 12, "patch_size": 4, "embed_dim": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
    config = in_torch.IdeficsConfig(
        vocab_size=len(WORDS),
        additional_vocab_size=len(TOKENS),
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=60,
        initializer_range=0.6,
        alpha_initializer="ones",
        eos_token_id=None,
        vision_config=IdeficsVisionConfig(**vision, intermediate_size=14, initializer_range=0.6),
    )
    model = in_torch.IdeficsForVisionText2Text(config, seed=1)
    special = tuple(range(3)) + tuple(len(WORDS) + number for number in range(len(TOKENS)))
    model.generation_config = model.generation_config.replace(suppress_tokens=special)
    model.save_pretrained(directory)
    settings = {
        "image_processor_type": "IdeficsImageProcessor",
        "image_size": 12,
        "processor_class": "IdeficsProcessor",
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*WORDS[:3], *TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "tokenizer_class": "LlamaTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    for number, name in enumerate(["one.png", "two (2).png"]):
        photo(30, 41, seed=number).save(directory / name)
    return directory


PROMPTS = ("w1 ![a drawing](one.png) w2 w3", "![](<two (2).png>)![]( one.png ) w2", "w4 \\![](one.png)")


def written(directory, **options):
    """What the model writes by its own means, prompt by prompt."""
    processor, model = diptych.load_processor(directory), in_torch.load(directory)
    one, two = photo(30, 41, seed=0), photo(30, 41, seed=1)
    for prompt in (["w1", one, "w2 w3"], [two, one, "w2"], ["w4 ![](one.png)"]):
        inputs = processor(text=prompt, return_tensors="pt")
        found = model.generate(**inputs, max_new_tokens=6, **options).sequences[:, inputs.input_ids.shape[1] :]
        yield processor.batch_decode(found, skip_special_tokens=True)[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_prompts_with_images_go_on(run, checkpoint, monkeypatch, backend):
    """Alone as its tokens come, and in batches padded on the left."""
    monkeypatch.chdir(checkpoint)
    expected = list(written(checkpoint))
    assert len(set(expected)) == 3
    command = ("generate", checkpoint, "--backend", backend, "--max-new-tokens", 6)
    texts = [word for prompt in PROMPTS for word in ("--text", prompt)]
    assert run(*command, *texts, "--batch-size", 2) == (0, "".join(f"{text}\n" for text in expected), "")
    if backend == "torch":
        assert run(*command, "--text", PROMPTS[0]) == (0, f"{expected[0]}\n", "")
        rows = [json.loads(line) for line in run(*command, *texts, "--json")[1].splitlines()]
        assert [row["text"] for row in rows] == expected and list(rows[0]) == ["prompt", "ids", "text", "score"]
        Path("prompts.txt").write_text("\n".join(PROMPTS))
        out = run(*command, "--text", "@prompts.txt", "--lines", "--echo", "--json")[1]
        rows = [json.loads(line) for line in out.splitlines()]
        for row, start, text in zip(rows, ("w1 w2 w3", "w2", "w4"), expected, strict=True):
            assert row["text"] == f"{start} {text}" and row["ids"][0] == 1  # without padding


def test_a_text_comes_piece_by_piece(checkpoint):
    pieces = []
    prompt = ["w1", checkpoint / "one.png", "w2 w3"]
    (found,) = generate_text_with_images(checkpoint, [prompt], backend="torch", max_new_tokens=6, show=pieces.append)
    assert "".join(pieces) == f"{found.text}\n" and len(pieces) > 4
    assert found.text == next(written(checkpoint))
    beams = generate_text_with_images(checkpoint, [prompt], backend="torch", max_new_tokens=3, num_beams=2)
    assert beams[0].text == next(written(checkpoint, num_beams=2))[: len(beams[0].text)] and beams[0].score < 0


def test_prompts_that_cannot_be_read_are_reported_and_the_others_come_out(run, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    Path("notes.png").write_text("no image")
    bad = {
        "w1 ![](absent.png)": "absent.png: no such file, but the path of an image is needed",
        "w1 ![](notes.png) ![](absent.png)": "notes.png: is no image that Pillow can read; absent.png: no such file",
        "![](https://example.org/a.png) w1": "https://example.org/a.png is a URL; download it, and give the path",
        "<image> w1": "the prompt has 1 <image> for 0 images; put each image between the texts",
        "w1 ![]()": "![]() names no image; write its path, as in ![](cat.jpg), or \\![ for a text",
    }
    command = ("generate", checkpoint, "--backend", "torch", "--max-new-tokens", 6)
    texts = [word for prompt in [PROMPTS[0], *bad, PROMPTS[1]] for word in ("--text", prompt)]
    expected = list(written(checkpoint))
    for size in (1, 8):
        code, out, err = run(*command, *texts, "--batch-size", size)
        assert (code, out) == (2, f"{expected[0]}\n{expected[1]}\n")
        for number, (line, message) in enumerate(zip(err.splitlines(), bad.values(), strict=True), 2):
            assert line.startswith(f"diptych: generate: prompt {number}: ") and message in line
    rows = [json.loads(line) for line in run(*command, *texts, "--json")[1].splitlines()]
    assert [(row["prompt"], row["text"]) for row in rows] == [(1, expected[0]), (7, expected[1])]
    assert run(*command, "--text", "w1 ![](absent.png)")[:2] == (2, "")
    with pytest.raises(InputError, match=r"^generate: prompt 2: absent\.png: no such file"):
        generate_text_with_images(checkpoint, ["w1", "![](absent.png)"])


BAD = [
    (("--image", "one.png"), "its model reads images between texts; name them there: 'User: ![](cat.jpg) What is"),
    (("--ids", "1,5"), "IdeficsForVisionText2Text reads images between texts, not ids; give 'User: ![](cat.jpg) What"),
    (("--text", "w1", "--batch-size", 0), "generate: batch_size=0 must be 1 or more"),
    (("--text", "w1", "--target-language", "de_DE"), "--target-language have no use for a model of images"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(run, checkpoint, options, message):
    code, out, err = run("generate", checkpoint, "--backend", "torch", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("diptych: ") and message in err


def test_parity_on_images(run, checkpoint):
    """Each text of the inputs has two."""
    one, two = checkpoint / "one.png", checkpoint / "two (2).png"
    found = image_inputs(checkpoint, [one, two, two])
    expected = [diptych.load_processor(checkpoint).image_processor(path)["pixel_values"][0] for path in (one, two)]
    shown = np.array([[expected[0], expected[1]], [expected[1], expected[0]]])
    assert np.array_equal(found["pixel_values"], shown)
    assert found["image_attention_mask"].shape == (*found["input_ids"].shape, 2)
    command = ("parity", checkpoint, checkpoint, "--backend", "torch", "--no-gradients", "--image", one)
    code, out, _ = run(*command)
    assert code == 0 and "EQUAL: " in out


def test_files_that_are_missing_are_named(run, checkpoint, tmp_path):
    with pytest.raises(InputError, match="generate: at least one prompt is needed"):
        generate_text_with_images(checkpoint, [])
    with pytest.raises(InputError, match=r"prompts \(ndarray\) must be a list.*of lists of texts and images"):
        generate_text_with_images(checkpoint, np.zeros(2))
    in_torch.load(checkpoint).save_pretrained(tmp_path)
    command = ("generate", tmp_path, "--backend", "torch", "--text", "w1")
    assert run(*command)[2].startswith(f"diptych: {tmp_path}: has no preprocessor_config.json, nor a processor_config")
    (tmp_path / "preprocessor_config.json").write_bytes((checkpoint / "preprocessor_config.json").read_bytes())
    assert f"{tmp_path / 'tokenizer.json'}: no such file" in run(*command)[2]


def test_images_are_found_in_texts():
    assert parse_prompt("a ![x y](b c.png) d![](<e(1).png>)") == ["a ", Path("b c.png"), " d", Path("e(1).png")]
    assert parse_prompt("![](https://a.b/c.png)\\![](d.png)!(e)") == ["https://a.b/c.png", "![](d.png)!(e)"]
    assert parse_prompt("") == []
