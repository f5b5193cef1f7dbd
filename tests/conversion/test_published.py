"""The checkpoints that people use, at their real sizes and without values: every name and shape finds its place."""

import functools
import json
from collections import Counter

import numpy as np
import pytest
import torch
import transformers

from diptych.conversion.published_names import published_names
from diptych.core.checkpoint import matching
from diptych.core.checkpoint.dialects import respell
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.registry import config_classes, families, relatives, within
from tests.backends import BACKENDS
from tests.conversion.published import PUBLISHED

CASES = [
    (name, architecture)
    for name, published in PUBLISHED.items()
    for architecture in families()[published.config["model_type"].replace("-", "_")].classes
]


def family_of(name):
    return families()[PUBLISHED[name].config["model_type"].replace("-", "_")]


@functools.cache
def config_of(name):
    fields = PUBLISHED[name].config
    return config_classes()[fields["model_type"]].from_json(json.dumps(fields), source=name)


@functools.cache
def saved_by_transformers(name, architecture):
    """Name -> shape of what `save_pretrained` of transformers writes, which stores tied tensors once."""
    config = transformers.AutoConfig.for_model(**PUBLISHED[name].config)
    their_class = getattr(transformers, architecture)
    if not isinstance(config, their_class.config_class):
        part = "text_config" if their_class.config_class is transformers.CLIPTextConfig else "vision_config"
        config = type(getattr(config, part))(
            **getattr(config, part).to_dict() | {"projection_dim": config.projection_dim}
        )
    with torch.device("meta"):
        model = their_class(config)
    tied = model.all_tied_weights_keys  # a tied name -> the name that holds it
    on_disk = published_names(model)
    kept = {key: tensor for key, tensor in model.state_dict().items() if key not in tied and tensor.is_floating_point()}
    return {on_disk[key]: tuple(tensor.shape) for key, tensor in kept.items()}


def file_of(name):
    """Name -> shape of what the hub's file has."""
    published = PUBLISHED[name]
    shapes = saved_by_transformers(name, published.file)
    copies = {copy: shapes[original] for copy, original in published.copies.items()}
    hub = {respell(key): shape for key, shape in shapes.items()}  # which spells weight norm as older versions did
    return hub | published.besides | copies | published.buffers


@functools.cache
def slots_of(backend, name, architecture, config=None):
    """The parameters of a class; those that a checkpoint's config gives it, if no other is given."""
    if config is None:
        config = config_of(name).part(family_of(name).classes[architecture])
    return tuple(getattr(BACKENDS[backend], architecture)(config, seed=None)._leaves())


def unread():
    raise AssertionError("a tensor was read")


@pytest.fixture
def matched(monkeypatch):
    """Matches tensors that have no values with the slots, which are the same in both backends."""
    # where a tensor comes from stands for its values: two are equal that come from one
    monkeypatch.setattr(matching, "bitwise_equal", lambda one, other: one.origin == other.origin)

    def match(name, architecture, shapes, copied=None, **options):
        config, copies = config_of(name), PUBLISHED[name].copies
        family = within(family_of(name), config)
        tensors = {
            key: TensorSource(shape, np.dtype(np.float32), unread, copies.get(key, key))
            for key, shape in shapes.items()
        }
        target = matching.Target(
            architecture,
            slots_of("torch", name, architecture),
            family,
            lambda: [
                {f"{below}{slot.path}" for slot in slots_of("torch", name, other, part)}
                for below, other, part in relatives(family, config)
            ],
            copied or {},
        )
        return matching.match(matching.NamedTensors(name, tensors), target, **options)

    return match


def bare(name, family):
    """A tensor's name without a base model's prefix, so that a slot and what fills it have one."""
    for prefix in family.prefixes:
        name = name.removeprefix(prefix)
    return respell(name).replace("decoder.embed_tokens.", "shared.")  # where a decoder of BART's stands alone


