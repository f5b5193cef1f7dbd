"""What all calls share: signatures of heads, unknown keywords, states that are kept, caches layer by layer."""

import inspect
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from diptych.backends.jax.stacks import LayerInputs as JaxInputs
from diptych.backends.torch import stacks
from diptych.backends.torch.cache import Cache
from diptych.core.calls import Switches, call_of
from diptych.core.errors import InputError
from diptych.core.models.gpt2 import GPT2Config
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS, RENAMED, inputs, labels_for
from tests.parity.writers import array

pytestmark = pytest.mark.usefixtures("without_type_checks")


def built(backend: str, name: str, **build: Any) -> Any:
    return getattr(BACKENDS[backend], name)((CONFIGS | RENAMED)[name], **build)


@pytest.mark.parametrize("name", [*CONFIGS, *RENAMED])
def test_signatures_show_every_keyword_and_are_the_same_in_both_backends(name: str) -> None:
    signatures = [inspect.signature(call_of(getattr(backend, name))) for backend in BACKENDS.values()]
    first, second = ([(p.name, p.kind, p.default) for p in each.parameters.values()] for each in signatures)
    assert first == second
    known = {parameter for parameter, *_ in first}
    assert {"self", "switches"} <= known and "keywords" not in known
    assert inspect.Parameter.VAR_POSITIONAL not in {kind for _, kind, _ in first}
    for_encoder = {"mask_time_indices"} if name == "SpeechEncoderDecoderModel" else set()  # among the switches
    assert {*inputs(name), *labels_for(name)} - for_encoder <= known
    assert getattr(BACKENDS["jax"], name).call_keywords == tuple(p for p, *_ in first if p not in ("self", "switches"))


@each_backend
@pytest.mark.parametrize("name", [*CONFIGS, *RENAMED])
def test_an_unknown_keyword_is_one_message_everywhere(backend: str, name: str) -> None:
    model = built(backend, name, seed=None)
    listed = ", ".join((*model.call_keywords, *Switches.__annotations__))
    with pytest.raises(TypeError) as caught:
        model(colour="red", size=3)
    assert str(caught.value) == f"{name}'s call has no keyword colour, size; it takes {listed}"


@each_backend
def test_heads_take_positions_as_their_base_model_does(backend: str) -> None:
    for name in ("BertForMaskedLM", "GPT2LMHeadModel", "BartForConditionalGeneration"):
        model, call = built(backend, name), inputs(name)
        ids, mask = call.pop("input_ids"), call.pop("attention_mask")
        by_position, by_name = model(ids, mask, **call), model(input_ids=ids, attention_mask=mask, **call)
        np.testing.assert_array_equal(array(by_position.logits), array(by_name.logits))
        with pytest.raises(TypeError):
            model(ids, input_ids=ids)
        with pytest.raises(TypeError):
            model(*[None] * 20)


@each_backend
@pytest.mark.usefixtures("x64")
def test_logits_are_those_of_the_tokens_to_keep(backend: str) -> None:
    model, call = built(backend, "GPT2LMHeadModel", dtype="float64"), inputs("GPT2LMHeadModel")
    whole = array(model(**call).logits)
    for which, kept in (
        (2, whole[:, -2:]),
        (np.int64(2), whole[:, -2:]),
        (np.array(2), whole[:, -2:]),
        (0, whole),
        (np.array([1, -1]), whole[:, [1, -1]]),
        ([3], whole[:, 3:4]),
    ):
        assert_close(array(model(**call, logits_to_keep=which).logits), kept, name=f"logits_to_keep={which}")
    for which, message in (
        (-2, r"logits_to_keep=-2, but 0 \(all tokens\) or more is needed"),
        (True, "logits_to_keep=True, but a whole number or an array of positions is needed"),
        (None, "logits_to_keep=None, but a whole number or an array of positions is needed"),
        (1.5, "logits_to_keep=1.5, but a whole number or an array of positions is needed"),
        (np.array([0, 6]), "logits_to_keep holds 6, but there are 6 tokens"),
        (np.array([-7]), "logits_to_keep holds -7, but there are 6 tokens"),
        (np.array([0.5]), "logits_to_keep has dtype float64, but ids must be integers"),
        (np.array([[1]]), r"logits_to_keep has shape \(1, 1\), but \(positions\) is needed"),
    ):
        with pytest.raises(InputError, match=f"^GPT2LMHeadModel: {message}"):
            model(**call, logits_to_keep=which)


