"""One config per model: all modules of a model use the values of `model.config`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from diptych.core.config import ModelConfig
from diptych.core.errors import ConfigError
from diptych.core.hooks import Hooks
from diptych.core.registry import describe_class, word_embeddings


class ConfigMixin(Hooks):
    """A model with a config, which the models inside it share.

    A model with a head passes its config on to the base model inside it. A composite's encoder and decoder are models
    of their own: their configs are the parts of the composite's config, whichever of them is set.
    """

    _config: Any
    _part_names: tuple[str, ...]
    """The attributes of a composite's parts, which are also the config fields of their configs."""
    _part_of: str | None
    """The class of the model whose base this one is; the config must be set there."""

    @property
    def config(self) -> Any:
        """The model's config; frozen, so a change is `model.config = model.config.replace(…)`.

        Raises:
            ConfigError: on assignment, if a field that is fixed in a built model has changed, the config is of another
                class, or the model is the base of another one, whose config it shares.
        """
        for name in self._part_names:
            part, known = getattr(self, name).config, getattr(self._config, name)
            if part is not known and part != known:  # the part's config was set, or its vocabulary resized
                # the model's value does not change, so it may be stored even inside a trace
                object.__setattr__(self, "_config", self._config.with_part(name, part))
        return self._config

    @config.setter
    def config(self, config: Any) -> None:
        self._check_config(config)
        self._share_config(config)

    def _begin_config(self, config: Any) -> None:
        """Stores the config that the model is built from."""
        self._part_names = ()
        self._part_of = None
        self.config = config

    def _finish_config(self) -> None:
        """Records in the models inside the complete model what they are part of."""
        parts = describe_class(type(self))[1].parts(self._config)
        self._part_names = tuple(parts)
        for path, model in self._inner_models().items():
            if path not in parts:
                model._part_of = type(self).__name__

    def _share_config(self, config: Any) -> None:
        """Sets the config of the model and of the models inside it."""
        self._config = config
        modules = dict(self._submodules())
        tables = word_embeddings(type(self))
        for path in () if tables is None or not hasattr(config, "padding_idx") else tables.inputs:
            if hasattr(modules.get(path), "padding_idx"):
                modules[path].padding_idx = config.padding_idx
        for path, model in self._inner_models().items():
            model._share_config(getattr(config, path) if path in self._part_names else config)

    def _inner_models(self) -> dict[str, "ConfigMixin"]:
        """The models directly inside this one, by path."""
        found: dict[str, ConfigMixin] = {}
        for path, module in sorted(self._submodules(), key=lambda pair: len(pair[0])):
            inside = any(path.startswith(f"{outer}.") for outer in found)
            if isinstance(module, ConfigMixin) and module is not self and not inside:
                found[path] = module
        return found

    def _check_config(self, config: object) -> None:
        name, wanted = type(self).__name__, describe_class(type(self))[2]
        if not isinstance(config, ModelConfig) or not config.serves_as(wanted):
            raise ConfigError(f"{name}: config is a {type(config).__name__}, {wanted.__name__} is needed")
        if self._part_of is not None:
            raise ConfigError(
                f"{name}: its config is that of the {self._part_of} which it is part of; set the config there"
            )
        if "_config" in vars(self):
            changed = list(_unsupported_changes(self.config, config))
            if changed:
                raise ConfigError(
                    f"{name}: {', '.join(changed)} cannot change in a built model; build another with "
                    "from_pretrained(…) or from the config"
                )


def _unsupported_changes(before: ModelConfig, after: ModelConfig, prefix: str = "") -> Iterator[str]:
    """The changes between two configs that a built model cannot follow."""
    for f in dataclasses.fields(after):
        old, new = getattr(before, f.name), getattr(after, f.name)
        if not f.compare or old == new:
            continue
        if isinstance(new, ModelConfig) and type(old) is type(new):
            yield from _unsupported_changes(old, new, f"{prefix}{f.name}.")
        elif f.name not in type(after).live:
            yield f"{prefix}{f.name}={new!r}"