def assert_names_agree(name, found):
    family = family_of(name)
    assert [bare(filling.name, family) for filling in found.fillings] == [
        bare(filling.slot.path, family) for filling in found.fillings
    ]


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_both_backends_have_the_same_parameters(name, architecture):
    slots = slots_of("torch", name, architecture)
    assert len(set(slots)) == len(slots) > 0
    assert Counter(slots) == Counter(slots_of("jax", name, architecture))


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_every_tensor_that_transformers_saves_has_its_place(name, architecture, matched):
    shapes = saved_by_transformers(name, architecture)
    found = matched(name, architecture, shapes)
    assert len(found.fillings) == len(shapes) == len(slots_of("torch", name, architecture))
    assert found.left_out == found.ignored == found.fresh == found.constant == ()
    assert all(filling.axes == tuple(range(len(filling.slot.shape))) for filling in found.fillings)
    assert_names_agree(name, found)


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_every_class_is_filled_from_the_published_file(name, architecture, matched):
    published, file = PUBLISHED[name], file_of(name)
    missing = published.fresh.get(architecture, ())
    found = matched(name, architecture, file, allow_fresh=missing)
    used = [filling.name for filling in found.fillings]
    assert sorted([*used, *found.left_out, *found.ignored]) == sorted(file)
    assert (
        set(published.buffers)
        <= set(found.ignored)
        <= {
            *published.buffers,
            *published.copies,
            *published.copies.values(),
        }
    )
    assert not set(found.left_out) & set(published.buffers)
    assert_names_agree(name, found)
    assert {module for module in missing for slot in found.fresh if f"{slot.path}.".startswith(f"{module}.")} == set(
        missing
    )
    assert all(f"{slot.path}.".startswith(tuple(f"{module}." for module in missing)) for slot in found.fresh)
    # a file without it means zeros
    assert {slot.path for slot in found.constant} <= {"final_logits_bias"} - set(file)
    slots = slots_of("torch", name, architecture)
    assert len(found.fillings) + len(found.fresh) + len(found.constant) == len(slots)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if PUBLISHED[name].parameters is not None])
def test_the_number_of_parameters_is_the_published_one(name):
    slots = slots_of("torch", name, PUBLISHED[name].counted or PUBLISHED[name].file)
    assert sum(int(np.prod(slot.shape)) for slot in slots) == PUBLISHED[name].parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_tensor_out_of_place_is_noticed(name, matched):
    """A sample of the names in turn missing, and in turn of another shape."""
    architecture = PUBLISHED[name].counted or PUBLISHED[name].file
    shapes = saved_by_transformers(name, architecture)
    for key in list(shapes)[:: max(1, len(shapes) // 20)]:
        without = {other: shape for other, shape in shapes.items() if other != key}
        with pytest.raises(ValueError, match="1 tensor is missing: "):
            matched(name, architecture, without)
        with pytest.raises(ValueError, match="1 tensor has another shape: "):
            matched(name, architecture, shapes | {key: (*shapes[key][:-1], 3)})


def test_cross_attention_belongs_to_no_class_without_it(matched):
    shapes = saved_by_transformers("openai-community/gpt2 as a decoder", "GPT2LMHeadModel")
    with pytest.raises(ValueError, match=r"96 tensors belong to no class of the family: transformer\.h\.0\.cross"):
        matched("openai-community/gpt2", "GPT2LMHeadModel", shapes)


def test_a_shared_model_gives_its_encoder_what_the_decoder_has(matched):
    """patrickvonplaten/roberta_shared_bbc_xsum: as transformers saves it; its pooler is apart."""
    name, family = "patrickvonplaten/roberta2roberta-cnn_dailymail-fp16", families()["encoder_decoder"]
    whole = saved_by_transformers(name, "EncoderDecoderModel")
    shapes = {key: shape for key, shape in whole.items() if not key.startswith("encoder.") or "pooler" in key}
    tied = config_of(name).replace(tie_encoder_decoder=True)
    copied = family.copied(tied, [slot.path for slot in slots_of("torch", name, "EncoderDecoderModel")])
    found = matched(name, "EncoderDecoderModel", shapes, copied=copied)
    assert len(found.fillings) == len(whole) and {filling.name for filling in found.fillings} == set(shapes)
    twins = {filling.slot.path: filling.name for filling in found.fillings if filling.slot.path != filling.name}
    assert twins == copied and len(twins) == len(whole) - len(shapes) > 190
    assert twins["encoder.encoder.layer.3.output.dense.bias"] == "decoder.roberta.encoder.layer.3.output.dense.bias"
    assert not any("crossattention" in twin for twin in twins.values())
    with pytest.raises(ValueError, match="197 tensors are missing: encoder"):
        matched(name, "EncoderDecoderModel", shapes)
