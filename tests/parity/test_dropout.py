"""Dropout where the published models have it, at the config's rates, in train mode alone."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import diptych.backends.jax
import diptych.backends.torch
from diptych.backends.jax import layers as jax_layers
from diptych.backends.torch import layers as torch_layers
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.parity.sides import Jax, Oracle, Torch
from tests.parity.tiny import CONFIGS, RENAMED, inputs, theirs, wide

WHERE = ("name", list(CONFIGS))


def bent(values: Any, rate: float) -> Any:
    """In dropout's place: no chance, but a bend that depends on value and rate, so that its place and rate show."""
    return values * (1 + rate * (values * (values - 0.5)))


def straight_softmax(logits: torch.Tensor, tau: float, hard: bool) -> torch.Tensor:
    """Gumbel softmax without its noise."""
    soft = (logits / tau).softmax(-1)
    return torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]) + soft - soft.detach()


@pytest.mark.parametrize("name", [*CONFIGS, "DonutSwinModel"])  # whose rates stand in other places than Swin's
def test_every_dropout_is_where_transformers_has_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_torch(values: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return bent(values, p) if training else values

    def in_jax(self: Any, values: Any, rngs: Any = None) -> Any:
        return values if self.deterministic else bent(values, self.rate)

    def whole_branch(self: Any, values: Any, rngs: Any = None) -> Any:
        return bent(values, self.rate) if self.training else values

    monkeypatch.setattr(torch.nn.functional, "dropout", in_torch)
    monkeypatch.setattr(torch_layers.StochasticDepth, "forward", whole_branch)
    # quantizers without noise
    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", straight_softmax)
    monkeypatch.setattr(
        torch_layers.GumbelNoise, "forward", lambda self, logits, *_: logits * 0 if self.training else None
    )
    monkeypatch.setattr(
        jax_layers.GumbelNoise, "__call__", lambda self, logits, *_: None if self.deterministic else logits * 0
    )
    for layer in (jax_layers.Dropout, jax_layers.StochasticDepth):
        monkeypatch.setattr(layer, "__call__", in_jax)
    call = {**wide(inputs(name)), "output_attentions": True, "output_hidden_states": True}
    oracle = Oracle(name, theirs((CONFIGS | RENAMED)[name]))
    for module in oracle.model.modules():
        if type(module).__name__.endswith("DropPath"):
            module.rate = module.drop_prob
            monkeypatch.setattr(type(module), "forward", whole_branch)
    still = oracle.outputs(call, exact=True)
    oracle.model.train()
    for module in oracle.model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # HuBERT's, whose statistics ours never update
            module.eval()
    expected = oracle.outputs(call, exact=True)
    if name == "TrOCRForCausalLM":  # whose probabilities are returned before dropout
        rate = CONFIGS[name].attention_dropout
        expected |= {path: bent(values, rate) for path, values in expected.items() if "attentions" in path}
    ours = Torch(name, oracle.saved(tmp_path))
    assert_all_close(ours.outputs(call), still)
    ours.model.train()
    assert_all_close(ours.outputs(call), expected)
    with jax.enable_x64(True):
        twin = Jax(name, tmp_path)
        twin.model.train()
        assert_all_close(twin.outputs(call), expected)
    unbent = {path for path, values in expected.items() if np.allclose(values, still[path])}
    # what CLIP has before its first attention, and the features behind Wav2Vec2's convolutions
    assert all("hidden_states.0" in path or path == "extract_features" for path in unbent), unbent


def assert_all_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for path, values in expected.items():
        assert_close(found[path], values, name=path)


@pytest.mark.parametrize(*WHERE)
def test_the_fast_attention_of_torch_drops_at_the_same_rate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def recorded(query: Any, key: Any, value: Any, mask: Any = None, dropout: float = 0.0, **options: Any) -> Any:
        rates.append(dropout)
        return attend(query, key, value, mask, 0.0, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    model = getattr(diptych.backends.torch, name)(CONFIGS[name])
    model(**inputs(name))
    assert rates and set(rates) == {0.0}
    rates.clear()
    model.train()(**inputs(name))
    # IDEFICS' text, its images, and its resampler, which drops nothing
    several = {"CLIP": {0.2}, "Idefics": {0.15, 0.2, 0.0}}
    assert set(rates) == next((found for prefix, found in several.items() if name.startswith(prefix)), {0.25})


@pytest.mark.parametrize(*WHERE)
def test_no_two_layers_of_a_jax_model_share_a_mask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = getattr(diptych.backends.jax, name)(CONFIGS[name]).train()
    dropouts = [module for _, module in nnx.iter_modules(model) if isinstance(module, jax_layers.Dropout)]
    masks = [np.asarray(layer(jax.numpy.ones((64, 64)), jax.random.key(3))) != 0 for layer in dropouts]
    assert len(masks) >= 2
    for first in range(len(masks)):
        for second in range(first):
            # masks of two independent layers agree in about 64% to 68% of their entries at these rates
            assert np.mean(masks[first] == masks[second]) < 0.9

    # a call uses every layer once, with the key that it was given
    called: list[int] = []
    key = jax.random.key(3)

    def recorded(self: Any, values: Any, rngs: Any = None) -> Any:
        assert getattr(rngs, "key", rngs) is key
        called.append(self.salt)
        return values

    monkeypatch.setattr(jax_layers.Dropout, "__call__", recorded)
    jax.eval_shape(lambda: model(**inputs(name), rngs=key))
    assert sorted(called) == sorted(layer.salt for layer in dropouts)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_rate_is_the_share_that_is_dropped_and_the_mean_stays(backend: str, rate: float) -> None:
    values = np.ones((200, 300), np.float32)
    if backend == "jax":
        layer = jax_layers.Dropout(rate)
        layer.deterministic = False
        dropped = np.asarray(layer(jax.numpy.asarray(values), jax.random.key(0)))
    else:
        dropped = torch_layers.Dropout(rate).train()(torch.from_numpy(values)).numpy()
    share = np.mean(dropped == 0)
    assert abs(share - rate) <= 6 * (rate * (1 - rate) / values.size) ** 0.5
    assert np.allclose(dropped[dropped != 0], 1 / (1 - rate) if rate < 1 else 1)
    # every row and column its own: neither the batch nor a head shares a mask
    if 0 < rate < 1:
        assert len(np.unique(dropped, axis=0)) == 200
        assert len(np.unique(dropped, axis=1).T) == 300


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["BartModel", "MBartModel"])
def test_a_layer_that_is_left_out_changes_nothing(name: str, stack: str, tmp_path: Path) -> None:
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    config = CONFIGS[name].replace(**rates, **{f"{stack}_layerdrop": 1.0})
    oracle, call = Oracle(name, theirs(config)), inputs(name)
    still = oracle.outputs(call)["last_hidden_state"]
    oracle.model.train()
    expected = oracle.outputs(call)
    assert not np.allclose(expected["last_hidden_state"], still)
    ours = Torch(name, oracle.saved(tmp_path))
    ours.model.train()
    with jax.enable_x64(True):
        twin = Jax(name, tmp_path)
        twin.model.train()
        run = jax.jit(lambda model: model(**call, rngs=jax.random.key(0)))
        for found in (ours.outputs(call), run(twin.model)):
            for path in ("last_hidden_state", "encoder_last_hidden_state"):
                assert_close(found[path], expected[path], name=path)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_rate_is_the_share_of_calls_that_leave_a_layer_out(backend: str) -> None:
    rate, count = 0.3, 2000
    if backend == "jax":
        layer, before, after = jax_layers.LayerDrop(rate), jax.numpy.zeros((2, 3)), jax.numpy.ones((2, 3))
        assert layer(before, after) is after
        layer.deterministic = False
        keys = jax.random.split(jax.random.key(0), count)
        results = np.asarray(jax.vmap(lambda key: layer(before, after, key))(keys))
        with pytest.raises(InputError, match=r"^layerdrop=0\.3 in train mode needs a key: "):
            layer(before, after)
    else:
        layer, before, after = torch_layers.LayerDrop(rate), torch.zeros(2, 3), torch.ones(2, 3)
        assert layer.eval()(before, after) is after
        layer.train()
        results = np.stack([layer(before, after).numpy() for _ in range(count)])
    kept = results.mean(axis=(1, 2))
    assert set(kept) == {0.0, 1.0}
    assert abs(np.mean(kept == 0.0) - rate) < 6 * (rate * (1 - rate) / count) ** 0.5


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "CLIPModel"])
def test_a_key_decides_in_jax(name: str) -> None:
    model = getattr(diptych.backends.jax, name)(CONFIGS[name])
    run = jax.jit(lambda model, arrays, key: model(**arrays, rngs=key)[0])
    arrays, keys = inputs(name), [jax.random.key(0), jax.random.key(1)]
    still = run(model, arrays, keys[0])
    assert np.array_equal(still, run(model, arrays, keys[1]))
    assert model.train() is model and model.training
    first, again, other = run(model, arrays, keys[0]), run(model, arrays, keys[0]), run(model, arrays, keys[1])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, still)
    assert model.eval() is model and not model.training
    assert np.array_equal(run(model, arrays, keys[0]), still)
    legacy = model.train()(**arrays, rngs=jax.random.PRNGKey(0))[0]  # the older kind of key, eagerly
    assert_close(legacy, np.asarray(first, np.float64), kind="float32")


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "CLIPModel"])
def test_the_global_generator_decides_in_torch(name: str) -> None:
    model = getattr(diptych.backends.torch, name)(CONFIGS[name])

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(**inputs(name))[0]

    still = run(0)
    assert torch.equal(still, run(1))
    assert model.train() is model and model.training
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1)) and not torch.equal(run(0), still)
    assert model.eval() is model and not model.training
    assert torch.equal(run(0), still)


