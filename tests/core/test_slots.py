"""How each kind of tensor lies in a JAX model and in a Flax msgpack file."""

import pytest

from diptych.core.checkpoint.slots import FLAX_LEAVES, Slot, flax_axes, inverse, published_axes, tree_axes

KINDS = [("linear", 2), ("linear_in_out", 2), ("conv", 3), ("conv", 4), ("embedding", 2), ("norm", 1), ("plain", 3)]


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_every_order_of_axes_has_its_inverse(kind, rank):
    for axes in (flax_axes(kind, rank), tree_axes(kind, rank)):
        assert sorted(axes) == list(range(rank))
        assert [axes[axis] for axis in inverse(axes)] == list(range(rank))
    assert published_axes(kind, rank) == inverse(flax_axes(kind, rank))


def test_inverse_of_a_cycle():
    assert inverse((2, 0, 1)) == (1, 2, 0)


def test_files_of_flax_hold_what_models_hold_but_for_the_layers_of_gpt2():
    assert {kind for kind, rank in KINDS if tree_axes(kind, rank) != flax_axes(kind, rank)} == {"linear_in_out"}
    assert flax_axes("linear_in_out", 2) == (0, 1)
    slot = Slot("h.0.attn.c_attn.weight", (4, 12), "linear_in_out")
    assert (slot.flax_path, slot.shape_in("flax")) == ("h.0.attn.c_attn.kernel", (12, 4))


def test_every_kind_of_weight_is_listed_here():
    assert {kind for kind, _ in KINDS} == {*FLAX_LEAVES, "plain"}
