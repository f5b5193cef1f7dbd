"""Text generation from a checkpoint and its tokenizer: what `diptych generate` prints."""

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core import backends, check
from diptych.core.checkpoint.hub import split_options
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.core.interfaces import Tokenizer
from diptych.text.placement import loading_keywords
from diptych.text.tokenizer_settings import MissingTokenizerError
from diptych.text.tokenizers import load_tokenizer
from diptych.text.writing import Text, Writer, as_rows, ends_of, language_id, load_writer, tokens_of


def generate_text(
    directory: str | os.PathLike[str],
    prompts: Sequence[str | Sequence[int]],
    *,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    sharding: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    compile: bool = False,
    echo: bool = False,
    show: Callable[[str], None] | None = None,
    as_json: bool = False,
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    **options: Any,
) -> list[Text]:
    """Loads a checkpoint and generates text that continues prompts, or from prompts as the encoder's input.

    Prompts of several lengths become one batch, padded on the left for a decoder and on the right for an encoder.

    Args:
        directory: the checkpoint's, or a name on the Hugging Face hub.
        prompts: texts, for the checkpoint's tokenizer, which may add special tokens; or ids, used unchanged.
        backend: jax or torch; by default that of `diptych.use` or DIPTYCH_BACKEND, or else the installed one, torch if
            both are. The tokens are the same.
        dtype: of the parameters; by default the file's.
        device, sharding: where the parameters go; see `placement`.
        changes: fields of the config and keywords of the model's constructor, as for `from_pretrained`.
        seed: of do_sample's random choices.
        batch_size: the number of prompts that are generated from at once; by default all. Random choices of do_sample
            depend on it.
        source_language, target_language: codes such as "de_DE", for the tokenizers of MBart; by default those of the
            checkpoint.
        compile: whether torch compiles the decoding step; JAX always does.
        echo: whether to include the tokens before the new ones: the prompt, or the decoder's start token.
        show: receives the output to print, with a line break after each text: piece by piece during generation for a
            single text without beams, otherwise after each batch.
        as_json: whether it receives a line of JSON for each text instead.
        ignore, ignore_config: tensors of the file and fields of its config to skip.
        options: any of `GenerationConfig`, which take precedence over the checkpoint's; and `HubOptions`.

    Returns:
        The texts of all prompts, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model does not generate text.
        CheckpointError, ConfigError: the checkpoint cannot be loaded, or has no tokenizer for given texts.
        ImportError: texts are given, and tokenizers is not installed.
    """
    chosen = backends.choose("result", backend, argument="generate: backend")
    hub, options = split_options(options)
    directory = locate(directory, **hub)
    check.counts("generate", batch_size=batch_size)
    given = as_rows(prompts, of="ids")
    needed = target_language is not None or any(isinstance(prompt, str) for prompt in given)
    tokenizer = _tokenizer(directory, source_language, needed=needed)
    rows = [
        _ids_of(prompt) if tokenizer is None or not isinstance(prompt, str) else tokens_of(tokenizer, prompt)
        for prompt in given
    ]
    empty = [str(number) for number, row in enumerate(rows, 1) if not row]
    if empty:
        raise InputError(f"generate: prompt {', '.join(empty)} has no tokens")
    if target_language is not None and tokenizer is not None:
        options["forced_bos_token_id"] = language_id(tokenizer, target_language, "target_language")
    kept = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    loading = loading_keywords(chosen, hub, device, sharding, changes, **kept)
    model = load_writer(chosen, directory, "input_ids", loading)
    options["pad_token_id"] = _padding_id(model, rows, options)
    writer = Writer(model, tokenizer, options, compile=compile, echo=echo, show=show, as_json=as_json)
    has_encoder, size = bool(model.encoder_inputs), batch_size or len(rows)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    inputs = [_batch(batch, options["pad_token_id"] or 0, left=not has_encoder) for batch in batches]
    if len(batches) > 1:
        for batch in inputs:  # before a text is shown
            writer.check(batch)
    texts: list[Text] = []
    for start, batch, prompts in zip(range(0, len(rows), size), inputs, batches, strict=True):
        known = [()] * len(prompts) if has_encoder else prompts
        numbers = range(start + 1, start + len(prompts) + 1)
        texts += writer.write(batch, known, seed + start, live=len(rows) == 1, numbers=numbers)
    return texts


def _ids_of(prompt: Iterable[Any]) -> list[int]:
    """The ids of a prompt.

    Raises:
        InputError: they are not whole numbers.
    """
    try:
        return [operator.index(token) for token in prompt]
    except TypeError as error:
        raise InputError(f"generate: a prompt must be a text or a list of whole numbers ({error})") from None


def _padding_id(model: Any, rows: Sequence[Sequence[int]], options: Mapping[str, Any]) -> int | None:
    """The id of padding, which prompts of several lengths need; by default that of the end of a text."""
    asked = model.generation_config.resolve(**options)
    if asked.pad_token_id is not None or len({len(row) for row in rows}) == 1:
        return asked.pad_token_id
    ends = ends_of(asked.eos_token_id)
    if not ends:
        raise InputError("generate: prompts of several lengths are padded; pad_token_id or eos_token_id is needed")
    return ends[0]


def _tokenizer(directory: Path, source_language: str | None, *, needed: bool) -> Tokenizer | None:
    """The tokenizer of a directory; None if it is not needed, and files or the tokenizers library are missing."""
    try:
        return load_tokenizer(directory, source_language=source_language)
    except (MissingTokenizerError, ImportError):
        if needed:
            raise
        return None


def _batch(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> dict[str, list[list[int]]]:
    """A model's inputs: prompts as rows of one length, and their mask."""
    width = max(map(len, rows))
    ids: list[list[int]] = []
    mask: list[list[int]] = []
    for row in rows:
        padding, ones, zeros = [pad] * (width - len(row)), [1] * len(row), [0] * (width - len(row))
        ids.append([*padding, *row] if left else [*row, *padding])
        mask.append([*zeros, *ones] if left else [*ones, *zeros])
    return {"input_ids": ids, "attention_mask": mask}
