"""Texts for images: captions, recognized text, and what a task of Donut's asks for."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from diptych.core import backends, check
from diptych.core.checkpoint.hub import split_options
from diptych.core.checkpoint.locate import locate
from diptych.core.errors import InputError
from diptych.images.files import find_images, load_image_processor, read_batches
from diptych.images.prompts import reads_images_in_prompts
from diptych.text.files import OnError, Paths, beside_bars
from diptych.text.placement import loading_keywords
from diptych.text.tokenizers import load_tokenizer
from diptych.text.writing import Text, Writer, load_writer, tokens_of


def generate_text_from_images(
    directory: str | os.PathLike[str],
    images: Paths,
    *,
    prompt: str | Sequence[int] = (),
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    sharding: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    compile: bool = False,
    echo: bool = False,
    show: Callable[[str], None] | None = None,
    as_json: bool = False,
    on_error: OnError | None = None,
    progress: bool | None = None,
    ignore: Iterable[str] = (),
    ignore_config: Iterable[str] = (),
    **options: Any,
) -> list[Text]:
    """Loads a checkpoint with its processor, and generates text for images.

    Args:
        directory: the checkpoint's, or a name on the Hugging Face hub.
        images: paths of images, directories of images, or patterns such as "scans/*.png".
        prompt: the first tokens of every text, as a text, to which the tokenizer adds no special tokens, or as ids. In
            Donut they name the task and take the place of the start token; other decoders read them after it.
        batch_size: the number of images that are read and processed at once.
        show: as for `generate_text`; the lines of several images begin with the path of the image and a colon.
        on_error: receives the errors of images that cannot be read, which are left out; by default the first is raised.
        progress: whether to show a bar on stderr; by default if stderr is a terminal and there are several batches.
        backend, dtype, device, sharding, changes, seed, compile, echo, as_json, ignore, ignore_config, options: as for
            `generate_text`; unknown fields of preprocessor_config.json are skipped by `ignore_config` too.

    Returns:
        The texts of all images that can be read, in their order.

    Raises:
        InputError: an argument does not fit the model, or the model writes no text about images.
        CheckpointError, ConfigError: the checkpoint or its processor cannot be loaded, or there is no tokenizer for a
            prompt that is a text.
        ImportError: Pillow is not installed, or tokenizers, which a text needs.
    """
    chosen = backends.choose("result", backend, argument="generate: backend")
    check.counts("generate", batch_size=batch_size)
    hub, options = split_options(options)
    paths, directory = find_images(images), locate(directory, **hub)
    ignore_config = tuple(ignore_config)
    if reads_images_in_prompts(directory, chosen, ignore_config):
        raise InputError(
            f"{directory}: its model reads images between texts; name them there: 'User: ![](cat.jpg) What is this?'"
        )
    processor = load_image_processor(directory, ignore_config)
    tokenizer = processor.tokenizer
    if isinstance(prompt, str):
        prompt = tokens_of(tokenizer or load_tokenizer(directory), prompt, add_special_tokens=False)
        if not prompt:
            raise InputError("generate: the prompt has no tokens")
    kept = {"ignore": ignore, "ignore_config": ignore_config, "dtype": dtype}
    loading = loading_keywords(chosen, hub, device, sharding, changes, **kept)
    model = load_writer(chosen, directory, "pixel_values", loading)
    writer = Writer(
        model,
        tokenizer,
        options,
        compile=compile,
        echo=echo,
        show=beside_bars(show),
        as_json=as_json,
        names_images=len(paths) > 1,
    )
    texts: list[Text] = []
    for names, pixels in read_batches(
        paths, processor.image_processor, batch_size, on_error=on_error, progress=progress
    ):
        prompts = [prompt] * len(names)
        inputs = {"pixel_values": pixels, **({"decoder_input_ids": prompts} if prompt else {})}
        texts += writer.write(inputs, prompts, seed + len(texts), live=len(paths) == 1, images=names)
    return texts
