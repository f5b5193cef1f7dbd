"""The small files of a checkpoint besides its config and weights: tokenizer, processor, adapters of languages."""

import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from diptych.core.checkpoint.files import path_in_errors, require_inside

PROCESSING = (
    "tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "processor_config.json", "chat_template*", "*.jinja",
)  # fmt: skip
"""Patterns of the files of tokenizers and processors."""
ALL = ("*.json", "*.txt", "*.md", "LICENSE*", "NOTICE*", *PROCESSING)
"""Patterns of every small file: also settings of generation, the model card and the licence."""
ADAPTERS = ("adapter.*.safetensors", "adapter.*.bin")
"""Patterns of adapters for one language each; a hub repository may have a thousand, which are downloaded one by one."""
MANIFEST = "diptych_manifest.json"
"""What a conversion wrote, and from what; it belongs to the weights beside it."""
KNOWN = (
    "config.json", MANIFEST, "generation_config.json", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE",
    "NOTICE.md", "NOTICE.txt",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "vocab.bpe", "merges.txt",
    "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "processor_config.json", "chat_template.json", "chat_template.jinja",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "data_config.json",
)  # fmt: skip
"""The names that files of published checkpoints have besides weights; the last line is sentence-transformers'."""
NEVER = ("config.json", MANIFEST, "*.index.json", "*.index.*.json", "*.safetensors", "*.msgpack", "*.bin", "*.h5")
"""Patterns of files that are no companions, although one of the others may match."""


def find_companions(directory: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a directory that match a pattern, by name.

    Raises:
        CheckpointError: one is a link to a file outside of the directory, which would be copied.
    """
    chosen = tuple(patterns)
    found = [
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and is_companion(path.name, chosen)
        if is_companion(path.name, ADAPTERS) or not is_companion(path.name, NEVER)
    ]
    for path in found:
        require_inside(path.name, directory)
    return found


def is_companion(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file's name matches a pattern."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def copy_companions(files: Iterable[Path], target: Path) -> None:
    """Copies files into a directory, unless they are there already."""
    for path in files:
        copy = target / path.name
        if copy.exists() and copy.samefile(path):
            continue
        with path_in_errors(copy):
            shutil.copyfile(path, copy)
