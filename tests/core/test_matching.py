from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from diptych.core.checkpoint.matching import LoadReport, NamedTensors, Target, match, names_of
from diptych.core.checkpoint.slots import FLAX_LEAVES, Slot, flax_axes, published_axes
from diptych.core.checkpoint.tensors import from_array
from diptych.core.errors import CheckpointError, InputError
from diptych.core.models.beit import FAMILY as BEIT
from diptych.core.models.beit import BeitConfig
from diptych.core.models.bert import FAMILY as BERT
from diptych.core.models.clip import FAMILY as CLIP
from diptych.core.registry import within

WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
NORM = "bert.embeddings.LayerNorm"
MODEL = (
    Slot(WORDS, (5, 3), "embedding"),
    Slot(f"{NORM}.weight", (3,), "norm"),
    Slot(f"{NORM}.bias", (3,), "plain"),
    Slot("cls.predictions.bias", (5,), "plain"),
)
FAMILY_PATHS = {slot.path for slot in MODEL} | {
    "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
}  # fmt: skip
BASE = tuple(Slot(slot.path.removeprefix("bert."), slot.shape, slot.kind) for slot in MODEL[:3])
POOLER = (Slot("pooler.dense.weight", (3, 3), "linear"), Slot("pooler.dense.bias", (3,), "plain"))


def tensor(name, shape, dtype=np.float32):
    values = np.arange(int(np.prod(shape))) + len(name)
    return from_array(values.reshape(shape).astype(dtype), "file")


def file_of(slots, **others):
    return {slot.path: tensor(slot.path, slot.shape) for slot in slots} | others


def matched(slots, tensors, *, family=BERT, known=lambda: [FAMILY_PATHS], layout="published", **options):
    target = Target(options.pop("class_name", "BertForMaskedLM"), slots, family, known)
    return match(NamedTensors("dir", tensors, layout), target, **options)


def refused(slots, tensors, **options):
    with pytest.raises(CheckpointError) as caught:
        matched(slots, tensors, **options)
    return str(caught.value)


def filled(found):
    return {filling.slot.path: filling.name for filling in found.fillings}


def never():
    raise AssertionError("asked for the family's paths although every tensor has a slot")


def test_the_names_of_the_file_are_the_paths_of_the_model():
    tensors = file_of(MODEL)
    found = matched(MODEL, tensors, known=never)
    assert filled(found) == {slot.path: slot.path for slot in MODEL}
    assert [filling.slot for filling in found.fillings] == list(MODEL)
    assert all(filling.source is tensors[filling.name] for filling in found.fillings)
    assert found.fresh == found.left_out == found.ignored == ()


def test_the_prefix_of_a_wrapper_is_named():
    wrapped = {f"module.{name}": values for name, values in file_of((*MODEL, *POOLER)).items()}
    wrapped["module.fpn.weight"] = tensor("fpn", (2,))
    of_family = {
        "family": replace(BERT, unsupported={"fpn": "BertForNothing"}),
        "known": lambda: [{*FAMILY_PATHS, *(slot.path for slot in POOLER)}],
    }
    text = refused(MODEL, wrapped, **of_family)
    assert text == (
        "dir does not fit BertForMaskedLM: 7 tensors begin with 'module.', which a wrapper such as "
        "DistributedDataParallel adds; save what it wraps, or take it off: {name.removeprefix('module.'): tensor for "
        "name, tensor in tensors.items()}"
    )
    everything = {**of_family, "known": lambda: [], "allow_fresh": ("*",)}  # convert's
    assert refused((*MODEL, *POOLER), wrapped, **everything) == text
    for other in ({"module.lora": tensor("lora", (2,))}, file_of(MODEL)):  # no slot's; already filled
        assert "belong to no class of the family: module.bert." in refused(MODEL, wrapped | other, **of_family)


def test_gamma_and_beta_are_weight_and_bias():
    tensors = file_of((MODEL[0], MODEL[3]))
    tensors |= {f"{NORM}.gamma": tensor("g", (3,)), f"{NORM}.beta": tensor("b", (3,))}
    found = matched(MODEL, tensors, known=never)
    assert filled(found)[f"{NORM}.weight"] == f"{NORM}.gamma"
    assert filled(found)[f"{NORM}.bias"] == f"{NORM}.beta"


def test_both_spellings_of_one_tensor():
    same = file_of(MODEL)
    same[f"{NORM}.gamma"] = same[f"{NORM}.weight"]
    assert matched(MODEL, same).ignored == (f"{NORM}.gamma",)
    different = file_of(MODEL, **{f"{NORM}.gamma": tensor("another", (3,))})
    assert refused(MODEL, different) == (
        f"dir: {NORM}.weight and {NORM}.gamma are one tensor in the model, but the file holds two different ones; "
        f"ignore=('{NORM}.gamma',) takes the first"
    )
    assert matched(MODEL, different, ignore=(f"{NORM}.gamma",)).ignored == (f"{NORM}.gamma",)


