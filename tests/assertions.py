"""The project's one comparison of numbers, and its one table of tolerances.

Widening a tolerance needs a written cause here. A test that fails means a layer to find.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """How far two tensors may be apart: `relative` of the expected tensor's largest entry, and `common` of the largest
    entry among the tensors of its kind, for a tensor that is zero but for rounding (the gradient of a key's bias)."""

    relative: float
    common: float


# DESIGN 4: equality is proved in float64. The others are bounds on rounding, in a network of a few layers.
TOLERANCES = {
    "float64": Tolerance(1e-9, 1e-12),
    "float32": Tolerance(2e-5, 2e-6),
    "float16": Tolerance(2e-2, 2e-3),
    "bfloat16": Tolerance(1e-1, 1e-2),
}


def assert_close(
    found: Any, expected: Any, *, kind: str = "float64", largest: float = 0.0, name: str = "value"
) -> None:
    """Fails unless two tensors have one shape, hold finite numbers only and are close.

    Args:
        found: an array of dtype `kind`.
        expected: an array of the same dtype or a wider one.
        kind: the row of TOLERANCES.
        largest: the largest entry among the tensors of this one's kind, if there are several.
        name: what a failure calls the tensor.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    tolerance = TOLERANCES[kind]
    assert found.dtype.name == kind, f"{name}: dtype {found.dtype.name}, expected {kind}"
    assert np.promote_types(found.dtype, expected.dtype) == expected.dtype, f"{name}: compared with {expected.dtype}"
    assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    for which, values in (("found", found), ("expected", expected)):
        strange = np.argwhere(~np.isfinite(values))
        assert not len(strange), f"{name}: {which} is {values[tuple(strange[0])]} at {_place(strange[0])}"
    if found.size == 0:
        return
    difference = np.abs(found - expected)
    scale = np.abs(expected).max()
    allowed = tolerance.relative * scale + tolerance.common * max(largest, scale)
    worst = np.unravel_index(difference.argmax(), difference.shape)
    assert difference[worst] <= allowed, (
        f"{name}: {found[worst]:.9g} at {_place(worst)}, expected {expected[worst]:.9g}; largest difference "
        f"{difference[worst]:.3e}, {difference[worst] / scale if scale else np.inf:.3e} of the largest entry, "
        f"allowed {allowed:.3e}"
    )


def _place(index: Any) -> str:
    return f"[{', '.join(str(int(axis)) for axis in index)}]"
