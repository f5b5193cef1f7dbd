"""From image files to texts and classes with the command: random weights, and images that are drawn."""

import io
import json
import sys

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image
from tokenizers import models, pre_tokenizers

import diptych
from diptych.backends import torch as in_torch
from diptych.conversion import image_inputs
from diptych.core.errors import InputError
from diptych.images import classify_images, generate_text_from_images
from diptych.images.files import find_images
from tests.assertions import assert_close
from tests.processing.drawings import photo

WORDS = ["[PAD]", "[START]", "<s_task>", "[END]", *(f"w{number}" for number in range(17)), "a", "photo", "of"]
PAD, START, TASK, END = range(4)
BACKENDS = ("jax", "torch")
SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 14}
LABELS = ("cat", "dog", "crane", "crane")
"""As in ImageNet, where two classes are called crane."""


def save(model, directory, processor="ViTImageProcessor", **fields):
    """A checkpoint with an image processor and a tokenizer, with a word for each id."""
    model.save_pretrained(directory)
    size = {"height": 12, "width": 16} if processor != "CLIPImageProcessor" else {"shortest_edge": 12}
    settings = {"image_processor_type": processor, "size": size, **fields}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", END)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return directory


def composite(encoder, decoder):
    config = in_torch.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=START, pad_token_id=PAD, eos_token_id=None
    )
    model = in_torch.VisionEncoderDecoderModel(config, seed=3)
    model.generation_config = model.generation_config.replace(suppress_tokens=(PAD, START, TASK, END))
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directories by name; weights are so large that texts and classes depend on the image."""
    folder = tmp_path_factory.mktemp("images")
    looks = {"image_size": (12, 16), "patch_size": 4, "initializer_range": 0.6, **SMALL}
    sizes = {"vocab_size": len(WORDS), "n_embd": 12, "n_layer": 1, "n_head": 3, "n_positions": 20}
    decoder = in_torch.GPT2Config(**sizes, initializer_range=1.0, bos_token_id=START, eos_token_id=None)
    save(composite(in_torch.ViTConfig(**looks), decoder), folder / "captioner")
    swin = {
        "image_size": (12, 16),
        "patch_size": 4,
        "embed_dim": 12,
        "depths": (1,),
        "num_heads": (3,),
        "window_size": 2,
    }
    donut = in_torch.DonutSwinConfig(**swin, initializer_range=0.1)
    widths = {"d_model": 12, "decoder_layers": 2, "decoder_ffn_dim": 14, "decoder_attention_heads": 3}
    widths |= {"encoder_layers": 1, "encoder_attention_heads": 3}
    special = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": None}
    mbart = in_torch.MBartConfig(
        vocab_size=len(WORDS),
        **widths,
        **special,
        init_std=0.1,
        max_position_embeddings=20,
        scale_embedding=True,
        tie_word_embeddings=False,
    )
    save(composite(donut, mbart), folder / "donut", "DonutImageProcessor")
    classes = {"id2label": dict(enumerate(LABELS))}
    save(in_torch.ViTForImageClassification(in_torch.ViTConfig(**looks).replace(**classes), seed=3), folder / "vit")
    tower = {"image_size": 12, "patch_size": 4, **SMALL}
    text = in_torch.CLIPTextConfig(vocab_size=len(WORDS), max_position_embeddings=12, eos_token_id=END, **SMALL)
    config = in_torch.CLIPConfig(
        text_config=text, vision_config=in_torch.CLIPVisionConfig(**tower), projection_dim=8, initializer_factor=3.0
    )
    crop = {"crop_size": {"height": 12, "width": 12}}
    save(in_torch.CLIPModel(config, seed=3), folder / "clip", "CLIPImageProcessor", **crop)
    in_torch.ViTModel(in_torch.ViTConfig(**looks), seed=3).save_pretrained(folder / "bare")
    save(in_torch.ViTModel(in_torch.ViTConfig(**looks), seed=3), folder / "encoder")
    save(in_torch.GPT2LMHeadModel(decoder, seed=3), folder / "gpt2")
    in_torch.VisionEncoderDecoderModel.from_pretrained(folder / "captioner").save_pretrained(folder / "unprocessed")
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A directory of images, one of them turned by its EXIF orientation, and one that is no image."""
    folder = tmp_path_factory.mktemp("album")
    for number, size in enumerate([(37, 53), (61, 44), (19, 19)]):
        photo(*size, seed=number).save(folder / f"photo{number}.png")
    turned = photo(30, 40, seed=9)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def broken(tmp_path):
    """A JPEG whose second half is missing."""
    photo(300, 300).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(data[: len(data) // 2])
    return tmp_path / "torn.jpg"


def written(directory, paths, **call):
    """What the model writes about images, by its own means."""
    processor = diptych.load_processor(directory)
    pixels = processor(images=[str(path) for path in paths], return_tensors="pt").pixel_values
    sequences = in_torch.load(directory).generate(pixel_values=pixels, max_new_tokens=6, **call).sequences
    return processor.batch_decode(sequences, skip_special_tokens=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_texts_about_images(run, checkpoints, album, monkeypatch, backend):
    """One alone as it comes; several behind their names, in batches; the texts depend on the images."""
    command = ("generate", checkpoints / "captioner", "--backend", backend, "--max-new-tokens", 6)
    paths = sorted([*album.glob("*.png"), *album.glob("*.jpg")])
    expected = written(checkpoints / "captioner", paths)
    assert len(set(expected)) == 4 and all(expected)
    assert run(*command, "--image", paths[1]) == (0, f"{expected[1]}\n", "")
    several = "".join(f"{path}: {text}\n" for path, text in zip(paths, expected, strict=True))
    assert run(*command, "--image", album, "--batch-size", 4) == (0, several, "")
    if backend == "torch":
        assert run(*command, "--image", *paths, "--batch-size", 3) == (0, several, "")
        flags = [word for path in (*paths[:2], album / "*[2d].*g") for word in ("--image", path)]
        assert run(*command, *flags) == (0, several, "")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(paths[1].read_bytes())))
        assert run(*command, "--image", "-") == (0, f"{expected[1]}\n", "")
        assert run(*command, "--image", paths[0], "--output", album / "out.txt") == (0, "", "")
        assert (album / "out.txt").read_text() == f"{expected[0]}\n"
        rows = [json.loads(line) for line in run(*command, "--image", *paths, "--json")[1].splitlines()]
        assert [(row["image"], row["text"]) for row in rows] == list(zip(map(str, paths), expected, strict=True))
        assert list(rows[0]) == ["image", "ids", "text", "score"]


def test_an_image_is_described_as_tokens_come(checkpoints, album):
    pieces = []
    image = album / "photo0.png"
    (found,) = generate_text_from_images(checkpoints / "captioner", image, max_new_tokens=6, show=pieces.append)
    assert "".join(pieces) == f"{found.text}\n"
    assert len(pieces) > 4
    assert found.image == str(image)


@pytest.mark.parametrize("backend", BACKENDS)
def test_donuts_prompts_take_the_place_of_the_start_token(run, checkpoints, album, backend):
    command = ("generate", checkpoints / "donut", "--backend", backend, "--max-new-tokens", 6, "--json")
    image = album / "photo0.png"
    _, out, err = run(*command, "--image", image, "--text", "<s_task>")
    ids = json.loads(out)["ids"]
    pixels = diptych.load_processor(checkpoints / "donut")(images=str(image)).pixel_values
    whole = in_torch.load(checkpoints / "donut").generate(
        pixel_values=pixels, decoder_input_ids=[[TASK]], max_new_tokens=6
    )
    assert ([TASK, *ids], err) == (whole.sequences[0].tolist(), "")
    assert json.loads(run(*command, "--image", image, "--ids", TASK, "--echo")[1])["ids"] == [TASK, *ids]
    if backend == "torch":
        assert json.loads(run(*command, "--image", image)[1])["ids"] != ids
        # other decoders read a prompt behind their start token
        command = ("generate", checkpoints / "captioner", *command[2:])
        echoed = json.loads(run(*command, "--image", image, "--text", "w3 w4", "--echo")[1])["ids"]
        assert echoed[:3] == [START, WORDS.index("w3"), WORDS.index("w4")]
        assert json.loads(run(*command, "--image", image, "--text", "w3 w4")[1])["ids"] == echoed[3:]
        started = json.loads(run(*command, "--image", image, "--ids", f"{START},7,8", "--echo")[1])["ids"]
        assert started == echoed


def test_beams_give_several_texts_about_each_image(checkpoints, album):
    paths = [album / "photo0.png", album / "photo1.png"]
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4}
    texts = generate_text_from_images(checkpoints / "captioner", paths, **options)
    assert [text.image for text in texts] == [str(path) for path in paths for _ in range(2)]
    assert len({text.ids for text in texts}) == 4 and all(text.score < 0 for text in texts)


