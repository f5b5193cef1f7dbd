"""The records that models return: the same classes, fields and order in both backends.

Letters of the shapes: B batch, T target length, S source length, D width, N heads, P patches + 1, V vocabulary, E
projection width.
A field that is None was not asked for (or does not apply); `to_tuple`, indexing and iteration leave it out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar, cast

_records: list[type["ModelOutput"]] = []
_listeners: list[Callable[[type["ModelOutput"]], None]] = []


def each_record(listener: Callable[[type["ModelOutput"]], None]) -> None:
    """Calls the listener with every record class there is and will be; the backends register their pytrees so."""
    _listeners.append(listener)
    for record in _records:
        listener(record)


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """A record read by attribute, by name (`out["logits"]`), or by position among the fields that are not None."""

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
    """What an encoder returns."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, T)."""


@dataclass(frozen=True, kw_only=True)
class EncoderOutput(BaseModelOutput):
    """What `encode` returns: the encoder's record, and the mask that belongs to its states."""

    attention_mask: Any = None
    """(B, S), 1 = attend, over the states, which may be fewer than the inputs; None if all are attended to."""


@dataclass(frozen=True, kw_only=True)
class BaseModelOutputWithPooling(ModelOutput):
    """What an encoder with a pooled vector returns."""

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
    """What a decoder returns."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    past_key_values: Any = None
    """The cache that holds these tokens too, if one was given or asked for."""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, S), with S the tokens in the cache."""
    cross_attentions: tuple[Any, ...] | None = None
    """Every layer's probabilities over the encoder's tokens, each (B, N, T, S)."""


@dataclass(frozen=True, kw_only=True)
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """What an encoder returns that can also serve as a decoder."""

    last_hidden_state: Any = None
    """(B, T, D)"""
    pooler_output: Any = None
    """(B, D)"""
    hidden_states: tuple[Any, ...] | None = None
    """The embeddings and every layer's output, each (B, T, D)."""
    past_key_values: Any = None
    """The cache that holds these tokens too, if one was given or asked for."""
    attentions: tuple[Any, ...] | None = None
    """Every layer's attention probabilities, each (B, N, T, S), with S the tokens in the cache, or T."""
    cross_attentions: tuple[Any, ...] | None = None
    """Every layer's probabilities over the encoder's tokens, each (B, N, T, S)."""


@dataclass(frozen=True, kw_only=True)
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """What a language model returns that reads from left to right."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    past_key_values: Any = None
    """The cache that holds these tokens too, if one was given or asked for."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqModelOutput(ModelOutput):
    """What an encoder and a decoder return together."""

    last_hidden_state: Any = None
    """The decoder's, (B, T, D)."""
    past_key_values: Any = None
    """The decoder's cache, if one was given or asked for."""
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """(B, S, D)"""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMOutput(ModelOutput):
    """What an encoder and a decoder with a language model's head return together."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    past_key_values: Any = None
    """The decoder's cache, if one was given or asked for."""
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """(B, S, D)"""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSequenceClassifierOutput(ModelOutput):
    """What a classifier of sequences made of an encoder and a decoder returns."""

    loss: Any = None
    """The problem type's loss, a scalar."""
    logits: Any = None
    """(B, num_labels), before the softmax."""
    past_key_values: Any = None
    """The decoder's cache, if one was given or asked for."""
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """(B, S, D)"""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class MaskedLMOutput(ModelOutput):
    """What a masked language model returns."""

    loss: Any = None
    """Mean cross-entropy over the labels that are not -100, a scalar."""
    logits: Any = None
    """(B, T, V), before the softmax."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierOutput(ModelOutput):
    """What a classifier of sequences, pairs, choices or images returns."""

    loss: Any = None
    """The problem type's loss, a scalar."""
    logits: Any = None
    """(B, num_labels), before the softmax."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


class SequenceClassifierOutput(ClassifierOutput):
    """What a classifier of sequences returns."""


class ImageClassifierOutput(ClassifierOutput):
    """What a classifier of images returns."""


@dataclass(frozen=True, kw_only=True)
class GenerateOutput(ModelOutput):
    """What `generate` returns. R is the number of texts written: prompts times `num_return_sequences`."""

    sequences: Any = None
    """(R, L) ids, what was written behind the prompt or behind the decoder's start, padded with pad_token_id."""
    sequences_scores: Any = None
    """(R,), of a beam search: each text's summed log-probabilities, divided by its length ** length_penalty."""
    scores: tuple[Any, ...] | None = None
    """For each new token (rows, V) what it was chosen by: logits, or log-probabilities of beams, after every rule."""
    logits: tuple[Any, ...] | None = None
    """For each new token (rows, V), before any rule."""
    beam_indices: Any = None
    """(R, L'), of a beam search: the row of all prompts' beams that each new token was chosen in, -1 behind the end."""
    attentions: tuple[tuple[Any, ...], ...] | None = None
    """For each step every layer's probabilities (rows, N, T, S) over the tokens so far; T is 1 but for the prompt."""
    cross_attentions: tuple[tuple[Any, ...], ...] | None = None
    """For each step every layer's probabilities (rows, N, T, S) over the encoder's tokens."""
    hidden_states: tuple[tuple[Any, ...], ...] | None = None
    """For each step the embeddings and every layer's output, each (rows, T, D)."""


def with_head(record: type[Output], output: ModelOutput, **head: Any) -> Output:
    """The record of a model with a head: the head's fields, and what the record has of the output below it."""
    # torch.compile can't follow dataclasses.fields
    shared = [name for name in record.__dataclass_fields__ if name not in head and hasattr(output, name)]
    return record(**head, **{name: getattr(output, name) for name in shared})


def encoder_output(encoder_outputs: Any) -> EncoderOutput:
    """What a caller gives of an encoder: a record, a tuple in its order, or the states alone; nothing for None."""
    names = ("last_hidden_state", "hidden_states", "attentions")
    if hasattr(encoder_outputs, "last_hidden_state"):
        return EncoderOutput(**{name: getattr(encoder_outputs, name, None) for name in (*names, "attention_mask")})
    values = cast(tuple[Any, ...], encoder_outputs if isinstance(encoder_outputs, tuple) else (encoder_outputs,))
    return EncoderOutput(**dict(zip(names, values, strict=False)))


def seq2seq(record: Callable[..., Output], decoder: Any, encoder: BaseModelOutput, **head: Any) -> Output:
    """The record of an encoder and a decoder together, from those of each and the fields of the head."""
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
