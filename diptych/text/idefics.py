"""IDEFICS' processor: prompts in which images stand between texts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from diptych.core.errors import CheckpointError, InputError
from diptych.core.interfaces import Tokenizer
from diptych.core.processing.features import Features, Tensors
from diptych.core.processing.image_processor import ImageProcessor
from diptych.core.processing.paths import is_url
from diptych.text.processing import TextProcessor
from diptych.text.tokenizers import PaddingSide

IMAGE, FAKE, END_OF_UTTERANCE = "<image>", "<fake_token_around_image>", "<end_of_utterance>"
"""The tokens that stand for an image, around images, and between utterances."""


class IdeficsProcessor(TextProcessor):
    """Prompts of texts and images to the inputs of IDEFICS, called as the processor of transformers is.

    Attributes:
        image_processor: for images.
        tokenizer: a `tokenizers.Tokenizer`, or any other; None if the checkpoint has none.
    """

    def __init__(self, image_processor: ImageProcessor, tokenizer: Tokenizer | None, directory: Path) -> None:
        super().__init__(tokenizer, directory)
        self.image_processor = image_processor

    def __repr__(self) -> str:
        return f"IdeficsProcessor({str(self.directory)!r}, {self.image_processor!r})"

    @property
    def model_input_names(self) -> tuple[str, ...]:
        """The names of what a call returns."""
        return ("input_ids", "attention_mask", *self.image_processor.model_input_names, "image_attention_mask")

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        *,
        return_tensors: Tensors | None = None,
        padding_side: PaddingSide | None = None,
        add_eos_token: bool = False,
        add_end_of_utterance_token: bool | None = None,
        **options: Any,
    ) -> Features:
        """The inputs of a model for prompts of texts and images.

        A prompt is a list of texts and images: `["User:", Path("cat.jpg"), "What is this?\\nAssistant:"]`. Its texts
        lose the spaces at their ends. An image is a `pathlib.Path`, a Pillow image or an array; a string is a text.

        Args:
            images: images for texts without any, in place of prompts; here strings are paths. One image for each text
                stands before it; of a list of images for each text, all stand after it.
            text: a prompt or a list of prompts; or, with `images`, a text or a list of texts. A list of texts alone is
                one prompt.
            return_tensors: "np", "pt" or "jax"; by default numpy.
            padding_side: "left" or "right", for prompts of several lengths; by default the tokenizer's.
            add_eos_token: whether prompts end with the end-of-sequence token.
            add_end_of_utterance_token: whether <end_of_utterance> stands between two texts that follow each other; by
                default if the tokenizer's files list it among the special tokens.
            options: of the images, see `ImageProcessor.preprocess`.

        Returns:
            `input_ids`, `attention_mask` (B, T); `pixel_values` (B, images, C, Y, X), of the most images of a prompt
            and at least one, zeros where there are fewer; `image_attention_mask` (B, T, images): a token attends to the
            last image before it, and to none before the first one or after the end of the text.

        Raises:
            InputError: there is no prompt, or it has other items; an image cannot be read, or is a URL; or the tokens
                of images do not fit the images.
            CheckpointError: there is no tokenizer, or it lacks a token.
            ImportError: Pillow or the framework of `return_tensors` is not installed.
        """
        if padding_side not in (None, "left", "right"):
            raise InputError(f"padding_side={padding_side!r} must be left or right")
        prompts = _prompts(images, text)
        self.needed_tokenizer()
        tokens = self._special_tokens
        if add_end_of_utterance_token is None:
            add_end_of_utterance_token = END_OF_UTTERANCE in tokens.extra
        between = self._require_token(END_OF_UTTERANCE, "ends utterances") if add_end_of_utterance_token else ""
        start = self._require_token(tokens.bos, "begins every prompt", "bos_token")
        end = self._require_token(tokens.eos, "add_eos_token asks for", "eos_token") if add_eos_token else ""
        pictures = [[item for item in prompt if not isinstance(item, str)] for prompt in prompts]
        if any(pictures):
            self._require_token(FAKE, "stands around images")
            self._require_token(IMAGE, "stands for an image")
        texts = [f"{start}{_write_prompt(prompt, between)}{end}" for prompt in prompts]
        ids, mask = self.encode(texts, add_special_tokens=False, padding_side=padding_side or tokens.padding_side)
        count = max(1, *map(len, pictures))
        seen = self._image_attention_mask(ids, mask, count, list(map(len, pictures)))
        pixels = self._pixel_values(pictures, count, options)
        features = Features(input_ids=ids, attention_mask=mask, pixel_values=pixels, image_attention_mask=seen)
        return features.to_tensors(return_tensors)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, and copies the tokenizer's files beside it.

        Raises:
            CheckpointError: the directory is a file.
            OSError: a file cannot be written.
        """
        self._save(directory, self.image_processor)

    def _require_token(self, token: str | None, purpose: str, role: str = "") -> str:
        """The token, if the tokenizer has it."""
        if token is None or self._id(token) < 0:
            raise CheckpointError(f"{self.directory}: its tokenizer has no {token or role}, which {purpose}")
        return token

    def _id(self, token: str | None) -> int:
        """The id of a token; -1 if there is none."""
        found = None if token is None else self.needed_tokenizer().token_to_id(token)
        return -1 if found is None else found

    def _image_attention_mask(self, ids: np.ndarray, mask: np.ndarray, count: int, images: list[int]) -> np.ndarray:
        """(B, T, images): one-hot, for each token the last image before it."""
        is_image, is_end = ids == self._id(IMAGE), ids == self._id(self._special_tokens.eos)
        found = np.sum(is_image & (mask == 1), axis=1).tolist()
        names = [f"prompt {row}" for row in range(len(images))] if len(images) > 1 else ["the prompt"]
        wrong = [
            f"{name} has {tokens} {IMAGE} for {given} image{'' if given == 1 else 's'}"
            for name, tokens, given in zip(names, found, images, strict=True)
            if tokens != given
        ]
        if wrong:
            raise InputError(
                f"processor: {'; '.join(wrong)}; put each image between the texts, without writing {IMAGE}, which the "
                "tokenizer must keep in one piece"
            )
        place = np.arange(ids.shape[1])
        last_image = np.maximum.accumulate(np.where(is_image, place, -1), axis=1)
        last_end = np.maximum.accumulate(np.where(is_end, place, -1), axis=1)
        last_end = np.pad(last_end[:, :-1], ((0, 0), (1, 0)), constant_values=-1)  # before a token
        image = np.where(last_end > last_image, -1, np.cumsum(is_image, axis=1) - 1)
        return (image[..., None] == np.arange(count)).astype(np.int64)

    def _pixel_values(self, pictures: Sequence[Sequence[Any]], count: int, options: dict[str, Any]) -> np.ndarray:
        """(B, images, C, Y, X): zeros after the last image of a prompt."""
        config = self.image_processor.config.replace(**options)
        height, width = (config.size, config.size) if isinstance(config.size, int) else config.size
        if not any(pictures):
            return np.zeros((len(pictures), count, config.channels, height, width), np.float32)
        found = self.image_processor(pictures, **options).pixel_values
        values = np.zeros((len(pictures), count, *found.shape[1:]), np.float32)
        values[np.arange(count) < np.array(list(map(len, pictures)))[:, None]] = found
        return values