def labels_of(row):
    """A line of JSON without its probabilities, whose last digit depends on the batch."""
    return {**row, "labels": [one["label"] for one in row["labels"]]} if "labels" in row else row


def test_a_broken_image_is_reported_and_the_others_come_out(run, checkpoints, album, broken):
    absent, palette = broken.with_name("absent.png"), broken.with_name("palette.gif")
    photo(20, 30).convert("P").save(palette)
    paths = [album / "photo0.png", broken, absent, album / "notes.txt", palette]
    for verb, name in (("generate", "captioner"), ("classify", "vit")):
        good = [
            run(verb, checkpoints / name, "--backend", "torch", "--image", path, "--json")
            for path in (paths[0], palette)
        ]
        assert [code for code, _, _ in good] == [0, 0]
        for size in (1, 8):
            command = (verb, checkpoints / name, "--backend", "torch", "--json", "--batch-size", size)
            code, out, err = run(*command, "--image", *paths)
            expected = [json.loads(out) for _, out, _ in good]
            assert (code, [labels_of(json.loads(line)) for line in out.splitlines()]) == (
                2,
                [*map(labels_of, expected)],
            )
            first, second, third = err.splitlines()
            assert first.startswith(f"diptych: {broken}: a damaged image (")
            assert second == f"diptych: {absent}: no such file, but the path of an image is needed"
            assert third == f"diptych: {album / 'notes.txt'}: is no image that Pillow can read"
    with pytest.raises(InputError, match=r"torn\.jpg: a damaged image"):
        generate_text_from_images(checkpoints / "captioner", paths)
    assert run("classify", checkpoints / "vit", "--image", broken)[:2] == (2, "")


