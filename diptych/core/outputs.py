"""The records that models return: the same classes, fields and order in both backends.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, P patches + 1, V vocabulary, E
projection width.
A field that was not requested or does not apply is None; `to_tuple`, indexing and iteration leave it out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar, cast

_records: list[type["ModelOutput"]] = []
_listeners: list[Callable[[type["ModelOutput"]], None]] = []


def each_record(listener: Callable[[type["ModelOutput"]], None]) -> None:
    """Calls the listener with every record class, present and future; backends use it to register pytrees."""
    _listeners.append(listener)
    for record in _records:
        listener(record)


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """A record; fields are read by attribute, by name (`out["logits"]`), or by index among those not None."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _records.append(cls)
        for listener in _listeners:
            listener(cls)

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are not None, in order."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Pairs of name and value of the fields that are not None, in order."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order; records inside become tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields."""
        return replace(self, **changes)

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.values()[key]
        if key not in self.keys():
            raise KeyError(f"{type(self).__name__} has no {key!r} here; it has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


Output = TypeVar("Output", bound=ModelOutput)


@dataclass(frozen=True, kw_only=True)
class BaseModelOutput(ModelOutput):
    """The output of an encoder."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, T)."""


@dataclass(frozen=True, kw_only=True)
class EncoderOutput(BaseModelOutput):
    """The output of `encode`: the encoder's record and the mask of its states."""

    attention_mask: Any = None
    """(B, S), 1 = attend, over the states, which may be fewer than the inputs; None if all are attended to."""


@dataclass(frozen=True, kw_only=True)
class BaseModelOutputWithPooling(ModelOutput):
    """The output of an encoder with a pooler."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    pooler_output: Any = None
    """(B, D)"""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, T)."""


@dataclass(frozen=True, kw_only=True)
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """The output of a decoder."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    past_key_values: Any = None
    """The cache with these tokens added, if one was given or requested."""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, S), with S the tokens in the cache."""
    cross_attentions: tuple[Any, ...] | None = None
    """Every layer's probabilities over the encoder's tokens, each (B, N, T, S)."""


@dataclass(frozen=True, kw_only=True)
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """The output of an encoder that can also be a decoder."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    pooler_output: Any = None
    """(B, D)"""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    past_key_values: Any = None
    """The cache with these tokens added, if one was given or requested."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, S), with S the tokens in the cache, or T."""
    cross_attentions: tuple[Any, ...] | None = None
    """Every layer's probabilities over the encoder's tokens, each (B, N, T, S)."""


@dataclass(frozen=True, kw_only=True)
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """The output of a causal language model."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    past_key_values: Any = None
    """The cache with these tokens added, if one was given or requested."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqModelOutput(ModelOutput):
    """The output of an encoder-decoder model."""

    last_hidden_state: Any = None
    """The decoder's, (B, T, D)."""
    past_key_values: Any = None
    """The decoder's cache, if one was given or requested."""
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """(B, S, D)"""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMOutput(ModelOutput):
    """The output of an encoder-decoder model with a language modelling head."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    past_key_values: Any = None
    """The decoder's cache, if one was given or requested."""
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """(B, S, D)"""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSequenceClassifierOutput(ModelOutput):
    """The output of an encoder-decoder model with a sequence classifier."""

    loss: Any = None
    """The problem type's loss, a scalar."""
    logits: Any = None
    """(B, num_labels), before the softmax."""
    past_key_values: Any = None
    """The decoder's cache, if one was given or requested."""
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """(B, S, D)"""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class MaskedLMOutput(ModelOutput):
    """The output of a masked language model."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class CausalLMOutput(ModelOutput):
    """The output of a model with a token for every frame of a recording (CTC); transformers gives it this name."""

    loss: Any = None
    """The negative log-probability of the labels, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierOutput(ModelOutput):
    """The output of a classifier of sequences, pairs, choices or images."""

    loss: Any = None
    """The problem type's loss, a scalar."""
    logits: Any = None
    """(B, num_labels), before the softmax."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


class SequenceClassifierOutput(ClassifierOutput):
    """The output of a sequence classifier."""


class ImageClassifierOutput(ClassifierOutput):
    """The output of an image classifier."""


@dataclass(frozen=True, kw_only=True)
class MaskedImageModelingOutput(ModelOutput):
    """The output of a model that reconstructs masked patches of images."""

    loss: Any = None
    """Mean absolute error over the pixels of the masked patches, a scalar; None if no patch is masked."""
    reconstruction: Any = None
    """(B, C, Y, X), the pixels of all whole patches."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class GenerateOutput(ModelOutput):
    """The output of `generate`. R is the number of generated sequences: prompts times `num_return_sequences`."""

    sequences: Any = None
    """(R, L) ids: the prompt or the decoder's start, then the generated tokens, padded with pad_token_id."""
    sequences_scores: Any = None
    """(R,), of a beam search: the summed log-probabilities, divided by length ** length_penalty."""
    scores: tuple[Any, ...] | None = None
    """For each new token (rows, V): logits, or log-probabilities of beams, after all logits processors."""
    logits: tuple[Any, ...] | None = None
    """For each new token (rows, V): logits before any logits processor."""
    beam_indices: Any = None
    """(R, L'), of a beam search: the row, among all prompts' beams, of each new token; -1 after the last one."""
    attentions: tuple[tuple[Any, ...], ...] | None = None
    """For each step every layer's probabilities (rows, N, T, S) over the tokens so far; T is 1 after the prompt."""
    cross_attentions: tuple[tuple[Any, ...], ...] | None = None
    """For each step every layer's probabilities (rows, N, T, S) over the encoder's tokens."""
    hidden_states: tuple[tuple[Any, ...], ...] | None = None
    """For each step the embeddings and every layer's output, each (rows, T, D)."""


def with_head(record: type[Output], output: ModelOutput, **head: Any) -> Output:
    """The record of a model with a head: the head's fields, and those that it shares with the base model's output."""
    # torch.compile can't follow dataclasses.fields
    shared = [name for name in record.__dataclass_fields__ if name not in head and hasattr(output, name)]
    return record(**head, **{name: getattr(output, name) for name in shared})


def encoder_output(encoder_outputs: Any) -> EncoderOutput:
    """A caller's encoder output as a record: from a record, a tuple in its order, or the states; empty for None."""
    names = ("last_hidden_state", "hidden_states", "attentions")
    if hasattr(encoder_outputs, "last_hidden_state"):
        return EncoderOutput(**{name: getattr(encoder_outputs, name, None) for name in (*names, "attention_mask")})
    # a list is a tuple, unless it holds the states' numbers
    listed = isinstance(encoder_outputs, list) and len(getattr(cast(Any, encoder_outputs)[0], "shape", ())) == 3
    values: tuple[Any, ...] = (cast(Any, encoder_outputs),)
    if listed or isinstance(encoder_outputs, tuple):
        values = tuple(cast(tuple[Any, ...], encoder_outputs))
    return EncoderOutput(**dict(zip(names, values, strict=False)))


def seq2seq(record: Callable[..., Output], decoder: Any, encoder: BaseModelOutput, **head: Any) -> Output:
    """The record of an encoder-decoder model, from its encoder's and decoder's records and the head's fields."""
    return record(
        **head,
        past_key_values=decoder.past_key_values,
        decoder_hidden_states=decoder.hidden_states,
        decoder_attentions=decoder.attentions,
        cross_attentions=decoder.cross_attentions,
        encoder_last_hidden_state=encoder.last_hidden_state,
        encoder_hidden_states=encoder.hidden_states,
        encoder_attentions=encoder.attentions,
    )