def test_states_are_kept_only_if_they_are_asked_for() -> None:
    kept: list[torch.Tensor] = []

    def layer(hidden_states: torch.Tensor, inputs: stacks.LayerInputs, past: None) -> stacks.LayerOutput:
        made = hidden_states + 1.0
        kept.append(made)
        return stacks.LayerOutput(made, attention=made)

    switches: dict[str, Any] = {"gradient_checkpointing": False}
    start = torch.zeros(1, 2, 3)
    output = stacks.run_layers([layer] * 4, start, stacks.LayerInputs(), output_hidden_states=False, **switches)
    assert output.keys() == ("last_hidden_state",)
    asked = stacks.LayerInputs(output_attentions=True)
    output = stacks.run_layers(
        [layer] * 4, start, asked, output_hidden_states=True, final=lambda states: -states, **switches
    )
    assert [float(states.mean()) for states in output.hidden_states] == [0.0, 1.0, 2.0, 3.0, -4.0]
    assert len(output.attentions) == 4 and output.cross_attentions is None
    # the memory of a deep stack without gradients is that of a few states
    states = torch.zeros(1, 2, 3)
    sizes = []
    for depth in (4, 40):
        made: list[weakref.ref[torch.Tensor]] = []
        live: list[int] = []

        def measured(
            hidden_states: torch.Tensor,
            inputs: Any,
            past: None,
            made: list[weakref.ref[torch.Tensor]] = made,
            live: list[int] = live,
        ) -> Any:
            live.append(sum(reference() is not None for reference in made))
            output = hidden_states + 1.0
            made.append(weakref.ref(output))
            return stacks.LayerOutput(output)

        with torch.no_grad():
            stacks.run_layers([measured] * depth, states, stacks.LayerInputs(), output_hidden_states=False, **switches)
        sizes.append(max(live))
    assert sizes[0] == sizes[1]


def test_what_layers_read_is_a_pytree_with_static_switches() -> None:
    inputs_of = JaxInputs(mask=jnp.ones((1, 1, 2, 2), bool), causal=True, output_attentions=True)
    leaves, structure = jax.tree.flatten(inputs_of)
    assert len(leaves) == 1
    assert jax.tree.unflatten(structure, leaves).causal is True
    assert structure != jax.tree.structure(JaxInputs(mask=inputs_of.mask))


STEP = GPT2Config(
    vocab_size=23, n_embd=12, n_inner=17, n_layer=2, n_head=3, n_positions=9, bos_token_id=1, eos_token_id=1
)


def test_a_step_with_a_cache_can_be_exported() -> None:
    model = BACKENDS["torch"].GPT2LMHeadModel(STEP, seed=1, dtype="float64")
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        cache = model(ids, past_key_values=model.init_cache(2, 9)).past_key_values
    leaves, structure = torch.utils._pytree.tree_flatten(cache)
    assert len(leaves) >= 6 and isinstance(torch.utils._pytree.tree_unflatten(leaves, structure), Cache)

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, token: torch.Tensor, past_key_values: Cache) -> Any:
            output = self.model(token, past_key_values=past_key_values)
            return output.logits, output.past_key_values

    token = torch.tensor([[2], [9]])
    copies = [torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, cache) for _ in range(2)]
    with torch.no_grad():
        program = torch.export.export(Step(), (token, copies[0]))
        exported, after = program.module()(token, copies[0])
        wanted = model(token, past_key_values=copies[1])
    assert_close(array(exported), array(wanted.logits), name="logits")
    assert isinstance(after, Cache) and after.length == 4
    assert_close(array(after.keys[1]), array(wanted.past_key_values.keys[1]), name="keys")


