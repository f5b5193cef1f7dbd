"""What the models of both backends do alike: settle switches, load, save and draw weights, over a few hooks."""

import dataclasses
import inspect
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Self, TypedDict, TypeVar, cast

import numpy as np
from tqdm.auto import tqdm

from diptych.core import random
from diptych.core.checkpoint import loading
from diptych.core.checkpoint.matching import LoadReport, Match
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.strips import permuted
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.config import CacheShape, ModelConfig
from diptych.core.dtypes import FLOATS, float_name
from diptych.core.errors import ConfigError, InputError
from diptych.core.generation.options import GenerationConfig, OwnOptions
from diptych.core.outputs import ModelOutput
from diptych.core.registry import Family, described, relatives, within

Output = TypeVar("Output", bound=ModelOutput)
Item = TypeVar("Item")


def _bar(tensors: Collection[Item], what: str) -> Iterable[Item]:
    """A progress bar on stderr, if that is a terminal and the work takes long."""
    return tqdm(tensors, desc=what, unit="tensor", delay=2, disable=None, leave=False)


_FOREIGN = ("attn_implementation", "_attn_implementation", "torch_dtype", "dtype")
"""Keywords of transformers' loaders that are fields of its config files too, where nothing reads them."""


def refuse_foreign(where: str, changes: Iterable[str]) -> None:
    """Raises a TypeError for changes of a config that would only seem to do something."""
    for name in changes:
        if name in _FOREIGN:
            instead = "dtype=" if name.endswith("dtype") else "no choice of an attention"
            raise TypeError(f"{where} has no keyword {name}; it has {instead}")


class Switches(TypedDict, total=False):
    """The keywords that every model's call takes.

    output_attentions, output_hidden_states: whether these come too; the config's word without it.
    return_dict: False returns the record's `to_tuple()`.
    rngs: in JAX a key, needed in train mode; in torch None.
    """

    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None
    rngs: Any


class Settled(TypedDict):
    """Switches that the config has settled."""

    output_attentions: bool
    output_hidden_states: bool
    return_dict: bool
    rngs: Any


