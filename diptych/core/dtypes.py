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

FLOAT8: dict[str, np.dtype[Any]] = {
    dtype.name: dtype
    for dtype in map(
        np.dtype,
        (
            ml_dtypes.float8_e4m3fn,
            ml_dtypes.float8_e4m3fnuz,
            ml_dtypes.float8_e5m2,
            ml_dtypes.float8_e5m2fnuz,
            ml_dtypes.float8_e8m0fnu,
        ),
    )
}
"""The dtypes of 8 bits that the tensors of a file may have, but no model."""


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
