"""Finding, replacing and resizing the word embeddings of models, in both backends."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, cast

import numpy as np

from diptych.core.checkpoint.strips import permute
from diptych.core.dtypes import FLOATS
from diptych.core.errors import InputError
from diptych.core.live_config import ConfigMixin
from diptych.core.registry import WordEmbeddings, describe_class, word_embeddings

_SIZES = ("num_embeddings", "out_features")
"""The attributes of layers that hold the number of tokens."""


class EmbeddingsMixin(ConfigMixin):
    """The methods of models that concern word embeddings."""

    def get_input_embeddings(self) -> Any:
        """The embedding module of token ids; in an encoder-decoder model the encoder's.

        Raises:
            InputError: the model takes no token ids.
        """
        owner, path = self._input_table("get_input_embeddings")
        return owner.get_input_embeddings() if path is None else dict(owner._submodules())[path]

    def set_input_embeddings(self, module: Any) -> None:
        """Replaces the embedding module of token ids; a tied output layer follows.

        Args:
            module: an embedding layer of this backend, or a wrapper of one, with the config's vocab_size.

        Raises:
            InputError: the model takes no token ids, or the module does not fit it.
        """
        caller = f"{type(self).__name__}.set_input_embeddings"
        owner, path = self._input_table("set_input_embeddings")
        if path is None:
            return owner.set_input_embeddings(module)
        modules = dict(owner._submodules())
        if not callable(module) or not self._is_module(module):
            raise InputError(
                f"{caller}: {type(module).__name__} is not an embedding layer like the model's; build one with the "
                "layers of this backend"
            )
        needed = {slot.path: slot.shape for slot in self._slots_of(modules[path])}
        shapes = {slot.path: slot.shape for slot in self._slots_of(module)}
        wrong = [name for name in needed if shapes.get(name) != needed[name]]
        if wrong and "weight" in shapes and "weight" in needed:  # an embedding layer itself, not a wrapper of one
            raise InputError(
                f"{caller}: the module's {wrong[0]} is {shapes.get(wrong[0], 'missing')}, but {needed[wrong[0]]} is "
                "needed; resize_token_embeddings changes the number of tokens"
            )
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, module)

    def get_output_embeddings(self) -> Any:
        """The layer that computes the logits of tokens; in an encoder-decoder model the decoder's.

        If it is tied, these are the input embeddings. None if the model predicts no tokens.
        """
        tables = word_embeddings(type(self))
        if tables is None or tables.output is None:
            return None
        found = dict(self._submodules()).get(tables.output)
        if isinstance(found, EmbeddingsMixin):
            return found.get_output_embeddings()
        return self.get_input_embeddings() if found is None else found

    def resize_token_embeddings(self, new_size: int, *, seed: int = 0) -> Any:
        """Changes the size of the vocabulary; the config and tied layers follow.

        Word embeddings, output layers and their biases keep their first rows. New rows are those of a new model of the
        new size with this seed, the same in both backends; biases start as in a new model. Create the optimizer
        after this, since parameters are replaced.

        Args:
            new_size: the number of tokens, `config.vocab_size` afterwards; in a model with additional embeddings their
                number changes instead, so that no token becomes another one.
            seed: keys the new rows.

        Returns:
            The input embeddings.

        Raises:
            InputError: the size is not positive, or the model takes no token ids, has two vocabularies, or is part of a
                model that would not follow.
            ConfigError: the config does not allow the size, for example if RoBERTa's pad token would lie outside.
            CheckpointError: the model has no values.
        """
        caller = f"{type(self).__name__}.resize_token_embeddings"
        if self._input_table("resize_token_embeddings")[1] is None:
            models: dict[str, Any] = {name: getattr(self, name) for name in self._part_names}
            parts = (name for name, part in models.items() if word_embeddings(part.__class__) is not None)
            named = " or ".join(f"model.{name}.resize_token_embeddings" for name in parts)
            raise InputError(f"{caller}: the parts have vocabularies of their own; call {named}")
        if self._part_of is not None:
            raise InputError(
                f"{caller}: the model is part of a {self._part_of}; call the method of that model, so that both follow"
            )
        if isinstance(new_size, bool) or not isinstance(new_size, Integral) or int(new_size) < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"{caller}: new_size={new_size!r}, but a whole number of at least 1 is needed")
        self._resize(caller, int(new_size), seed)
        return self.get_input_embeddings()

    def _input_table(self, method: str) -> tuple["EmbeddingsMixin", str | None]:
        """The model that owns the input embeddings, and their path in it; None if the model is a part."""
        tables = word_embeddings(type(self))
        modules = dict(self._submodules())
        found = [] if tables is None else [path for path in tables.inputs if modules.get(path) is not None]
        if not found:
            raise InputError(f"{type(self).__name__}.{method}: the model reads no tokens, so it has no word embeddings")
        module = modules[found[0]]
        return (module, None) if isinstance(module, EmbeddingsMixin) else (self, found[0])

    def _resize(self, caller: str, new_size: int, seed: int) -> None:
        tables = cast(WordEmbeddings, word_embeddings(type(self)))
        config = self.config
        if tables.config is None:
            config = config.with_vocabulary(new_size)
        else:
            config = config.replace(**{tables.config: getattr(config, tables.config).with_vocabulary(new_size)})
        if config == self.config:
            return
        # a model of the new size shows which parameters have a vocabulary axis, and has the new rows
        leaves = {slot.path: (slot, leaf) for slot, leaf in self._leaves().items()}
        dtype = self._dtype_name(next(iter(leaves.values()))[1])
        model = self._siblings()(describe_class(type(self))[0])(config, seed=None, dtype=dtype)
        resized = {
            slot: leaf
            for slot, leaf in model._leaves().items()
            if slot.path in leaves and slot.shape != leaves[slot.path][0].shape
        }
        modules = dict(self._submodules())
        self._check_tables(caller, tables, {slot.path for slot in resized}, modules)
        values = {slot: _first_rows(self._source(*leaves[slot.path]).read(), slot.shape) for slot in resized}
        if any(array.shape != slot.shape for slot, array in values.items()):
            model._draw(resized, seed, None)
            drawn = {slot: model._source(slot, leaf).read() for slot, leaf in resized.items()}
            values = {slot: _with_last_rows(array, drawn[slot]) for slot, array in values.items()}
        sizes = dict(model._submodules())
        for slot, array in values.items():
            leaf = leaves[slot.path][1]
            stored = permute(array, self._stored_axes(slot), FLOATS[self._dtype_name(leaf)])
            self._put(slot, leaf, stored, self._placement(leaf))
            module = slot.path.rpartition(".")[0]
            for name in _SIZES:
                if hasattr(sizes[module], name):
                    setattr(modules[module], name, getattr(sizes[module], name))
        self._share_config(config)
        self._record_shapes({slot.path: slot.shape for slot in resized})

    def _check_tables(self, caller: str, tables: WordEmbeddings, resized: set[str], modules: Mapping[str, Any]) -> None:
        present = [path for path in (*tables.inputs, tables.output) if modules.get(cast(str, path)) is not None]
        wrapped = [path for path in present if not any(name.startswith(f"{path}.") for name in resized)]
        if wrapped:
            raise InputError(f"{caller}: {', '.join(map(str, wrapped))} has no weight of its own; unwrap it first")


def _first_rows(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The first rows and columns of a tensor, up to another shape."""
    return array[tuple(slice(size) for size in shape)]


def _with_last_rows(array: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A newly drawn, larger tensor with its first rows replaced by another tensor's."""
    drawn = np.array(drawn)
    drawn[tuple(slice(size) for size in array.shape)] = array
    return drawn
