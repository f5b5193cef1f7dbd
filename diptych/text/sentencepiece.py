"""Reading the `.model` files of sentencepiece: protocol buffers of pieces, without a library for either.

The messages and field numbers are those of sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.core.errors import CheckpointError

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
"""The wire types of protocol buffers."""
_CONTROL, _USER_DEFINED = 3, 4
_LONGEST = 256
"""Bytes of a piece, each of whose splits may be a merge; by default, sentencepiece learns up to 16 characters."""
_UNIGRAM, _BPE = 1, 2


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary."""

    text: str
    score: float = 0.0
    kind: int = 1

    @property
    def is_control(self) -> bool:
        """Whether it never stands for text, as <s>."""
        return self.kind == _CONTROL

    @property
    def is_user_defined(self) -> bool:
        """Whether it is never split."""
        return self.kind == _USER_DEFINED


@dataclass(frozen=True)
class SentencePieceModel:
    """The contents of a file.

    Attributes:
        pieces: by id.
        is_bpe: whether pieces are merged pair by pair; otherwise it is a unigram model.
        unknown_id: of the piece for unknown characters.
        byte_fallback: whether unknown characters become pieces of bytes.
        charsmap: the compiled table that normalizes characters; empty if there is none.
    """

    pieces: tuple[Piece, ...]
    is_bpe: bool
    unknown_id: int
    byte_fallback: bool
    charsmap: bytes

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs of pieces that make another piece, by its score and then the shortest left part first."""
        known = {piece.text for piece in self.pieces}
        found: list[tuple[float, int, str, str]] = []
        for piece in self.pieces:
            for cut in range(1, len(piece.text)):
                left, right = piece.text[:cut], piece.text[cut:]
                if left in known and right in known:
                    found.append((-piece.score, cut, left, right))
        return [(left, right) for _, _, left, right in sorted(found)]


def read_model(path: Path) -> SentencePieceModel:
    """Reads a file.

    Raises:
        CheckpointError: it is no model of sentencepiece, or one of words or characters.
    """
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path}: is no model of sentencepiece ({error}); download it again") from None
    kind, charsmap = trainer.get(3, _UNIGRAM), normalizer.get(2, b"")
    unknown = trainer.get(40, 0)
    if not pieces or not isinstance(unknown, int) or not unknown < len(pieces) or not isinstance(charsmap, bytes):
        raise CheckpointError(f"{path}: is no model of sentencepiece (it has {len(pieces)} pieces); download it again")
    if kind not in (_UNIGRAM, _BPE):
        raise CheckpointError(f"{path}: is a model of words or characters, but a unigram or a BPE model is needed")
    return SentencePieceModel(tuple(pieces), kind == _BPE, unknown, bool(trainer.get(35, 0)), charsmap)


def _piece(message: int | bytes) -> Piece:
    values = dict(_fields(message))
    text, score, kind = values.get(1, b""), values.get(2, bytes(4)), values.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has fields of other types")
    if len(text) > _LONGEST:
        raise ValueError(f"a piece of {len(text)} bytes")
    return Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number, and a whole number or the bytes."""
    if not isinstance(message, bytes):
        raise ValueError("a number where a message is needed")
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if wire == _FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(message):
            raise ValueError("it ends early")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the position after it."""
    number, shift = 0, 0
    while True:
        if shift >= 70:
            raise ValueError("a number of more than 64 bits")
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