def _write_prompt(prompt: Sequence[Any], between: str) -> str:
    """The text of a prompt, with tokens for its images."""
    parts: list[str] = []
    for number, item in enumerate(prompt):
        follows_text = number > 0 and isinstance(prompt[number - 1], str)
        if isinstance(item, str):
            parts += [between if follows_text else "", item.strip(" ")]
        else:  # images in a row share the token between them
            parts += [FAKE if follows_text or number == 0 else "", IMAGE, FAKE]
    return "".join(parts)


def _prompts(images: Any, text: Any) -> list[list[Any]]:
    """The prompts of a call, each a list of texts and of images, which are no strings.

    Raises:
        InputError: there is none, the images do not fit the texts, or an item can be neither.
    """
    if text is None:
        raise InputError("processor: text is needed, with the images between the texts or beside them as images=…")
    if _is_list(text) and not text:
        raise InputError("processor: text is empty, but at least one prompt is needed")
    if images is not None:
        prompts = _with_images(images, text)
    elif isinstance(text, str):
        prompts = [[text]]
    elif not _is_list(text):
        raise InputError(
            f"processor: text is of type {type(text).__name__}, but a prompt or a list of prompts is needed"
        )
    elif any(map(_is_list, text)):
        prompts = text
    else:
        prompts = [text]
    for row, prompt in enumerate(prompts):
        if not _is_list(prompt):
            raise InputError(
                f"processor: prompt {row} is of type {type(prompt).__name__} beside lists; put it into a list"
            )
        for number, item in enumerate(prompt):
            name = f"processor: item {number} of prompt {row}"
            if isinstance(item, str) and is_url(item):
                raise InputError(f"{name}: {item} is a URL; download it, and give the path of the file")
            if _is_list(item) or getattr(item, "ndim", 2) > 3:
                raise InputError(
                    f"{name} is of type {type(item).__name__} and holds several, but one text or image is needed"
                )
    return [list(prompt) for prompt in prompts]


def _with_images(images: Any, text: Any) -> list[list[Any]]:
    """The prompts of texts and the images beside them."""
    texts = [text] if isinstance(text, str) else list(text)
    images = list(images) if _is_list(images) else [images]
    if not all(isinstance(one, str) for one in texts):
        raise InputError("processor: text has other items than texts, but with images=… it may not; leave images out")
    if len(texts) != len(images):
        raise InputError(
            f"processor: {len(texts)} texts and {len(images)} images; give one image or a list of images for each text"
        )
    if any(map(_is_list, images)):
        return [[one, *map(_image, own if _is_list(own) else [own])] for one, own in zip(texts, images, strict=True)]
    return [[_image(own), one] for one, own in zip(texts, images, strict=True)]


def _image(image: Any) -> Any:
    """An image in a form that is no text; a URL stays, to be refused."""
    return Path(image) if isinstance(image, str | os.PathLike) and not is_url(os.fspath(image)) else image


def _is_list(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)
