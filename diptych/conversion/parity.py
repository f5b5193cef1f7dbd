"""Proof that two models compute the same function: every module, every output, every gradient, in float64.

A reference and a candidate get the same inputs. In float64, a correct port agrees up to rounding, and any fault stands
out by many orders of magnitude; a narrower dtype is compared too if requested.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
from tqdm.auto import tqdm

from diptych.conversion.capture import Run
from diptych.conversion.report import Point, PointKind, Report
from diptych.conversion.slots import names_backend
from diptych.conversion.subjects import Subject, from_directory, from_live_model, from_twin
from diptych.conversion.transfer import inspect_live_model
from diptych.core.backends import BackendName, validate_name
from diptych.core.calls import Switches
from diptych.core.checkpoint.hub import access_options, split_options
from diptych.core.checkpoint.matching import names_of
from diptych.core.composite import Composite
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import InputError
from diptych.core.random import generator
from diptych.core.registry import architectures, families

RELATIVE = 1e-9
"""In float64, a point may differ by this fraction of the reference's largest value …"""
FLOOR = 1e-3
"""… plus this fraction of the largest value of any point of its kind, since zero gradients have rounding noise."""
UNITS = 16.0
"""In a narrower dtype, an output may differ by this multiple of the reference's own rounding."""

_PLAIN = (bool, int, float, str, type(None))
_KEY_BIAS = re.compile(r"\b(key|k_proj)\.bias$")
_UNKNOWN = "without gradients it is not known what these inputs reach; rows that they don't look up are not compared"


def parity(
    reference: Any,
    candidate: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float64",
    gradients: bool = True,
    against: Literal["transformers"] | None = None,
    backend: BackendName | None = None,
    progress: bool | None = None,
    ignore_config: Iterable[str] = (),
    **loading: Any,
) -> Report:
    """Compares two models, point by point.

    Args:
        reference: a checkpoint's directory or name on the Hugging Face hub, or a live model of either backend or of
            transformers.
        candidate: as the reference; by default the same checkpoint in the other backend.
        inputs: keywords of the call; by default small random ones that reach every part of the model.
        seed: keys the inputs, and the weights of the outputs in the sum that is differentiated.
        dtype: a narrower dtype to compare in addition to float64.
        gradients: whether every parameter's gradient is compared too.
        against: "transformers" compares the checkpoint, loaded by transformers, with ours.
        backend: that of the candidate, and of a reference directory other than the candidate's; by default the
            candidate is in JAX and the reference in torch.
        progress: whether to show a bar on stderr; by default if stderr is a terminal.
        ignore_config: unknown fields of a directory's config.json to skip.
        loading: for directories, what `from_pretrained` takes besides: config fields to change, keywords of the class's
            constructor such as add_pooling_layer=False, `ignore` and `allow_fresh`; and `HubOptions`. Of these,
            revision, subfolder and variant are the reference's; those of another candidate begin with candidate_.

    Raises:
        InputError: the two are of different classes, or an argument is invalid.
        CheckpointError, ConfigError: a directory cannot be loaded.
    """
    if against not in (None, "transformers"):
        raise InputError(f"parity: against={against!r} is not known; known: transformers")
    if backend is not None:
        validate_name(backend, "parity: backend")
    if against is not None and candidate is not None:
        raise InputError("parity: against='transformers' replaces the candidate; give one of them")
    loading["ignore_config"] = names_of("ignore_config", ignore_config)
    dtypes = tuple(dict.fromkeys(("float64", float_name(dtype))))
    first, second = _sides(reference, candidate, against, backend, loading)
    if first.kind != second.kind:
        raise InputError(
            f"parity: the reference is a {first.kind}, the candidate a {second.kind}; both must be of one class"
        )
    inputs = _prepare_inputs(first, inputs, seed)
    runs: dict[tuple[str, str], Run] = {}
    who: dict[str, dict[str, str]] = {}
    todo = [(side, name, kind) for kind in dtypes for side, name in ((first, "reference"), (second, "candidate"))]
    with tqdm(todo, desc="parity", unit="run", disable=None if progress is None else not progress, leave=False) as bar:
        for side, name, kind in bar:
            bar.set_postfix_str(f"{name} in {side.framework}, {kind}")
            runs[name, kind], who[name] = side.run(inputs, kind, seed=seed, gradients=gradients)
    points: list[Point] = []
    for kind in dtypes:
        exact = None if kind == "float64" else runs["reference", "float64"]
        points += compare_runs(runs["reference", kind], runs["candidate", kind], dtype=kind, exact=exact)
    one, other = runs["reference", "float64"], runs["candidate", "float64"]
    points = [*_shape_differences(one, other), *points]
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return Report(
        reference=who["reference"],
        candidate=who["candidate"],
        class_name=first.class_name,
        dtypes=dtypes,
        seed=seed,
        inputs={name: f"{list(value.shape)} {value.dtype}" for name, value in arrays.items()},
        input_hash=_hash(arrays),
        points=tuple(points),
        only_reference=_modules_of_one_side(one, other),
        only_candidate=_modules_of_one_side(other, one),
        blind=_blind_spots(one, other) if gradients else dict.fromkeys(["every parameter"], _UNKNOWN),
    )


