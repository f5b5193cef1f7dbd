"""A model's layers are torch's own; only while it is called without gradients do they take the faster products."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import diptych.backends.torch as dp
from diptych.backends.torch import products
from diptych.core.models.bert import BertConfig
from diptych.core.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from tests.parity.torch_operations import ONEDNN, called, needs_onednn


class Kept(nn.Module):
    """Layers of every kind, and what their types are while the module is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.convolution = nn.Linear(3, 3), nn.Conv2d(3, 3, 1)
        self.parts = nn.ModuleList([nn.Linear(3, 3), parametrizations.weight_norm(nn.Linear(3, 3))])

    def types(self) -> list[type]:
        return [type(module) for module in self.modules()]


def test_layers_are_torchs_own_but_while_they_are_called() -> None:
    model = Kept()
    before = model.types()
    with torch.no_grad(), products.fast([model]):
        inside = model.types()
        with products.fast([model.parts]):  # a model in a model
            assert model.types() == inside
        assert model.types() == inside
        copied = copy.deepcopy(model)  # as another thread may
        assert copied.types() == before
        layers = [model.linear, model.convolution]
        for layer, copied in zip(layers, pickle.loads(pickle.dumps(layers)), strict=True):
            assert type(copied) is type(layer).__base__ and torch.equal(copied.weight, layer.weight)
    assert {type(model.linear), type(model.convolution)} == {nn.Linear, nn.Conv2d}
    assert [now for was, now in zip(before, inside, strict=True) if was is not now] == [
        products._Linear,
        products._Conv2d,
        products._Linear,
    ]
    assert model.types() == before
    with pytest.raises(KeyError), torch.no_grad(), products.fast([model]):
        raise KeyError
    assert model.types() == before
    with products.fast([model]):  # which would have to keep what a gradient needs
        assert model.types() == before


def test_two_threads_may_call_one_model() -> None:
    model = Kept()
    before = model.types()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with torch.no_grad(), products.fast([model]):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    with torch.no_grad(), products.fast([model]):
        assert type(model.linear) is products._Linear
        leave.set()
        thread.join()
        assert type(model.linear) is nn.Linear
    assert model.types() == before


WIDE = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 1, "intermediate_size": 512}


@needs_onednn
def test_every_call_without_a_gradient_has_these_products() -> None:
    ids = torch.tensor([[5, 7, 6, 9, 8, 3]])
    decoder = dp.BertLMHeadModel(BertConfig(vocab_size=300, is_decoder=True, **WIDE))
    text = CLIPTextConfig(vocab_size=300, **WIDE)
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **WIDE)
    clip = dp.CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
    calls: dict[str, Callable[[], Any]] = {
        "call": lambda: decoder(ids),
        "generate": lambda: decoder.generate(ids, max_new_tokens=1),
        "get_text_features": lambda: clip.get_text_features(ids),
    }
    for name, call in calls.items():
        with torch.inference_mode(), products.pin("onednn"):
            _, operations = called(call)
        assert ONEDNN in operations, name
        assert {*map(type, [*decoder.modules(), *clip.modules()])}.isdisjoint(products._FAST.values()), name
    with products.pin("onednn"):
        assert ONEDNN not in called(lambda: decoder(ids))[1]
