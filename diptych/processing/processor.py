"""A processor of images, of texts, and of both."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.core.checkpoint import companions
from diptych.core.errors import CheckpointError, InputError
from diptych.core.interfaces import Tokenizer
from diptych.core.processing.features import Features, Tensors
from diptych.core.processing.image_processor import ImageProcessor
from diptych.text.tokenizers import SpecialTokens, check_text, load_special_tokens, load_tokenizer

Side = Literal["left", "right"]

_WRITES_LABELS = ("TrOCRProcessor", "DonutProcessor", "NougatProcessor")
"""Processors whose text, beside images, is what the model is to write."""


class Processor:
    """Images to `pixel_values`, and texts to ids and back, called as the processors of transformers are.

    Attributes:
        image_processor: for images.
        tokenizer: a `tokenizers.Tokenizer`; None if the checkpoint has none, or tokenizers is not installed.
    """

    def __init__(self, image_processor: ImageProcessor, tokenizer: Tokenizer | None, directory: Path) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.directory = directory

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, {self.image_processor!r})"

    @property
    def model_input_names(self) -> tuple[str, ...]:
        """The names of what a call may return."""
        words = () if self.tokenizer is None else ("input_ids", "attention_mask")
        return (*self.image_processor.model_input_names, *words)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: Tensors | None = None,
        add_special_tokens: bool | None = None,
        **options: Any,
    ) -> Features:
        """The inputs of a model for images, texts or both.

        Args:
            images: an image, or a list of images; see `ImageProcessor.preprocess`.
            text: a text, or a list of texts, padded on the right to one length.
            return_tensors: "np", "pt" or "jax"; by default numpy.
            add_special_tokens: whether the tokenizer adds its special tokens; by default it does, except to what
                Donut's model is to write.
            options: of the images, see `ImageProcessor.preprocess`.

        Returns:
            `pixel_values`; `input_ids` and `attention_mask`; of a processor of TrOCR, Donut or Nougat for both, the ids
            as `labels`.

        Raises:
            InputError: neither is given; images cannot be read; a text is not valid; or there is no padding token.
            CheckpointError: a text is given, but the checkpoint has no tokenizer.
            ImportError: Pillow or the framework of `return_tensors` is not installed.
        """
        if images is None and text is None:
            raise InputError("processor: images or text is needed, got neither")
        found = Features() if images is None else self.image_processor(images, **options)
        name = self.image_processor.config.housekeeping.get("processor_class")
        if text is not None:
            writes = images is not None and name in _WRITES_LABELS
            if add_special_tokens is None:
                add_special_tokens = not (writes and name == "DonutProcessor")
            ids, mask = self._encode([text] if isinstance(text, str) else list(text), add_special_tokens)
            found |= {"labels": ids} if writes else {"input_ids": ids, "attention_mask": mask}
        return found.to_tensors(return_tensors)

    def _encode(
        self, texts: list[str], add_special_tokens: bool, padding_side: Side = "right"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, T) of texts, padded, and their mask."""
        for text in texts:
            check_text("processor", text)
        rows = [
            list(one.ids) for one in self._needed_tokenizer().encode_batch(texts, add_special_tokens=add_special_tokens)
        ]
        width = max(map(len, rows), default=0)
        if width == 0:
            raise InputError("processor: the texts have no tokens")
        pad = self._pad_token_id() if any(len(row) < width for row in rows) else 0
        ids = np.full((len(rows), width), pad, np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            place = slice(0, len(row)) if padding_side == "right" else slice(width - len(row), width)
            ids[index, place], mask[index, place] = row, 1
        return ids, mask

    def _needed_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            self.tokenizer = load_tokenizer(self.directory)
        return self.tokenizer

    @property
    def _special_tokens(self) -> SpecialTokens:
        return load_special_tokens(self.directory)

    def _pad_token_id(self) -> int:
        token = self._special_tokens.pad
        found = None if token is None else self._needed_tokenizer().token_to_id(token)
        if found is None:
            raise InputError(
                f"processor: texts of several lengths are padded, but {self.directory / 'tokenizer_config.json'} names "
                "no pad_token of the tokenizer; process them one by one"
            )
        return found

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool = False) -> list[str]:
        """The texts of sequences of ids (B, T), such as the output of `generate`.

        Raises:
            CheckpointError: the checkpoint has no tokenizer.
        """
        rows = [[int(token) for token in row] for row in sequences]
        return list(self._needed_tokenizer().decode_batch(rows, skip_special_tokens=skip_special_tokens))

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        """The text of a sequence of ids (T,); errors as for `batch_decode`."""
        return self.batch_decode([ids], skip_special_tokens=skip_special_tokens)[0]

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, and copies the tokenizer's files beside it.

        Raises:
            CheckpointError: the directory is a file.
            OSError: a file cannot be written.
        """
        target = Path(directory)
        if target.is_file():
            raise CheckpointError(f"{target}: is a file, but a directory is needed")
        self.image_processor.save_pretrained(target)
        files = companions.find_companions(self.directory, companions.PROCESSING)
        companions.copy_companions([path for path in files if "processor_config" not in path.name], target)
