"""Decoding with a cache: what comes out is what comes out of all tokens at once, in both backends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS, changed, writes
from tests.parity.writers import array

pytestmark = pytest.mark.usefixtures("x64")

LENGTH = 7

BERT = CONFIGS["BertModel"]
DECODERS = changed("decoders")
"""A config for every class that decodes."""

MASKS = {
    "none": None,
    "right": np.array([[1] * 7, [1] * 4 + [0] * 3]),
    "left": np.array([[1] * 7, [0] * 4 + [1] * 3]),
    "holes": np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0, 1]]),
}
STEPS = ([1] * 7, [4, 1, 1, 1], [2, 3, 2])
# what is compiled for each shape takes long in JAX, and one by one is the next test but one
CALLS = [("torch", padding, STEPS) for padding in MASKS] + [
    ("jax", padding, STEPS[1:]) for padding in ("none", "holes")
]


def built(backend: str, name: str) -> Any:
    return getattr(BACKENDS[backend], name)(DECODERS[name], seed=1, dtype="float64")


def tokens(name: str) -> np.ndarray:
    ids = np.random.default_rng(0).integers(2, 23, (2, LENGTH))
    ids[1, 2] = DECODERS[name].pad_token_id or 0  # a pad in the text
    return ids


def text(name: str, ids: Any, mask: Any = None) -> dict[str, Any]:
    """The call's keywords for the text to read from left to right."""
    prefix = "decoder_" if writes(name) else ""
    return {f"{prefix}input_ids": ids} | ({} if mask is None else {f"{prefix}attention_mask": mask})


def encoder_output(name: str) -> dict[str, Any]:
    """What a decoder with cross-attention attends to, or what its encoder is to read."""
    mask = np.array([[1] * 5, [1] * 3 + [0] * 2])
    if writes(name):
        return {"input_ids": np.random.default_rng(1).integers(2, 23, (2, 5)), "attention_mask": mask}
    if not DECODERS[name].has_cross_attention:
        return {}
    states = np.random.default_rng(1).standard_normal((2, 5, DECODERS[name].hidden_size))
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def after_the_first(memory: dict[str, Any]) -> dict[str, Any]:
    """What later steps need of it: the cache has the rest."""
    return {key: value for key, value in memory.items() if key not in ("encoder_hidden_states", "input_ids")}


def main(output: Any) -> Any:
    return output["logits"] if "logits" in output else output["last_hidden_state"]


