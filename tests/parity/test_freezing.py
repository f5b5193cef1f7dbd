"""Freezing by published path: what is frozen does not move, and the rest moves alike in both backends."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from diptych.conversion import parity, to_jax, to_torch
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS, inputs, labels_for

SPEECH = "SpeechEncoderDecoderModel"
STEPS = {"VisionEncoderDecoderModel": 20, SPEECH: 20}
"""Class -> steps of training, if not 5."""
# the epsilon is large on purpose, as in test_training: Adam would turn the rounding of a zero gradient into steps
RATE, BETAS, EPSILON, DECAY = 1e-2, (0.9, 0.98), 1e-3, 0.1

FROZEN: dict[str, tuple[str, ...]] = {
    "BertForMaskedLM": ("bert.embeddings", "bert.encoder.layer.0", "*.LayerNorm.bias"),
    "GPT2LMHeadModel": ("transformer.wte", "transformer.h.*.mlp.c_fc.weight"),
    "BartForConditionalGeneration": ("model.encoder", "model.shared.weight"),
    "CLIPModel": ("vision_model", "logit_scale"),
    "EncoderDecoderModel": ("encoder",),
    "VisionEncoderDecoderModel": ("encoder",),
    SPEECH: ("encoder.feature_extractor",),
}
SUBJECTS = CONFIGS | {SPEECH: CONFIGS[SPEECH].with_part("decoder", CONFIGS["BartForCausalLM"])}


def built(backend: str, name: str, **build: Any) -> Any:
    return getattr(BACKENDS[backend], name)(SUBJECTS[name], **build)


def values_of(model: Any) -> dict[str, np.ndarray]:
    return {path: np.array(source.read()) for path, source in model._sources().items()}


def call_of(name: str) -> dict[str, Any]:
    return {**inputs(name), **labels_for(name)}


def with_bias(name: str, model: Any) -> Any:
    """The model with a buffer that is not zero, so that a step or a decay of it would show."""
    if name != "BartForConditionalGeneration":
        return model
    bias = np.linspace(0.5, 1.5, model.config.vocab_size)[None]
    if isinstance(model, torch.nn.Module):
        model.final_logits_bias.copy_(torch.tensor(bias))
    else:
        model.final_logits_bias.set_value(jax.numpy.asarray(bias))
    return model


def trained_in_torch(name: str) -> dict[str, np.ndarray]:
    model = with_bias(name, built("torch", name, seed=4, dtype="float64")).freeze(*FROZEN[name])
    optimizer = torch.optim.AdamW(model.trainable_parameters(), RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    call = {
        key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in call_of(name).items()
    }
    for _ in range(STEPS.get(name, 5)):
        optimizer.zero_grad()
        model(**call).loss.backward()
        for _, parameter in model.trainable_parameters():  # torch leaves alone what has no gradient, which optax decays
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
    return values_of(model)


def masked(model: Any) -> tuple[Any, Any]:
    """A step of optax, where the mask says what trains."""
    optimizer = optax.masked(optax.adamw(RATE, *BETAS, eps=EPSILON, weight_decay=DECAY), model.trainable_parameters())

    def step(model: Any, state: Any, call: Any, switches: Any) -> Any:
        gradients = jax.grad(lambda model: model(**call, **switches).loss)(model)
        updates, state = optimizer.update(gradients, state, model)
        return optax.apply_updates(model, updates), state

    return step, optimizer.init(model)


def filtered(model: Any) -> tuple[Any, Any]:
    """A step of optax on the part of the model that trains, of which alone there are gradients and a state."""
    trains = model.trainable_filter()
    optimizer = optax.adamw(RATE, *BETAS, eps=EPSILON, weight_decay=DECAY)

    def step(model: Any, state: Any, call: Any, switches: Any) -> Any:
        definition, trained, others = nnx.split(model, trains, ...)
        gradients = jax.grad(lambda trained: nnx.merge(definition, trained, others)(**call, **switches).loss)(trained)
        updates, state = optimizer.update(gradients, state, trained)
        return nnx.merge(definition, optax.apply_updates(trained, updates), others), state

    return step, optimizer.init(nnx.split(model, trains, ...)[1])


def trained_in_jax(name: str, how: Callable[[Any], tuple[Any, Any]]) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        model = with_bias(name, built("jax", name, seed=4, dtype="float64")).freeze(*FROZEN[name])
        step, state = how(model)
        arrays = {key: value for key, value in call_of(name).items() if isinstance(value, np.ndarray)}
        switches = {key: value for key, value in call_of(name).items() if key not in arrays}
        compiled = jax.jit(lambda model, state, call: step(model, state, call, switches))
        for _ in range(STEPS.get(name, 5)):
            model, state = compiled(model, state, arrays)
        return values_of(model)


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, masked) for name in FROZEN), *((name, filtered) for name in ("BertForMaskedLM", "EncoderDecoderModel"))],
)
def test_what_is_frozen_stays_and_the_rest_moves_alike(name: str, how: Callable[[Any], tuple[Any, Any]]) -> None:
    before = with_bias(name, built("torch", name, seed=4, dtype="float64"))
    start, frozen = values_of(before), set(before.freeze(*FROZEN[name]).frozen_parameters)
    still = frozen | {slot.path for slot in before._leaves() if slot.kind == "buffer"}
    found, expected = trained_in_jax(name, how), trained_in_torch(name)
    assert found.keys() == expected.keys() == start.keys()
    assert 0 < len(still) < len(start)
    largest = max(np.abs(values).max() for values in expected.values())
    for path, values in start.items():
        if path in still:
            assert np.array_equal(found[path], values) and np.array_equal(expected[path], values), path
        else:
            assert_close(found[path], expected[path], largest=largest, name=path)
    moved = [path for path in start.keys() - still if np.abs(expected[path] - start[path]).max() > 1e-3]
    assert len(moved) > 0.6 * len(start.keys() - still)


def test_buffers_are_left_out_of_what_trains() -> None:
    """Nothing is frozen, and the mask spares the buffer from weight decay all the same."""
    model = built("jax", "BartForConditionalGeneration")
    mask = model.trainable_parameters()
    flags = {".".join(map(str, path)): flag.get_value() for path, flag in nnx.to_flat_state(nnx.state(mask))}
    assert [path for path, flag in flags.items() if not flag] == ["final_logits_bias"]
    assert "final_logits_bias" not in dict(built("torch", "BartForConditionalGeneration").trainable_parameters())


@each_backend
def test_paths_modules_and_patterns(backend: str) -> None:
    model = built(backend, "BertForMaskedLM", seed=None)
    everything = sorted(slot.path for slot in model._leaves())
    assert model.frozen_parameters == ()
    assert model.freeze("bert.embeddings.LayerNorm", "cls.predictions.bias") is model
    layer_norm = ("bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.weight")
    assert model.frozen_parameters == (*layer_norm, "cls.predictions.bias")
    model.freeze("cls.predictions.bias")  # which it is already
    assert model.unfreeze("cls.*").frozen_parameters == layer_norm
    model.bert.freeze("encoder.layer.1.output")  # a base model and the whole agree
    assert set(model.frozen_parameters) - set(layer_norm) == {
        path for path in everything if path.startswith("bert.encoder.layer.1.output.")
    }
    assert list(model.freeze().frozen_parameters) == everything
    assert model.unfreeze().frozen_parameters == ()


@each_backend
def test_patterns_that_match_nothing_are_all_listed(backend: str) -> None:
    model = built(backend, "BartForConditionalGeneration", seed=None)
    with pytest.raises(InputError) as caught:
        model.freeze("model.encoder", "encoder", "lm_head.*", "final_logits_bias")
    assert str(caught.value) == (
        "BartForConditionalGeneration.freeze: no parameter matches 'encoder', 'lm_head.*', 'final_logits_bias' "
        "(final_logits_bias: a buffer, which never trains); the model's paths start with model"
    )
    assert model.frozen_parameters == ()
    with pytest.raises(InputError, match=r"BartForConditionalGeneration.unfreeze: \['model'\] is not a path"):
        model.unfreeze(["model"])


@each_backend
@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "VisionEncoderDecoderModel"])
def test_an_output_layer_that_is_tied_is_said_to_be(backend: str, architecture: str) -> None:
    model = built(backend, architecture, seed=None)
    part = "decoder." if architecture == "VisionEncoderDecoderModel" else ""
    for pattern in ("lm_head", f"{part}lm_head.weight"):
        with pytest.raises(InputError) as caught:
            model.freeze(pattern)
        assert f"no parameter matches {pattern!r} ({part}lm_head is tied to {part}transformer.wte, whose weight" in str(
            caught.value
        )
    model.freeze(f"{part}transformer.wte")


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "to_jax": to_jax,
    "to_torch": to_torch,
    "tree.map": lambda model: jax.tree.map(lambda leaf: leaf * 1, model),
    "jit": lambda model: jax.jit(lambda model: model)(model),
    "split and merge": lambda model: nnx.merge(*nnx.split(model), copy=True),
    "clone": nnx.clone,
}


@pytest.mark.parametrize(
    ("backend", "how"),
    [(backend, how) for backend in BACKENDS for how in (COPIES if backend == "jax" else list(COPIES)[:4])],
)
def test_copies_keep_what_is_frozen(backend: str, how: str) -> None:
    model = built(backend, "EncoderDecoderModel").freeze("encoder", "decoder.transformer.wpe.weight")
    frozen = model.frozen_parameters
    copied = COPIES[how](model)
    assert copied is not model
    assert copied.frozen_parameters == frozen and "decoder.transformer.wpe.weight" in frozen
    copied.unfreeze("encoder")  # of the copy alone
    assert model.frozen_parameters == frozen
    model.unfreeze()
    assert copied.frozen_parameters == ("decoder.transformer.wpe.weight",)
    assert COPIES[how](model).frozen_parameters == ()


def test_a_frozen_model_is_another_program_and_an_unfrozen_one_the_first_again() -> None:
    model = built("jax", "BertModel")
    structure = jax.tree.structure(model)
    assert jax.tree.structure(model.freeze("embeddings")) != structure
    assert jax.tree.structure(model.trainable_parameters()) == jax.tree.structure(model)
    assert jax.tree.structure(model.unfreeze()) == structure


def test_gradients_of_what_is_frozen_are_zero_in_jax() -> None:
    model = built("jax", "BertForMaskedLM").freeze("bert.encoder")
    ids = inputs("BertForMaskedLM")["input_ids"]
    logits = jax.jit(lambda model: model(ids).logits)
    assert np.array_equal(logits(model), logits(built("jax", "BertForMaskedLM")))
    gradients = values_of(jax.jit(jax.grad(lambda model: (model(ids).logits ** 2).sum()))(model))
    zero = {path for path, values in gradients.items() if not values.any()}
    assert zero == {*model.frozen_parameters}
    state = nnx.grad(lambda model: (model(ids).logits ** 2).sum(), argnums=nnx.DiffState(0, model.trainable_filter()))
    assert len(nnx.to_flat_state(jax.eval_shape(state, model))) == len(gradients) - len(zero)


def test_a_frozen_parameter_takes_no_step_that_was_due_in_torch() -> None:
    model = built("torch", "BertModel")
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model(torch.tensor(inputs("BertModel")["input_ids"])).pooler_output.sum().backward()
    before = values_of(model.freeze("encoder"))
    optimizer.step()
    moved = {path for path, values in values_of(model).items() if not np.array_equal(values, before[path])}
    assert moved and not any(path.startswith("encoder.") for path in moved)


def test_an_optimizer_of_nnx_moves_what_trains() -> None:
    model = built("jax", "BertForMaskedLM").freeze("bert")
    call, before = call_of("BertForMaskedLM"), values_of(model)
    optimizer = nnx.Optimizer(model, optax.adamw(0.1, weight_decay=0.1), wrt=model.trainable_filter())
    trained = nnx.DiffState(0, model.trainable_filter())

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(lambda model: model(**call).loss, argnums=trained)(model))

    step(model, optimizer)
    moved = {path for path, values in values_of(model).items() if not np.array_equal(values, before[path])}
    assert moved == {path for path in before if path.startswith("cls.")}


@each_backend
def test_parity_compares_the_gradients_of_what_is_frozen_too(backend: str) -> None:
    model = built(backend, "BertModel").freeze("encoder")
    report = parity(built("torch", "BertModel"), model)
    assert report.passed
    assert any(point.name.startswith("encoder.") for point in report.points if point.kind == "gradient")
    assert model.frozen_parameters
