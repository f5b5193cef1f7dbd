"""Text generation from a checkpoint and its tokenizer: what `diptych generate` prints."""

import importlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.core import backends
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.core.interfaces import Tokenizer
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
    seed: int = 0,
    compile: bool = False,
    echo: bool = False,
    show: Callable[[str], None] | None = None,
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
        seed: of do_sample's random choices.
        compile: whether torch compiles the decoding step; JAX always does.
        echo: whether to include the tokens before the new ones: the prompt, or the decoder's start token.
        show: receives the output to print, with a line break after each text: piece by piece during generation for a
            single text without beams, otherwise at the end.
        ignore, ignore_config: tensors of the file and fields of its config to skip.
        options: any of `GenerationConfig`; they take precedence over the checkpoint's.

    Returns:
        The texts of all prompts, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model does not generate text.
        CheckpointError, ConfigError: the checkpoint cannot be loaded, or has no tokenizer for given texts.
        ImportError: texts are given, and tokenizers is not installed.
    """
    module = _backend(backend)
    directory = locate(directory)
    tokenizer = _tokenizer(directory, needed=any(isinstance(prompt, str) for prompt in prompts))
    rows = [_tokens(tokenizer, prompt) for prompt in prompts]
    empty = [str(number) for number, row in enumerate(rows, 1) if not row]
    if empty or not rows:
        raise InputError(f"generate: prompt {', '.join(empty) or 1} has no tokens")
    name = architecture_of(directory, ignore_config)
    model_class = getattr(module, name)
    if not hasattr(model_class, "generate"):
        raise InputError(f"{directory}: {name} writes no texts; a class with a language model's head is needed")
    model = model_class.from_pretrained(directory, dtype=dtype, ignore=ignore, ignore_config=ignore_config)
    has_encoder = bool(model.encoder_inputs)
    if "input_ids" not in [one.name for one in model.encoder_inputs or model.prompt_inputs]:
        raise InputError(f"{directory}: {name} reads no text, so it cannot start from prompts")
    asked = model.generation_config.resolve(**options)
    eos, pad = asked.eos_token_id, asked.pad_token_id
    ends = eos if isinstance(eos, tuple) else () if eos is None else (eos,)
    if pad is None and len({len(row) for row in rows}) > 1:
        if not ends:
            raise InputError("generate: prompts of several lengths are padded; pad_token_id or eos_token_id is needed")
        pad = options["pad_token_id"] = ends[0]
    ids, mask = _batch(rows, pad or 0, left=not has_encoder)

    def decode(ids: Sequence[int]) -> str:
        return _join(ids) if tokenizer is None else tokenizer.decode_batch([ids], skip_special_tokens=True)[0]

    live = show is not None and len(rows) == asked.num_beams == asked.num_return_sequences == 1
    printer = _Printer(decode, show, echo) if show is not None and live else None
    output = model.generate(ids, attention_mask=mask, seed=seed, streamer=printer, compile=compile, **options)
    start = 1 if has_encoder else len(ids[0])
    scores = None if output.sequences_scores is None else output.sequences_scores.tolist()
    texts: list[Text] = []
    for number, row in enumerate(output.sequences.tolist()):
        before = row[:1] if has_encoder else rows[number // asked.num_return_sequences]
        tokens = (*(before if echo else ()), *_up_to_end(row[start:], ends))
        text = None if tokenizer is None else decode(tokens)
        texts.append(Text(tokens, text, None if scores is None else scores[number]))
        if show is not None:
            show(f"{str(texts[-1]).removeprefix(printer.text if printer else '')}\n")
    return texts


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


def _backend(name: str | None) -> Any:
    chosen = backends.choose("result", name, argument="generate: backend")
    return importlib.import_module(f"diptych.backends.{chosen}")


def _tokenizer(directory: Path, *, needed: bool) -> Tokenizer | None:
    """The tokenizer of a directory; None if it is not needed, and files or the tokenizers library are missing."""
    try:
        return load_tokenizer(directory)
    except (MissingTokenizerError, ImportError):
        if needed:
            raise
        return None


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
