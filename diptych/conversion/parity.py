"""Proof that two models compute the same function: every module, every output, every gradient, in float64.

A reference and a candidate get the same inputs. In float64, a correct port agrees up to rounding, and any fault stands
out by many orders of magnitude; a narrower dtype is compared too if requested.
"""

import contextlib
import copy
import functools
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from tqdm.auto import tqdm

from diptych.conversion import transfer
from diptych.conversion.capture import Run, run_jax, run_torch, shift_names
from diptych.conversion.exact import make_exact
from diptych.conversion.exact_speech import attention_of, make_speech_exact
from diptych.conversion.published_names import published_names
from diptych.conversion.report import Point, PointKind, Report
from diptych.conversion.slots import names_backend
from diptych.core.backends import PACKAGES, BackendName, validate_name
from diptych.core.calls import Switches
from diptych.core.checkpoint.dialects import find_shifts
from diptych.core.checkpoint.hub import access_options, split_options
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.matching import names_of
from diptych.core.composite import Composite
from diptych.core.composite_config import CompositeConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import CheckpointError, InputError
from diptych.core.pretrained import PreTrained, own_switches
from diptych.core.random import generator
from diptych.core.registry import architectures, families, read_config, within

RELATIVE = 1e-9
"""In float64, a point may differ by this fraction of the reference's largest value …"""
FLOOR = 1e-3
"""… plus this fraction of the largest value of any point of its kind, since zero gradients have rounding noise."""
UNITS = 16.0
"""In a narrower dtype, an output may differ by this multiple of the reference's own rounding."""

_PLAIN = (bool, int, float, str, type(None))
_KEY_BIAS = re.compile(r"\b(key|k_proj)\.bias$")


@dataclass(frozen=True)
class Subject:
    """One side of a comparison: makes its model in a dtype, and runs it."""

    name: str
    class_name: str
    framework: transfer.Framework
    read_config: Callable[[], Any]
    make: Callable[[str], Any]

    @functools.cached_property
    def config(self) -> Any:
        """The class's config; that of a directory imports a backend, so that both sides are found before."""
        return self.read_config()

    @property
    def kind(self) -> str:
        """The class, and of a composite the model types of its parts."""
        if not isinstance(self.config, CompositeConfig):
            return self.class_name
        return f"{self.class_name} of {self.config.encoder.model_type} and {self.config.decoder.model_type}"

    def run(self, inputs: Mapping[str, Any], dtype: str, *, seed: int, gradients: bool) -> tuple[Run, dict[str, str]]:
        """The run in a dtype, and a description of it: source, backend, versions, device."""
        with _scope(self.framework, dtype):
            model = self.make(dtype)
            if self.framework == "jax":
                return run_jax(model, inputs, seed=seed, gradients=gradients), self._description(model)
            if self.framework == "torch":
                return run_torch(model, inputs, seed=seed, gradients=gradients), self._description(model)
            published = self._published_names(model)
            try:
                run = run_torch(model, inputs, seed=seed, gradients=gradients, published=published)
            except Exception as error:  # some models of transformers fail in configurations that are valid here
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"{self.name}: transformers cannot run it on these inputs ({reason})") from error
            return run, self._description(model)

    def _published_names(self, model: Any) -> Callable[[str], str | None]:
        """Maps transformers' names in memory to those in files, and adds the prefix that some classes lack there."""
        home = importlib.import_module("diptych.backends.torch")
        ours: PreTrained = getattr(home, self.class_name)(self.config, seed=None)
        known = published_names(model)
        # torch gives a tied parameter the name that comes first, here that of the one that holds it
        tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
        known |= {name: known[holder] for name, holder in tied.items() if name in known and holder in known}
        names = [known[name] for name, _ in model.named_parameters()]
        wanted = [slot.path for slot in ours._leaves()]
        shift = shift_names(
            find_shifts(names, wanted, within(families()[architectures()[self.class_name]], self.config))
        )
        # IDEFICS looks up additional words alone there, and ours all of them; BART's tables scale their rows there
        scaled = {
            name for name, module in model.named_modules() if type(module).__name__.endswith("ScaledWordEmbedding")
        }
        compared = {name: known[name] for name in known.keys() - scaled if not name.endswith("additional_embedding")}
        return lambda name: shift(compared[name]) if name in compared else None

    def _description(self, model: Any) -> dict[str, str]:
        packages = {**PACKAGES, "transformers": ("transformers", "torch")}
        versions = {package: importlib.metadata.version(package) for package in packages[self.framework]}
        return {"from": self.name, "backend": self.framework, **versions, "device": _device(self.framework, model)}


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
    if inputs is None:
        family = families()[architectures()[first.class_name]]
        inputs = family.example(first.config, first.class_name, generator(seed, "inputs"))
    if not isinstance(inputs, Mapping):
        raise InputError(f"parity: inputs is a {type(inputs).__name__}, but a mapping of the call's keywords is needed")
    _check_names(first.class_name, inputs)
    inputs = {name: value if isinstance(value, _PLAIN) else np.asarray(value) for name, value in inputs.items()}
    empty = [name for name, value in inputs.items() if np.size(value) == 0]
    if empty:
        raise InputError(f"parity: {', '.join(empty)}: the array is empty, so there would be nothing to compare")
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
    load = functools.partial(_from_directory, loading={**loading, **hub})
    load_candidate = functools.partial(_from_directory, loading={**loading, **access_options(hub), **of_candidate})
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
            load(reference, home) if _is_path(reference) else _from_live_model(reference),
            load_candidate(candidate, backend or "jax") if _is_path(candidate) else _from_live_model(candidate),
        )
    target: BackendName = backend or (
        "torch" if not _is_path(reference) and transfer.inspect_live_model(reference).framework == "jax" else "jax"
    )
    if _is_path(reference):
        return load(reference, "torch" if target == "jax" else "jax"), load(reference, target)
    first = _from_live_model(reference)
    twin = transfer.to_jax if target == "jax" else transfer.to_torch
    return first, Subject(
        "its twin", first.class_name, target, lambda: first.config, lambda dtype: _twin(twin, reference, dtype)
    )