@pytest.mark.parametrize("change", [lambda words: words.reshape(3, 5), lambda words: words.view(np.int32)])
def test_tensors_of_another_shape_or_dtype_are_different_even_with_the_same_bytes(change):
    tensors = file_of(MODEL)
    tensors[DECODER] = from_array(change(tensors[WORDS].read()), "file")
    assert "the file holds two different ones" in refused(MODEL, tensors)


def test_a_base_model_takes_a_file_with_the_prefix_and_the_other_way_round():
    found = matched(BASE, file_of(MODEL))
    assert filled(found) == {slot.path: f"bert.{slot.path}" for slot in BASE}
    assert found.left_out == ("cls.predictions.bias",)
    found = matched(MODEL, file_of((*BASE, MODEL[3])), known=never)
    assert filled(found) == {slot.path: slot.path.removeprefix("bert.") for slot in MODEL}


def test_a_tied_tensor_that_is_stored_twice():
    same = file_of(MODEL)
    same[DECODER], same["cls.predictions.decoder.bias"] = same[WORDS], same["cls.predictions.bias"]
    found = matched(MODEL, same, known=never)
    assert found.ignored == (DECODER, "cls.predictions.decoder.bias")
    assert filled(found) == {slot.path: slot.path for slot in MODEL}
    # whichever stands first in the file
    first = {DECODER: same[DECODER]} | same
    assert filled(matched(MODEL, first))[WORDS] == WORDS
    # an equal tensor is equal to the bit, NaN included
    nans = from_array(np.full((5, 3), np.nan, np.float32))
    assert matched(MODEL, same | {WORDS: nans, DECODER: nans}).ignored == found.ignored
    message = refused(MODEL, same | {DECODER: tensor("another", (5, 3))})
    assert f"{WORDS} and {DECODER} are one tensor in the model" in message


