"""Devices and shardings by name."""

import pytest
import torch
from jax.sharding import PartitionSpec as P

from diptych.core.errors import InputError
from diptych.text.placement import placement


def test_devices_and_shardings_become_keywords_of_from_pretrained():
    one = placement("jax", "cpu", None)["sharding"]
    assert one.platform == "cpu"
    assert placement("jax", None, "replicated")["sharding"].spec == P()
    split = placement("jax", None, "split")["sharding"]
    assert (split("", (3, 8)).spec, split("", ()).spec) == (P(None, "devices"), P())
    assert placement("torch", "cpu", None) == {"device": torch.device("cpu")}
    assert placement("torch", None, None) == {}


def test_a_device_that_jax_does_not_find():
    for name in ("abacus", "cpu:99", "cpu:x"):
        with pytest.raises(InputError, match=f"device='{name}' is none that JAX finds here; it finds cpu:0"):
            placement("jax", name, None)


def test_a_device_without_values():
    with pytest.raises(InputError, match="device='meta' holds no values"):
        placement("torch", "meta", None)
