"""What else `generate` returns and starts from: attentions, encoders' outputs, caches; and what it computes once."""

import collections
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity import oracle
from tests.parity.writers import SMALL, array, expected, models, read, small

pytestmark = pytest.mark.usefixtures("x64")

WRITES = "BartForConditionalGeneration"
PROMPTS = np.random.default_rng(0).integers(1, 13, (2, 5))
ASKED = {"max_new_tokens": 6, "pad_token_id": 0}
LAYERS = ("attentions", "cross_attentions", "hidden_states")


def written(model: Any, ids: Any = PROMPTS, **options: Any) -> np.ndarray:
    return array(model.generate(ids, **{**ASKED, **options}).sequences)


each_model = pytest.mark.parametrize("name", SMALL)


# What the layers give


@contextmanager
def exact(model: Any) -> Iterator[None]:
    """transformers' attention returns its probabilities."""
    for part in [model, *(getattr(model, part) for part in ("encoder", "decoder") if hasattr(model, part))]:
        part.set_attn_implementation(oracle.EXACT)
    yield
    for part in [model, *(getattr(model, part) for part in ("encoder", "decoder") if hasattr(model, part))]:
        part.set_attn_implementation("sdpa")


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertLMHeadModel", WRITES, "roberta bert"])
@pytest.mark.parametrize("beams", [1, 2])
def test_layers_give_what_those_of_transformers_do(name: str, beams: int) -> None:
    """At each step, for all prompts, and for beams in the order that they stand in then."""
    sides = models(name)
    ids = np.random.default_rng(0).integers(2, read(name), (2, 5))
    call = {"input_ids": ids, "attention_mask": np.ones_like(ids), "pad_token_id": 3, "max_new_tokens": 4}
    call |= {"num_beams": beams, "output_attentions": True, "output_hidden_states": True}
    prefix = ""
    if not name.endswith("LMHeadModel"):
        call["attention_mask"][1, 3:] = 0
        call |= {"decoder_start_token_id": 4, "decoder_input_ids": np.array([[4, 7, 5], [4, 9, 2]])}
        prefix = "decoder_"
    with exact(sides.theirs):
        wanted = expected(sides.theirs, call)
    for model in (sides.torch, sides.jax):
        found = model.generate(**call, output_scores=True)
        np.testing.assert_array_equal(array(found.sequences), wanted.sequences)
        for field in LAYERS:
            steps = getattr(wanted, field if field == "cross_attentions" else f"{prefix}{field}", None)
            if steps is None:
                assert getattr(found, field) is None
                continue
            assert len(getattr(found, field)) == len(steps) == len(found.scores)
            for step, (ours, theirs) in enumerate(zip(getattr(found, field), steps, strict=True)):
                assert len(ours) == len(theirs)
                for layer, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                    assert_close(array(one), other.numpy(), name=f"{field}[{step}][{layer}]")


@each_backend
def test_layers_give_nothing_unless_they_are_asked(backend: str) -> None:
    for name in ("attentions", "hidden_states"):
        output = small(backend, WRITES).generate(PROMPTS, **ASKED, **{f"output_{name}": True})
        wanted = {"attentions", "cross_attentions"} if name == "attentions" else {"hidden_states"}
        assert {field for field in LAYERS if getattr(output, field) is not None} == wanted
    output = small(backend, WRITES).generate(PROMPTS, **ASKED)
    assert list(output.keys()) == ["sequences"]


# What an encoder made


@each_backend
def test_what_an_encoder_made_stands_for_what_it_read(backend: str) -> None:
    model, mask = small(backend, WRITES), np.array([[1] * 5, [1] * 3 + [0] * 2])
    expected = written(model, attention_mask=mask, num_beams=2)
    states = model.encode(PROMPTS, mask)
    for given in (states, states.last_hidden_state, states.to_tuple(), array(states.last_hidden_state)):
        found = written(model, None, encoder_outputs=given, attention_mask=mask, num_beams=2)
        np.testing.assert_array_equal(found, expected)
    # the record has the mask of its states, which the states alone lack
    np.testing.assert_array_equal(written(model, None, encoder_outputs=states, num_beams=2), expected)
    without = written(model, None, encoder_outputs=states.last_hidden_state, num_beams=2)
    assert not np.array_equal(without, expected)


@each_backend
def test_embeddings_stand_for_ids(backend: str) -> None:
    model = small(backend, WRITES)
    table = model.model.encoder.embed_tokens
    table = array(table.weight if backend == "torch" else table.embedding)
    np.testing.assert_array_equal(written(model, None, inputs_embeds=table[PROMPTS]), written(model))


def test_every_row_that_is_begun_goes_on() -> None:
    begun = np.array([[4, 2, 1], [4, 5, 6]])
    for backend in BACKENDS:
        found = written(small(backend, WRITES), decoder_input_ids=begun)
        np.testing.assert_array_equal(found[:, :3], begun)
        np.testing.assert_array_equal(written(small(backend, WRITES), decoder_input_ids=begun[:, 1:]), found)


# Caches


