"""Text generation from a checkpoint and its tokenizer: what `diptych generate` prints."""

import importlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.core import backends
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.core.interfaces import Tokenizer
from diptych.text.placement import placement
from diptych.text.tokenizers import MissingTokenizerError, load_tokenizer


@dataclass(frozen=True)
class Text:
    """A generated text.

    Attributes:
        ids: without padding, up to the end-of-sequence token.
        text: the decoded ids, without special tokens; None if there is no tokenizer.
        score: of a beam search: the summed log-probabilities, with the length penalty applied; None without beams.
    """

    ids: tuple[int, ...]
    text: str | None
    score: float | None

    def __str__(self) -> str:
        return _join(self.ids) if self.text is None else self.text

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self), ensure_ascii=False)


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
        options: any of `GenerationConfig`; they take precedence over the checkpoint's.

    Returns:
        The texts of all prompts, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model does not generate text.
        CheckpointError, ConfigError: the checkpoint cannot be loaded, or has no tokenizer for given texts.
        ImportError: texts are given, and tokenizers is not installed.
    """
    chosen = backends.choose("result", backend, argument="generate: backend")
    directory = locate(directory)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"generate: batch_size={batch_size} must be 1 or more")
    needed = target_language is not None or any(isinstance(prompt, str) for prompt in prompts)
    tokenizer = _tokenizer(directory, source_language, needed=needed)
    rows = [_tokens(tokenizer, prompt) for prompt in prompts]
    empty = [str(number) for number, row in enumerate(rows, 1) if not row]
    if empty or not rows:
        raise InputError(f"generate: prompt {', '.join(empty) or 1} has no tokens")
    if target_language is not None and tokenizer is not None:
        options["forced_bos_token_id"] = _language_id(tokenizer, target_language)
    loading = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    model = _load(chosen, directory, {**(changes or {}), **loading, **placement(chosen, device, sharding)})
    options["pad_token_id"] = _padding(model, rows, options)
    writer = _Writer(model, tokenizer, options, compile=compile, echo=echo, show=show, as_json=as_json)
    size, texts = batch_size or len(rows), list[Text]()
    for start in range(0, len(rows), size):
        live = len(rows) == 1
        texts += writer.write(rows[start : start + size], seed + start, live=live)
    return texts


def _load(backend: str, directory: Path, options: Mapping[str, Any]) -> Any:
    """The model of a directory.

    Raises:
        InputError: its class does not write text, or reads none.
    """
    name = architecture_of(directory, options["ignore_config"])
    model_class = getattr(importlib.import_module(f"diptych.backends.{backend}"), name)
    if not hasattr(model_class, "generate"):
        raise InputError(f"{directory}: {name} writes no texts; a class with a language model's head is needed")
    model = model_class.from_pretrained(directory, **options)
    if "input_ids" not in [one.name for one in model.encoder_inputs or model.prompt_inputs]:
        raise InputError(f"{directory}: {name} reads no text, so it cannot start from prompts")
    return model


def _padding(model: Any, rows: Sequence[Sequence[int]], options: Mapping[str, Any]) -> int | None:
    """The id of padding, which prompts of several lengths need; by default that of the end of a text."""
    asked = model.generation_config.resolve(**options)
    if asked.pad_token_id is not None or len({len(row) for row in rows}) == 1:
        return asked.pad_token_id
    ends = _ends(asked.eos_token_id)
    if not ends:
        raise InputError("generate: prompts of several lengths are padded; pad_token_id or eos_token_id is needed")
    return ends[0]


def _ends(eos: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return eos if isinstance(eos, tuple) else () if eos is None else (eos,)


@dataclass(frozen=True)
class _Writer:
    """Generates texts from batches of prompts; the fields are as in `generate_text`."""

    model: Any
    tokenizer: Tokenizer | None
    options: Mapping[str, Any]
    _: KW_ONLY
    compile: bool
    echo: bool
    show: Callable[[str], None] | None
    as_json: bool

    def write(self, rows: Sequence[Sequence[int]], seed: int, *, live: bool) -> list[Text]:
        """The texts of a batch of prompts; a single text is shown as it is generated if asked for."""
        asked = self.model.generation_config.resolve(**self.options)
        has_encoder, ends = bool(self.model.encoder_inputs), _ends(asked.eos_token_id)
        ids, mask = _batch(rows, asked.pad_token_id or 0, left=not has_encoder)
        printer = None
        if live and self.show is not None and not self.as_json and asked.num_beams == asked.num_return_sequences == 1:
            printer = _Printer(self.decode, self.show, self.echo)
        switches = {"seed": seed, "streamer": printer, "compile": self.compile, "tokenizer": self.tokenizer}
        output = self.model.generate(ids, attention_mask=mask, **switches, **self.options)
        start = 1 if has_encoder else len(ids[0])
        scores = None if output.sequences_scores is None else output.sequences_scores.tolist()
        texts: list[Text] = []
        for number, row in enumerate(output.sequences.tolist()):
            before = row[:1] if has_encoder else rows[number // asked.num_return_sequences]
            tokens = (*(before if self.echo else ()), *_up_to_end(row[start:], ends))
            text = None if self.tokenizer is None else self.decode(tokens)
            texts.append(Text(tokens, text, None if scores is None else scores[number]))
            if self.show is not None:
                line = texts[-1].to_json() if self.as_json else str(texts[-1])
                self.show(f"{line.removeprefix(printer.text if printer else '')}\n")
        return texts

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens, or the ids themselves if there is no tokenizer."""
        if self.tokenizer is None:
            return _join(ids)
        return self.tokenizer.decode_batch([ids], skip_special_tokens=True)[0]


