"""What a user may get wrong in a call: one clear error, the same in both backends, and nothing computed."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import diptych.backends.jax as in_jax
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.conversion.refusals import BACKENDS, refusals, refused_call
from tests.conversion.tiny import ARCHITECTURES, config_of, example_of

pytestmark = pytest.mark.usefixtures("without_type_checks")

IDS = np.array([[3, 5, 9], [1, 0, 2]])
PIXELS = np.zeros((2, 3, 36, 36), np.float32)


# Ids


def with_id(value):
    ids = IDS.astype(object)
    ids[1, 1] = value
    return ids.tolist()


@pytest.mark.parametrize("value", [61, -1, 2**31, 2**32 + 3, 2**40, -(2**40), 2**62])
@pytest.mark.parametrize("kind", ["list", "numpy", "jax", "torch"])
def test_ids_out_of_range(models, value, kind):
    """2**32 + 3 would be 3 as a 32-bit integer: the values are seen before any framework converts them."""
    if kind == "jax" and not -(2**31) <= value < 2**31:
        with jax.enable_x64(True):
            ids = jnp.asarray(with_id(value))
    else:
        ids = {"list": list, "numpy": np.array, "jax": jnp.asarray, "torch": torch.tensor}[kind](with_id(value))
    allowed = f"BertModel: input_ids holds {value}, but vocab_size allows 0 to 60"
    assert refused_call(models, "BertModel", ids) == allowed
    assert refused_call(models, "BertForMaskedLM", input_ids=ids) == allowed
    if value != 61:
        text = refused_call(models, "CLIPTextModel", ids)
        assert text == f"CLIPTextModel: input_ids holds {value}, but vocab_size allows 0 to 66"


def test_the_last_ids_of_a_table_are_allowed(models):
    for name in BACKENDS:
        models(name, "BertModel")(np.full((1, 2), 60), token_type_ids=np.full((1, 2), 6), position_ids=[[18, 0]])
        models(name, "CLIPTextModel")(np.full((1, 13), 66), position_ids=np.full((1, 13), 12))


def test_ids_that_no_integer_of_64_bits_holds(models):
    assert refused_call(models, "BertModel", with_id(2**70)) == (
        "BertModel: input_ids must hold numbers, but numpy reads it as object"
    )
    for name in BACKENDS:
        with pytest.raises(InputError, match=f"input_ids holds -?{2**63}, but vocab_size allows 0 to 60"):
            models(name, "BertModel")(np.array(with_id(2**63), np.uint64))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_ids_of_every_integer_dtype_are_understood(models, dtype):
    for architecture in ("BertModel", "CLIPTextModel"):
        for name in BACKENDS:
            model = models(name, architecture)
            expected, found = model(IDS), model(IDS.astype(dtype), attention_mask=np.ones((2, 3), dtype))
            for field in ("last_hidden_state", "pooler_output"):
                one, two = (np.asarray(torch.as_tensor(np.array(o[field]) if name == "jax" else o[field]).detach())
                            for o in (expected, found))  # fmt: skip
                assert_close(one, two, kind="float32", name=field)
    too_large = np.full((1, 1), 100).astype(dtype)
    assert refused_call(models, "BertModel", too_large) == (
        "BertModel: input_ids holds 100, but vocab_size allows 0 to 60"
    )


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([[1.0, 2.0]], "float64"),
        (np.ones((1, 2), np.float32), "float32"),
        (torch.ones(1, 2), "float32"),
        (jnp.ones((1, 2)), "float32"),
        (jnp.ones((1, 2), jnp.bfloat16), "bfloat16"),
        ([[True, False]], "bool"),
        (torch.tensor([[True]]), "bool"),
        (jnp.array([[True]]), "bool"),
        ([[1j]], "complex128"),
    ],
)
def test_ids_that_are_no_integers(models, ids, dtype):
    wanted = f"has dtype {dtype}, but ids must be integers"
    assert refused_call(models, "BertModel", ids) == f"BertModel: input_ids {wanted}"
    assert refused_call(models, "CLIPTextModel", ids) == f"CLIPTextModel: input_ids {wanted}"
    assert refused_call(models, "BertModel", IDS[:1, :1], token_type_ids=ids) == f"BertModel: token_type_ids {wanted}"


@pytest.mark.parametrize("ids", [[["a", "b"]], np.array([["a"]])])
def test_ids_that_are_no_numbers(models, ids):
    assert (
        refused_call(models, "BertModel", ids) == "BertModel: input_ids must hold numbers, but numpy reads it as str32"
    )


@pytest.mark.parametrize("ids", [[1, 2], 3, [[[1, 2]]]])
def test_ids_of_another_rank(models, ids):
    shape = np.shape(ids)
    for architecture in ("BertModel", "CLIPTextModel"):
        assert refused_call(models, architecture, ids) == (
            f"{architecture}: input_ids has shape {shape}, but (batch, tokens) is needed"
        )


def test_rows_of_different_length(models):
    for architecture in ("BertModel", "CLIPTextModel"):
        text = refused_call(models, architecture, [[1, 2], [3]])
        assert text == f"{architecture}: input_ids has rows of different lengths; pad them to one"


def test_too_many_tokens(models):
    ids = np.zeros((1, 20), np.int64)
    text = refused_call(models, "BertModel", ids)
    assert text == "BertModel: the number of tokens is 20, but max_position_embeddings=19"
    text = refused_call(models, "CLIPTextModel", ids)
    assert text == "CLIPTextModel: the number of tokens is 20, but max_position_embeddings=13"
    text = refused_call(models, "BertModel", inputs_embeds=np.zeros((1, 20, 20)))
    assert text == "BertModel: the number of tokens is 20, but max_position_embeddings=19"


@pytest.mark.parametrize("name", ["position_ids", "token_type_ids"])
def test_token_types_and_positions_out_of_range_or_of_another_shape_are_refused(models, name):
    size, table = (19, "max_position_embeddings") if name == "position_ids" else (7, "type_vocab_size")
    for value in (size, -1, 2**40):
        text = refused_call(models, "BertModel", IDS, **{name: [[0, value, 0]]})
        assert text == f"BertModel: {name} holds {value}, but {table} allows 0 to {size - 1}"
    for wrong in (np.zeros((2, 4), int), np.zeros((3, 3), int), np.zeros((2, 2), int)):
        text = refused_call(models, "BertModel", IDS, **{name: wrong})
        rows = (2, 3)
        assert text == f"BertModel: {name} has shape {wrong.shape}, but {rows} is needed, as many as there are tokens"
    text = refused_call(models, "BertModel", IDS, **{name: [0, 1, 2]})
    assert text == f"BertModel: {name} has shape (3,), but (batch, tokens) is needed"


def test_clips_position_ids(models):
    text = refused_call(models, "CLIPTextModel", IDS, position_ids=[[0, 1, 13]])
    assert text == "CLIPTextModel: position_ids holds 13, but max_position_embeddings allows 0 to 12"
    text = refused_call(models, "CLIPTextModel", IDS, position_ids=[[0, 1]])
    assert text == "CLIPTextModel: position_ids has shape (1, 2), but (1, 3) is needed, as many as there are tokens"


def test_ids_out_of_range_give_nan_under_jit(models):
    """Their values cannot be seen there; a wrong row of the table would be garbage."""
    bert, clip = models("jax", "BertModel"), models("jax", "CLIPTextModel")
    run = jax.jit(lambda model, ids, **others: model(ids, **others).last_hidden_state)
    for value in (61, 10**6, -1, -61, -(10**6)):
        ids = np.array(with_id(value))
        states = run(bert, ids)
        assert np.isnan(states[1]).all(), value  # attention spreads it over its text
        assert np.isfinite(states[0]).all()
    for value in (67, -1, -67):
        states = run(clip, np.array(with_id(value)))
        assert np.isnan(states[1, 1:]).all() and np.isfinite(states[0]).all()
    for name, size in (("token_type_ids", 7), ("position_ids", 19)):
        for value in (size, -1):
            states = run(bert, IDS, **{name: np.array([[0, 0, 0], [0, value, 0]])})
            assert np.isnan(states[1]).all() and np.isfinite(states[0]).all()


def test_shapes_and_dtypes_are_checked_under_jit_too(models):
    bert = models("jax", "BertModel")
    with pytest.raises(InputError, match="input_ids has dtype float32, but ids must be integers"):
        jax.jit(lambda model, ids: model(ids))(bert, IDS.astype(np.float32))
    with pytest.raises(InputError, match=r"attention_mask has shape \(2, 4\), but \(2, 3\) is needed"):
        jax.jit(lambda model, ids, mask: model(ids, mask))(bert, IDS, np.ones((2, 4)))
    with pytest.raises(InputError, match=r"input_ids has shape \(3,\), but \(batch, tokens\) is needed"):
        jax.jit(lambda model, ids: model(ids))(bert, IDS[0])


# Masks, embeddings, pixels


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3,), (2, 1, 3), (1, 3), ()])
@pytest.mark.parametrize("architecture", ["BertModel", "CLIPTextModel"])
def test_a_mask_of_another_shape(models, architecture, shape):
    for mask in (np.ones(shape), torch.ones(shape), jnp.ones(shape)):
        assert refused_call(models, architecture, IDS, attention_mask=mask) == (
            f"{architecture}: attention_mask has shape {shape}, but (2, 3) is needed, as many as there are tokens"
        )


@pytest.mark.parametrize(
    "mask", [[[1, 1, 2]] * 2, [[0.0, -1e4, 0.0]] * 2, [[0, -np.inf, 0]] * 2, [[1.0, 0.5, 0.0]] * 2]
)
def test_a_mask_of_other_values(models, mask):
    for architecture in ("BertModel", "CLIPTextModel"):
        text = refused_call(models, architecture, IDS, attention_mask=np.array(mask, np.float32))
        assert text == (
            f"{architecture}: attention_mask must hold 1 for what is attended to and 0 for the rest, but has other "
            "values; additive masks are not supported"
        )
    for name in BACKENDS:
        for allowed in ([[1, 0, 1]] * 2, [[1.0, 0.0, 1.0]] * 2, [[True, False, True]] * 2):
            models(name, "BertModel")(IDS, attention_mask=allowed)


@pytest.mark.parametrize("value", ["no", 3, np.array(True)])
@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states", "return_dict", "use_cache"])
def test_a_switch_that_is_neither_true_nor_false(models, name, value):
    text = refused_call(models, "BertModel", IDS, **{name: value})
    assert text == f"BertModel: {name}={value!r}, but True or False is needed"


PIXELS = np.zeros((2, 3, 36, 36), np.float32)


@pytest.mark.parametrize(
    ("architecture", "name", "inputs"),
    [
        ("ViTModel", "interpolate_pos_encoding", {"pixel_values": PIXELS}),
        ("BeitModel", "interpolate_pos_encoding", {"pixel_values": PIXELS}),
        ("SwinModel", "interpolate_pos_encoding", {"pixel_values": PIXELS}),
        ("CLIPVisionModel", "interpolate_pos_encoding", {"pixel_values": PIXELS}),
        ("CLIPModel", "return_loss", {"input_ids": IDS, "pixel_values": PIXELS}),
        ("IdeficsModel", "interpolate_pos_encoding", {"input_ids": IDS, "pixel_values": PIXELS[:, None]}),
        ("Wav2Vec2Model", "freeze_feature_encoder", {"input_values": np.zeros((1, 2000), np.float32)}),
    ],
)
def test_a_switch_of_one_model_that_is_neither_true_nor_false(models, architecture, name, inputs):
    text = refused_call(models, architecture, **inputs, **{name: "yes"})
    assert text == f"{architecture}: {name}='yes', but True or False is needed"


def test_embeddings_in_the_place_of_ids(models):
    needed = "BertModel: exactly one of input_ids and inputs_embeds is needed"
    embeds = np.zeros((2, 3, 20), np.float32)
    assert refused_call(models, "BertModel") == f"{needed}, got none"
    assert refused_call(models, "BertModel", IDS, inputs_embeds=embeds) == (
        f"{needed}, got input_ids and inputs_embeds"
    )
    assert refused_call(models, "BertForMaskedLM") == f"{needed}, got none"
    assert refused_call(models, "BertModel", inputs_embeds=embeds[0]) == (
        "BertModel: inputs_embeds has shape (3, 20), but (batch, tokens, hidden_size) is needed"
    )
    assert refused_call(models, "BertModel", inputs_embeds=embeds[..., :19]) == (
        "BertModel: inputs_embeds has shape (2, 3, 19), but (2, 3, 20) is needed"
    )
    assert refused_call(models, "BertModel", inputs_embeds=embeds.astype(int)) == (
        "BertModel: inputs_embeds has dtype int64, but floats are needed"
    )


VISION = ["CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPForImageClassification"]


@pytest.mark.parametrize("architecture", VISION)
def test_pixels_of_another_shape_or_dtype_are_refused(models, architecture):
    assert refused_call(models, architecture) == f"{architecture}: pixel_values is needed, got None"
    for shape in ((2, 3, 36, 35), (2, 3, 18, 36), (2, 3, 72, 72), (2, 4, 36, 36)):
        wanted = f"{architecture}: pixel_values has shape {shape}, but (2, 3, 36, 36) is needed"
        why = ", or interpolate_pos_encoding=True" if shape[1] == 3 else ""
        assert refused_call(models, architecture, np.zeros(shape, np.float32)) == wanted + why
    for shape in ((3, 36, 36), (36, 36), (1, 2, 3, 36, 36)):
        wanted = f"{architecture}: pixel_values has shape {shape}, but (batch, channels, height, width) is needed"
        assert refused_call(models, architecture, np.zeros(shape, np.float32)) == wanted
    for dtype in ("uint8", "int64", "bool"):
        text = refused_call(models, architecture, PIXELS.astype(dtype))
        assert text == f"{architecture}: pixel_values has dtype {dtype}, but floats are needed"


def test_pixels_whose_channels_are_last(models):
    assert refused_call(models, "CLIPVisionModel", np.zeros((2, 36, 36, 3), np.float32)) == (
        "CLIPVisionModel: pixel_values has shape (2, 36, 36, 3), whose channels seem to be last, but (batch, channels, "
        "height, width) is needed; move the last axis, as in numpy.moveaxis(pixel_values, -1, -3)"
    )


@pytest.mark.parametrize(
    ("architecture", "instead"),
    [
        ("BertForMaskedLM", "BertLMHeadModel does, and loads checkpoints of its family"),
        ("CLIPModel", "nor does any class of its family"),
    ],
)
def test_a_class_that_generates_no_text(models, architecture, instead):
    for name in BACKENDS:
        with pytest.raises(InputError) as caught:
            models(name, architecture).generate(IDS, max_new_tokens=2)
        assert str(caught.value) == f"{architecture}.generate: {architecture} generates no text; {instead}"


def test_pixels_of_any_size(models):
    wide = {"interpolate_pos_encoding": True}
    text = refused_call(models, "CLIPVisionModel", np.zeros((2, 4, 40, 50)), **wide)
    assert text == "CLIPVisionModel: pixel_values has shape (2, 4, 40, 50), but (2, 3, 40, 50) is needed"
    text = refused_call(models, "CLIPVisionModel", np.zeros((2, 3, 8, 50)), **wide)
    assert text == "CLIPVisionModel: pixel_values' height is 8, but patch_size=9"
    text = refused_call(models, "CLIPVisionModel", np.zeros((0, 3, 36, 36), np.float32))
    assert text == "CLIPVisionModel: pixel_values has shape (0, 3, 36, 36), but at least one image is needed"


def test_masked_patches_that_do_not_fit_are_refused(models):
    pixels, masked = np.zeros((2, 2, 28, 28), np.float32), np.ones((2, 16))
    assert refused_call(models, "ViTModel", pixels, masked) == (
        "ViTModel: bool_masked_pos is given, but the model has no mask token; make or load it with use_mask_token=True"
    )
    masking = "ViTForMaskedImageModeling"
    assert refused_call(models, masking, pixels, masked[:, 1:]) == (
        "ViTModel: bool_masked_pos has shape (2, 15), but (2, 16) is needed, a number for each patch"
    )
    text = refusals(InputError, lambda name: models(name, masking, encoder_stride=5)(pixels, masked))
    assert text == (
        f"{masking}: the patches of bool_masked_pos cover (28, 28) pixels, but with the config's encoder_stride "
        "(20, 20) are reconstructed"
    )


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "jax", "torch", "jax bfloat16"])
def test_pixels_of_any_float_and_framework_are_taken(models, kind):
    pixels = {
        "float64": PIXELS.astype(np.float64), "float16": PIXELS.astype(np.float16), "jax": jnp.asarray(PIXELS),
        "bfloat16": PIXELS.astype(ml_dtypes.bfloat16), "torch": torch.from_numpy(PIXELS),
        "jax bfloat16": jnp.asarray(PIXELS, jnp.bfloat16),
    }[kind]  # fmt: skip
    for name in BACKENDS:
        output = models(name, "CLIPVisionModel")(pixels)
        assert str(output.pooler_output.dtype).removeprefix("torch.") == "float32"


def test_clip_needs_both_and_equally_many_for_a_loss(models):
    assert refused_call(models, "CLIPModel", IDS) == "CLIPModel: pixel_values is needed, got None"
    assert refused_call(models, "CLIPModel", pixel_values=PIXELS) == "CLIPModel: input_ids is needed, got None"
    assert refused_call(models, "CLIPModel", IDS[:1], PIXELS, return_loss=True) == (
        "CLIPModel: input_ids' batch has shape (1,), but (2,) is needed: one text for each image"
    )
    for method, argument in (("get_text_features", "input_ids"), ("get_image_features", "pixel_values")):
        text = refusals(InputError, lambda name, method=method: getattr(models(name, "CLIPModel"), method)())
        assert text == f"CLIPModel: {argument} is needed, got None"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_unknown_keyword_of_a_call(models, architecture):
    for name in BACKENDS:
        with pytest.raises(TypeError, match=r"output_hidden_state\b"):
            models(name, architecture)(**example_of(architecture), output_hidden_state=True)


# Labels


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertForPreTraining"])
def test_labels_of_words(models, architecture):
    keywords = {"next_sentence_label": [0, 1]} if architecture == "BertForPreTraining" else {}
    for value in (61, -1, -99, -101, 2**40):
        text = refused_call(models, architecture, IDS, labels=with_id(value), **keywords)
        assert text == f"{architecture}: labels holds {value}, but the output allows 0 to 60"
    text = refused_call(models, architecture, IDS, labels=IDS[:, :2], **keywords)
    assert text == f"{architecture}: labels has shape (2, 2), but (2, 3) is needed"
    text = refused_call(models, architecture, IDS, labels=IDS.astype(float), **keywords)
    assert text == f"{architecture}: labels has dtype float64, but ids must be integers"
    for name in BACKENDS:
        loss = models(name, architecture)(IDS, labels=with_id(-100), **keywords).loss
        assert np.isfinite((loss if name == "jax" else loss.detach()).item())


def test_labels_of_sentences(models):
    text = refused_call(models, "BertForPreTraining", IDS, labels=IDS, next_sentence_label=[0, 2])
    assert text == "BertForPreTraining: next_sentence_label holds 2, but the output allows 0 to 1"
    text = refused_call(models, "BertForPreTraining", IDS, labels=IDS, next_sentence_label=[[0], [1]])
    assert text == "BertForPreTraining: next_sentence_label has shape (2, 1), but (2,) is needed"


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "CLIPForImageClassification"])
def test_labels_of_a_classifier(models, architecture):
    inputs = IDS if architecture.startswith("Bert") else PIXELS
    count = config_of(architecture).num_labels

    def refused(problem_type, labels):
        changes = {} if problem_type is None else {"problem_type": problem_type}
        return refusals(InputError, lambda name: models(name, architecture, **changes)(inputs, labels=labels))

    assert refused(None, [0, count]) == f"{architecture}: labels holds {count}, but the output allows 0 to {count - 1}"
    assert refused(None, [[0], [1]]) == f"{architecture}: labels has shape (2, 1), but (2,) is needed"
    assert refused(None, [0.0, 1.0]) == (
        f"{architecture}: labels has shape (2,), but {(2, count)} is needed for a multi_label_classification"
    )
    assert refused("regression", [0.0, 1.0]) == (
        f"{architecture}: labels has shape (2,), but {(2, count)} is needed for a regression"
    )
    assert refused("multi_label_classification", [[1.0, 0.0]] * 3) == (
        f"{architecture}: labels has shape (3, 2), but {(2, count)} is needed for a multi_label_classification"
    )
    assert refused("single_label_classification", [0.5, 1.0]) == (
        f"{architecture}: labels has dtype float64, but ids must be integers"
    )


# Randomness


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_train_mode_without_a_key(architecture):
    config = config_of(architecture)
    if "CLIP" in architecture:
        parts = {"text_config", "vision_config"} & set(vars(config))
        changed = {part: getattr(config, part).replace(attention_dropout=0.5) for part in parts}
        config = config.replace(**(changed or {"attention_dropout": 0.5}))
    model = getattr(in_jax, architecture)(config)
    given = example_of(architecture)
    model.train()
    rate = 0.5 if "CLIP" in architecture else 0.1
    with pytest.raises(InputError) as caught:
        model(**given)
    assert str(caught.value) == (
        f"dropout={rate} in train mode needs a key: call the model with rngs=jax.random.key(…)"
    )
    # with a key, and without one in eval mode, it gets through; compiling either takes seconds
    jax.eval_shape(lambda: jax.tree.leaves(model(**given, rngs=jax.random.key(0))))
    model.eval()
    jax.eval_shape(lambda: jax.tree.leaves(model(**given)))


def test_what_is_no_key(models):
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(0))
    needed, several = "but a key such as jax.random.key(0) is needed", "but a single key is needed; of several"
    for architecture, inputs in (("BertModel", IDS), ("CLIPTextModel", IDS), ("CLIPVisionModel", PIXELS)):
        for rngs, message in (
            (3, f"rngs is a int, {needed}"),
            ({"dropout": key}, f"rngs is a dict, {needed}"),
            ([key, key], f"rngs is a list, {needed}"),
            (jnp.zeros(2), f"rngs is an array of float32, {needed}"),
            (keys, f"rngs has shape (2,), {several}"),
            (jax.random.key_data(keys), f"rngs has shape (2, 2), {several}"),
            (nnx.Rngs(params=0), "rngs has no stream dropout or default, but params"),
            (nnx.Rngs(), "rngs has no stream dropout or default, but none"),
        ):
            with pytest.raises(InputError, match=re.escape(f"{architecture}: {message}")):
                models("jax", architecture)(inputs, rngs=rngs)


def test_torch_takes_no_key(models):
    for architecture, inputs in (("BertModel", IDS), ("CLIPTextModel", IDS), ("CLIPVisionModel", PIXELS)):
        with pytest.raises(InputError) as caught:
            models("torch", architecture)(inputs, rngs=7)
        assert str(caught.value) == (
            f"{architecture}: rngs=7, but torch draws from its global generator; use torch.manual_seed"
        )
