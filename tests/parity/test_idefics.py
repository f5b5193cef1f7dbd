"""IDEFICS beyond the numbers of one call: texts about images, caches, states as images, and what it refuses."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.utils import ModelOutput

import diptych.backends.jax
import diptych.backends.torch
from diptych.conversion import parity, to_jax, to_torch
from diptych.conversion.exact import make_exact
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.families.idefics import spell
from tests.parity import oracle
from tests.parity.tiny import CONFIGS, inputs, labels_for
from tests.parity.writers import array

pytestmark = pytest.mark.usefixtures("x64")

NAME = "IdeficsForVisionText2Text"
SIZES = {"vocabulary": 29, "width": 24, "layers": 2, "heads": 3, "inner": 31, "positions": 33}
WORDS = 32  # three of them additional

RANDOM = np.random.default_rng(3)
IDS = RANDOM.integers(3, WORDS, (2, 7))
IDS[0, 3] = IDS[1, 5] = 30
SEEN = np.zeros((2, 7, 2), np.int64)
SEEN[0, 2:, 0] = SEEN[0, 4:, 1] = SEEN[1, 4:, 1] = 1
CALL = {
    "input_ids": IDS,
    "attention_mask": np.array([[1] * 7, [0] * 2 + [1] * 5]),
    "pixel_values": RANDOM.standard_normal((2, 2, 3, 4, 4)),
    "image_attention_mask": SEEN,
}
ASKED = {"max_new_tokens": 7, "pad_token_id": 0, "eos_token_id": None}


@dataclass
class LaterRecord(ModelOutput):
    last_hidden_state: Any = None
    image_outputs: Any = None


@functools.cache
def models() -> dict[str, Any]:
    """One model of transformers, of torch and of JAX, whose words depend on the images."""
    fields = spell(SIZES, additional_vocab_size=3, use_resampler=True, qk_layer_norms=True, bos_token_id=None)
    model = oracle.built(NAME, transformers.IdeficsConfig(**fields))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if (
                "embed_tokens" in path
                or "additional_fc" in path
                or path.endswith(("alpha_cross_attn", "cross_attn.v_proj.weight"))
            ):
                parameter.mul_(4.0)
    model.generation_config = transformers.GenerationConfig()
    with tempfile.TemporaryDirectory() as directory:
        oracle.saved(model, Path(directory))
        ours = {name: getattr(home, NAME).from_pretrained(directory) for name, home in BACKENDS.items()}
    return {"theirs": model, **ours}


def tensors(call: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in call.items()}


def written(who: str, call: dict[str, Any], **options: Any) -> np.ndarray:
    model = models()[who]
    if who == "theirs":
        return model.generate(**tensors(call), **ASKED, **options).numpy()
    return array(model.generate(**call, **ASKED, **options).sequences)


def call_of(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**CALL, **changes}.items() if value is not None}


# Texts


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"bad_words_ids": [[30], [31]]}], ids=str
)
def test_both_write_what_transformers_writes(options: dict[str, Any]) -> None:
    expected = written("theirs", CALL, **options)
    for backend in BACKENDS:
        assert np.array_equal(written(backend, CALL, **options), expected)
    others = call_of(pixel_values=-CALL["pixel_values"])
    assert not np.array_equal(written("torch", others, **options), expected)  # the texts are about the images
    if options.get("bad_words_ids"):
        assert not np.isin(expected[:, 7:], [30, 31]).any() and np.isin(written("torch", CALL)[:, 7:], [30, 31]).any()


def test_additional_words_end_texts_and_samples_agree() -> None:
    free = written("torch", CALL)[:, 7:]
    end = int(free[free >= 29][0])
    ended = [models()[name].generate(**CALL, **{**ASKED, "eos_token_id": end}).sequences for name in BACKENDS]
    assert np.array_equal(*map(array, ended)) and (array(ended[0])[:, 7:] == end).any()
    assert (array(ended[0])[:, 7:] == 0).any()  # the padding after it
    drawn = [written(name, CALL, do_sample=True, seed=4, num_return_sequences=2) for name in BACKENDS]
    assert np.array_equal(*drawn) and len(np.unique(drawn[0], axis=0)) > 2
    with pytest.raises(InputError, match=r"eos_token_id=32, but vocab_size \+ additional_vocab_size allows 0 to 31"):
        models()["torch"].generate(**CALL, **{**ASKED, "eos_token_id": 32})
    last = 29 if end == 31 else 31
    suppressed = written("torch", CALL, suppress_tokens=[end], forced_eos_token_id=last)[:, 7:]
    assert end not in suppressed and (suppressed[:, -1] == last).all()


def test_images_may_have_another_size_and_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_of(pixel_values=RANDOM.standard_normal((2, 2, 3, 6, 5)), interpolate_pos_encoding=True)
    expected, count = written("theirs", call), []
    for backend in BACKENDS:
        tower = type(models()[backend].model.vision_model)
        method = "forward" if backend == "torch" else "__call__"
        forward = getattr(tower, method)
        monkeypatch.setattr(tower, method, lambda *a, f=forward, **k: (count.append(1), f(*a, **k))[1])
        assert np.array_equal(written(backend, call), expected)
    assert len(count) == 2
    with pytest.raises(InputError, match=r"pixel_values has shape \(2, 2, 3, 6, 5\), but .*, or interpolate_pos_enc"):
        written("torch", call_of(pixel_values=call["pixel_values"]))


@each_backend
def test_states_may_take_the_place_of_images(backend: str) -> None:
    model, expected = models()[backend], written(backend, CALL)
    tower = models()["torch"].model
    pixels = torch.tensor(CALL["pixel_values"]).flatten(0, 1)
    encoded = models()["theirs"].model.vision_model(pixels).last_hidden_state
    resampled = array(tower(**CALL).image_hidden_states)
    for given in (
        {"image_encoder_embeddings": array(encoded.unflatten(0, (2, 2)))},
        {"perceiver_embeddings": resampled},
    ):
        call = call_of(pixel_values=None, **given)
        assert_close(array(model(**call).image_hidden_states), resampled)
        if backend == "torch":  # which compiles nothing
            assert np.array_equal(written(backend, call), expected)
    call |= {"input_ids": None, "inputs_embeds": array(tower.embed_tokens(torch.tensor(IDS)))}
    assert np.array_equal(written(backend, call_of(pixel_values=None, **call)), expected[:, 7:])


# Caches and masks


@each_backend
def test_step_by_step_is_all_at_once(backend: str) -> None:
    """Images come with the first tokens; their keys stay in the cache, and padding takes no position."""
    model = models()[backend]
    expected = array(model(**CALL).logits)
    step = jax.jit(lambda model, call: model(**call)) if backend == "jax" else None
    for counts in ([3, 4], [4, 1, 1, 1]):
        cache, first, found = model.init_cache(2, 9), 0, []
        for count in counts:
            last = first + count
            call: dict[str, Any] = {name: CALL[name][:, first:last] for name in ("input_ids", "image_attention_mask")}
            call |= {"attention_mask": CALL["attention_mask"][:, first:last], "past_key_values": cache}
            if first == 0:
                call["pixel_values"] = CALL["pixel_values"]
            output = model(**call) if step is None else step(model, call)
            assert (output.image_hidden_states is None) == (first > 0)
            cache, first = output.past_key_values, last
            found.append(array(output.logits))
        assert_close(np.concatenate(found, 1), expected)
    assert "past_key_values" not in model(**CALL, use_cache=False)
    with pytest.raises(InputError, match=r"\(2, 1, 4\), but past_key_values has the keys of 6 states of images, which"):
        model(IDS[:, :1], past_key_values=cache, image_attention_mask=np.ones((2, 1, 4)))


def test_layers_that_see_no_images_keep_no_keys_of_them() -> None:
    """In torch alone: the loop over layers is the same text in both backends."""
    model = diptych.backends.torch.__getattr__(NAME)(CONFIGS[NAME], seed=2, dtype="float64")
    call = inputs(NAME)
    pixels = call.pop("pixel_values")
    first, last = ({name: value[:, part] for name, value in call.items()} for part in (slice(4), slice(4, 6)))
    cache = model(**first, pixel_values=pixels, use_cache=True).past_key_values
    assert [key is None for key in cache.cross_keys] == [False, True]
    found = model(**last, past_key_values=cache).logits
    assert_close(array(found), array(model(**call, pixel_values=pixels).logits)[:, 4:])


@each_backend
def test_a_token_sees_the_images_that_the_mask_shows_it(backend: str) -> None:
    model = models()[backend]
    logits = array(model(**CALL).logits)
    others = array(model(**call_of(pixel_values=-CALL["pixel_values"])).logits)
    same = np.isclose(logits, others, rtol=0, atol=1e-12).all(-1)
    assert same.tolist() == [[True] * 2 + [False] * 5, [True] * 4 + [False] * 3]
    every = array(model(**call_of(image_attention_mask=np.ones((2, 7, 2)))).logits)
    assert_close(array(model(**call_of(image_attention_mask=None)).logits), every)
    weights = model(**CALL, output_attentions=True).cross_attentions
    assert len(weights) == 2 and weights[0].shape == (2, 3, 7, 6)
    assert_close(array(weights[0]).sum(-1), np.broadcast_to(SEEN.any(-1)[:, None], (2, 3, 7)).astype(float))


# Training


@each_backend
def test_a_model_is_frozen_as_its_config_says_and_copies_as_the_model_is(backend: str, tmp_path: Path) -> None:
    config = CONFIGS[NAME].replace(freeze_text_layers=True, freeze_vision_layers=True)
    model = getattr(BACKENDS[backend], NAME)(config)
    free = {"lm_head", "model.embed_tokens.additional_embedding", "model.gated_cross_attn_layers"}
    trained = {slot.path for slot in model._leaves()} - set(model.frozen_parameters)
    assert all(path.startswith((*free, "model.perceiver_resampler")) for path in trained) and len(trained) > 20
    assert all(any(path.startswith(f"{start}.") for path in trained) for start in free)
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).frozen_parameters == model.frozen_parameters
    for convert in (to_jax, to_torch):
        assert convert(model).frozen_parameters == model.frozen_parameters
        assert convert(type(model)(config).unfreeze()).frozen_parameters == ()
    tied = getattr(BACKENDS[backend], NAME)(config.replace(tie_word_embeddings=True), seed=None)
    assert "model.embed_tokens.weight" in tied.frozen_parameters


def test_layers_computed_twice_give_the_same_gradients() -> None:
    call = {**inputs(NAME), **labels_for(NAME)}
    gradients, stored = [], []
    for mode in (False, True):
        model = diptych.backends.torch.__getattr__(NAME)(CONFIGS[NAME], gradient_checkpointing=mode)
        sizes: dict[int, int] = {}  # of what the backward pass needs

        def keep(value: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[value.data_ptr()] = value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = model(**call).loss
        stored.append(sum(sizes.values()))
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        twin = diptych.backends.jax.__getattr__(NAME)(CONFIGS[NAME], gradient_checkpointing=mode, seed=None)
        program = str(jax.make_jaxpr(lambda model: model(**call).loss)(twin))
        assert program.count("remat") == 4 * mode  # two layers of the decoder, one of the images' encoder, a block
    assert len(gradients[0]) > 50 and all(map(torch.equal, *gradients))
    assert stored[1] < stored[0] / 2, stored


# Files


def test_files_of_old_versions_are_read(tmp_path: Path) -> None:
    model = diptych.backends.torch.__getattr__(NAME)(CONFIGS[NAME].replace(tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["lm_head.additional_fc.weight"] = tensors["model.embed_tokens.additional_embedding.weight"]
    for path in ("layers.1.self_attn", "gated_cross_attn_layers.0.cross_attn"):
        tensors[f"model.{path}.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    tensors["model.vision_model.embeddings.position_ids"] = np.arange(5)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = type(model).from_pretrained(tmp_path)
    assert len(loaded.load_report.ignored) == 5
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_parity_with_transformers_is_proved_for_frozen_models_too(tmp_path: Path) -> None:
    config = CONFIGS[NAME].replace(freeze_text_layers=True, freeze_vision_layers=True)
    diptych.backends.torch.__getattr__(NAME)(config).save_pretrained(tmp_path)
    report = parity(tmp_path, against="transformers", backend="torch")
    assert report.passed, report
    assert any(point.name == "model.layers.1.mlp.up_proj.weight" for point in report.points if point.kind == "gradient")


@pytest.mark.parametrize("resampler", [True, False])
def test_parity_reads_the_records_of_later_versions(resampler: bool) -> None:
    """5.24 returns the outputs of the image encoder in place of image_hidden_states."""
    model = (
        transformers.IdeficsModel(transformers.IdeficsConfig(**spell(SIZES, use_resampler=resampler))).double().eval()
    )
    forward, call = model.forward, tensors(CALL) | {"input_ids": torch.tensor(IDS % 29)}
    expected = model.vision_model(call["pixel_values"].flatten(0, 1)).last_hidden_state
    expected = (model.perceiver_resampler(expected) if resampler else expected).unflatten(0, (2, 2))

    def later(**keywords: Any) -> Any:
        images = model.vision_model(keywords["pixel_values"].flatten(0, 1))
        return LaterRecord(last_hidden_state=forward(**keywords).last_hidden_state, image_outputs=images)

    model.forward = later
    output = make_exact(model)(**call)
    assert list(output) == ["last_hidden_state", "image_hidden_states"]
    assert torch.equal(output["image_hidden_states"], expected)


# What is refused

STATES = np.zeros((2, 2, 5, 10))
EXACTLY_ONE = "exactly one of pixel_values and image_encoder_embeddings and perceiver_embeddings is needed, got "
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pixel_values": None}, EXACTLY_ONE + "none"),
    ({"perceiver_embeddings": STATES}, EXACTLY_ONE + "pixel_values and perceiver_embeddings"),
    ({"pixel_values": CALL["pixel_values"][:, 0]}, r"pixel_values has shape \(2, 3, 4, 4\), but \(batch, images, "),
    ({"pixel_values": CALL["pixel_values"][:1]}, r"the images' batch has shape \(1,\), but \(2,\) is needed, one row"),
    ({"pixel_values": None, "perceiver_embeddings": STATES[..., :6]}, r"has shape \(2, 2, 5, 6\), but \(2, 2, 5, 10\)"),
    ({"pixel_values": None, "image_encoder_embeddings": STATES[:, :0]}, r"\(2, 0, 5, 10\), but at least one state is"),
    (
        {"image_attention_mask": SEEN[:, 1:]},
        r"image_attention_mask has shape \(2, 6, 2\), but \(2, 7, 2\) is needed, a",
    ),
    (
        {"image_attention_mask": SEEN[..., :1]},
        r"\(2, 7, 1\), but \(2, 7, 2\) is needed, as many as there are tokens and images",
    ),
    (
        {"image_attention_mask": SEEN - 1.0},
        "image_attention_mask must hold 1 for what is attended to and 0 for the rest",
    ),
    ({"image_attention_mask": SEEN[..., 0]}, r"has shape \(2, 7\), but \(batch, tokens, images\) is needed"),
    ({"input_ids": IDS + 4}, r"input_ids holds \d+, but vocab_size \+ additional_vocab_size allows 0 to 31"),
    ({"attention_mask": np.ones((2, 6))}, r"attention_mask has shape \(2, 6\), but \(2, 7\) is needed"),
]


REFUSED_BY_GENERATE: list[tuple[dict[str, Any], str]] = [
    ({"image_attention_mask": SEEN[:, 1:]}, r"image_attention_mask has shape \(2, 6, 2\), but \(2, 7, 2\) is needed"),
    ({"pixel_values": CALL["pixel_values"][:1]}, r"pixel_values has shape \(1, 2, 3, 4, 4\), but \(2, 2, 3, 4, 4\) is"),
    ({"input_ids": IDS + 4}, r"input_ids holds \d+, but vocab_size \+ additional_vocab_size allows 0 to 31"),
    ({"suppress_tokens": [32]}, r"suppress_tokens=\(32,\), but vocab_size \+ additional_vocab_size allows 0 to 31"),
]


@each_backend
@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_does_not_fit_is_refused(backend: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models()[backend](**call_of(**changes))


@each_backend
def test_generate_refuses_it_before_it_encodes(backend: str) -> None:
    for changes, message in REFUSED_BY_GENERATE:
        with pytest.raises(InputError, match=f"^{NAME}.generate: {message}"):
            models()[backend].generate(**call_of(**changes), **ASKED)


@each_backend
def test_states_of_a_resampler_need_one_and_tables_of_additional_words_each_other(backend: str) -> None:
    home = BACKENDS[backend]
    model = getattr(home, NAME)(CONFIGS[NAME].replace(use_resampler=False))
    with pytest.raises(InputError, match=r"perceiver_embeddings are given, but the config has use_resampler=False"):
        model(IDS[:, :6] % 9, perceiver_embeddings=STATES)
    config = CONFIGS[NAME].replace(additional_vocab_size=0)
    with pytest.raises(
        InputError, match=r"the module's additional_embedding\.weight is missing, but \(7, 12\) is need"
    ):
        model.set_input_embeddings(home.IdeficsModel(config, seed=None).get_input_embeddings())