class PreTrained:
    """A model with a config, whose parameters have the names of its published checkpoints."""

    config: Any
    load_report: LoadReport = LoadReport()
    """What became of each tensor of the checkpoint; empty if the model was not loaded."""
    _own_options: OwnOptions = OwnOptions()

    # The hooks, one for each thing that only a framework can do.

    @abstractmethod
    def _submodules(self) -> Iterable[Any]:
        """Every module in the model."""

    @abstractmethod
    def _leaves(self) -> dict[Slot, Any]:
        """Every parameter's slot, with what holds it."""

    @staticmethod
    @abstractmethod
    def _stored_axes(slot: Slot) -> tuple[int, ...]:
        """The axes of the published tensor in the order in which the backend holds them."""

    @staticmethod
    @abstractmethod
    def _put(slot: Slot, leaf: Any, values: np.ndarray, where: Any) -> None:
        """Gives a parameter its stored values, an array that nobody else holds."""

    @staticmethod
    @abstractmethod
    def _dtype_name(leaf: Any) -> str:
        """The name of a parameter's dtype."""

    @abstractmethod
    def _sources(self) -> dict[str, TensorSource]:
        """Every parameter by published name, as a tensor that can be read in the published layout."""

    @classmethod
    @abstractmethod
    def _siblings(cls) -> Callable[[str], Any]:
        """Finds a model class of this backend by name."""

    @abstractmethod
    def _like(self) -> Any:
        """What has the dtype, and in torch the device, that inputs must have."""

    # What follows from them.

    @property
    def generation_config(self) -> GenerationConfig:
        """The options that `generate` starts from: the checkpoint's or those set here, or else what the config states.

        A mapping may be set too, or a GenerationConfig of transformers; None is what the config states.
        """
        own = self._own_options.options
        return GenerationConfig.of_model(self.config) if own is None else own

    @generation_config.setter
    def generation_config(self, options: Any) -> None:
        self._own_options = OwnOptions(None if options is None else GenerationConfig.from_any(options))

    def gradient_checkpointing_enable(self, mode: bool = True) -> Self:
        """Has every layer computed again for the gradient instead of keeping its inner values; returns the model."""
        for module in self._submodules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = mode
        return self

    def gradient_checkpointing_disable(self) -> Self:
        """Keeps every layer's inner values for the gradient, as a new model does; returns the model."""
        return self.gradient_checkpointing_enable(False)

    @classmethod
    def _load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: Any,
        where: Any,
        build: Mapping[str, Any],
        allow_fresh: Iterable[str],
        ignore: Iterable[str],
        ignore_config: Iterable[str],
        changes: Mapping[str, Any],
    ) -> Self:
        """Builds a model without values and fills it from a checkpoint, tensor by tensor; see `from_pretrained`."""
        own = {
            name for name, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY
        }  # such as add_pooling_layer: a keyword of the constructor, not a field of the config
        options = {**build, **{name: value for name, value in changes.items() if name in own}}
        changes = {name: value for name, value in changes.items() if name not in own}
        refuse_foreign(f"{cls.__name__}.from_pretrained", changes)
        name, family, config_class = described(cls)
        source = loading.open_source(name_or_path, wanted=config_class, ignore_config=ignore_config, changes=changes)
        own_options = OwnOptions.beside(source.directory, changes)
        family = within(family, source.whole)
        made = cast(Callable[..., Self], cls)
        guess = source.dtype_name if dtype is None else float_name(dtype)
        model = made(source.config, seed=None, dtype=guess, **options)
        leaves = model._leaves()
        found = loading.matched(
            source,
            [*leaves],
            class_name=name,
            family=family,
            known=lambda: cls._family_paths(family, source.whole),
            allow_fresh=allow_fresh,
            ignore=ignore,
        )
        settled = loading.dtype_of(source, found, dtype)
        if settled != guess:
            model = made(source.config, seed=None, dtype=settled, **options)
            leaves = model._leaves()
        model._fill(leaves, found, FLOATS[settled], where)
        model.load_report = loading.report_of(source, found)
        model._own_options = own_options
        return model

    def _fill(self, leaves: Mapping[Slot, Any], found: Match, dtype: np.dtype[Any], where: Any) -> None:
        """Gives parameters the values that were found for them, tensor by tensor, and the others new ones."""
        for filling in _bar(found.fillings, "loading"):
            slot = filling.slot
            axes = tuple(filling.axes[axis] for axis in self._stored_axes(slot))
            self._put(slot, leaves[slot], permuted(filling.source.read(), axes, dtype), where)
        self._draw({slot: leaves[slot] for slot in (*found.fresh, *found.constant)}, 0, where)

    @property
    def fresh_parameters(self) -> tuple[str, ...]:
        """The parameters that the checkpoint did not have and that were drawn anew."""
        return self.load_report.fresh

    @classmethod
    def _family_paths(cls, family: Family, config: ModelConfig) -> list[set[str]]:
        """The parameters that each class of the family, or of a part of it, has under this config."""
        find = cls._siblings()
        return [
            {f"{below}{slot.path}" for slot in find(name)(part, seed=None)._leaves()}
            for below, name, part in relatives(family, config)
        ]

    def _save(self, directory: str | os.PathLike[str], max_shard_size: int | str | None) -> None:
        """Writes config.json, safetensors, and generation_config.json if the model has options of its own."""
        sources = self._sources()
        loading.save(
            directory,
            self.config,
            self._own_options.options,
            sources,
            class_name=described(type(self))[0],
            dtype=next(iter(sources.values())).dtype.name,
            max_shard_size=max_shard_size,
        )

    def _draw(self, leaves: Mapping[Slot, Any], seed: int, where: Any) -> None:
        """Gives parameters their initial values, drawn in float32."""
        initial = described(type(self))[1].initial
        for slot, leaf in _bar(leaves.items(), "drawing"):
            values = random.draw(initial(self.config, slot.path, slot.kind), slot.shape, seed=seed, path=slot.path)
            self._put(slot, leaf, permuted(values, self._stored_axes(slot), FLOATS[self._dtype_name(leaf)]), where)

    def _check_config(self, config: object) -> None:
        wanted = described(type(self))[2]
        built = vars(self).get("config", vars(self).get("_config"))
        if isinstance(config, wanted) and built is not None:
            fields = [f.name for f in dataclasses.fields(config) if f.compare and f.name not in wanted.live]
            changed = [
                f"{name}={getattr(config, name)!r}" for name in fields if getattr(config, name) != getattr(built, name)
            ]
            if changed:
                raise ConfigError(
                    f"{type(self).__name__}: {', '.join(changed)} cannot change in a built model; build another "
                    "with from_pretrained(…) or from the config"
                )
        if not isinstance(config, wanted):
            raise ConfigError(
                f"{type(self).__name__}: config is a {type(config).__name__}, {wanted.__name__} is needed"
            )

    def _check_build(self, given: Iterable[str], known: Sequence[str]) -> None:
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no keyword {', '.join(unknown)}; it has {', '.join(known)}")

    def _cache_shape(self, batch_size: int, max_length: int) -> CacheShape:
        """What a cache of the model holds.

        Raises:
            InputError: the model is no decoder, or a size is not positive.
        """
        where, shape = f"{type(self).__name__}.init_cache", self.config.cache_shape
        if shape is None:
            raise InputError(f"{where}: the model is no decoder, so it has no cache")
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= 2**31:
                raise InputError(f"{where}: {name}={value!r}, but a whole number from 1 on is needed")
        return shape

    def _option(self, name: str, given: bool | None) -> bool:
        """A call's switch, or the config's where the call is silent."""
        return bool(getattr(self.config, name) if given is None else given)

    def _inner(self, switches: Switches) -> Settled:
        """The switches for a model inside this one: settled by this one's config, and always a record.

        Raises:
            TypeError: the call has a keyword that models do not have.
        """
        unknown = sorted(set(switches) - set(Switches.__annotations__))
        if unknown:
            raise TypeError(f"{type(self).__name__}'s call has no keyword {', '.join(unknown)}")
        return {
            "rngs": switches.get("rngs"),
            "output_attentions": self._option("output_attentions", switches.get("output_attentions")),
            "output_hidden_states": self._option("output_hidden_states", switches.get("output_hidden_states")),
            "return_dict": True,
        }

    def _returned(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        """The record, or its tuple."""
        return output if self._option("return_dict", return_dict) else output.to_tuple()
