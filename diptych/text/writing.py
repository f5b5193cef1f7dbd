"""Texts that a model writes, for a batch of prompts: generated, decoded, and shown as they come."""

import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.core.checkpoint.loading import architecture_of
from diptych.core.errors import InputError
from diptych.core.interfaces import Tokenizer
from diptych.core.pretrained import generates_text
from diptych.text.tokenizers import check_text, refuse_panics


@dataclass(frozen=True)
class Text:
    """A generated text.

    Attributes:
        ids: without padding, up to the end-of-sequence token.
        text: the decoded ids, without special tokens; None if there is no tokenizer.
        score: of a beam search: the summed log-probabilities, with the length penalty applied; None without beams.
        prompt: the number of its prompt among those that were given, from 1; None if an image or a recording was read.
        image: the path of the image that was read; None if it was no image.
    """

    ids: tuple[int, ...]
    text: str | None
    score: float | None
    prompt: int | None = None
    image: str | None = None

    def __str__(self) -> str:
        return join(self.ids) if self.text is None else self.text

    def to_json(self) -> str:
        """One JSON object on one line, which begins with the prompt or the image."""
        fields = asdict(self)
        origin = {name: fields.pop(name) for name in ("prompt", "image")}
        given = {name: value for name, value in origin.items() if value is not None}
        return json.dumps({**given, **fields}, ensure_ascii=False)


_READ = {
    "input_ids": "text, so it cannot start from prompts",
    "pixel_values": "images",
    "input_values": "sound",
}
"""What a model without an input does not read."""


def continues_images(model_class: Any) -> bool:
    """Whether models of the class continue prompts in which images may stand: a decoder alone that takes pixels."""
    call = getattr(model_class, "forward", model_class.__call__)
    decodes = generates_text(model_class) and not hasattr(model_class, "encode")
    return decodes and "pixel_values" in inspect.signature(call).parameters


