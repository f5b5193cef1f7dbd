import pytest

from diptych.core.checkpoint.dialects import Shift, find_shift, matches, resolver, respell
from diptych.core.models.bert import FAMILY as BERT
from diptych.core.models.clip import FAMILY as CLIP


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.bias"),
        ("gamma", "weight"),
        ("beta", "bias"),
        ("conv.parametrizations.weight.original0", "conv.weight_g"),
        ("conv.parametrizations.weight.original1", "conv.weight_v"),
        # names that only look alike
        ("encoder.alphabeta", "encoder.alphabeta"),
        ("gamma.dense.weight", "gamma.dense.weight"),
        ("layer.beta.0", "layer.beta.0"),
        ("conv.weight_g", "conv.weight_g"),
        ("conv.parametrizations.weight.original2", "conv.parametrizations.weight.original2"),
        # Flax's leaves, in a file that is not Flax's
        ("dense.kernel", "dense.kernel"),
        ("norm.scale", "norm.scale"),
    ],
)
def test_old_spellings_become_the_present_ones(old, new):
    assert respell(old) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layer.0.dense.kernel", "layer.0.dense.weight"),
        ("LayerNorm.scale", "LayerNorm.weight"),
        ("word_embeddings.embedding", "word_embeddings.weight"),
        ("dense.bias", "dense.bias"),
        ("kernel.bias", "kernel.bias"),
        ("embedding.kernel", "embedding.weight"),
        ("logit_scale", "logit_scale"),
        ("scale", "scale"),
        ("LayerNorm.gamma", "LayerNorm.weight"),
    ],
)
def test_the_leaves_of_a_flax_tree(old, new):
    assert respell(old, flax=True) == new


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("pooler.dense.weight", "pooler", True),
        ("pooler.dense.weight", "pooler.dense", True),
        ("pooler.dense.weight", "pooler.dense.weight", True),
        ("pooler.dense.weight", "pool", False),
        ("pooler.dense.weight", "dense", False),
        ("pooler.dense.weight", "*.weight", True),
        ("pooler.dense.weight", "*.bias", False),
        ("pooler.dense.weight", "POOLER", False),
        ("pooler_extra.weight", "pooler", False),
    ],
)
def test_patterns_match_names_and_modules(name, pattern, fits):
    assert matches(name, (pattern,)) is fits
    assert matches(name, ("other", pattern)) is fits
    assert not matches(name, ())


def test_a_shift_adds_or_removes_a_prefix():
    assert Shift(added="bert.")("pooler") == "bert.pooler"
    assert Shift(removed="bert.")("bert.pooler") == "pooler"
    assert Shift(removed="bert.")("cls.bias") == "cls.bias"
    assert Shift()("bert.pooler") == "bert.pooler"


def test_the_shift_is_the_one_under_which_most_names_are_wanted():
    names = ["encoder.a", "encoder.b", "bert.c"]
    prefixes = ("bert.",)
    assert find_shift(names, {"bert.encoder.a", "bert.encoder.b"}, prefixes) == Shift(added="bert.")
    assert find_shift(names, {"c", "d"}, prefixes) == Shift(removed="bert.")
    assert find_shift(names, {"encoder.a", "bert.encoder.b"}, prefixes) == Shift()
    assert find_shift([], {"a"}, prefixes) == find_shift(names, set(), prefixes) == Shift()
    assert find_shift(["x"], {"q.x"}, ("p.", "q.")) == Shift(added="q.")


def test_a_name_is_a_present_path_before_it_is_an_old_one():
    decoder, words = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    tied = resolver(BERT, {words}, Shift())
    assert tied(decoder) == (words, True)
    assert tied(words) == (words, False)
    assert tied("cls.predictions.bias") is tied("cls.predictions.decoder.bias") is None
    bias = resolver(BERT, {"cls.predictions.decoder.bias"}, Shift())
    assert bias("cls.predictions.bias") == ("cls.predictions.decoder.bias", True)
    untied = resolver(BERT, {words, decoder}, Shift())
    assert untied(decoder) == (decoder, False)


def test_old_names_and_prefixes_together():
    words = "embeddings.word_embeddings.weight"
    bare = resolver(BERT, {words, "pooler.dense.bias"}, Shift(removed="bert."))
    assert bare(f"bert.{words}") == (words, False)
    assert bare("cls.predictions.decoder.weight") == (words, True)
    assert bare("bert.pooler.dense.bias") == bare("pooler.dense.bias") == ("pooler.dense.bias", False)
    assert bare("bert.pooler.dense.gamma") is None


def test_the_towers_of_clip_with_and_without_their_prefix():
    wanted = {"vision_model.pre_layrnorm.bias", "visual_projection.weight"}
    flat = ["pre_layrnorm.bias", "visual_projection.weight"]
    shift = find_shift(flat, wanted, CLIP.prefixes)
    assert shift == Shift(added="vision_model.") or shift == Shift()
    shift = find_shift([*flat, "post_layernorm.bias"], wanted | {"vision_model.post_layernorm.bias"}, CLIP.prefixes)
    resolve = resolver(CLIP, wanted, shift)
    assert resolve("pre_layrnorm.bias") == ("vision_model.pre_layrnorm.bias", False)
    assert resolve("visual_projection.weight") == ("visual_projection.weight", False)
