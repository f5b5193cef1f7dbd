"""BART's own ways: what a classifier needs, a bias that nothing trains, float16 that does not overflow."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from diptych.conversion import convert, to_jax, to_torch
from diptych.core.errors import ConfigError, InputError
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS as TINY
from tests.parity.writers import array

BART, MBART = TINY["BartModel"], TINY["MBartForSequenceClassification"]
CONFIGS = {"Bart": BART, "MBart": MBART}
END = 2


def built(backend: str, name: str, **changes: Any) -> Any:
    config = CONFIGS["MBart" if name.startswith("MBart") else "Bart"].replace(eos_token_id=END, **changes)
    return getattr(BACKENDS[backend], name)(config, seed=3)


@each_backend
@pytest.mark.parametrize("family", CONFIGS)
def test_a_classifier_reads_the_last_end_of_each_text(family: str, backend: str) -> None:
    model = built(backend, f"{family}ForSequenceClassification")
    ids = np.array([[5, END, 6, END, 7], [5, END, 6, 7, 8]])  # transformers wants as many ends in every text
    both = array(model(ids).logits)
    alone = [array(model(row[None]).logits)[0] for row in ids]
    assert_close(both, alone, kind="float32")
    twin = ids.copy()
    twin[0, 1] = 9
    assert not np.allclose(array(model(twin).logits)[0], both[0])  # it is read, though not there


@each_backend
@pytest.mark.parametrize("family", CONFIGS)
def test_a_decoder_alone_needs_no_encoder_that_fits(family: str, backend: str, tmp_path: Path) -> None:
    model = built(backend, f"{family}ForCausalLM", encoder_attention_heads=BART.d_model + 1, encoder_layers=0)
    model.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "again")  # knows the tensors of every class that can be built
    assert type(model).from_pretrained(tmp_path / "again").config == model.config
    with pytest.raises(ConfigError, match=f"^{family}Config: encoder_layers=0 must be 1 or more$"):
        getattr(BACKENDS[backend], f"{family}Model")(model.config)


@each_backend
def test_what_a_classifier_cannot_read_is_refused(backend: str) -> None:
    model = built(backend, "BartForSequenceClassification")
    ids = np.array([[5, END, 6], [5, 6, END]])
    for call, message in (
        (
            {"input_ids": np.array([[5, END], [5, 6]])},
            r"the number of end-of-sequence tokens \(2\) per row is 0, but the .*=1",
        ),
        ({"inputs_embeds": np.zeros((1, 3, BART.d_model))}, "input_ids is needed, got None"),
        ({"input_ids": np.zeros((2, 0), int)}, "the sequences have no tokens, but at least 1 is needed"),
        (
            {"input_ids": ids, "decoder_input_ids": ids[:, :2]},
            r"decoder_input_ids has shape \(2, 2\), but \(2, 3\) is needed, as input_ids have it",
        ),
    ):
        with pytest.raises(InputError, match=f"^BartForSequenceClassification: {message}"):
            model(**call)
    model.config = model.config.replace(eos_token_id=(END, 3))
    with pytest.raises(InputError, match="an eos_token_id of the config's is needed, got None"):
        model(ids)


def test_under_jit_a_text_without_an_end_is_no_number() -> None:
    model = built("jax", "BartForSequenceClassification")
    logits = jax.jit(lambda model, ids: model(ids).logits)(model, jnp.array([[5, END], [5, 6]]))
    assert np.isfinite(logits[0]).all() and np.isnan(logits[1]).all()


@each_backend
def test_a_call_without_a_text_to_write_is_refused(backend: str) -> None:
    model = built(backend, "BartModel")
    with pytest.raises(InputError, match=r"^BartModel: decoder_input_ids or decoder_inputs_embeds is needed, got None"):
        model(inputs_embeds=np.zeros((1, 3, BART.d_model)))
    with pytest.raises(InputError, match=r"^BartModel: exactly one of decoder_input_ids and decoder_inputs_embeds is"):
        model(np.array([[5]]), decoder_input_ids=[[5]], decoder_inputs_embeds=np.zeros((1, 1, BART.d_model)))
    with pytest.raises(InputError, match=r"^BartModel: decoder_attention_mask has shape \(1, 3\), but \(1, 1\)"):
        model(np.array([[5]]), decoder_input_ids=[[5]], decoder_attention_mask=[[1, 1, 1]])
    with pytest.raises(InputError, match=r"^BartModel: decoder_input_ids holds 999, but vocab_size allows"):
        model(np.array([[5]]), decoder_input_ids=[[999]])


def test_nothing_trains_the_bias_of_the_logits() -> None:
    """It is a buffer in transformers; its gradient is zero in JAX, and torch has none."""
    ids, labels = np.array([[5, 6, 7]]), np.array([[8, 9]])
    model = built("torch", "BartForConditionalGeneration")
    model.final_logits_bias += 0.5
    assert "final_logits_bias" not in dict(model.named_parameters())
    assert "final_logits_bias" in model.state_dict()
    twin = to_jax(model)
    assert_close(array(twin(ids, labels=labels).logits), array(model(ids, labels=labels).logits), kind="float32")
    assert twin.num_parameters() == model.num_parameters() == sum(p.numel() for p in model.parameters())
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(model: Any) -> Any:
        gradients = jax.grad(lambda model: model(ids, labels=labels).loss)(model)
        return optax.apply_updates(model, optimizer.update(gradients, optimizer.init(model), model)[0])

    after = step(twin)
    assert np.array_equal(after.final_logits_bias[...], twin.final_logits_bias[...])
    assert not np.array_equal(after.model.shared.embedding[...], twin.model.shared.embedding[...])
    back = to_torch(twin)
    assert torch.equal(back.final_logits_bias, model.final_logits_bias)


def test_a_bias_of_transformers_is_handed_over() -> None:
    config = transformers.BartConfig.from_dict(BART.to_dict())
    theirs = transformers.BartForConditionalGeneration(config).eval()
    theirs.final_logits_bias += 0.25
    for twin in (to_jax(theirs), to_torch(theirs)):
        assert np.all(array(twin.final_logits_bias[...]) == 0.25)


@pytest.mark.parametrize("family", CONFIGS)
@each_backend
def test_half_precision_stays_finite_where_a_layer_overflows(backend: str, family: str) -> None:
    config = CONFIGS[family].replace(encoder_layers=2)
    model = getattr(BACKENDS[backend], f"{family}Model")(config, seed=3, dtype="float16")
    layer = model.encoder.layers[0]
    # BART's last step in a layer is a norm, MBart's a sum
    large = (layer.final_layer_norm,) if family == "Bart" else (layer.self_attn.out_proj, layer.fc2)
    for part in large:
        if backend == "torch":
            part.bias.data.fill_(60_000.0)
        else:
            part.bias[...] = jnp.full_like(part.bias[...], 60_000.0)
    if family == "Bart" and backend == "torch":
        layer.final_layer_norm.weight.data.fill_(60_000.0)
    elif family == "Bart":
        scale = layer.final_layer_norm.scale
        scale[...] = jnp.full_like(scale[...], 60_000.0)
    output = model(np.array([[5, 6, 7]]), output_hidden_states=True)
    states = array(output.encoder_hidden_states[1]).astype(np.float32)
    assert np.isfinite(states).all() and np.abs(states).max() == 64_512.0