def test_a_tied_tensor_that_is_stored_under_its_old_name_only():
    tensors = file_of(MODEL[1:3], **{DECODER: tensor("d", (5, 3)), "cls.predictions.decoder.bias": tensor("b", (5,))})
    assert filled(matched(MODEL, tensors)) == {
        WORDS: DECODER,
        f"{NORM}.weight": f"{NORM}.weight",
        f"{NORM}.bias": f"{NORM}.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    }


def test_the_output_layer_of_an_untied_model_is_left_out_of_its_base_model():
    tensors = file_of(MODEL, **{DECODER: tensor("another", (5, 3))})
    found = matched(BASE, tensors, known=lambda: [FAMILY_PATHS | {DECODER}])
    assert filled(found)["embeddings.word_embeddings.weight"] == WORDS
    assert found.left_out == (DECODER, "cls.predictions.bias")
    del tensors[WORDS]
    message = refused(BASE, tensors, known=lambda: [FAMILY_PATHS | {DECODER}])
    assert "1 tensor is missing: embeddings.word_embeddings.weight (" in message


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_buffers_that_are_no_weights(prefix):
    ids = from_array(np.arange(4)[None])
    tensors = file_of(BASE, **{f"{prefix}embeddings.position_ids": ids, f"{prefix}embeddings.token_type_ids": ids})
    found = matched(BASE, tensors, known=never)
    assert len(found.ignored) == 2 and found.left_out == ()
    slots = (Slot("text_model.final_layer_norm.bias", (3,), "plain"),)
    clip = file_of(slots, **{f"{t}_model.embeddings.position_ids": ids for t in ("text", "vision")})
    assert len(matched(slots, clip, family=CLIP, known=never).ignored) == 2


def test_weight_norm_is_renamed():
    slots = (Slot("conv.weight_g", (1, 1, 2), "plain"), Slot("conv.weight_v", (3, 4, 2), "plain"))
    tensors = {
        "conv.parametrizations.weight.original1": tensor("v", (3, 4, 2)),
        "conv.parametrizations.weight.original0": tensor("g", (1, 1, 2)),
    }
    assert filled(matched(slots, tensors, known=never)) == {
        "conv.weight_g": "conv.parametrizations.weight.original0",
        "conv.weight_v": "conv.parametrizations.weight.original1",
    }


def test_what_other_classes_own_is_left_out():
    extra = {"bert.pooler.dense.weight": tensor("p", (3, 3)), "classifier.bias": tensor("c", (2,))}
    found = matched(MODEL, file_of(MODEL, **extra))
    assert found.left_out == ("bert.pooler.dense.weight", "classifier.bias")
    # with the prefix missing as well
    bare = {name.removeprefix("bert."): source for name, source in file_of(MODEL, **extra).items()}
    assert matched(MODEL, bare).left_out == ("pooler.dense.weight", "classifier.bias")


def test_what_an_unsupported_class_owns_is_left_out():
    family = replace(BERT, unsupported={"qa_outputs": "BertForQuestionAnswering", "*.extra": "BertOfSomeone"})
    extra = {name: tensor(name, (2,), np.int64) for name in ("qa_outputs.bias", "bert.layer.extra")}
    found = matched(MODEL, file_of(MODEL, **extra), family=family, known=never)
    assert found.left_out == ("qa_outputs.bias", "bert.layer.extra") and len(found.fillings) == len(MODEL)
    outer = replace(family, parts=lambda config: {"encoder": ("BeitModel", BeitConfig())})
    assert within(outer, BeitConfig()).unsupported == {
        **family.unsupported,
        **{f"encoder.{pattern}": name for pattern, name in BEIT.unsupported.items()},
    }


def test_what_no_class_owns_is_refused_and_all_is_listed():
    extra = {name: tensor(name, (1,)) for name in ("lora.a", "lora.b", "bert.encoder.extra", "head.bias")}
    message = refused(MODEL, file_of(MODEL, **extra))
    assert message == (
        "dir does not fit BertForMaskedLM: 4 tensors belong to no class of the family: lora.a, lora.b, "
        "bert.encoder.extra, head.bias (ignore=('lora.a', 'lora.b', 'bert.encoder.extra',) leaves them unread; "
        "patterns may have *)"
    )
    found = matched(MODEL, file_of(MODEL, **extra), ignore=("lora", "bert.encoder.*", "head.bias"))
    assert found.ignored == ("lora.a", "lora.b", "bert.encoder.extra", "head.bias")


def test_an_ignored_tensor_is_not_read_even_where_the_model_has_it():
    message = refused(MODEL, file_of(MODEL), ignore=("cls",))
    assert "1 tensor is missing: cls.predictions.bias (allow_fresh=('cls',) draws them anew)" in message
    found = matched(MODEL, file_of(MODEL), ignore=("cls",), allow_fresh=("cls",))
    assert found.ignored == ("cls.predictions.bias",) and found.fresh == (MODEL[3],)


def test_all_that_is_missing_is_listed_with_the_way_out():
    message = refused(MODEL, {})
    assert message == (
        f"dir does not fit BertForMaskedLM: 4 tensors are missing: {WORDS}, {NORM}.weight, {NORM}.bias, "
        "cls.predictions.bias (allow_fresh=('bert', 'cls',) draws them anew)"
    )
    message = refused((*BASE, *POOLER), file_of(BASE), class_name="BertModel")
    assert message == (
        "dir does not fit BertModel: 2 tensors are missing: pooler.dense.weight, pooler.dense.bias "
        "(add_pooling_layer=False builds the model without; allow_fresh=('pooler',) draws them anew)"
    )


@pytest.mark.parametrize("names", [("pooler",), ("pooler.dense",), ("*.bias", "pooler.dense.weight"), ["pooler"]])
def test_parts_that_may_be_fresh(names):
    found = matched((*BASE, *POOLER), file_of(BASE), allow_fresh=names)
    assert found.fresh == POOLER
    # what the file has is taken, allowed or not
    assert matched((*BASE, *POOLER), file_of((*BASE, *POOLER)), allow_fresh=names).fresh == ()


def test_what_is_allowed_to_be_fresh_allows_nothing_else():
    message = refused((*BASE, *POOLER), file_of(BASE[1:]), allow_fresh=("pooler",))
    assert "1 tensor is missing: embeddings.word_embeddings.weight (" in message


def test_every_problem_is_in_one_error():
    tensors = file_of(MODEL[1:3], **{WORDS: tensor("w", (3, 5)), "lora.a": tensor("l", (1,))})
    tensors[f"{NORM}.weight"] = tensor("w", (4,))
    tensors[f"{NORM}.bias"] = tensor("w", (3,), np.int8)
    assert refused(MODEL, tensors) == (
        "dir does not fit BertForMaskedLM: 1 tensor is missing: cls.predictions.bias (allow_fresh=('cls',) draws "
        "them anew). 1 tensor belongs to no class of the family: lora.a (ignore=('lora.a',) leaves them unread; "
        f"patterns may have *). 2 tensors have another shape: {WORDS} has shape (3, 5), BertForMaskedLM needs (5, 3); "
        f"{NORM}.weight has shape (4,), BertForMaskedLM needs (3,) (ignore=({WORDS!r}, '{NORM}.weight') leaves "
        f"them unread, and with it allow_fresh=({WORDS!r}, '{NORM}.weight') in from_pretrained draws them anew). "
        f"1 tensor has a dtype other than float64, float32, float16, bfloat16 or float8: {NORM}.bias (int8)"
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_floating_tensors_are_taken(dtype):
    tensors = {slot.path: tensor(slot.path, slot.shape, dtype) for slot in MODEL}
    assert len(matched(MODEL, tensors).fillings) == 4


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_other_tensors_are_not(dtype):
    message = refused(MODEL, file_of(MODEL) | {WORDS: tensor("w", (5, 3), dtype)})
    assert f"1 tensor has a dtype other than float64, float32, float16, bfloat16 or float8: {WORDS} (" in message


LAYERS = (
    Slot("bert.dense.weight", (4, 3), "linear"),
    Slot("bert.conv.weight", (5, 2, 6, 7), "conv"),
    Slot("bert.conv1.weight", (5, 2, 6), "conv"),
    Slot(WORDS, (8, 3), "embedding"),
    Slot(f"{NORM}.weight", (3,), "norm"),
    Slot("bert.alpha", (2, 3), "plain"),
)
FLAX_SHAPES = {
    "bert.dense.kernel": (3, 4),
    "bert.conv.kernel": (6, 7, 2, 5),
    "bert.conv1.kernel": (6, 2, 5),
    "bert.embeddings.word_embeddings.embedding": (8, 3),
    f"{NORM}.scale": (3,),
    "bert.alpha": (2, 3),
}


def test_a_flax_tree_has_its_own_names_and_layouts():
    assert {slot.flax_path: slot.shape_in("flax") for slot in LAYERS} == FLAX_SHAPES
    found = matched(
        LAYERS, {name: tensor(name, shape) for name, shape in FLAX_SHAPES.items()}, layout="flax", known=never
    )
    assert filled(found) == dict(zip((slot.path for slot in LAYERS), FLAX_SHAPES, strict=True))
    for filling in found.fillings:
        assert filling.source.read().transpose(filling.axes).shape == filling.slot.shape
    kernel = found.fillings[0]
    assert kernel.source.read().transpose(kernel.axes)[1, 2] == kernel.source.read()[2, 1]


def test_shapes_of_a_flax_tree_are_reported_as_they_are_there():
    shapes = FLAX_SHAPES | {"bert.dense.kernel": (4, 3), "bert.conv.kernel": (6, 7, 2)}
    message = refused(LAYERS, {name: tensor(name, shape) for name, shape in shapes.items()}, layout="flax")
    assert message.partition(" (ignore=")[0].endswith(
        "2 tensors have another shape: bert.dense.kernel has shape (4, 3), BertForMaskedLM needs (3, 4); "
        "bert.conv.kernel has shape (6, 7, 2), BertForMaskedLM needs (6, 7, 2, 5)"
    )


@pytest.mark.parametrize("kind", [*FLAX_LEAVES, "plain"])
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_the_axes_of_both_layouts_are_inverse(kind, rank):
    if kind == "linear" and rank != 2:
        rank = 2
    there, back = flax_axes(kind, rank), published_axes(kind, rank)
    assert sorted(there) == list(range(rank))
    assert tuple(there[axis] for axis in back) == tuple(range(rank))


def test_a_string_is_no_tuple_of_names():
    with pytest.raises(InputError, match=r"^allow_fresh='pooler' must be a tuple of names, such as \('pooler',\)$"):
        matched(MODEL, file_of(MODEL), allow_fresh="pooler")
    with pytest.raises(InputError, match=r"^ignore='pooler' must be a tuple of names, such as \('pooler',\)$"):
        matched(MODEL, file_of(MODEL), ignore="pooler")
    assert names_of("ignore", ["a", "b"]) == names_of("ignore", iter("ab")) == ("a", "b")


def test_the_report_is_one_line():
    report = LoadReport("dir", 4, ("a", "b"), ("c",), ("d", "e"))
    assert str(report) == (
        "4 tensors loaded from dir; 2 of other classes left out; 1 ignored; 2 drawn anew: d, e"
    )  # fmt: skip
    assert str(LoadReport("dir", 1, dropped=tuple("abcd"))) == (
        "1 tensors loaded from dir; 4 dropped, for which the changed config has no place: a, b, c …"
    )
    assert str(LoadReport("dir", 4)) == "4 tensors loaded from dir"
    assert report == LoadReport() and hash(report) == hash(LoadReport())  # so that it parts no compiled programs
