"""One config per model: a change of it has the effect that building the model from the changed config has."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
import torch

from diptych.core.config import ModelConfig
from diptych.core.errors import ConfigError
from diptych.core.pretrained import PreTrained
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS, inputs, labels_for

TEXT = CONFIGS["CLIPTextModel"]

CHANGES: dict[str, Any] = {
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "problem_type": "multi_label_classification",
    "bos_token_id": 5,
    "eos_token_id": 6,
    "decoder_start_token_id": 7,
    "pad_token_id": 8,
    "ctc_loss_reduction": "mean",
    "contrastive_logits_temperature": 0.7,
    "diversity_loss_weight": 0.9,
}
"""Every field that is live in a family -> a value that no config of these tests has."""

HEADED = [name for name in CONFIGS if not name.endswith(("Model", "Encoder", "Decoder")) and "CLIP" not in name]
HEADED += ["BertLMHeadModel", "GPT2LMHeadModel", "BertGenerationDecoder"]
HEADED = [name for name in dict.fromkeys(HEADED) if not name.endswith(("BartForCausalLM", "TrOCRForCausalLM"))]
"""Classes with a base model inside."""


def built(backend: str, name: str, config: ModelConfig | None = None, **build: Any) -> Any:
    return getattr(BACKENDS[backend], name)(CONFIGS[name] if config is None else config, **build)


def parts_of(config: ModelConfig) -> Iterator[str]:
    return (f.name for f in dataclasses.fields(config) if isinstance(getattr(config, f.name), ModelConfig))


def changed_configs(config: ModelConfig) -> Iterator[ModelConfig]:
    """The config with another value of one live field, for each, and the same for each of its parts."""
    for name in sorted(type(config).live):
        now = getattr(config, name)
        yield config.replace(**{name: not now if isinstance(now, bool) else CHANGES[name]})
    for part in parts_of(config):
        for changed in changed_configs(getattr(config, part)):
            yield config.replace(**{part: changed})


def state_of(model: Any) -> Any:
    """What a model is besides its parameters' values: every attribute of every module in it."""
    if isinstance(model, torch.nn.Module):
        arrays = ("_parameters", "_buffers", "_modules")
        return {
            path: {name: value for name, value in vars(module).items() if name not in arrays}
            for path, module in model.named_modules()
        }
    return jax.tree.structure(model)


@each_backend
@pytest.mark.parametrize("name", CONFIGS)
def test_a_changed_config_is_as_good_as_one_that_was_built_in(backend: str, name: str) -> None:
    model, count = built(backend, name, seed=None), 0
    for config in changed_configs(CONFIGS[name]):
        before = state_of(model)
        model.config = config
        assert state_of(model) != before
        assert state_of(model) == state_of(built(backend, name, config, seed=None)), config
        assert model.config is config
        count += 1
    assert count >= 6


@each_backend
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_built_in_is_refused(backend: str, name: str) -> None:
    model, config, count = built(backend, name, seed=None), CONFIGS[name], 0
    state = state_of(model)
    for path, changed in built_in(config):
        with pytest.raises(ConfigError, match=rf"^{name}: .*\b{path}=.* cannot change in a built model"):
            model.config = changed
        count += 1
    assert count >= 6
    assert state_of(model) == state and model.config is config