def _prepare_inputs(subject: Subject, inputs: Any, seed: int) -> dict[str, Any]:
    """The keywords of the call as numpy arrays and plain values; random ones if the caller gives none.

    Raises:
        InputError: they are no mapping, not those of the class's call, or empty.
    """
    if inputs is None:
        family = families()[architectures()[subject.class_name]]
        inputs = family.example(subject.config, subject.class_name, generator(seed, "inputs"))
    if not isinstance(inputs, Mapping):
        raise InputError(f"parity: inputs is a {type(inputs).__name__}, but a mapping of the call's keywords is needed")
    _check_names(subject.class_name, inputs)
    prepared: dict[str, Any] = {
        name: value if isinstance(value, _PLAIN) else np.asarray(value) for name, value in inputs.items()
    }
    empty = [name for name, value in prepared.items() if np.size(value) == 0]
    if empty:
        raise InputError(f"parity: {', '.join(empty)}: the array is empty, so there would be nothing to compare")
    return prepared


def compare_runs(reference: Run, candidate: Run, *, dtype: str, exact: Run | None = None) -> list[Point]:
    """Compares two runs: modules that both called, all outputs, all gradients.

    Args:
        reference: the reference's run.
        candidate: the candidate's run.
        dtype: of both.
        exact: the reference's float64 run, for a narrower dtype.
    """
    points: list[Point] = []
    kinds: tuple[PointKind, ...] = ("module", "output", "gradient")
    for kind in kinds:
        ours, theirs = reference.values(kind), candidate.values(kind)
        precise = {} if exact is None else exact.values(kind)
        scale = max(map(_largest, ours.values()), default=0.0)
        for name in dict.fromkeys((*ours, *theirs)):
            if name in ours and name in theirs:
                points.append(_point(name, kind, dtype, ours[name], theirs[name], scale, precise.get(name)))
            elif kind != "module":
                side, value = ("reference", ours[name]) if name in ours else ("candidate", theirs[name])
                # a parameter that only one side has and on which nothing depends is a blind spot, not a difference
                if kind == "output" or value.any():
                    points.append(_failed_point(name, kind, dtype, value.shape, f"only the {side} has it"))
    return points


def _failed_point(name: str, kind: PointKind, dtype: str, shape: tuple[int, ...], note: str) -> Point:
    """A point whose two sides can't be compared; the note says why."""
    infinite = float("inf")
    return Point(name, kind, dtype, shape, infinite, infinite, infinite, False, note)


def _shape_differences(reference: Run, candidate: Run) -> list[Point]:
    """Parameters whose shapes differ, such as tables of different lengths; inputs need not reveal them."""
    return [
        _failed_point(name, "parameter", "float64", shape, f"the candidate's is {list(other)}")
        for name, shape in reference.shapes.items()
        if (other := candidate.shapes.get(name, shape)) != shape
    ]


def _point(
    name: str,
    kind: PointKind,
    dtype: str,
    reference: np.ndarray,
    candidate: np.ndarray,
    scale: float,
    exact: np.ndarray | None,
) -> Point:
    """Compares the two values of a point.

    Args:
        name, kind, dtype: of the point.
        reference, candidate: the values.
        scale: the largest value of any point of the kind.
        exact: the reference's value in float64, for a narrower dtype.
    """
    if kind == "module" and reference.ndim == candidate.ndim and 1 in (reference.shape[0], candidate.shape[0]):
        # values that are the same for every row may be computed once
        reference, candidate = np.broadcast_arrays(reference, candidate)
        exact = None if exact is None else np.broadcast_to(exact, reference.shape)
    if reference.shape != candidate.shape:
        note = f"the candidate's shape is {list(candidate.shape)}"
        return _failed_point(name, kind, dtype, reference.shape, note)
    one, other = reference.astype(np.float64), candidate.astype(np.float64)
    if not np.isfinite(one).all() or not np.isfinite(other).all():
        sides = [side for side, value in (("reference", one), ("candidate", other)) if not np.isfinite(value).all()]
        note = f"not finite in the {' and the '.join(sides)}"
        return _failed_point(name, kind, dtype, reference.shape, note)
    difference, largest = _largest(other - one), _largest(one)
    # one unit of rounding: of the tensor's largest value, with a floor for tensors that are almost zero
    unit = float(ml_dtypes.finfo(FLOATS[dtype]).eps) * (largest + FLOOR * scale)
    if exact is None:
        passed = difference <= RELATIVE * (largest + FLOOR * scale)
    else:
        unit = max(unit, _largest(one - exact))
        passed = kind != "output" or difference <= UNITS * unit
    relative, units = _ratio(difference, largest), _ratio(difference, unit)
    return Point(name, kind, dtype, reference.shape, difference, relative, units, passed)


