"""The sides of a parity check: a checkpoint's directory or a live model, made in a dtype and run."""

import contextlib
import copy
import functools
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.conversion import transfer
from diptych.conversion.capture import Run, run_jax, run_torch, shift_names
from diptych.conversion.exact import make_exact
from diptych.conversion.exact_speech import attention_of, make_speech_exact
from diptych.conversion.published_names import published_names
from diptych.conversion.slots import names_backend
from diptych.core.backends import PACKAGES, BackendName
from diptych.core.checkpoint.dialects import find_shifts
from diptych.core.checkpoint.hub import split_options
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.composite_config import CompositeConfig
from diptych.core.errors import CheckpointError, InputError
from diptych.core.pretrained import PreTrained, own_switches
from diptych.core.registry import architectures, families, read_config, within


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


def from_directory(path: str | os.PathLike[str], framework: transfer.Framework, loading: Mapping[str, Any]) -> Subject:
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


def from_live_model(model: Any) -> Subject:
    """A side that is a model in memory; each dtype gets a copy of the object, with any changes made to it."""
    found = transfer.inspect_live_model(model)
    cast = {"jax": _cast_jax, "torch": _cast_torch, "transformers": _cast_transformers}[found.framework]
    make = functools.partial(cast, model)
    return Subject("a live model", found.architecture, found.framework, lambda: found.config, make)


def from_twin(model: Any, target: BackendName) -> Subject:
    """A side that is the copy of a live model in a backend; gradients of frozen parameters are compared too."""
    found = transfer.inspect_live_model(model)
    convert: Callable[..., Any] = transfer.to_jax if target == "jax" else transfer.to_torch

    def make(dtype: str) -> Any:
        return convert(model, dtype=dtype).unfreeze().eval()

    return Subject("its twin", found.architecture, target, lambda: found.config, make)


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
