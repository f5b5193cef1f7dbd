"""The operations that torch runs, and the one that shows that a product goes a way of our own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diptych.backends.torch import products

ONEDNN = "mkldnn::_linear_pointwise"

needs_onednn = pytest.mark.skipif(products._onednn_linear is None, reason="torch is built without oneDNN")


def called(function: Callable[[], Any]) -> tuple[Any, set[str]]:
    """What a function gives, and the operations that torch ran for it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        result = function()
    return result, {event.key for event in profile.key_averages()}