@each_backend
@each_model
@pytest.mark.parametrize("beams", [1, 3])
def test_what_a_cache_has_seen_is_not_read_again(backend: str, name: str, beams: int) -> None:
    model, mask = small(backend, name), np.array([[1] * 5, [0] * 2 + [1] * 3])
    ids, prefix = PROMPTS, {}
    if name == WRITES:
        ids = np.concatenate([np.full((2, 1), 4), PROMPTS[:, 1:]], axis=1)
        read, prefix = {"input_ids": PROMPTS, "attention_mask": mask[::-1]}, "decoder_"
    else:
        read, prefix = {}, ""

    def call(count: int | None) -> dict[str, Any]:
        return read | {f"{prefix}input_ids": ids[:, :count], f"{prefix}attention_mask": mask[:, :count]}

    options = {**ASKED, "num_beams": beams}
    expected = array(model.generate(**call(None), **options).sequences)
    places = {} if name == WRITES else {"position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, :3]}
    cache = model(**call(3), **places, past_key_values=model.init_cache(2, 10)).past_key_values
    for _ in range(2):  # it is as good as before
        found = array(model.generate(**call(None), **options, past_key_values=cache).sequences)
        np.testing.assert_array_equal(found, expected)
        assert int(cache.length) == 3
    # what it has counts, not the tokens that are said to be in it
    other = call(None)
    other[f"{prefix}input_ids"] = np.where(np.arange(5) < 3, 9, ids) if not prefix else ids
    found = array(model.generate(**other, **options, past_key_values=cache).sequences)
    np.testing.assert_array_equal(found[:, 5:], expected[:, 5:])


# Compiling


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("GPT2LMHeadModel", {"num_beams": 2, "eos_token_id": [2, 5, 7]}),
        ("GPT2LMHeadModel", {"do_sample": True}),
        (WRITES, {"eos_token_id": [2, 5, 7]}),
    ],
)
def test_a_callers_own_program_writes_the_same_and_padding_behind_it(name: str, options: dict[str, Any]) -> None:
    model = small("jax", name)

    @jax.jit
    def program(model: Any, ids: Any, mask: Any) -> Any:
        return model.generate(ids, attention_mask=mask, **ASKED, **options).sequences

    mask = np.array([[0] * 2 + [1] * 3, [1] * 5])
    found = np.asarray(program(model, jnp.asarray(PROMPTS), jnp.asarray(mask)))
    expected = written(small("torch", name), attention_mask=mask, **options)
    begun = 1 if name == WRITES else 5
    assert found.shape == (2, begun + 6)
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert not found[:, expected.shape[1] :].any()


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(("name", "options"), [("GPT2LMHeadModel", {}), (WRITES, {"num_beams": 2})])
def test_compiled_steps_of_torch_write_the_same(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    graphs: list[Any] = []
    counts: list[int] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counted))
    model = getattr(BACKENDS["torch"], name)(SMALL[name], seed=8, dtype="float64")
    for seed in range(2):
        ids = np.random.default_rng(seed).integers(1, 13, (2, 5))
        expected = written(model, ids, max_new_tokens=9, **options)
        assert seed or not graphs
        np.testing.assert_array_equal(written(model, ids, max_new_tokens=9, compile=True, **options), expected)
        counts.append(len(graphs))
    assert 0 < counts[0] == counts[1] < 4


# Once


@each_backend
def test_an_encoder_runs_once_and_its_keys_are_projected_once(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = getattr(BACKENDS[backend], WRITES)(SMALL[WRITES], seed=8, dtype="float64"), collections.Counter()
    layer = model.model.decoder.layers[1].encoder_attn
    for name, module in (("encoder", model.model.encoder), ("keys", layer.k_proj), ("queries", layer.q_proj)):
        if backend == "torch":  # whose linear layers are of another class inside a call
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
            continue
        module.watched = name  # which it keeps where another of it is made
        plain = type(module).__call__

        def counting(self: Any, *args: Any, plain: Any = plain, **keywords: Any) -> Any:
            calls[getattr(self, "watched", None)] += 1
            return plain(self, *args, **keywords)

        if plain.__name__ != "counting":
            monkeypatch.setattr(type(module), "__call__", counting)
    written(model, num_beams=2)
    assert (calls["encoder"], calls["keys"]) == (1, 1)
    # JAX traces the first step and all others as one
    assert calls["queries"] == 6 if backend == "torch" else 1 < calls["queries"] < 6


# Precision and modes


@each_backend
@pytest.mark.parametrize(("dtype", "x64"), [("float32", True), ("float32", False), ("bfloat16", False)])
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "top_p": 0.9}])
def test_narrow_models_write(backend: str, dtype: str, x64: bool, options: dict[str, Any]) -> None:
    """Their scores are computed in float32."""
    options = options | {"repetition_penalty": 1.5, "eos_token_id": [2, 5]}
    with jax.enable_x64(x64):
        asked = {**ASKED, **options, "output_logits": True, "output_scores": True}
        output = small(backend, "GPT2LMHeadModel", dtype).generate(PROMPTS, **asked)
    sequences = array(output.sequences)
    assert sequences.dtype.kind == "i" and 5 < sequences.shape[1] <= 11
    assert (sequences[:, :5] == PROMPTS).all() and (sequences >= 0).all() and (sequences < 13).all()
    for values in (*output.logits, *output.scores, *([output.sequences_scores] if "num_beams" in options else [])):
        assert array(values).dtype == np.float32
        assert not np.isnan(array(values)).any()


@each_backend
def test_single_precision_is_enough_here(backend: str) -> None:
    found = written(small(backend, "GPT2LMHeadModel", "float32"), num_beams=2)
    np.testing.assert_array_equal(found, written(small(backend), num_beams=2))


@each_backend
def test_a_model_in_training_does_not_write(backend: str) -> None:
    model = BACKENDS[backend].GPT2LMHeadModel(SMALL["GPT2LMHeadModel"], seed=8, dtype="float64")
    model.train()
    with pytest.raises(InputError, match=r"^GPT2LMHeadModel\.generate: the model is in train mode, .* model\.eval\(\)"):
        model.generate(PROMPTS, **ASKED)
    model.eval()
    np.testing.assert_array_equal(written(model), written(small(backend)))


def test_torch_keeps_no_gradients() -> None:
    output = small("torch").generate(PROMPTS, **ASKED, output_logits=True)
    assert not output.logits[0].requires_grad