def _twin(transferred: Callable[..., Any], model: Any, dtype: str) -> Any:
    """A live model in the other backend; gradients of frozen parameters are compared too."""
    return transferred(model, dtype=dtype).unfreeze().eval()


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


def _from_directory(path: str | os.PathLike[str], framework: transfer.Framework, loading: Mapping[str, Any]) -> Subject:
    """A side that is loaded from a directory, once for each dtype."""
    hub, loading = split_options(loading)
    directory = locate(path, **hub)
    loading["variant"] = hub.get("variant")
    class_name = architecture_of(directory, loading["ignore_config"])

    def make(dtype: str) -> Any:
        if framework == "transformers":
            changes = {name: value for name, value in loading.items() if name not in _OURS}
            return _load_with_transformers(directory, class_name, dtype, changes)
        home = importlib.import_module(f"diptych.backends.{framework}")
        return getattr(home, class_name).from_pretrained(directory, dtype=dtype, **loading).unfreeze()

    read = functools.partial(_read_config, directory, class_name, loading)
    return Subject(str(path), class_name, framework, read, make)


def _from_live_model(model: Any) -> Subject:
    """A side that is a model in memory; each dtype gets a copy of the object, with any changes made to it."""
    found = transfer.inspect_live_model(model)
    cast = {"jax": _cast_jax, "torch": _cast_torch, "transformers": _cast_transformers}[found.framework]
    make = functools.partial(cast, model)
    return Subject("a live model", found.architecture, found.framework, lambda: found.config, make)


def _cast_torch(model: Any, dtype: str) -> Any:
    import torch

    duplicate = copy.deepcopy(model).to(getattr(torch, dtype)).eval().requires_grad_(True)
    if isinstance(duplicate, PreTrained):
        duplicate.gradient_checkpointing_disable()  # recomputed layers would be compared twice
    return duplicate


def _cast_transformers(model: Any, dtype: str) -> Any:
    duplicate = _cast_torch(model, dtype)
    duplicate.set_attn_implementation(attention_of(type(duplicate)))
    return make_speech_exact(make_exact(duplicate))


def _cast_jax(model: Any, dtype: str) -> Any:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    duplicate = nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), parameters), rest)
    for _, module in nnx.iter_modules(duplicate):
        for name in ("dtype", "_compute_dtype"):  # a compute_dtype would round
            if vars(module).get(name) is not None:
                setattr(module, name, None)
    # recomputed layers would be compared twice, and frozen parameters have no gradient to compare
    return duplicate.gradient_checkpointing_disable().unfreeze().eval()


_OURS = ("ignore", "ignore_config", "allow_fresh")
"""Keywords of `from_pretrained` that say what to accept, and that transformers does not have."""


def _load_with_transformers(directory: Path, class_name: str, dtype: str, changes: Mapping[str, Any]) -> Any:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(f"parity against transformers needs it: pip install 'transformers>=5.23' ({error})") from None
    cls = getattr(transformers, class_name)
    showed_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        model, info = cls.from_pretrained(directory, dtype=getattr(torch, dtype), output_loading_info=True, **changes)
    except OSError as error:
        raise CheckpointError(f"{directory}: transformers cannot load it ({str(error).splitlines()[0]})") from None
    finally:
        if showed_bars:
            transformers.logging.enable_progress_bar()
    if info["missing_keys"]:
        raise CheckpointError(
            f"{directory}: transformers finds no tensors for {', '.join(sorted(info['missing_keys']))}"
        )
    # frozen parameters have no gradient to compare
    return make_speech_exact(make_exact(model.eval().requires_grad_(True)))


def _read_config(directory: Path, class_name: str, loading: Mapping[str, Any]) -> Any:
    """The config of a class in a directory, with the caller's changes."""
    wanted = families()[architectures()[class_name]].classes[class_name]
    config: Any = read_config(directory, ignore=loading["ignore_config"], assume=wanted.model_type).part(wanted)
    others = (*_OURS, "variant", *own_switches(getattr(names_backend(), class_name)))
    return config.replace(**{name: value for name, value in loading.items() if name not in others})


@contextlib.contextmanager
def _scope(framework: str, dtype: str) -> Iterator[None]:
    """64-bit mode for a JAX model in float64; only numpy arrays may be used outside it."""
    if framework != "jax":
        yield
        return
    import jax

    with jax.enable_x64(dtype == "float64"):
        yield


def _device(framework: str, model: Any) -> str:
    if framework != "jax":
        return str(next(model.parameters()).device)
    leaf = next(iter(model._leaves().values())).get_value()
    return ", ".join(sorted(f"{device.platform}:{device.id}" for device in leaf.devices()))


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
