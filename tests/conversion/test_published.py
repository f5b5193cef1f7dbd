"""The checkpoints that people use, at their real sizes and without values: every name and shape finds its place."""

import functools
import json

import numpy as np
import pytest
import torch
import transformers

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.core.checkpoint.matching import match
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.registry import config_classes, families

BACKENDS = {"jax": in_jax, "torch": in_torch}


def clip(text, vision, projection, **fields):
    """A config.json as on the hub: what the towers leave out has the defaults of openai/clip-vit-base-patch32."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": projection,
        "text_config": dict(zip(names, text, strict=True)) | {"model_type": "clip_text_model"} | fields,
        "vision_config": dict(zip((*names, "patch_size"), vision, strict=True))
        | {"model_type": "clip_vision_model"}
        | fields,
    }


BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30_522}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
OPENAI = {"hidden_act": "quick_gelu", "eos_token_id": 2}

# Sizes as published, and the number of parameters of CLIPModel or BertForPreTraining, tied ones counted once.
PUBLISHED = {
    "openai/clip-vit-base-patch32": (
        clip((512, 2048, 12, 8), (768, 3072, 12, 12, 32), 512, **OPENAI),
        151_277_313,
    ),
    "openai/clip-vit-large-patch14": (
        clip((768, 3072, 12, 12), (1024, 4096, 24, 16, 14), 768, **OPENAI),
        427_616_513,
    ),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (
        clip((1024, 4096, 24, 16), (1280, 5120, 32, 16, 14), 1024, hidden_act="gelu"),
        986_109_441,
    ),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": (
        clip((1280, 5120, 32, 20), (1664, 8192, 48, 16, 14), 1280, hidden_act="gelu"),
        2_539_567_105,
    ),
    "google-bert/bert-base-uncased": (BERT, 110_106_428),
    "google-bert/bert-large-uncased": (BERT | LARGE, 336_226_108),
}
CASES = [
    (name, architecture)
    for name, (fields, _) in PUBLISHED.items()
    for architecture in families()[fields["model_type"]].classes
]


def family_of(name):
    return families()[PUBLISHED[name][0]["model_type"]]


@functools.cache
def config_of(name):
    fields = PUBLISHED[name][0]
    return config_classes()[fields["model_type"]].from_json(json.dumps(fields), where=name)


@functools.cache
def saved_by_transformers(name, architecture):
    """Name -> shape of what `save_pretrained` of transformers writes, which stores tied tensors once."""
    fields = {key: value for key, value in PUBLISHED[name][0].items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(PUBLISHED[name][0]["model_type"], **fields)
    their_class = getattr(transformers, architecture)
    if not isinstance(config, their_class.config_class):
        part = "text_config" if their_class.config_class is transformers.CLIPTextConfig else "vision_config"
        config = type(getattr(config, part))(
            **getattr(config, part).to_dict() | {"projection_dim": config.projection_dim}
        )
    with torch.device("meta"):
        model = their_class(config)
    tied = model.all_tied_weights_keys  # a tied name -> the name that holds it
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in tied}


@functools.cache
def slots_of(backend, name, architecture):
    config = config_of(name).part(family_of(name).classes[architecture])
    return tuple(getattr(BACKENDS[backend], architecture)(config, seed=None)._leaves())


def unread():
    raise AssertionError("a tensor was read")


def matched(backend, name, architecture, shapes, **options):
    tensors = {key: TensorSource(shape, np.dtype(np.float32), unread, name) for key, shape in shapes.items()}
    return match(
        slots_of(backend, name, architecture),
        tensors,
        family=family_of(name),
        known=lambda: [
            {slot.path for slot in slots_of(backend, name, other)} for other in family_of(name).classes
        ],
        where=name,
        class_name=architecture,
        **options,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_every_tensor_that_transformers_saves_has_its_place(name, architecture, backend):
    shapes = saved_by_transformers(name, architecture)
    found = matched(backend, name, architecture, shapes)
    assert len(found.fillings) == len(shapes) == len(slots_of(backend, name, architecture))
    assert found.left_out == found.ignored == found.fresh == ()
    assert all(filling.axes == tuple(range(len(filling.slot.shape))) for filling in found.fillings)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_every_class_is_filled_from_the_published_file(name, architecture, backend):
    """The hub's files hold CLIPModel or BERT's pretraining model, with the buffers of transformers before 4.31."""
    is_clip = PUBLISHED[name][0]["model_type"] == "clip"
    shapes = saved_by_transformers(name, "CLIPModel" if is_clip else "BertForPreTraining")
    owners = ("text_model", "vision_model") if is_clip else ("bert",)
    buffers = {f"{owner}.embeddings.position_ids": (1, 77) for owner in owners}
    head = {"BertForSequenceClassification", "CLIPForImageClassification"}
    fresh = ("classifier",) if architecture in head else ()
    found = matched(backend, name, architecture, shapes | buffers, allow_fresh=fresh)
    slots = slots_of(backend, name, architecture)
    assert len(found.fillings) + len(found.left_out) == len(shapes)
    assert len(found.fillings) + len(found.fresh) == len(slots)
    assert [slot.path for slot in found.fresh] == (["classifier.weight", "classifier.bias"] if found.fresh else [])
    assert bool(found.fresh) == (architecture in head)
    assert found.ignored == tuple(buffers)


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_backends_have_the_same_parameters(name):
    for architecture in family_of(name).classes:
        ours = {(slot.path, slot.shape, slot.kind) for slot in slots_of("torch", name, architecture)}
        assert ours == {(slot.path, slot.shape, slot.kind) for slot in slots_of("jax", name, architecture)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name, backend):
    whole = "CLIPModel" if "clip" in PUBLISHED[name][0]["model_type"] else "BertForPreTraining"
    assert sum(int(np.prod(slot.shape)) for slot in slots_of(backend, name, whole)) == PUBLISHED[name][1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_one_tensor_out_of_place_is_noticed(name, backend):
    """A sample of the names in turn missing, and in turn of another shape."""
    architecture = "CLIPModel" if "clip" in PUBLISHED[name][0]["model_type"] else "BertModel"
    shapes = saved_by_transformers(name, architecture)
    for key in list(shapes)[:: max(1, len(shapes) // 20)]:
        without = {other: shape for other, shape in shapes.items() if other != key}
        with pytest.raises(ValueError, match="1 tensors are missing: "):
            matched(backend, name, architecture, without)
        with pytest.raises(ValueError, match="1 tensors have another shape: "):
            matched(backend, name, architecture, shapes | {key: (*shapes[key][:-1], 3)})
