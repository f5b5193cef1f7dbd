"""What the models and tools here expect of objects made elsewhere: tokenizers, streamers, processors.

Core never tokenises. Anything with these members fits, whoever made it: `isinstance` says whether they are there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Encoding(Protocol):
    """One text as a model takes it; `tokenizers.Encoding` is one."""

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
        """0 for tokens of a first text, 1 for those of a second."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into ids and back; `tokenizers.Tokenizer` is one."""

    def encode_batch(self, input: Sequence[Any], *, add_special_tokens: bool = True) -> Sequence[Encoding]:
        """The encodings of texts, or of pairs of texts; of one length if the tokenizer was told to pad."""
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
    """Is given tokens as they are written; the streamers of `transformers` are ones."""

    def put(self, value: Any) -> None:
        """Takes the prompts (R, P) first, then the next token of each text (R,): integers, as a numpy array."""
        ...

    def end(self) -> None:
        """There is no more to come."""
        ...


@runtime_checkable
class ImageProcessor(Protocol):
    """Turns images into arrays that a model takes; the image processors of `transformers` are ones."""

    model_input_names: Sequence[str]
    """The names of the model's arguments that it makes, `pixel_values` first."""

    def preprocess(self, images: Any, **options: Any) -> Mapping[str, Any]:
        """The model's arguments for one image or several: `pixel_values` (B, C, Y, X), and what else it makes."""
        ...


@runtime_checkable
class AudioProcessor(Protocol):
    """Turns sound into arrays that a model takes; the feature extractors of `transformers` are ones."""

    model_input_names: Sequence[str]
    """The names of the model's arguments that it makes, the values first."""
    sampling_rate: int
    """Samples a second of the sound that the model was trained on; other rates must be resampled first."""

    def __call__(self, raw_speech: Any, /, **options: Any) -> Mapping[str, Any]:
        """The model's arguments for one mono recording or several: samples as floats, and what else it makes."""
        ...
