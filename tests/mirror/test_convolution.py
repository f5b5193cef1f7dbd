"""Windows that tile the image are multiplied as one matrix, others convolved; both must be PyTorch's convolution."""

import jax
import numpy as np
import pytest
import torch

from diptych.backends.jax import layers as jax_layers
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import products
from tests.assertions import assert_close


@pytest.mark.parametrize(
    ("size", "stride"), [(4, 4), (4, 3), (4, 5), (1, 1)], ids=["tiles", "overlap", "gaps", "pixels"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_are_those_of_pytorch(size, stride, bias):
    rng = np.random.default_rng(0)
    pixels, weight, shift = rng.normal(size=(2, 3, 11, 14)), rng.normal(size=(6, 3, size, size)), rng.normal(size=6)
    expected = torch.conv2d(
        torch.from_numpy(pixels), torch.from_numpy(weight), torch.from_numpy(shift) if bias else None, stride
    ).numpy()

    ours = torch_layers.Conv2d(3, 6, size, stride=stride, bias=bias, dtype=torch.float64)
    ours.weight = torch.nn.Parameter(torch.from_numpy(weight))
    with jax.enable_x64():
        twin = jax_layers.Conv2d(3, 6, size, stride=stride, bias=bias, dtype=np.dtype(np.float64))
        twin.kernel.set_value(jax.numpy.asarray(weight.transpose(2, 3, 1, 0)))
        if bias:
            ours.bias = torch.nn.Parameter(torch.from_numpy(shift))
            twin.bias.set_value(jax.numpy.asarray(shift))
        channels_last = np.asarray(twin(jax.numpy.asarray(pixels.transpose(0, 2, 3, 1))))
        sequence = np.asarray(jax_layers.patches(twin, jax.numpy.asarray(pixels)))

    assert_close(ours(torch.from_numpy(pixels)).detach().numpy(), expected, name="torch")
    with torch.no_grad(), products.fast([ours]):
        assert_close(ours(torch.from_numpy(pixels)).numpy(), expected, name="torch without gradients")
    assert_close(channels_last.transpose(0, 3, 1, 2), expected, name="jax")
    assert_close(sequence, expected.reshape(2, 6, -1).swapaxes(1, 2), name="patches")
