"""Arrays of callers, of any framework, for numpy."""

from typing import Any

import numpy as np


def to_numpy(values: Any) -> np.ndarray:
    """The values of a list, or of an array of numpy, JAX or torch; None as an array if they are no array.

    Those in bfloat16, which numpy itself does not know, come in float32, which holds each of them.
    """
    try:
        values = values.detach().cpu() if hasattr(values, "detach") else values
        array = np.asarray(values.float() if str(getattr(values, "dtype", "")) == "torch.bfloat16" else values)
    except (TypeError, ValueError):
        return np.asarray(None)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
