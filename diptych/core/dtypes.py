"""The names of the floating-point dtypes that models may have, from any framework's spelling."""

from typing import Any

import ml_dtypes
import numpy as np

from diptych.core.errors import InputError

FLOATS: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes that parameters may have, by name."""


def float_name(dtype: Any) -> str:
    """The name of a floating dtype given as a string, or as a dtype of numpy, JAX or PyTorch.

    Raises:
        InputError: a model may not have this dtype.
    """
    name = dtype if isinstance(dtype, str) else str(getattr(dtype, "dtype", dtype))
    if isinstance(dtype, type):
        name = dtype.__name__
    name = name.removeprefix("torch.").removeprefix("jnp.")
    if name not in FLOATS:
        raise InputError(f"dtype={dtype!r} is not supported; supported: {', '.join(FLOATS)}")
    return name
