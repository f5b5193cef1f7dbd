"""Adapters for one language each, stored beside a checkpoint (MMS, Pratap et al. 2023, arXiv:2305.13516)."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Self, Unpack, cast

from diptych.core.checkpoint.dialects import respell
from diptych.core.checkpoint.hub import HubOptions, split_options
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.safetensors import read_safetensors
from diptych.core.checkpoint.slots import Slot
from diptych.core.checkpoint.strips import permute
from diptych.core.checkpoint.tensors import TensorSource
from diptych.core.checkpoint.torch_legacy import read_torch
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError, InputError
from diptych.core.pretrained import PreTrained

_HEAD = "lm_head"
"""The layer that has a row for each token of the language."""


class LanguageAdapterMixin(PreTrained):
    """A model whose layers have adapters that can be exchanged, together with its head.

    `from_pretrained` takes `target_lang`, the language whose adapters are loaded from beside the checkpoint.
    """

    @classmethod
    def _load(cls, name_or_path: str | PathLike[str], *, options: Mapping[str, Any], **loading: Any) -> Self:
        """As `from_pretrained` of any model, and with `target_lang` among the options the adapters of that language."""
        options = dict(options)
        language = options.pop("target_lang", None)
        model = super()._load(name_or_path, options=options, **loading)
        return model if language is None else model.load_adapter(language, name_or_path, **split_options(options)[0])

    def load_adapter(
        self, language: str, name_or_path: str | PathLike[str] | None = None, **options: Unpack[HubOptions]
    ) -> Self:
        """Replaces the adapters and the head by those of a language; `config.vocab_size` follows.

        Create the optimizer after this, since parameters are replaced. The vocabulary of the
        language is that of its key in vocab.json.

        Args:
            language: as in the file's name, `adapter.<language>.safetensors` or `.bin`.
            name_or_path: the directory of the file, or the checkpoint's name on the Hugging Face hub; by default the
                directory that the model was loaded from.
            options: see `HubOptions`.

        Returns:
            The model.

        Raises:
            InputError: the model has no adapters for languages, or was not loaded from a directory.
            CheckpointError: there is no such file, or its tensors do not fit; all are listed.
        """
        caller = f"{type(self).__name__}.load_adapter"
        if self.config.attention_adapter_width is None:
            raise InputError(f"{caller}: the model has no adapters for languages: its config has no adapter_attn_dim")
        directory = self.load_report.directory if name_or_path is None else name_or_path
        if not directory:
            raise InputError(f"{caller}: the model was not loaded from a directory; pass name_or_path")
        path = _find(directory, language, **options)
        tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
        slots = {slot: leaf for slot, leaf in self._leaves().items() if _belongs_to_language(slot.path)}
        matched = _match_adapters(path, tensors, slots)
        for slot, source in matched.items():
            leaf = slots[slot]
            values = permute(source.read(), self._stored_axes(slot), FLOATS[self._dtype_name(leaf)])
            self._put(replace(slot, shape=source.shape), leaf, values, self._placement(leaf))
        head = {slot.path: source.shape for slot, source in matched.items() if slot.path.startswith(f"{_HEAD}.")}
        size = head[f"{_HEAD}.bias"][0]
        cast(Any, self).lm_head.out_features = size
        self._share_config(self.config.replace(vocab_size=size))
        self._record_shapes(head)
        return self


def _belongs_to_language(path: str) -> bool:
    return ".adapter_layer." in path or path.startswith(f"{_HEAD}.")


def _find(name_or_path: str | PathLike[str], language: str, **options: Unpack[HubOptions]) -> Path:
    """The file of a language."""
    names = [f"adapter.{language}.{suffix}" for suffix in ("safetensors", "bin")]
    directory = locate(name_or_path, only=tuple(names), **options)
    found = next((directory / name for name in names if (directory / name).is_file()), None)
    if found is None:
        known = sorted({path.name.split(".")[1] for path in directory.glob("adapter.*.*")})
        raise CheckpointError(
            f"{directory}: no {' or '.join(names)}; languages here: {', '.join(known) or 'none'}. Files on the hub are "
            "found by the checkpoint's name, as name_or_path"
        )
    return found


def _match_adapters(
    path: Path, tensors: Mapping[str, TensorSource], slots: Mapping[Slot, Any]
) -> dict[Slot, TensorSource]:
    """The tensor of each slot; only the number of rows of the head may differ.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshapen; all are listed.
    """
    named = {respell(name): source for name, source in tensors.items()}
    paths = {slot.path: slot for slot in slots}
    head = {f"{_HEAD}.weight", f"{_HEAD}.bias"}
    rows = {named[name].shape[0] for name in head & named.keys()}
    misshapen = [
        f"{name} has shape {source.shape}, not {paths[name].shape}"
        for name, source in named.items()
        if name in paths and source.shape != paths[name].shape
        if name not in head or source.shape[1:] != paths[name].shape[1:] or len(rows) > 1
    ]
    problems = {
        "missing": [name for name in paths if name not in named],
        "unexpected": [name for name in named if name not in paths],
        "of another shape": misshapen,
    }
    if any(problems.values()):
        listed = ". ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise CheckpointError(f"{path}: the tensors do not fit the model's adapters. {listed}")
    return {slot: named[slot.path] for slot in slots}