@pytest.mark.parametrize("name", ["BertModel", "CLIPTextModel", "CLIPVisionModel"])
def test_train_mode_needs_a_key_in_jax_where_something_is_dropped(name: str) -> None:
    model = getattr(diptych.backends.jax, name)(CONFIGS[name]).train()
    with pytest.raises(InputError, match=r"dropout=0\.(15|2) in train mode needs a key: .*rngs=jax\.random\.key"):
        model(**inputs(name))
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
    config = CONFIGS[name].replace(**{rate: 0.0 for rate in rates if hasattr(CONFIGS[name], rate)})
    getattr(diptych.backends.jax, name)(config).train()(**inputs(name))


def test_an_nnx_rngs_gives_one_key_a_call_outside_of_traces() -> None:
    model = diptych.backends.jax.BertForMaskedLM(CONFIGS["BertForMaskedLM"]).train()
    ids = inputs("BertForMaskedLM")["input_ids"]
    one, both, alone = nnx.Rngs(5), nnx.Rngs(1, dropout=5), nnx.Rngs(5).default
    for rngs, stream in ((one, one.default), (both, both.dropout), (alone, alone)):
        twin = nnx.Rngs(5).default
        for _ in range(2):
            expected = model(ids, rngs=twin()).logits
            assert np.array_equal(model(ids, rngs=rngs).logits, expected)
        assert stream.count[...] == 2
    message = r"rngs is an nnx\.(Rngs|RngStream) inside a trace, as of jax\.jit, where every run would have the same"
    traced = [
        lambda rngs: jax.eval_shape(lambda rngs: model(ids, rngs=rngs), rngs),
        lambda rngs: jax.eval_shape(lambda: model(ids, rngs=rngs)),
        lambda rngs: nnx.jit(lambda rngs: model(ids, rngs=rngs))(rngs),
    ]
    for rngs in (nnx.Rngs(5), nnx.Rngs(5).default):
        for call in traced:
            with pytest.raises(InputError, match=message):
                call(rngs)
