"""What the processors of images and of sound have in common: the tokenizer of their checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.checkpoint import companions
from diptych.core.errors import CheckpointError, InputError
from diptych.core.interfaces import Tokenizer
from diptych.text.ctc import CTCTokenizer
from diptych.text.tokenizers import (
    PaddingSide,
    SpecialTokens,
    check_text,
    load_special_tokens,
    load_tokenizer,
    refuse_panics,
)


class TextProcessor:
    """Texts to ids and back.

    Attributes:
        tokenizer: the checkpoint's; None if it has none, or tokenizers is not installed.
        directory: the checkpoint's.
    """

    def __init__(self, tokenizer: Tokenizer | None, directory: Path) -> None:
        self.tokenizer = tokenizer
        self.directory = directory

    def encode(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, padding_side: PaddingSide = "right"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, T) of texts, padded, and their mask.

        Raises:
            InputError: a text is not valid, the texts have no tokens, or several lengths but the checkpoint has no
                token for padding.
            CheckpointError: the checkpoint has no tokenizer.
        """
        for text in texts:
            check_text("processor", text)
        tokenizer = self.needed_tokenizer()
        with refuse_panics("processor"):
            found = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        rows = [list(one.ids) for one in found]
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

    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            CheckpointError: the checkpoint has none.
            ImportError: tokenizers is not installed, but needed.
        """
        if self.tokenizer is None:
            self.tokenizer = load_tokenizer(self.directory)
        return self.tokenizer

    @property
    def _special_tokens(self) -> SpecialTokens:
        return load_special_tokens(self.directory)

    def _pad_token_id(self) -> int:
        if isinstance(self.tokenizer, CTCTokenizer):
            return self.tokenizer.pad_token_id
        token = self._special_tokens.pad
        found = None if token is None else self.needed_tokenizer().token_to_id(token)
        if found is None:
            path = self.directory / "tokenizer_config.json"
            raise InputError(
                f"processor: texts of several lengths are padded, but {path} names no pad_token of the tokenizer; "
                "process them one by one"
            )
        return found

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool = False) -> list[str]:
        """The texts of sequences of ids (B, T), such as the output of `generate`.

        Raises:
            CheckpointError: the checkpoint has no tokenizer.
        """
        rows = [[int(token) for token in row] for row in sequences]
        return list(self.needed_tokenizer().decode_batch(rows, skip_special_tokens=skip_special_tokens))

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        """The text of a sequence of ids (T,); errors as for `batch_decode`."""
        return self.batch_decode([ids], skip_special_tokens=skip_special_tokens)[0]

    def _save(self, directory: str | os.PathLike[str], processor: Any) -> None:
        """Writes the config of an image or audio processor, and copies the tokenizer's files beside it.

        Raises:
            CheckpointError: the directory is a file.
            OSError: a file cannot be written.
        """
        target = Path(directory)
        if target.is_file():
            raise CheckpointError(f"{target}: is a file, but a directory is needed")
        processor.save_pretrained(target)
        files = companions.find_companions(self.directory, companions.PROCESSING)
        companions.copy_companions([path for path in files if "processor_config" not in path.name], target)