def built_in(config: ModelConfig, prefix: str = "") -> Iterator[tuple[str, ModelConfig]]:
    """The config with another number in one field that is not live, where it may have that."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.compare and f.name not in type(config).live and type(value) in (int, float):
            try:
                yield f"{prefix}{f.name}", config.replace(**{f.name: value * 2 or 1})
            except ConfigError:
                continue
    for part in parts_of(config):
        for path, changed in built_in(getattr(config, part), f"{part}."):
            try:
                yield path, config.replace(**{part: changed})
            except ConfigError:
                continue


@each_backend
@pytest.mark.parametrize("name", HEADED)
def test_the_config_of_a_base_model_is_that_of_the_whole(backend: str, name: str) -> None:
    model = built(backend, name, seed=None)
    (base,) = (inner for _, inner in model._submodules() if isinstance(inner, PreTrained) and inner is not model)
    with pytest.raises(ConfigError, match=f"^{type(base).__name__}: its config is that of the {name} which it is part"):
        base.config = base.config.replace(output_attentions=True)
    model.config = model.config.replace(output_attentions=True)
    assert base.config is model.config and base.config.output_attentions


@each_backend
def test_a_composite_says_what_its_parts_say(backend: str) -> None:
    model = built(backend, "EncoderDecoderModel", seed=None)
    model.decoder.config = model.decoder.config.replace(eos_token_id=6)
    assert model.config.decoder.eos_token_id == 6
    assert model.config is model.config  # which is made once
    assert state_of(model) == state_of(built(backend, "EncoderDecoderModel", model.config, seed=None))
    with pytest.raises(ConfigError, match="GPT2Model: its config is that of the GPT2LMHeadModel which it is part of"):
        model.decoder.transformer.config = model.decoder.config
    model.config = model.config.replace(encoder=model.config.encoder.replace(eos_token_id=7))
    assert model.encoder.config.eos_token_id == 7 and model.decoder.config.eos_token_id == 6


def pooled(backend: str, model: Any) -> np.ndarray:
    ids = np.array([[3, 30, 4, 12, 5], [6, 7, 12, 30, 2]])
    if backend == "torch":
        return model(torch.tensor(ids)).pooler_output.detach().numpy()
    return np.asarray(jax.jit(lambda model, ids: model(ids).pooler_output)(model, ids))


COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "tree.map": lambda model: jax.tree.map(lambda leaf: leaf, model),
}


@each_backend
@pytest.mark.parametrize("how", COPIES)
def test_clip_reads_a_text_where_the_config_says(backend: str, how: str) -> None:
    """The fix that textual inversion needs, in a model whatever was done with it."""
    if how == "tree.map" and backend == "torch":
        how = "itself"
    model = COPIES[how](built(backend, "CLIPTextModel"))
    before = pooled(backend, model)
    model.config = model.config.replace(eos_token_id=12)
    after = pooled(backend, model)
    assert not np.isclose(after, before).any()
    assert np.array_equal(after, pooled(backend, built(backend, "CLIPTextModel", TEXT.replace(eos_token_id=12))))


def arrays(backend: str, call: dict[str, Any]) -> dict[str, Any]:
    if backend == "jax":
        return call
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in call.items()}


def loss_and_first(output: Any) -> list[Any]:
    """The loss, if there is one, and the first field."""
    return [value for value in (getattr(output, "loss", None), output[0]) if value is not None]


def runner(backend: str, call: dict[str, Any]) -> Callable[[Any], list[np.ndarray]]:
    """A function of a model; in JAX a compiled one, which equal models share."""
    if backend == "torch":
        return lambda model: [value.detach().numpy() for value in loss_and_first(model(**arrays(backend, call)))]
    compiled = jax.jit(lambda model: loss_and_first(model(**call)))
    return lambda model: [np.asarray(value) for value in compiled(model)]


EFFECTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("CLIPModel", {"text_config": TEXT.replace(eos_token_id=12)}, {**inputs("CLIPModel"), "return_loss": True}),
    ("BartModel", {"decoder_start_token_id": 7}, {"input_ids": inputs("BartModel")["input_ids"]}),
    ("BartForConditionalGeneration", {"decoder_start_token_id": 7}, {"input_ids": inputs("BartModel")["input_ids"]}),
    (
        "BartForConditionalGeneration",
        {"decoder_start_token_id": 7},
        {"input_ids": inputs("BartModel")["input_ids"], **labels_for("BartForConditionalGeneration")},
    ),
    ("MBartForSequenceClassification", {"eos_token_id": 3}, {"input_ids": np.array([[3, 2, 5, 2], [2, 2, 3, 6]])}),
    (
        "EncoderDecoderModel",
        {"decoder_start_token_id": 7},
        {"input_ids": inputs("EncoderDecoderModel")["input_ids"], **labels_for("EncoderDecoderModel")},
    ),
    (
        "BertForSequenceClassification",
        {"problem_type": "multi_label_classification"},
        {"input_ids": np.array([[3, 2, 5]]), "labels": np.eye(7, dtype=np.float32)[:1]},
    ),
]


@each_backend
@pytest.mark.parametrize(("name", "changes", "call"), EFFECTS)
def test_what_a_call_reads_is_what_the_config_says(
    backend: str, name: str, changes: dict[str, Any], call: dict[str, Any]
) -> None:
    before = CONFIGS[name]
    if "problem_type" in changes:  # the other loss of the same labels
        before = before.replace(problem_type="regression")
    model, config = built(backend, name, before), before.replace(**changes)
    run = runner(backend, call)
    first = run(model)
    model.config = config
    found, expected = run(model), run(built(backend, name, config))
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    assert not np.array_equal(found[0], first[0])


@each_backend
def test_generation_starts_and_ends_as_the_config_says(backend: str) -> None:
    model = built(backend, "BartForConditionalGeneration")
    prompt = arrays(backend, {"input_ids": np.array([[5, 9, 2]])})
    first = np.asarray(model.generate(**prompt, max_new_tokens=4).sequences)
    assert first[0, 0] == 4 and first.shape[1] == 5
    model.config = model.config.replace(decoder_start_token_id=7)
    found = np.asarray(model.generate(**prompt, max_new_tokens=4).sequences)
    assert found[0, 0] == 7
    model.config = model.config.replace(eos_token_id=int(found[0, 1]))
    assert np.asarray(model.generate(**prompt, max_new_tokens=4).sequences).shape[1] == 2
