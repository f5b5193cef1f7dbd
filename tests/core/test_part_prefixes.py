"""The base-model prefix of a composite's parts: found for each part by itself, in families made up for this."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.core import registry
from diptych.core.checkpoint.dialects import PartShifts, Shift, find_shift, find_shifts, resolver, spellings
from diptych.core.checkpoint.matching import FamilyPaths, NamedTensors, Target, match
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.tensors import from_array
from diptych.core.errors import CheckpointError
from diptych.core.models.clip import FAMILY as CLIP
from diptych.core.models.encoder_decoder import FAMILY as ENCODER_DECODER
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config

# an image encoder whose files have a prefix or not, a decoder whose files have another
FAMILY = replace(
    CLIP,
    prefixes=(),
    part_prefixes={"encoder": ("vision_model.", "text_model."), "decoder": ("bert.",)},
    renamed={"decoder.cls.decoder.weight": "decoder.bert.words.weight"},
    ignored={"encoder.*position_ids": "a buffer"},
)
ENCODER = ("encoder.vision_model.embeddings.weight", "encoder.vision_model.layers.0.bias", "encoder.head.weight")
DECODER = ("decoder.bert.words.weight", "decoder.bert.layers.0.bias", "decoder.cls.bias")
BETWEEN = ("enc_to_dec_proj.weight",)
SLOTS = tuple(Slot(path, (2, 3), "plain") for path in (*ENCODER, *DECODER, *BETWEEN))
FLAT_ENCODER = tuple(path.replace("vision_model.", "") for path in ENCODER)
FLAT_DECODER = tuple(path.replace("bert.", "") for path in DECODER)
EXTRA_DECODER = tuple(path.replace("decoder.", "decoder.bert.") for path in FLAT_DECODER)


def tensors(*names):
    return {name: from_array(np.full((2, 3), len(name), np.float32), "file") for name in names}


def matched(names, slots=SLOTS, *, known=list, family=FAMILY, **options):
    target = Target("Composite", slots, family, known)
    return match(NamedTensors("dir", tensors(*names)), target, **options)


def filled(found):
    return {filling.slot.path: filling.name for filling in found.fillings}


def test_a_shift_of_a_part():
    shift = Shift(added="vision_model.", part="encoder.")
    assert shift("encoder.layers.0") == "encoder.vision_model.layers.0"
    assert shift("decoder.layers.0") == "decoder.layers.0"
    assert shift("encoder_2.layers.0") == "encoder_2.layers.0"
    shift = Shift(removed="bert.", part="decoder.")
    assert shift("decoder.bert.words") == "decoder.words"
    assert shift("decoder.cls.bert.words") == "decoder.cls.bert.words"
    assert shift("bert.words") == "bert.words"


def test_the_innermost_part_counts():
    shifts = PartShifts((Shift(added="model."), Shift(added="a.", part="encoder."), Shift(part="encoder.text.")))
    assert shifts("head.bias") == "model.head.bias"
    assert shifts("encoder.bias") == "encoder.a.bias"
    assert shifts("encoder.text.bias") == "encoder.text.bias"
    assert PartShifts()("encoder.bias") == "encoder.bias"


def test_the_names_of_a_part_alone_decide_about_it():
    # more names lie in the decoder, and would outvote the encoder
    names, wanted = [*FLAT_ENCODER, *DECODER, *BETWEEN], [slot.path for slot in SLOTS]
    assert find_shift(names, wanted, ("vision_model.",), "encoder.") == Shift("vision_model.", part="encoder.")
    shifts = find_shifts(names, wanted, FAMILY).shifts
    assert shifts == (Shift(), Shift("vision_model.", part="encoder."), Shift(part="decoder."))


@pytest.mark.parametrize("encoder", [ENCODER, FLAT_ENCODER], ids=["whole", "flat"])
@pytest.mark.parametrize("decoder", [DECODER, FLAT_DECODER], ids=["whole", "flat"])
def test_each_part_is_read_in_either_spelling(encoder, decoder):
    names = (*encoder, *decoder, *BETWEEN)
    found = matched(names)
    assert filled(found) == dict(zip((slot.path for slot in SLOTS), names, strict=True))
    assert found.ignored == found.left_out == found.fresh == ()


def test_parts_that_are_shifted_in_opposite_directions():
    slots = tuple(Slot(path, (2, 3), "plain") for path in (*ENCODER, *FLAT_DECODER))
    names = (*FLAT_ENCODER, *EXTRA_DECODER)
    assert filled(matched(names, slots)) == dict(zip((slot.path for slot in slots), names, strict=True))
    # and in both spellings at once, which must agree
    twice = ("decoder.words.weight", "decoder.bert.words.weight")
    slots = (Slot(twice[0], (2, 3), "plain"),)
    target = Target("Composite", slots, FAMILY, lambda: [{*twice[:1]}])
    same = from_array(np.zeros((2, 3), np.float32))
    assert match(NamedTensors("dir", dict.fromkeys(twice, same)), target).left_out == twice[1:]
    with pytest.raises(CheckpointError, match="are one tensor in the model, but the file holds two different ones"):
        match(NamedTensors("dir", tensors(*twice)), target)


def test_old_names_and_buffers_under_a_shift():
    norm = Slot("decoder.bert.norm.weight", (2, 3), "norm")
    names = (*FLAT_ENCODER, *FLAT_DECODER[1:], *BETWEEN, "decoder.norm.gamma")
    found = matched((*names, "decoder.cls.decoder.weight", "encoder.x.position_ids"), (*SLOTS, norm))
    assert filled(found)[norm.path] == "decoder.norm.gamma"
    assert filled(found)["decoder.bert.words.weight"] == "decoder.cls.decoder.weight"
    assert found.ignored == ("encoder.x.position_ids",)


def test_what_other_classes_of_a_parts_family_own_is_left_out_whatever_its_prefix():
    def known():
        return [{"encoder.vision_model.pooler.bias"}, {"decoder.bert.words.weight", "decoder.seq.bias"}]

    extra = ("encoder.pooler.bias", "decoder.seq.bias")
    found = matched((*ENCODER, *FLAT_DECODER, *BETWEEN, *extra), known=known)
    assert found.left_out == extra
    with pytest.raises(CheckpointError, match=r"1 tensor belongs to no class of the family: decoder\.pooler\.bias \("):
        matched((*ENCODER, *DECODER, *BETWEEN, "decoder.pooler.bias"), known=known)


def test_a_tower_of_a_whole_model():
    """A file of two towers, of which one alone is loaded, written with the prefix or without."""
    slots = tuple(Slot(f"vision_model.{name}", (2, 3), "plain") for name in ("patch.weight", "norm.bias"))
    whole = {"vision_model.patch.weight", "vision_model.norm.bias", "text_model.words.weight", "logit_scale"}
    found = matched(sorted(whole), slots, family=CLIP, known=lambda: [whole])
    assert found.left_out == ("logit_scale", "text_model.words.weight") and len(found.fillings) == 2
    found = matched(("patch.weight", "norm.bias"), slots, family=CLIP)
    assert filled(found) == {"vision_model.patch.weight": "patch.weight", "vision_model.norm.bias": "norm.bias"}


def test_spellings_and_the_paths_of_classes():
    assert spellings("encoder.x", FAMILY) == {"encoder.x", "encoder.vision_model.x", "encoder.text_model.x"}
    assert spellings("decoder.bert.x", FAMILY) == {"decoder.bert.x", "decoder.x", "decoder.bert.bert.x"}
    assert spellings("proj.x", FAMILY) == {"proj.x"}
    paths = FamilyPaths(FAMILY, [{"decoder.bert.x", "decoder.y"}, {"decoder.x"}])
    assert paths.distinguish("decoder.x", "decoder.bert.y") and not paths.distinguish("decoder.x", "decoder.bert.x")
    assert paths.owns("decoder.bert.y") and not paths.owns("encoder.y")
    assert paths.owns("decoder.cls.decoder.weight") is False
    resolve = resolver(FAMILY, {"decoder.bert.words.weight"})
    assert resolve("decoder.cls.decoder.weight") == ("decoder.bert.words.weight", True)


def test_the_prefixes_of_parts_are_those_of_their_families(monkeypatch):
    config = EncoderDecoderConfig.from_encoder_decoder_configs(EncoderDecoderConfig().encoder, GPT2Config())
    family = registry.within(ENCODER_DECODER, config)
    assert family.part_prefixes == {"encoder": ("bert.",), "decoder": ("transformer.",)}
    # a part that has parts itself
    outer = replace(ENCODER_DECODER, parts=lambda _: {"inner": ("EncoderDecoderModel", config)})
    assert registry.within(outer, config).part_prefixes == {
        "inner": (),
        "inner.encoder": ("bert.",),
        "inner.decoder": ("transformer.",),
    }
    wanted = ["inner.encoder.a", "inner.encoder.b", "inner.decoder.transformer.c"]
    shifts = find_shifts(
        ["inner.encoder.bert.a", "inner.encoder.bert.b", "inner.decoder.c"], wanted, registry.within(outer, config)
    )
    assert [shifts(name) for name in ("inner.encoder.bert.a", "inner.decoder.c")] == [wanted[0], wanted[2]]
