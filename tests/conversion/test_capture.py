"""What a run keeps of layers that have channels last: their outputs come in the published layout, in both backends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from diptych.backends.jax import layers as jax_layers
from diptych.backends.jax import slots as jax_slots
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import slots as torch_slots
from diptych.conversion.capture import run_jax, run_torch
from diptych.core.checkpoint.slots import flax_axes
from tests.assertions import assert_close


class JaxSound(nnx.Module):
    """A stub: sound through convolutions, as one of ours is written."""

    def __init__(self, **init: Any) -> None:
        self.conv = jax_layers.Conv1d(2, 6, 3, stride=2, **init)
        self.group_norm = jax_layers.GroupNorm(2, 6, 1e-3, **init)
        self.batch_norm = jax_layers.BatchNorm(6, 1e-3, **init)
        self.positions = jax_layers.WeightNormConv1d(6, 6, 4, padding=2, groups=3, **init)
        self.layer_norm = jax_layers.LayerNorm(6, 1e-3, **init)

    def __call__(self, sound: Any) -> Any:
        states = self.batch_norm(self.group_norm(self.conv(sound)))
        return self.layer_norm(self.positions(states))


class TorchSound(torch.nn.Module):
    """The same."""

    def __init__(self, **init: Any) -> None:
        super().__init__()
        self.conv = torch_layers.Conv1d(2, 6, 3, stride=2, **init)
        self.group_norm = torch_layers.GroupNorm(2, 6, 1e-3, **init)
        self.batch_norm = torch_layers.BatchNorm(6, 1e-3, **init)
        self.positions = torch_layers.WeightNormConv1d(6, 6, 4, padding=2, groups=3, **init)
        self.layer_norm = torch_layers.LayerNorm(6, 1e-3, **init)

    def forward(self, sound: Any) -> Any:
        states = self.batch_norm(self.group_norm(self.conv(sound)))
        return self.layer_norm(self.positions(states))


class PublishedSound(torch.nn.Module):
    """The same as it is published: channels second, until the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 6, 3, stride=2)
        self.group_norm = torch.nn.GroupNorm(2, 6, 1e-3)
        self.batch_norm = torch.nn.BatchNorm1d(6, 1e-3)
        self.positions = torch.nn.Conv1d(6, 6, 4, padding=2, groups=3)
        self.layer_norm = torch.nn.LayerNorm(6, 1e-3)

    def forward(self, sound: Any) -> Any:
        states = self.batch_norm(self.group_norm(self.conv(sound.mT)))
        return self.layer_norm(self.positions(states).mT)


def test_outputs_come_in_the_published_layout() -> None:
    random = np.random.default_rng(0)
    ours, published = TorchSound(dtype=torch.float64), PublishedSound().double().eval()
    for slot, (module, name) in torch_slots.leaves(ours).items():
        held = torch.tensor(np.abs(random.normal(size=slot.shape)) + 0.5)
        setattr(module, name, torch.nn.Buffer(held) if slot.kind == "buffer" else torch.nn.Parameter(held))
    state = {name: held for name, held in ours.state_dict().items() if not name.startswith("positions.weight")}
    norms, directions = ours.positions.weight_g, ours.positions.weight_v
    state["positions.weight"] = norms * directions / directions.norm(dim=(0, 1), keepdim=True)
    published.load_state_dict(state)  # which counts no batches if the file does not
    inputs = {"sound": random.normal(size=(3, 11, 2))}
    expected = run_torch(published, inputs, seed=0, gradients=False).modules
    assert expected["conv"].shape == expected["group_norm"].shape == (3, 6, 5)
    assert expected["layer_norm"].shape == (3, 6, 6)
    runs = {"torch": run_torch(ours, inputs, seed=0, gradients=True)}
    with jax.enable_x64(True):
        twin = JaxSound(dtype=jnp.float64)
        values = ours.state_dict()
        for slot, variable in jax_slots.leaves(twin).items():
            variable.set_value(jnp.asarray(values[slot.path].numpy().transpose(flax_axes(slot.kind, len(slot.shape)))))
        runs["jax"] = run_jax(twin, inputs, seed=0, gradients=True)
    for backend, run in runs.items():
        assert list(run.modules) == list(expected)
        for path, held in expected.items():
            assert_close(run.modules[path], held, name=f"{backend}, {path}")
    for path, held in runs["torch"].gradients.items():
        assert_close(runs["jax"].gradients[path], held, name=path)


def test_a_module_that_says_nothing_is_taken_as_it_is() -> None:
    """Not the kind of its weight decides: a convolution may turn its output round by itself."""

    class Turned(nnx.Conv):
        def __call__(self, states: Any) -> Any:
            return super().__call__(states).swapaxes(1, 2)

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.conv = Turned(2, 6, (3,), rngs=nnx.Rngs(0))

        def __call__(self, sound: Any) -> Any:
            return self.conv(sound)

    run = run_jax(Model(), {"sound": np.ones((3, 11, 2), np.float32)}, seed=0, gradients=False)
    assert run.modules["conv"].shape == (3, 6, 11)
    assert np.array_equal(run.modules["conv"], run.outputs["output"])


def test_an_output_of_a_base_class_is_not_captured() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.dense = jax_layers.Linear(2, 2, dtype=jnp.float32)
            self.head = jax_layers.DecoupledLinear(2, 3, 1, dtype=jnp.float32)  # calls the method of Linear

        def __call__(self, states: Any) -> Any:
            return self.head(self.dense(states))

    model = Model()
    for slot, variable in jax_slots.leaves(model).items():
        variable.set_value(jnp.ones(slot.shape[::-1], jnp.float32))
    run = run_jax(model, {"states": np.ones((5, 2), np.float32)}, seed=0, gradients=False)
    assert list(run.modules) == ["dense", "head.additional_fc", "head"]
    assert run.modules["head"].shape == (5, 4)