def as_rows(prompts: Any, *, of: str) -> list[str | list[Any]]:
    """Prompts as a list of texts and of lists.

    Args:
        prompts: what the caller gave.
        of: what a prompt that is no text is a list of.

    Raises:
        InputError: there are none, or they are not in a list.
    """
    try:
        if isinstance(prompts, str | bytes | Mapping):
            raise TypeError("one text is a sequence, too, but of characters")
        rows = [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    except TypeError:
        kind = type(prompts).__name__
        raise InputError(
            f"generate: prompts ({kind}) must be a list, also of one: of texts, or of lists of {of}"
        ) from None
    if not rows:
        raise InputError("generate: at least one prompt is needed")
    return rows


def load_writer(backend: str, directory: Path, reads: str, options: Mapping[str, Any]) -> Any:
    """The model of a directory.

    Args:
        backend: jax or torch.
        directory: the checkpoint's.
        reads: the model's input to start from: "input_ids", "pixel_values" or "input_values".
        options: keywords of `from_pretrained`.

    Raises:
        InputError: its class writes no text, or has no such input.
    """
    name = architecture_of(directory, options["ignore_config"])
    model_class = getattr(importlib.import_module(f"diptych.backends.{backend}"), name)
    if name.endswith("ForCTC"):
        raise InputError(f"{directory}: {name} reads no {_READ[reads]}; it writes texts of recordings (--audio)")
    if not generates_text(model_class):
        raise InputError(f"{directory}: {name} writes no texts; a class with a language model's head is needed")
    if reads == "input_ids" and continues_images(model_class):
        raise InputError(
            f"{directory}: {name} reads images between texts, not ids; give 'User: ![](cat.jpg) What is this?' as "
            "--text, or to diptych.images.generate_text_with_images"
        )
    model = model_class.from_pretrained(directory, **options)
    inputs = [one.name for one in model.encoder_inputs or model.prompt_inputs]
    if reads not in inputs:
        raise InputError(f"{directory}: {name} reads no {_READ[reads]}; it reads {', '.join(inputs)}")
    return model


@dataclass(frozen=True)
class Writer:
    """Generates texts with a model, batch by batch.

    Attributes:
        model: an encoder and a decoder, or a decoder alone.
        tokenizer: the model's; None if there is none.
        options: of `GenerationConfig`, as `generate` takes them.
        compile, echo, show, as_json: as for `generate_text`.
        names_images: whether each text is shown after the path of its image.
    """

    model: Any
    tokenizer: Tokenizer | None
    options: Mapping[str, Any]
    _: KW_ONLY
    compile: bool
    echo: bool
    show: Callable[[str], None] | None
    as_json: bool
    names_images: bool = False

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raises the error that `write` would raise for these inputs and the options; generates nothing."""
        self.model._check_generation({**inputs, **self.options}, tokenizer=self.tokenizer)

    def write(
        self,
        inputs: Mapping[str, Any],
        prompts: Sequence[Sequence[int]],
        seed: int,
        *,
        live: bool,
        numbers: Sequence[int] | None = None,
        images: Sequence[str] | None = None,
    ) -> list[Text]:
        """The texts of a batch.

        Args:
            inputs: the model's, by keyword.
            prompts: the ids that the decoder continues, without padding; of one with an encoder, none for its start
                token alone.
            seed: of the random choices.
            live: whether a single text may be shown while its tokens are generated.
            numbers: those of the prompts, for `Text`.
            images: the paths of the images that are read.
        """
        asked = self.model.generation_config.resolve(**self.options)
        ends = ends_of(asked.eos_token_id)
        printer = None
        if live and self.show is not None and not self.as_json and asked.num_beams == asked.num_return_sequences == 1:
            printer = _Printer(self.decode, self.show, self.echo)
        switches = {"seed": seed, "streamer": printer, "compile": self.compile, "tokenizer": self.tokenizer}
        output = self.model.generate(**inputs, **switches, **self.options)
        scores = None if output.sequences_scores is None else output.sequences_scores.tolist()
        texts: list[Text] = []
        for number, row in enumerate(output.sequences.tolist()):
            origin: int = number // asked.num_return_sequences
            before, new = self._split(row, prompts[origin], max(map(len, prompts)))
            tokens = (*(before if self.echo else ()), *_up_to_end(new, ends))
            text = None if self.tokenizer is None else self.decode(tokens)
            score = None if scores is None else scores[number]
            from_prompt = None if numbers is None else numbers[origin]
            from_image = None if images is None else images[origin]
            texts.append(Text(tokens, text, score, prompt=from_prompt, image=from_image))
            if self.show is not None:
                line = self._line(texts[-1])
                self.show(f"{line.removeprefix(printer.text if printer else '')}\n")
        return texts

    def _split(self, row: list[int], prompt: Sequence[int], width: int) -> tuple[Sequence[int], list[int]]:
        """A sequence of ids as those that were given, without padding, and the new ones."""
        if not self.model.encoder_inputs:
            return prompt, row[width:]
        # a decoder with an encoder begins with its start token, unless the prompt takes its place
        width = len(prompt) if prompt and row[: len(prompt)] == list(prompt) else len(prompt) + 1
        return row[:width], row[width:]

    def _line(self, text: Text) -> str:
        if self.as_json:
            return text.to_json()
        return f"{text.image}: {text}" if self.names_images else str(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens, or the ids themselves if there is no tokenizer."""
        if self.tokenizer is None:
            return join(ids)
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
        """Does nothing: `Writer.write` shows the rest."""


def ends_of(eos: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The ids that end a text."""
    return eos if isinstance(eos, tuple) else () if eos is None else (eos,)


def tokens_of(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """The ids of a text.

    Raises:
        InputError: it is not valid Unicode.
        CheckpointError: the tokenizer fails, as with a pattern that takes too long.
    """
    check_text("generate", text)
    with refuse_panics("generate"):
        return list(tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids)


def language_id(tokenizer: Tokenizer, language: str, argument: str) -> int:
    """The id with which a text in this language begins.

    Raises:
        InputError: the tokenizer has no such token; `argument` is what the language was passed as.
    """
    found = tokenizer.token_to_id(language)
    if found is None:
        raise InputError(
            f"generate: {argument}={language!r} is no token of the tokenizer, but a code that it knows is needed, "
            "such as MBart's en_XX"
        )
    return found


def _up_to_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first end-of-sequence token."""
    return next((tokens[:count] for count, token in enumerate(tokens, 1) if token in ends), tokens)


def join(ids: Iterable[int]) -> str:
    """Ids as text, in place of a text."""
    return " ".join(map(str, ids))
