"""The base class of both backends' models: loading, saving and initial values."""

import functools
import inspect
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self, TypeVar, cast

import numpy as np
from tqdm.auto import tqdm

from diptych.core import random
from diptych.core.calls import CallMixin
from diptych.core.checkpoint import loading
from diptych.core.checkpoint.hub import split_options
from diptych.core.checkpoint.matching import Filling, LoadReport, Match, Matching, Target, names_of
from diptych.core.checkpoint.parallel import map_ahead
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.strips import permute
from diptych.core.config import CacheShape, ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.embeddings import EmbeddingsMixin
from diptych.core.errors import CheckpointError, InputError
from diptych.core.freezing import Freezable
from diptych.core.generation.options import GenerationConfig, OwnOptions
from diptych.core.registry import Family, describe_class, relatives, within

Item = TypeVar("Item")


def _bar(tensors: Collection[Item], what: str) -> Iterable[Item]:
    """A progress bar on stderr, if that is a terminal and the work takes long."""
    return tqdm(tensors, desc=what, unit="tensor", delay=2, disable=None, leave=False)


_ANY_FORMAT = "it finds the format of the weights by itself"
_FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(("torch_dtype", "dtype"), "it has dtype="),
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), "it has no choice of an attention"),
    **dict.fromkeys(("from_pt", "from_flax", "from_tf", "use_safetensors"), _ANY_FORMAT),
    "device_map": "it has device= in PyTorch, and sharding= in JAX",
    "mmap": "its layout differs from the file's, so parameters are copies",
    "low_cpu_mem_usage": "it never holds more than the model and a few tensors",
    "_do_init": "the constructor builds a model without values with seed=None",
    "output_loading_info": "the model has a load_report",
    "ignore_mismatched_sizes": "it has ignore= and allow_fresh=, for the same tensors",
    **dict.fromkeys(("force_download", "resume_download"), "downloads are checked, and damaged ones removed"),
    "trust_remote_code": "it runs no code of a checkpoint",
}
"""Keywords of transformers' loaders, some of which are fields of its config files -> what there is instead."""


def refuse_foreign(caller: str, changes: Iterable[str]) -> None:
    """Raises a TypeError for keywords of transformers' loaders, and for changes of a config without effect."""
    for name in changes:
        if name in _FOREIGN:
            raise TypeError(f"{caller} has no keyword {name}; {_FOREIGN[name]}")


def own_switches(model_class: type) -> list[str]:
    """The keywords of a class's constructor that other classes do not have, such as add_pooling_layer."""
    parameters = inspect.signature(model_class.__init__).parameters
    return [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]


def generates_text(model_class: Any) -> bool:
    """Whether a class of models has a `generate` of its own."""
    return model_class.generate is not PreTrained.generate


