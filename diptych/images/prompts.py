"""Texts that continue prompts in which images stand between texts, as IDEFICS reads them."""

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from diptych.core import backends, check
from diptych.core.checkpoint.hub import HubOptions, split_options
from diptych.core.checkpoint.loading import architecture_of
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.core.processing.features import Features
from diptych.core.processing.paths import is_url
from diptych.processing import load_processor
from diptych.text.files import OnError
from diptych.text.placement import loading_keywords
from diptych.text.writing import Text, Writer, as_rows, continues_images, load_writer

_IMAGE = re.compile(r"(?<!\\)!\[[^\[\]]*\]\((?:<([^<>\n]*)>|([^()<>\n]*))\)")
"""An image in Markdown, ![description](path) or ![description](<path>)."""


def reads_images_in_prompts(
    directory: str | os.PathLike[str],
    backend: str | None = None,
    ignore_config: Iterable[str] = (),
    **options: Unpack[HubOptions],
) -> bool:
    """Whether a checkpoint's model continues prompts in which images may stand.

    Raises:
        CheckpointError, ConfigError: there is no such checkpoint, or its config is not known.
    """
    chosen = backends.choose("result", backend, argument="generate: backend")
    name = architecture_of(directory, tuple(ignore_config), **options)
    return continues_images(getattr(importlib.import_module(f"diptych.backends.{chosen}"), name))


def parse_prompt(text: str) -> list[str | Path]:
    """The texts and the paths of the images of a prompt in Markdown: `User: ![](cat.jpg) What is this?`.

    A path with parentheses stands between angle brackets, `![](<cat (1).jpg>)`; `\\![` is no image. A URL stays a
    string, which the processor refuses.

    Raises:
        InputError: an image has no path.
    """
    parts: list[str | Path] = []
    end = 0
    for match in _IMAGE.finditer(text):
        path = (match[1] if match[2] is None else match[2]).strip()
        if not path:
            raise InputError(f"{match[0]} names no image; write its path, as in ![](cat.jpg), or \\![ for a text")
        parts += [text[end : match.start()], path if is_url(path) else Path(path)]
        end = match.end()
    parts.append(text[end:])
    return [part.replace("\\![", "![") if isinstance(part, str) else part for part in parts if part != ""]


def generate_text_with_images(
    directory: str | os.PathLike[str],
    prompts: Sequence[str | Sequence[Any]],
    *,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    sharding: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    compile: bool = False,
    echo: bool = False,
    show: Callable[[str], None] | None = None,
    as_json: bool = False,
    on_error: OnError | None = None,
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    **options: Any,
) -> list[Text]:
    """Loads a checkpoint with its processor, and generates text that continues prompts of texts and images.

    Args:
        directory: the checkpoint's, or a name on the Hugging Face hub.
        prompts: each a text with its images in Markdown, see `parse_prompt`; or a list of texts and images, as an
            `IdeficsProcessor` takes it.
        on_error: receives the errors of prompts that cannot be read, which are left out; by default the first is
            raised.
        backend, dtype, device, sharding, changes, seed, batch_size, compile, echo, show, as_json, ignore,
            ignore_config, options: as for `generate_text`; unknown fields of preprocessor_config.json are skipped by
            `ignore_config` too.

    Returns:
        The texts of all prompts that can be read, in their order.

    Raises:
        InputError: an argument does not fit the model, an image or a prompt cannot be read, or the model reads no
            images.
        CheckpointError, ConfigError: the checkpoint, its processor or its tokenizer cannot be loaded.
        ImportError: Pillow or tokenizers is not installed.
    """
    chosen = backends.choose("result", backend, argument="generate: backend")
    check.counts("generate", batch_size=batch_size)
    prompts = as_rows(prompts, of="texts and images")
    hub, options = split_options(options)
    directory, ignore_config = locate(directory, **hub), tuple(ignore_config)
    processor = load_processor(directory, ignore_config=ignore_config)
    kept = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    loading = loading_keywords(chosen, hub, device, sharding, changes, **kept)
    model = load_writer(chosen, directory, "pixel_values", loading)
    writer = Writer(model, processor.tokenizer, options, compile=compile, echo=echo, show=show, as_json=as_json)
    size, texts = batch_size or len(prompts), list[Text]()
    for start in range(0, len(prompts), size):
        numbered = dict(enumerate(prompts[start : start + size], start + 1))
        inputs, numbers = _read(processor, numbered, on_error)
        if inputs is not None:
            ids, mask = inputs.input_ids, inputs.attention_mask
            rows = [row[kept == 1].tolist() for row, kept in zip(ids, mask, strict=True)]
            texts += writer.write(inputs, rows, seed + start, live=len(prompts) == 1, numbers=numbers)
    return texts


def _read(
    processor: Any, prompts: Mapping[int, str | Sequence[Any]], on_error: OnError | None
) -> tuple[Features | None, list[int]]:
    """The inputs for those prompts of a batch that can be read, padded on the left, and their numbers; None for none.

    Args:
        processor: of the checkpoint.
        prompts: the batch, by number.
        on_error: receives the errors of the others; None raises the first.
    """
    try:
        return processor(text=[_parts_of(prompt) for prompt in prompts.values()], padding_side="left"), [*prompts]
    except InputError:
        good: dict[int, list[Any]] = {}
        for number, prompt in prompts.items():
            try:
                parts = _parts_of(prompt)
                processor(text=[parts])
                good[number] = parts
            except InputError as error:
                found = InputError(f"generate: prompt {number}: {error}")
                if on_error is None:
                    raise found from None
                on_error(found)
        return (processor(text=[*good.values()], padding_side="left") if good else None), [*good]


def _parts_of(prompt: str | Sequence[Any]) -> list[Any]:
    """The texts and images of a prompt."""
    return [*parse_prompt(prompt)] if isinstance(prompt, str) else list(prompt)