def test_checkpointed_layers_with_a_cache_give_the_same_gradient() -> None:
    with jax.enable_x64(True):
        call = inputs("GPT2LMHeadModel") | labels_for("GPT2LMHeadModel")
        found = []
        for checkpointing in (False, True):
            model = built("jax", "GPT2LMHeadModel", dtype="float64", gradient_checkpointing=checkpointing)
            gradient = jax.grad(lambda model: model(**call).loss)(model)
            found.append({path: source.read() for path, source in gradient._sources().items()})
        for path, value in found[0].items():
            assert_close(found[1][path], value, name=path)


@pytest.mark.usefixtures("x64")
def test_positions_that_jit_hides_give_nan_where_there_is_no_token() -> None:
    model, call = built("jax", "GPT2LMHeadModel", dtype="float64"), inputs("GPT2LMHeadModel")
    chosen = jax.jit(lambda model, which: model(**call, logits_to_keep=which).logits)
    found = np.asarray(chosen(model, np.array([9, 1, -1, -7])))
    assert np.isnan(found[:, [0, 3]]).all()
    assert_close(found[:, 1:3], array(model(**call).logits)[:, [1, -1]])


def test_several_keys_are_refused() -> None:
    model = built("jax", "BertForMaskedLM").train()
    for keys in (jax.random.split(jax.random.key(0), 2), jax.random.split(jax.random.PRNGKey(0), 2)):
        with pytest.raises(InputError, match=r"^BertModel: rngs has shape \(2.*\), but a single key is needed; of"):
            model(**inputs("BertForMaskedLM"), rngs=keys)
    assert np.isfinite(model(**inputs("BertForMaskedLM"), rngs=jax.random.PRNGKey(0)).logits).all()


@each_backend
def test_a_part_returns_what_its_own_config_asks_for(backend: str) -> None:
    model, call = built(backend, "EncoderDecoderModel"), inputs("EncoderDecoderModel")
    model.decoder.config = model.decoder.config.replace(output_attentions=True)
    output = model(**call)
    assert output.decoder_attentions is not None and output.cross_attentions is not None
    assert output.encoder_attentions is None and output.decoder_hidden_states is None
    assert model(**call, output_attentions=False).decoder_attentions is None
    model.encoder.config = model.encoder.config.replace(output_hidden_states=True)
    assert model(**call).encoder_hidden_states is not None and model(**call).decoder_hidden_states is None
    assert len(model.encode(call["input_ids"]).hidden_states) == 3


@each_backend
@pytest.mark.usefixtures("x64")
def test_an_encoders_output_may_be_given_as_a_list_or_a_tuple(backend: str) -> None:
    model, call = built(backend, "EncoderDecoderModel", dtype="float64"), inputs("EncoderDecoderModel")
    ids, mask = call.pop("input_ids"), call["attention_mask"]
    states = model.encode(ids, mask).last_hidden_state
    wanted = array(model(encoder_outputs=states, **call).logits)
    for given in ([states], (states,), array(states).tolist()):
        assert_close(array(model(encoder_outputs=given, **call).logits), wanted, name=type(given).__name__)


@each_backend
def test_embeddings_of_the_other_framework_are_refused(backend: str) -> None:
    models = {name: built(name, "GPT2LMHeadModel") for name in BACKENDS}
    (other,) = (model for name, model in models.items() if name != backend)
    with pytest.raises(InputError, match="Embedding is not an embedding layer like the model's"):
        models[backend].set_input_embeddings(other.get_input_embeddings())


@each_backend
def test_too_many_arguments_are_those_of_the_head(backend: str) -> None:
    model = built(backend, "BertForMaskedLM", seed=None)
    with pytest.raises(TypeError, match=r"^BertForMaskedLM's call gets 9 arguments by position; it takes input_ids, "):
        model(*[None] * 9)
    with pytest.raises(TypeError, match=r"^BertForMaskedLM's call gets input_ids twice; it takes input_ids, "):
        model(None, input_ids=None)