def in_steps(model: Any, name: str, steps: list[int], mask: np.ndarray | None, kind: str, capacity: int) -> np.ndarray:
    """The outputs of all tokens, which are given step by step; the encoder's states with the first only."""
    ids, cache, first, outputs = tokens(name), model.init_cache(2, capacity), 0, []
    memory = encoder_output(name)
    for count in steps:
        last, given = first + count, mask
        if mask is not None:
            whole = np.pad(mask, ((0, 0), (0, capacity - LENGTH)))
            given = {"new": mask[:, first:last], "so far": mask[:, :last], "whole": whole}[kind]
        output = model(**text(name, ids[:, first:last], given), past_key_values=cache, **memory)
        outputs.append(array(main(output)))
        cache, first, memory = output.past_key_values, last, after_the_first(memory)
    assert int(cache.length) == LENGTH and cache.capacity == capacity
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize(
    ("backend", "padding", "splits"), CALLS, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("name", DECODERS)
def test_step_by_step_is_all_at_once(name: str, backend: str, padding: str, splits: tuple[list[int], ...]) -> None:
    model, mask = built(backend, name), MASKS[padding]
    expected = array(main(model(**text(name, tokens(name), mask), **encoder_output(name))))
    for steps in splits:
        for kind in ("new",) if mask is None else ("new", "so far", "whole"):
            found = in_steps(model, name, steps, mask, kind, capacity=9)
            assert_close(found, expected, name=f"{steps}, mask of {kind} tokens")


@pytest.mark.parametrize("name", DECODERS)
def test_both_backends_fill_the_same_cache(name: str) -> None:
    caches = []
    for backend in BACKENDS:
        model = built(backend, name)
        call = text(name, tokens(name), MASKS["right"])
        cache = model(**call, **encoder_output(name), past_key_values=model.init_cache(2, 8)).past_key_values
        caches.append(cache)
    for field in ("keys", "values", "cross_keys", "cross_values"):
        for one, other in zip(*(getattr(cache, field) for cache in caches), strict=True):
            if one is None or other is None:
                assert one is other
            else:
                assert_close(array(one), array(other), name=field)
    assert np.array_equal(array(caches[0].mask), array(caches[1].mask))
    assert array(caches[0].mask).tolist() == [[True] * 7 + [False], [True] * 4 + [False] * 4]
    assert (caches[0].cross_keys[0] is None) == (not encoder_output(name))


@pytest.mark.parametrize("name", DECODERS)
def test_one_compiled_step_serves_every_token(name: str) -> None:
    model, ids, memory = built("jax", name), tokens(name), encoder_output(name)
    expected = array(main(model(**text(name, ids), **memory)))
    output = model(**text(name, ids[:, :1]), past_key_values=model.init_cache(2, LENGTH), **memory)
    memory, traced = after_the_first(memory), []

    def step(model: Any, ids: Any, cache: Any, memory: Any) -> Any:
        traced.append(ids.shape)
        output = model(**text(name, ids), past_key_values=cache, **memory)
        return main(output), output.past_key_values

    compiled = jax.jit(step, donate_argnums=2)
    outputs, cache = [array(main(output))], output.past_key_values
    for index in range(1, LENGTH):
        states, cache = compiled(model, jnp.asarray(ids[:, index : index + 1]), cache, memory)
        outputs.append(array(states))
    assert traced == [(2, 1)]
    assert_close(np.concatenate(outputs, axis=1), expected)
    states, _ = compiled(model, jnp.asarray(ids[:, :1]), cache, memory)
    assert np.isnan(states).all()  # there is no room, which only the values say


@each_backend
def test_a_cache_comes_back_where_it_is_asked_for(backend: str) -> None:
    model, ids = built(backend, "BertModel"), tokens("BertModel")
    assert "past_key_values" not in model(ids)
    made = model(ids, use_cache=True)
    assert made.past_key_values.capacity == DECODERS["BertModel"].max_position_embeddings
    assert main(made).shape == (2, LENGTH, 12)
    assert "past_key_values" not in model(ids[:, :2], past_key_values=made.past_key_values, use_cache=False)
    assert made.to_tuple()[-1] is made.past_key_values
    again = model(ids[:, :2], past_key_values=made.past_key_values, output_attentions=True)
    assert [int(again.past_key_values.length), again.attentions[0].shape[-1]] == [9, 9]


@each_backend
def test_gradients_flow_through_a_cache(backend: str) -> None:
    name = "BertLMHeadModel"
    ids, memory = tokens(name), encoder_output(name)

    def cached(model: Any) -> Any:
        output = model(ids[:, :4], past_key_values=model.init_cache(2, 9), **memory)
        return main(model(ids[:, 4:], past_key_values=output.past_key_values, **memory))

    def at_once(model: Any) -> Any:
        return main(model(ids, **memory))[:, 4:]

    if backend == "jax":
        found, expected = (
            jax.jit(jax.grad(lambda m, f=f: jnp.sum(f(m) ** 2)))(built("jax", name)) for f in (cached, at_once)
        )
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    else:
        models = [built("torch", name) for _ in range(2)]
        for model, function in zip(models, (cached, at_once), strict=True):
            function(model).square().sum().backward()
        pairs = zip(*([array(p.grad) for p in model.parameters()] for model in models), strict=True)
    gradients = [(np.asarray(one), np.asarray(other)) for one, other in pairs]
    largest = max(np.abs(other).max() for _, other in gradients)
    for one, other in gradients:
        assert_close(one, other, largest=largest)


def test_torch_writes_tokens_where_they_lie_unless_gradients_flow() -> None:
    model, ids = built("torch", "BertModel"), tokens("BertModel")
    cache = model.init_cache(2, 9)
    with torch.no_grad():
        after = model(ids, past_key_values=cache).past_key_values
    assert after.keys[0].data_ptr() == cache.keys[0].data_ptr() and cache.keys[0].any()
    cache = model.init_cache(2, 9)
    after = model(ids, past_key_values=cache).past_key_values
    assert after.keys[0].requires_grad and not cache.keys[0].any()


@each_backend
def test_what_a_cache_cannot_serve_is_refused(backend: str) -> None:
    model, ids = built(backend, "BertModel"), tokens("BertModel")
    cache = model(ids, past_key_values=model.init_cache(2, 8)).past_key_values
    refusals = [
        ({"past_key_values": cache}, r"the number of tokens is 9, but past_key_values\.capacity=8"),
        ({"past_key_values": ((1, 2),)}, r"past_key_values is a tuple, but a cache of diptych's is needed, such as "),
        (
            {"past_key_values": model.init_cache(3, 9)},
            r"past_key_values \(layers, batch, heads, head width\) has shape \(2, 3, 3, 4\), but \(2, 2, 3, 4\) is",
        ),
        (
            {"past_key_values": model.init_cache(2, 9), "attention_mask": np.ones((2, 5))},
            r"attention_mask has shape \(2, 5\), but \(2, 2\) is needed",
        ),
        ({"encoder_hidden_states": np.ones((2, 3, 12))}, "encoder_hidden_states are given, but .*=False"),
    ]
    for call, message in refusals:
        with pytest.raises(InputError, match=f"^BertModel: {message}"):
            model(ids[:, :2], **call)
    full = model(ids, past_key_values=model.init_cache(2, 99)).past_key_values
    with pytest.raises(InputError, match="the number of tokens is 10, but max_position_embeddings=9"):
        model(ids[:, :3], past_key_values=full)
    encoder = BACKENDS[backend].BertModel(BERT, dtype="float64")
    for call in ({"use_cache": True}, {"past_key_values": cache}):
        with pytest.raises(InputError, match="past_key_values and use_cache=True are for decoders"):
            encoder(ids, **call)
    with pytest.raises(InputError, match=r"^BertModel\.init_cache: the model is no decoder"):
        encoder.init_cache(2, 8)
    for size, message in (((0, 8), "batch_size=0"), ((2, 0), "max_length=0")):
        with pytest.raises(InputError, match=f"{message}, but a whole number of at least 1 is needed"):
            model.init_cache(*size)


@each_backend
def test_what_the_encoder_gave_must_fit_what_the_cache_has_of_it(backend: str) -> None:
    model, ids = built(backend, "BertLMHeadModel"), tokens("BertLMHeadModel")
    memory = encoder_output("BertLMHeadModel")
    cache = model(ids[:, :2], past_key_values=model.init_cache(2, 9), **memory).past_key_values
    for width in (1, 4):
        message = rf"encoder_attention_mask has shape \(2, {width}\), but \(2, 5\) is needed"
        with pytest.raises(InputError, match=message):
            model(ids[:, 2:3], past_key_values=cache, encoder_attention_mask=np.ones((2, width)))
    with pytest.raises(InputError, match="encoder_attention_mask is given, but no encoder_hidden_states"):
        model(ids, encoder_attention_mask=memory["encoder_attention_mask"])
    narrow = BACKENDS[backend].BertLMHeadModel(DECODERS["BertLMHeadModel"], dtype="float32").init_cache(2, 9)
    with pytest.raises(InputError, match=r"past_key_values has dtype (torch\.)?float32, but the model has .*float64"):
        model(ids, past_key_values=narrow)
    for size in (4.5, None, "3", True, 2**70):
        with pytest.raises(InputError, match=r"max_length=.*, but a whole number of at least 1 is needed"):
            model.init_cache(2, size)
    assert model.init_cache(np.int64(2), np.int32(3)).capacity == 3


@each_backend
def test_what_does_not_fit_the_decoder_is_refused(backend: str) -> None:
    model, ids = built(backend, "BertLMHeadModel"), tokens("BertLMHeadModel")
    states = encoder_output("BertLMHeadModel")["encoder_hidden_states"]
    for call, message in [
        ({"encoder_hidden_states": states[:1]}, r"encoder_hidden_states has shape \(1, 5, 12\), but \(2, 5, 12\)"),
        ({"encoder_hidden_states": states[..., :3]}, r"has shape \(2, 5, 3\), but \(2, 5, 12\) is needed"),
        ({"encoder_hidden_states": states.astype(int)}, "encoder_hidden_states has dtype int64, but floats are needed"),
        (
            {"encoder_hidden_states": states, "encoder_attention_mask": np.ones((2, 4))},
            r"encoder_attention_mask has shape \(2, 4\), but \(2, 5\) is needed",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            model(ids, **call)


@pytest.mark.parametrize("name", ["BertLMHeadModel", "BartForConditionalGeneration", "GPT2LMHeadModel"])
def test_layers_computed_twice_give_the_same_gradients(name: str) -> None:
    call = text(name, tokens(name), MASKS["right"]) | encoder_output(name)

    def loss(model: Any) -> Any:
        return jnp.sum(main(model(**call)) ** 2)

    plain, twice = (built("jax", name).gradient_checkpointing_enable(mode) for mode in (False, True))
    assert "remat" not in str(jax.make_jaxpr(loss)(plain)) and "remat" in str(jax.make_jaxpr(loss)(twice))
    gradients_of = jax.jit(jax.grad(loss))
    pairs = list(zip(*(map(np.asarray, jax.tree.leaves(gradients_of(model))) for model in (twice, plain)), strict=True))
    for one, other in pairs:
        assert_close(one, other, largest=max(np.abs(values).max() for _, values in pairs))

    gradients, calls = {}, {}
    for mode in (False, True):
        model = getattr(BACKENDS["torch"], name)(DECODERS[name], seed=1, dtype="float64", gradient_checkpointing=mode)
        stack = next(module for module in model.modules() if hasattr(module, "gradient_checkpointing"))
        layers = next(child for child in stack.children() if isinstance(child, torch.nn.ModuleList))
        calls[mode] = 0

        def count(*_: Any, mode: bool = mode) -> None:
            calls[mode] += 1

        layers[0].register_forward_pre_hook(count)
        main(model(**call)).square().sum().backward()
        gradients[mode] = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        with torch.no_grad():
            model(**call)
    assert calls == {False: 2, True: 3}
    assert len(gradients[False]) > 20
    for one, other in zip(gradients[True], gradients[False], strict=True):
        assert torch.equal(one, other)
