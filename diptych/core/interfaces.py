"""Interfaces of objects from other libraries: tokenizers, streamers, processors.

Core never tokenises. Any object with these members fits; `isinstance` checks that they exist.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Encoding(Protocol):
    """An encoded text; `tokenizers.Encoding` is one."""

    @property
    def ids(self) -> Sequence[int]:
        """The tokens' ids."""
        ...

    @property
    def attention_mask(self) -> Sequence[int]:
        """1 for a token, 0 for padding."""
        ...

    @property
    def type_ids(self) -> Sequence[int]:
        """0 for tokens of the first text, 1 for tokens of the second."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into ids and back; `tokenizers.Tokenizer` is one."""

    def encode_batch(self, input: Sequence[Any], *, add_special_tokens: bool = True) -> Sequence[Encoding]:
        """The encodings of texts or pairs of texts; all have the same length if padding is enabled."""
        ...

    def decode_batch(self, sequences: Sequence[Sequence[int]], *, skip_special_tokens: bool = True) -> Sequence[str]:
        """The texts of sequences of ids."""
        ...

    def token_to_id(self, token: str) -> int | None:
        """A token's id; None if there is no such token."""
        ...

    def get_vocab_size(self) -> int:
        """The number of ids, added tokens included."""
        ...


@runtime_checkable
class Streamer(Protocol):
    """Receives tokens as they are generated; the streamers of `transformers` are examples."""

    def put(self, value: Any) -> None:
        """Takes the prompts (R, P) first, then the next token of each text (R,): integers, as a numpy array."""
        ...

    def end(self) -> None:
        """Called after the last token."""
        ...


@runtime_checkable
class ImageProcessor(Protocol):
    """Turns images into a model's input arrays; the image processors of `transformers` are examples."""

    model_input_names: Sequence[str]
    """The names of the model inputs that it returns, `pixel_values` first."""

    def preprocess(self, images: Any, **options: Any) -> Mapping[str, Any]:
        """The model inputs for one or more images: `pixel_values` (B, C, Y, X), and any others."""
        ...


@runtime_checkable
class AudioProcessor(Protocol):
    """Turns audio into a model's input arrays; the feature extractors of `transformers` are examples."""

    model_input_names: Sequence[str]
    """The names of the model inputs that it returns, the values first."""
    sampling_rate: int
    """Samples per second of the audio that the model was trained on; resample other audio first."""

    def __call__(self, raw_speech: Any, /, **options: Any) -> Mapping[str, Any]:
        """The model inputs for one or more mono recordings: samples as floats, and any others."""
        ...