def test_images_of_any_mode_are_read_and_others_are_named(checkpoints, tmp_path):
    modes = {"L": "png", "LA": "png", "RGBA": "png", "I;16": "png", "CMYK": "jpg", "1": "png"}
    for mode, ending in modes.items():
        Image.new(mode, (20, 17), 1 if mode == "1" else None).save(tmp_path / f"{mode}.{ending}".replace(";", "_"))
    Image.fromarray(np.full((9, 9), 300.5, np.float32)).save(tmp_path / "height.tif")
    frames = [photo(15, 15, seed=number) for number in range(2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    errors = []
    found = classify_images(checkpoints / "vit", tmp_path, on_error=errors.append)
    assert sorted(one.image[len(str(tmp_path)) + 1 :] for one in found) == [
        "1.png", "CMYK.jpg", "I_16.png", "L.png", "LA.png", "RGBA.png", "moving.gif"
    ]  # fmt: skip
    (error,) = errors
    assert str(error).startswith(f"{tmp_path / 'height.tif'}: the image, of Pillow's mode F, cannot become RGB (")


def test_what_is_no_image_is_named_by_the_command(run, checkpoints, tmp_path, monkeypatch):
    """A bomb, a file without bytes and one without pixels; beside an animation, whose first frame is read."""
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    photo(40, 40).save(tmp_path / "bomb.png")
    (tmp_path / "empty.png").touch()
    whole = (tmp_path / "bomb.png").read_bytes()
    (tmp_path / "none.png").write_bytes(whole[:16] + bytes(4) + whole[20:])  # a width of 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    code, out, err = run("classify", checkpoints / "vit", "--backend", "torch", "--image", tmp_path, "--json")
    moving, still = (json.loads(line) for line in out.splitlines())
    assert (code, moving["labels"]) == (2, still["labels"])
    bomb, empty, none = err.splitlines()
    assert bomb.startswith(f"diptych: {tmp_path / 'bomb.png'}: too large an image (")
    assert bomb.endswith("if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS")
    assert empty == f"diptych: {tmp_path / 'empty.png'}: is no image that Pillow can read"
    assert none.startswith(f"diptych: {tmp_path / 'none.png'}: ")


def test_images_that_differ_in_size_are_processed_apart(checkpoints, album, tmp_path):
    save(in_torch.load(checkpoints / "donut"), tmp_path, "ViTImageProcessor", do_resize=False)
    wide, tall = tmp_path / "wide.png", tmp_path / "tall.png"
    photo(12, 24, seed=1).save(wide)
    photo(24, 12, seed=2).save(tall)
    call = {"max_new_tokens": 3}
    together = generate_text_from_images(tmp_path, [wide, tall], **call)
    assert together == [
        *generate_text_from_images(tmp_path, wide, **call),
        *generate_text_from_images(tmp_path, tall, **call),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_of_images(run, checkpoints, album, backend):
    paths = sorted(album.glob("photo*.png"))
    pixels = diptych.load_processor(checkpoints / "vit")(images=[str(path) for path in paths], return_tensors="pt")
    theirs = transformers.ViTForImageClassification.from_pretrained(checkpoints / "vit")
    expected = theirs(**pixels).logits.softmax(-1).detach().numpy()
    assert len({int(row.argmax()) for row in expected}) > 1
    command = ("classify", checkpoints / "vit", "--backend", backend)
    code, out, err = run(*command, "--image", *paths, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err, [row["image"] for row in rows]) == (0, "", [str(path) for path in paths])
    for row, wanted in zip(rows, expected, strict=True):
        order = wanted.argsort()[::-1]
        assert [one["label"] for one in row["labels"]] == [LABELS[index] for index in order]
        found = np.array([one["probability"] for one in row["labels"]], np.float32)
        assert_close(found, wanted[order], kind="float32", name="probabilities")
    if backend == "torch":
        code, out, _ = run(*command, "--image", paths[0], "--top", 2)
        lines = [line.split() for line in out.splitlines() if "%" in line]
        best = rows[0]["labels"][:2]
        assert lines == [[one["label"], f"{one['probability']:.2%}"] for one in best]
        assert str(paths[0]) in out and "probability" in out
        multi = ("--set", "problem_type=multi_label_classification")
        both = json.loads(run(*command, "--image", paths[0], "--json", *multi)[1])["labels"]
        logits = theirs(pixel_values=pixels.pixel_values[:1]).logits[0]
        wanted = torch.sigmoid(logits).sort(descending=True).values.detach().numpy()
        found = np.array([one["probability"] for one in both], np.float32)
        assert_close(found, wanted, kind="float32", name="probabilities")


@pytest.fixture(scope="module")
def classifiers(checkpoints, tmp_path_factory):
    """A checkpoint of each other family that classifies images."""
    folder = tmp_path_factory.mktemp("classifiers")
    looks = {"image_size": (12, 16), "patch_size": 4, "initializer_range": 0.6}
    stages = {"embed_dim": 12, "depths": (1, 1), "num_heads": (3, 3), "window_size": 2}
    crop = {"crop_size": {"height": 12, "width": 12}}
    made = {
        "DeiTForImageClassification": (in_torch.DeiTConfig(**looks, **SMALL), "DeiTImageProcessor", {}),
        "DeiTForImageClassificationWithTeacher": (in_torch.DeiTConfig(**looks, **SMALL), "DeiTFeatureExtractor", {}),
        "BeitForImageClassification": (
            in_torch.BeitConfig(**looks, **SMALL, use_relative_position_bias=True), "BeitImageProcessor", {}
        ),
        "SwinForImageClassification": (in_torch.SwinConfig(**looks, **stages), "ViTImageProcessor", {}),
        "CLIPForImageClassification": (in_torch.load(checkpoints / "clip").config, "CLIPImageProcessor", crop),
    }  # fmt: skip
    for name, (config, processor, fields) in made.items():
        model = getattr(in_torch, name)(config.replace(id2label=dict(enumerate(LABELS[:3]))), seed=3)
        save(model, folder / name, processor, **{"do_center_crop": bool(fields), **fields})
    return folder


CLASSIFIERS = (
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "BeitForImageClassification",
    "SwinForImageClassification",
    "CLIPForImageClassification",
)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_family_of_classifiers(run, classifiers, album, name):
    paths = sorted(album.glob("photo*.png"))
    pixels = diptych.load_processor(classifiers / name)(images=[str(path) for path in paths], return_tensors="pt")
    theirs = getattr(transformers, name).from_pretrained(classifiers / name)
    expected = theirs(pixel_values=pixels.pixel_values).logits.softmax(-1).detach().numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3
    code, out, err = run("classify", classifiers / name, "--backend", "torch", "--image", *paths, "--json")
    assert (code, err) == (0, "")
    for line, wanted in zip(out.splitlines(), expected, strict=True):
        labels = json.loads(line)["labels"]
        assert [one["label"] for one in labels] == [LABELS[index] for index in wanted.argsort()[::-1]]
        found = np.array([one["probability"] for one in labels], np.float32)
        assert_close(found, np.sort(wanted)[::-1], kind="float32", name="probabilities")


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_in_words(run, checkpoints, album, backend):
    """Without training, as transformers computes it; texts of several lengths."""
    paths = sorted(album.glob("photo*.png"))
    labels = ["w3", "a w4 w5", "w6"]
    theirs = transformers.CLIPModel.from_pretrained(checkpoints / "clip").double()
    processor = diptych.load_processor(checkpoints / "clip")
    inputs = processor([str(path) for path in paths], [f"a w9 of {label}" for label in labels], return_tensors="pt")
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    expected = theirs(**inputs).logits_per_image.softmax(-1).detach().numpy()
    assert expected.max() < 0.99 and np.ptp(expected, axis=0).max() > 0.01
    command = ("classify", checkpoints / "clip", "--backend", backend, "--dtype", "float32", "--json")
    given = ("--labels", "w3, a w4 w5", "--labels", "w6", "--template", "a w9 of {}")
    code, out, err = run(*command, "--image", *paths, *given)
    assert (code, err) == (0, "")
    rows = [{one["label"]: one["probability"] for one in json.loads(line)["labels"]} for line in out.splitlines()]
    found = np.array([[row[label] for label in labels] for row in rows], np.float32)
    assert_close(found, expected.astype(np.float32), kind="float32", name="probabilities")
    if backend == "torch":
        default = [
            json.loads(run(*command, "--image", paths[0], "--labels", "w3,w6", *template)[1])["labels"]
            for template in ((), ("--template", "a photo of {}"))
        ]
        assert default[0] == default[1]


def test_parity_on_an_image(run, checkpoints, album):
    code, out, _ = run("parity", checkpoints / "captioner", "--image", album / "photo0.png", "--no-gradients")
    assert code == 0 and "pixel_values [1, 3, 12, 16] float32" in out and "EQUAL" in out
    images = [str(path) for path in sorted(album.glob("photo*.png"))]
    inputs = image_inputs(checkpoints / "clip", images)
    expected = diptych.load_processor(checkpoints / "clip")(images=images).pixel_values
    assert (inputs["pixel_values"] == expected).all()
    assert len(inputs["input_ids"]) == len(inputs["attention_mask"]) == 3
    assert inputs["return_loss"] is True


def test_files_are_found(album, tmp_path, monkeypatch):
    names = ["photo0.png", "photo1.png", "photo2.png", "turned.jpg"]
    assert find_images(album) == [str(album / name) for name in names]
    monkeypatch.chdir(album)
    assert find_images(["photo1.png", "photo[0-1].png", "**/*.jpg", "absent.png"]) == [
        "photo1.png", "photo0.png", "photo1.png", "turned.jpg", "absent.png"
    ]  # fmt: skip
    for name in ("a[1].png", "._b.png", "c.heic", "d.txt"):
        (tmp_path / name).touch()
    assert find_images(tmp_path) == [str(tmp_path / name) for name in ("a[1].png", "c.heic")]
    assert find_images(tmp_path / "a[1].png") == [str(tmp_path / "a[1].png")]
    with pytest.raises(InputError, match="images: none are given, but at least one is needed"):
        find_images([])
    for images in (Image.new("RGB", (2, 2)), ["photo0.png", Image.new("RGB", (2, 2))]):
        with pytest.raises(InputError, match="images: something of type Image is given; give the paths of images"):
            find_images(images)
    with pytest.raises(
        InputError, match=r"of type ndarray is given.* with what load_processor\(directory\)\(images\) "
    ):
        find_images(np.zeros((2, 2, 3)))


def test_a_bar_shows_progress(checkpoints, album, capsys):
    call = {"batch_size": 2, "backend": "torch"}
    classify_images(checkpoints / "vit", album, progress=True, **call)
    assert "| 0/4 [" in capsys.readouterr().err
    classify_images(checkpoints / "vit", album, **call)
    assert capsys.readouterr().err == ""


IMAGE = ("--image", "photo0.png")
ZERO = (*IMAGE, "--labels", "w3,w4")
BAD = [
    ("generate", "captioner", ("photo0.png",), "generate: photo0.png: only images or recordings follow the"),
    (
        "generate",
        "captioner",
        ("--text", "w1"),
        "reads no text, so it cannot start from prompts; it reads pixel_values",
    ),
    ("generate", "gpt2", IMAGE, "gpt2: GPT2LMHeadModel reads no images; it reads input_ids"),
    ("generate", "encoder", IMAGE, "encoder: ViTModel writes no texts; a class with a language model's head is needed"),
    ("generate", "unprocessed", IMAGE, "unprocessed: has no preprocessor_config.json, nor a processor_config.json"),
    (
        "generate",
        "captioner",
        (*IMAGE, "--text", "w1", "--text", "w2"),
        "with --image, one --text or --ids begins every",
    ),
    ("generate", "captioner", (*IMAGE, "--target-language", "de_DE"), "--target-language have no use"),
    (
        "generate",
        "captioner",
        (*IMAGE, "--text", "w1", "--ids", "5"),
        "one of --text and --ids is needed, and not both",
    ),
    ("generate", "captioner", (*IMAGE, "--text", ""), "generate: the prompt has no tokens"),
    ("generate", "captioner", (*IMAGE, "--text", "w\udcff"), "is not valid Unicode (surrogates not allowed)"),
    ("generate", "captioner", (*IMAGE, "--batch-size", 0), "generate: batch_size=0 must be 1 or more"),
    ("classify", "vit", ("--image", ""), "images: an empty path is given; give the paths of images"),
    ("generate", "captioner", ("--image", "no*.gif"), "no*.gif: no file matches; give the paths of images"),
    ("generate", "captioner", ("--image", "empty"), "empty: no file in this directory has the ending of an image"),
    ("generate", "nowhere", IMAGE, "nowhere: no such directory, and no id of a model"),
    ("classify", "vit", (), "classify: --image or --audio is needed, with the path of a file"),
    ("classify", "vit", ("photo0.png",), "classify: photo0.png: only images or recordings follow the checkpoint; put"),
    ("classify", "vit", ZERO, "vit: ViTForImageClassification has labels of its own; only a CLIPModel takes labels"),
    ("classify", "vit", (*IMAGE, "--top", 0), "classify: top=0 must be 1 or more"),
    ("classify", "vit", (*IMAGE, "--batch-size", 0), "classify: batch_size=0 must be 1 or more"),
    ("classify", "vit", (*IMAGE, "--backend", "mxnet"), "classify: backend='mxnet' is not known; known: jax, torch"),
    ("classify", "vit", (*IMAGE, "--device", "abacus"), "device='abacus' is none that PyTorch finds here ("),
    ("classify", "encoder", IMAGE, "encoder: ViTModel does not classify images; a CLIPModel or …ForImageC"),
    ("classify", "clip", IMAGE, "clip: a CLIPModel needs labels to choose from, such as 'a cat' and 'a dog'"),
    ("classify", "clip", (*IMAGE, "--labels", "w3,,w4"), "classify: labels: one of w3, , w4 is empty"),
    ("classify", "clip", (*IMAGE, "--labels", "w3,w4,w3"), "classify: labels: w3 is given more than once"),
    ("classify", "clip", (*ZERO, "--template", "a {0}"), "classify: template='a {0}' has no {}, which each label"),
    (
        "parity",
        "captioner",
        (*IMAGE, "--input", "x.npz"),
        "parity: --input has all inputs, so --image has no use beside",
    ),
    ("parity", "captioner", ("--image", "notes.txt"), "notes.txt: is no image that Pillow can read"),
    ("parity", "bare", IMAGE, "bare: has no preprocessor_config.json, nor a processor_config.json"),
    ("parity", "gpt2", IMAGE, "gpt2: GPT2LMHeadModel reads no images; it reads input_ids"),
]


@pytest.mark.parametrize(("verb", "name", "options", "message"), BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    run, checkpoints, album, monkeypatch, verb, name, options, message
):
    monkeypatch.chdir(album)
    (album / "empty").mkdir(exist_ok=True)
    backend = () if "--backend" in options or verb == "parity" else ("--backend", "torch")
    code, out, err = run(verb, checkpoints / name, *backend, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("diptych: ")
    assert message in err


def test_no_classifier_has_no_classes(checkpoints, tmp_path, album):
    config = in_torch.load(checkpoints / "vit").config.replace(id2label=None, num_labels=0)
    save(in_torch.ViTForImageClassification(config, seed=0), tmp_path)
    with pytest.raises(InputError, match="classify: num_labels=0, so the model has no classifier"):
        classify_images(tmp_path, album)