def _ratio(value: float, unit: float) -> float:
    """`value / unit`; for a unit of zero, 0 if the value is zero too, else infinity."""
    return value / unit if unit else (float("inf") if value else 0.0)


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def _modules_of_one_side(run: Run, other: Run) -> tuple[str, ...]:
    """The modules that the other run did not call, but for those that only group others, which may be compared."""
    groups = {name[:end] for name in run.modules for end in range(len(name)) if name[end] == "."}
    groups -= {name.rpartition(".")[0] for name in run.shapes}
    return tuple(name for name in run.modules if name not in other.modules and name.split("#")[0] not in groups)


def _blind_spots(reference: Run, candidate: Run) -> dict[str, str]:
    """Parameters whose gradient is only noise on both sides: a fault in them would not change any output here."""
    scale = max((_largest(value) for value in reference.gradients.values()), default=0.0)
    found: dict[str, str] = {}
    for name, gradient in reference.gradients.items():
        other = candidate.gradients.get(name, gradient)
        if max(_largest(gradient), _largest(other)) <= RELATIVE * FLOOR * scale:
            found[name] = "no output of this class depends on it for these inputs"
            if _KEY_BIAS.search(name):
                found[name] = (
                    "softmax(q(k + b)) = softmax(qk + qb) = softmax(qk), for qb is one number for all keys of a query"
                )
        elif gradient.ndim == 2 and "embedding" in name:
            silent = int((np.abs(gradient).max(axis=1) == 0).sum())
            if silent:
                found[name] = "rows that these inputs don't look up"
    return found


def _sides(
    reference: Any, candidate: Any, against: str | None, backend: BackendName | None, loading: Mapping[str, Any]
) -> tuple[Subject, Subject]:
    hub, loading = split_options(loading)
    of_candidate, loading = split_options(loading, "candidate_")
    load = functools.partial(from_directory, loading={**loading, **hub})
    load_candidate = functools.partial(from_directory, loading={**loading, **access_options(hub), **of_candidate})
    given = [name for name, value in loading.items() if value != ()]
    if given and not _is_path(reference) and not _is_path(candidate):
        raise InputError(f"parity: {', '.join(given)} must go with a directory, but no directory is loaded")
    if against is not None:
        if not _is_path(reference):
            raise InputError("parity: against='transformers' needs a checkpoint directory as reference")
        return load(reference, "transformers"), load(reference, backend or "jax")
    if candidate is not None:
        home = backend or "torch"
        return (
            load(reference, home) if _is_path(reference) else from_live_model(reference),
            load_candidate(candidate, backend or "jax") if _is_path(candidate) else from_live_model(candidate),
        )
    target: BackendName = backend or (
        "torch" if not _is_path(reference) and inspect_live_model(reference).framework == "jax" else "jax"
    )
    if _is_path(reference):
        return load(reference, "torch" if target == "jax" else "jax"), load(reference, target)
    return from_live_model(reference), from_twin(reference, target)


def _check_names(class_name: str, inputs: Mapping[str, Any]) -> None:
    """Checks that the inputs are keywords of the class's call; a composite checks its parts' keywords itself."""
    model_class = getattr(names_backend(), class_name)
    known = model_class.call_keywords
    unknown = [name for name in inputs if name not in known and name not in Switches.__annotations__]
    if issubclass(model_class, Composite):
        unknown = []
    if unknown or not inputs:
        raise InputError(
            f"parity: {class_name} takes {', '.join(known)}; the inputs have {', '.join(unknown) or 'none of them'}"
        )


def _is_path(thing: Any) -> bool:
    return isinstance(thing, str | os.PathLike)


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