@dataclass(frozen=True)
class Constructed:
    """The parameters that a model's constructor made: path -> shape.

    Any two compare equal, so that models that differ only in them share compiled programs.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]], compare=False)


def _record_parameters(construct: Callable[..., None]) -> Callable[..., None]:
    """A constructor that records the parameters of the model; that of a subclass records its own layers too."""

    @functools.wraps(construct)
    def constructor(self: "PreTrained", *arguments: Any, **keywords: Any) -> None:
        construct(self, *arguments, **keywords)
        self._constructed = Constructed({slot.path: slot.shape for slot in self._leaves()})  # pyright: ignore[reportPrivateUsage]

    return constructor


class PreTrained(CallMixin, EmbeddingsMixin, Freezable):
    """A model with a config, whose parameters have the names of its published checkpoints."""

    load_report: LoadReport = LoadReport()
    """What happened to each tensor of the checkpoint; empty if the model was not loaded."""
    _own_options: OwnOptions = OwnOptions()
    _constructed: Constructed = Constructed()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _record_parameters(cls.__init__)  # pyright: ignore[reportAttributeAccessIssue]

    def _freeze_as_configured(self) -> None:
        """Freezes what the config excludes from training, in families whose configs can say so."""
        frozen = describe_class(type(self))[1].frozen
        if frozen is not None:
            leaves = self._leaves()
            paths = frozen(self.config, [*leaves])
            for slot, leaf in leaves.items():
                if slot.path in paths:
                    self._set_frozen(leaf, True)

    @property
    def generation_config(self) -> GenerationConfig:
        """The default options of `generate`: those of the checkpoint or set here, or else those of the config.

        A mapping or a GenerationConfig of transformers may be assigned too; None restores those of the config.
        """
        own = self._own_options.options
        return GenerationConfig.of_model(self.config) if own is None else own

    @generation_config.setter
    def generation_config(self, options: Any) -> None:
        self._own_options = OwnOptions(None if options is None else GenerationConfig.from_any(options))

    def generate(self, *inputs: Any, **options: Any) -> Any:
        """Generates text, in the classes that do.

        Raises:
            InputError: this class doesn't; the message names those of its family that do.
        """
        name, family, _ = describe_class(type(self))
        find = self._siblings()
        able = ", ".join(other for other in family.classes if generates_text(find(other)))
        instead = f"{able} does, and loads checkpoints of its family" if able else "nor does any class of its family"
        raise InputError(f"{type(self).__name__}.generate: {name} generates no text; {instead}")

    def gradient_checkpointing_enable(self, mode: bool = True) -> Self:
        """Recomputes each layer's activations in the backward pass, which saves their memory; returns the model."""
        for _, module in self._submodules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = mode
        return self

    def gradient_checkpointing_disable(self) -> Self:
        """Stores each layer's activations for the backward pass, as a new model does; returns the model."""
        return self.gradient_checkpointing_enable(False)

    @classmethod
    def _load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: Any,
        placement: Any,
        build: Mapping[str, Any],
        mmap: bool = False,
        allow_fresh: Iterable[str],
        ignore: Iterable[str],
        ignore_config: Iterable[str],
        options: Mapping[str, Any],
    ) -> Self:
        """Builds a model without values and fills it from a checkpoint, tensor by tensor; see `from_pretrained`."""
        hub, changes = split_options(options)
        allow_fresh, ignore = names_of("allow_fresh", allow_fresh), names_of("ignore", ignore)
        ignore_config = names_of("ignore_config", ignore_config)
        own = own_switches(cls)  # keywords of the constructor, not fields of the config
        keywords = {**build, **{name: value for name, value in changes.items() if name in own}}
        changes = {name: value for name, value in changes.items() if name not in own}
        refuse_foreign(f"{cls.__name__}.from_pretrained", changes)
        name, family, config_class = describe_class(cls)
        source = loading.open_source(
            name_or_path, wanted=config_class, ignore_config=ignore_config, changes=changes, **hub
        )
        own_options = OwnOptions.of_directory(source.directory, changes)
        family = within(family, source.whole)
        construct = cast(Callable[..., Self], cls)
        guess = source.dtype_name if dtype is None else float_name(dtype)
        model = construct(source.config, seed=None, dtype=guess, **keywords)
        leaves = model._leaves()
        loading.warn_of_unused(source, [*leaves], allow_fresh, ignore, ignore_config)
        found = loading.match_source(
            source,
            [*leaves],
            class_name=name,
            family=family,
            known=lambda: cls._family_paths(family, source.whole),
            allow_fresh=allow_fresh,
            ignore=ignore,
        )
        dtype_name = loading.dtype_of(source, found, dtype)
        if dtype_name != guess:
            model = construct(source.config, seed=None, dtype=dtype_name, **keywords)
            leaves = model._leaves()
        model._fill(leaves, found, FLOATS[dtype_name], placement, mmap)
        dropped = model._dropped_tensors(source, found, keywords) if changes and found.left_out else ()
        model.load_report = loading.report_of(str(source.directory), found, source.config, dropped)
        model._own_options = own_options
        return model

    def _dropped_tensors(self, source: loading.Source, found: Match, keywords: Mapping[str, Any]) -> tuple[str, ...]:
        """The tensors left out that the class has with the config of the file, such as those of further layers."""
        name, family, config_class = describe_class(type(self))
        part = source.whole.part(config_class)
        construct = cast(Callable[..., Self], type(self))
        whole = construct(source.whole if part is None else part.loaded_config, seed=None, **keywords)
        usual = Matching(source.tensors, Target(name, [*whole._leaves()], within(family, source.whole)))
        return tuple(name for name in found.left_out if usual.resolve(usual.spelling[name]) is not None)

    def _fill(
        self, leaves: Mapping[Slot, Any], found: Match, dtype: np.dtype[Any], placement: Any, mmap: bool = False
    ) -> None:
        """Fills parameters with their matched tensors, a few at a time, and draws the others."""
        uses = Counter(filling.name for filling in found.fillings)

        def read(filling: Filling) -> np.ndarray:
            axes = tuple(filling.axes[axis] for axis in self._stored_axes(filling.slot))
            alone = uses[filling.name] == 1  # parameters that share a tensor of the file do not share memory
            return filling.view(axes, dtype) if mmap and alone else filling.read(axes, dtype)

        for filling, values in zip(_bar(found.fillings, "loading"), map_ahead(read, found.fillings), strict=True):
            self._put(filling.slot, leaves[filling.slot], values, placement)
        self._draw({slot: leaves[slot] for slot in (*found.fresh, *found.constant)}, 0, placement)

    @property
    def fresh_parameters(self) -> tuple[str, ...]:
        """The parameters that the checkpoint lacked, which are newly initialized."""
        return self.load_report.fresh

    @classmethod
    def _family_paths(cls, family: Family, config: ModelConfig) -> list[set[str]]:
        """The parameter paths of each class of the family, or of its parts, with this config."""
        find = cls._siblings()
        return [
            {f"{prefix}{slot.path}" for slot in find(name)(part, seed=None)._leaves()}
            for prefix, name, part in relatives(family, config)
        ]

    def _save(
        self,
        directory: str | os.PathLike[str],
        max_shard_size: int | str | None,
        copy_from: str | os.PathLike[str] | None,
    ) -> None:
        """Writes config.json, safetensors, and generation_config.json if the model has options of its own."""
        self._check_parameters()
        sources = self._sources()
        integers = [f"{path} ({tensor.dtype})" for path, tensor in sources.items() if tensor.dtype.name not in FLOATS]
        if integers:
            raise CheckpointError(
                f"{type(self).__name__}.save_pretrained: {len(integers)} parameters are not floating-point, as after a "
                f"quantization, so from_pretrained would refuse them: {', '.join(integers)}. Save the model from before"
            )
        loading.save(
            directory,
            self.config,
            self._own_options.options,
            sources,
            class_name=describe_class(type(self))[0],
            dtype=next(iter(sources.values())).dtype.name,
            max_shard_size=max_shard_size,
            copy_from=copy_from,
        )

    def _check_parameters(self) -> None:
        """Raises a CheckpointError if `from_pretrained` would refuse what the model has become."""
        expected = self._expected_shapes()
        found = {slot.path: slot.shape for slot in self._leaves()}
        missing = [path for path in expected if path not in found]
        foreign = [path for path in found if path not in expected]
        misshapen = [
            f"{path} has shape {shape}, not {expected[path]}"
            for path, shape in found.items()
            if path in expected and shape != expected[path]
        ]
        problems = {"missing": missing, "foreign": foreign, "of another shape": misshapen}
        if any(problems.values()):
            name = type(self).__name__
            listed = ". ".join(f"{len(paths)} {what}: {', '.join(paths)}" for what, paths in problems.items() if paths)
            raise CheckpointError(
                f"{name}.save_pretrained: the parameters are not those that the constructor of {name} makes, so "
                f"{name}.from_pretrained would refuse them. {listed}. Merge or remove what was added (adapters, "
                "parametrizations, quantized layers), or make it in the constructor of a subclass"
            )

    def _record_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._constructed = Constructed({**self._constructed.shapes, **shapes})

    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters that `from_pretrained` expects; a composite's parts may have been resized."""
        expected = dict(self._constructed.shapes)
        for name in self._part_names:
            inside: dict[str, tuple[int, ...]] = getattr(self, name)._expected_shapes()
            expected |= {f"{name}.{path}": shape for path, shape in inside.items()}
        return expected

    def _draw(self, leaves: Mapping[Slot, Any], seed: int, placement: Any) -> None:
        """Gives parameters their initial values, drawn in float32."""
        initial, drawn = describe_class(type(self))[1].initial, {slot.path: slot for slot in leaves}

        def values_of(slot: Slot) -> np.ndarray:
            return random.draw(initial(self.config, slot), slot.shape, seed=seed, path=slot.path, other=other)

        def other(path: str) -> np.ndarray:
            return values_of(drawn[path]) if path in drawn else self._sources()[path].read()

        for slot, leaf in _bar(leaves.items(), "drawing"):
            values = permute(values_of(slot), self._stored_axes(slot), FLOATS[self._dtype_name(leaf)])
            self._put(slot, leaf, values, placement)

    def _check_build(self, given: Iterable[str], known: Sequence[str]) -> None:
        unknown = sorted(set(given) - set(known))
        if unknown:
            listed = ", ".join((*own_switches(type(self)), *known))
            raise TypeError(f"{type(self).__name__} has no keyword {', '.join(unknown)}; it has {listed}")

    def _cache_shape(self, batch_size: int, max_length: int) -> CacheShape:
        """The shape of the model's cache.

        Raises:
            InputError: the model is no decoder, or a size is not positive.
        """
        caller, shape = f"{type(self).__name__}.init_cache", self.config.cache_shape
        if shape is None:
            raise InputError(f"{caller}: the model is no decoder, so it has no cache")
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= 2**31:
                raise InputError(f"{caller}: {name}={value!r}, but a whole number of at least 1 is needed")
        return shape