class _Printer:
    """A streamer that shows the part of a text that later tokens cannot change."""

    def __init__(self, decode: Callable[[Sequence[int]], str], show: Callable[[str], None], echo: bool) -> None:
        self.decode, self.show, self.echo = decode, show, echo
        self.ids: list[int] = []
        self.text = ""

    def put(self, value: Any) -> None:
        """Takes the prompt (1, P) first, then the next token (1,)."""
        if value.ndim == 1:
            self.ids += value.tolist()
        elif self.echo:
            self.ids += value[0].tolist()
        text = self.decode(self.ids)
        # an incomplete character is decoded as U+FFFD
        if text.startswith(self.text) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self.show(text[len(self.text) :])
            self.text = text

    def end(self) -> None:
        """Does nothing: `generate_text` shows the rest."""


def _tokenizer(directory: Path, source_language: str | None, *, needed: bool) -> Tokenizer | None:
    """The tokenizer of a directory; None if it is not needed, and files or the tokenizers library are missing."""
    try:
        return load_tokenizer(directory, source_language=source_language)
    except (MissingTokenizerError, ImportError):
        if needed:
            raise
        return None


def _language_id(tokenizer: Tokenizer, language: str) -> int:
    """The id with which a text in this language begins."""
    found = tokenizer.token_to_id(language)
    if found is None:
        raise InputError(f"generate: target_language={language!r} is no token of the tokenizer; write it as in en_XX")
    return found


def _tokens(tokenizer: Tokenizer | None, prompt: str | Sequence[int]) -> list[int]:
    if not isinstance(prompt, str) or tokenizer is None:
        return [int(token) for token in prompt]
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"generate: the text {prompt!r} is not valid Unicode ({error.reason})") from None
    return list(tokenizer.encode_batch([prompt])[0].ids)


def _batch(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts as rows of one length, and their mask."""
    width = max(map(len, rows))
    ids: list[list[int]] = []
    mask: list[list[int]] = []
    for row in rows:
        padding, ones, zeros = [pad] * (width - len(row)), [1] * len(row), [0] * (width - len(row))
        ids.append([*padding, *row] if left else [*row, *padding])
        mask.append([*zeros, *ones] if left else [*ones, *zeros])
    return ids, mask


def _up_to_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first end-of-sequence token."""
    return next((tokens[:count] for count, token in enumerate(tokens, 1) if token in ends), tokens)


def _join(ids: Iterable[int]) -> str:
    return " ".join(map(str, ids))
