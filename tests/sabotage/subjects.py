"""Small models to plant faults in: no two sizes alike, every weight random, so that no fault can hide in a constant."""

from typing import Any

import numpy as np

from diptych.core.random import generator
from tests.parity.tiny import CONFIGS


def torch_model(name: str, config: Any = None) -> Any:
    """A float64 torch model with every weight random."""
    import torch

    import diptych.backends.torch as backend

    model = getattr(backend, name)(CONFIGS[name] if config is None else config, seed=0, dtype="float64")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = generator(1, path).standard_normal(tuple(parameter.shape))
            parameter += torch.as_tensor(0.1 * noise)
    return model


def corrupted(values: np.ndarray) -> np.ndarray:
    """The values transposed if they are square, else in reverse order; a single number with its sign changed."""
    if values.ndim >= 2 and values.shape[0] == values.shape[1] > 1:
        return values.swapaxes(0, 1)
    return -values if values.size == 1 else values.ravel()[::-1].reshape(values.shape)
