"""Texts of CTC models (connectionist temporal classification): one token for each frame, in runs and with blanks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from diptych.core.errors import CheckpointError, InputError
from diptych.core.json_text import parse_config, read_text


@dataclass(frozen=True)
class Span:
    """A part of a text, with the frames in which it was heard.

    Attributes:
        text: a word or a character.
        start: its first frame.
        end: the frame after its last one.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class TimedText:
    """A text with the frames of its parts.

    Attributes:
        text: without spaces at its ends.
        words, characters: in their order; spaces are characters too.
    """

    text: str
    words: tuple[Span, ...]
    characters: tuple[Span, ...]


@dataclass(frozen=True)
class CTCEncoding:
    """The ids of a text; `diptych.core.interfaces.Encoding`."""

    ids: list[int]
    attention_mask: list[int]
    type_ids: list[int]


@dataclass(frozen=True)
class CTCTokenizer:
    """The tokenizer of a CTC model; `diptych.core.interfaces.Tokenizer`.

    Attributes:
        vocabulary: token -> id, of one language.
        languages: language -> its vocabulary, of a file for several languages, as that of MMS.
        pad, unk, bos, eos: special tokens; `pad` is the blank of CTC.
        word_delimiter: the token between words.
        space: what stands for it in texts.
        lower_case: whether the vocabulary is in upper case, but texts are in lower case.
        cleans_up: whether spaces before marks and contractions are left out of texts.
    """

    vocabulary: Mapping[str, int]
    languages: Mapping[str, Mapping[str, int]] = field(default_factory=dict, repr=False)
    pad: str = "<pad>"
    unk: str = "<unk>"
    bos: str | None = "<s>"
    eos: str | None = "</s>"
    word_delimiter: str = "|"
    space: str = " "
    lower_case: bool = False
    cleans_up: bool = False

    def for_language(self, language: str) -> "CTCTokenizer":
        """The tokenizer for another language of the file.

        Raises:
            InputError: the file has no such language.
        """
        if language not in self.languages:
            known = ", ".join(sorted(self.languages)) or "none, since its vocabulary has no languages"
            raise InputError(f"tokenizer: language={language!r} is not known; known: {known}")
        return replace(self, vocabulary=self.languages[language])

    @property
    def pad_token_id(self) -> int:
        """The id of the blank.

        Raises:
            CheckpointError: the vocabulary has none.
        """
        found = self.vocabulary.get(self.pad)
        if found is None:
            raise CheckpointError(f"tokenizer: pad_token={self.pad!r}, the blank of CTC, is not in the vocabulary")
        return found

    def token_to_id(self, token: str) -> int | None:
        """A token's id; None if there is no such token."""
        return self.vocabulary.get(token)

    def get_vocab_size(self) -> int:
        """The number of ids."""
        return max(self.vocabulary.values(), default=-1) + 1

    def encode_batch(self, input: Sequence[str], *, add_special_tokens: bool = True) -> list[CTCEncoding]:
        """The ids of texts, character by character; there are no special tokens to add.

        Raises:
            InputError: a character is not in the vocabulary, nor is there a token for unknown ones.
        """
        return [self._encode(text) for text in input]

    def _encode(self, text: str) -> CTCEncoding:
        # tokens of several characters take the spaces around them, and are in no other case
        longer = sorted((token for token in self.vocabulary if len(token) > 1), key=len, reverse=True)
        known = "|".join(map(re.escape, longer))
        parts = re.split(f"\\s*({known})\\s*", text) if known else [text]
        tokens: list[str] = []
        for index, part in enumerate(parts):
            if index % 2:
                tokens.append(part)
            else:
                tokens += (part.upper() if self.lower_case else part).replace(" ", self.word_delimiter)
        ids = [self.vocabulary.get(token, self.vocabulary.get(self.unk)) for token in tokens]
        unknown = sorted({token for token, id in zip(tokens, ids, strict=True) if id is None})
        if unknown:
            raise InputError(f"tokenizer: {', '.join(map(repr, unknown))} is not in the vocabulary of {text!r}")
        return CTCEncoding([id for id in ids if id is not None], [1] * len(ids), [0] * len(ids))

    def decode_batch(self, sequences: Sequence[Sequence[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The texts of the tokens of frames: of each run one token, without blanks.

        Args:
            sequences: an id for each frame.
            skip_special_tokens: whether unknown characters and the marks of beginnings and ends are left out.
        """
        return [self.decode_frames(ids, skip_special_tokens=skip_special_tokens).text for ids in sequences]

    def decode_frames(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> TimedText:
        """The text of the tokens of frames, with the frames of its words and characters; see `decode_batch`."""
        by_id = {id: token for token, id in self.vocabulary.items()}
        left_out = {self.pad, *((self.unk, self.bos, self.eos) if skip_special_tokens else ())}
        characters: list[Span] = []
        start = 0
        for token, run in groupby(by_id.get(int(id), self.unk) for id in ids):
            end = start + sum(1 for _ in run)
            if token not in left_out:
                characters.append(Span(self.space if token == self.word_delimiter else token, start, end))
            start = end
        text = "".join(one.text for one in characters).strip()
        text = text.lower() if self.lower_case else text
        return TimedText(_clean_up(text) if self.cleans_up else text, tuple(self._words(characters)), tuple(characters))

    def _words(self, characters: Iterable[Span]) -> Iterable[Span]:
        for is_space, run in groupby(characters, key=lambda one: one.text == self.space):
            if not is_space:
                found = list(run)
                yield Span("".join(one.text for one in found), found[0].start, found[-1].end)


def _clean_up(text: str) -> str:
    """A text without spaces before marks and contractions of English."""
    text = re.sub(r" ([.?!,])", r"\1", text)
    text = text.replace(" ' ", "'")
    return re.sub(r" (n't|'m|'s|'ve|'re)", r"\1", text)


def load_ctc_tokenizer(
    directory: Path, settings: Mapping[str, Any], added: Mapping[str, int], language: str | None = None
) -> CTCTokenizer | None:
    """The tokenizer of a CTC model, from vocab.json, or else the vocabulary in tokenizer.json.

    Args:
        directory: the checkpoint's.
        settings: the fields of tokenizer_config.json.
        added: ids of tokens that the vocabulary lacks.
        language: of the vocabulary, if it has several; by default that of the settings.

    Returns:
        None if there is no such file.

    Raises:
        CheckpointError: the vocabulary is damaged, or its language is not said.
        InputError: the vocabulary lacks the language.
    """
    path = next((path for name in ("vocab.json", "tokenizer.json") if (path := directory / name).is_file()), None)
    if path is None:
        return None
    found: Any = parse_config(read_text(path), str(path))
    if path.name == "tokenizer.json":
        found = _vocabulary_of(found)
    nested = bool(found) and all(isinstance(part, dict) for part in found.values())
    vocabularies = found if nested else {"": found}
    ids = [id for part in vocabularies.values() for id in (part.values() if isinstance(part, dict) else (None,))]
    if not found or not all(type(id) is int and 0 <= id < 2**31 for id in ids):
        raise CheckpointError(f"{path}: is no vocabulary of a CTC model, which has an id for each token")
    tokens = {name: _text(settings[f"{name}_token"]) for name in _SPECIAL if f"{name}_token" in settings}
    switches = {
        "word_delimiter": _text(settings.get("word_delimiter_token")) or "|",
        "space": settings.get("replace_word_delimiter_char") or " ",
        "lower_case": bool(settings.get("do_lower_case")),
        "cleans_up": bool(settings.get("clean_up_tokenization_spaces")),
    }
    vocabularies = {
        name: {**{token: id for token, id in added.items() if id not in part.values()}, **part}
        for name, part in vocabularies.items()
    }
    chosen = language or settings.get("target_lang") or ""
    if not nested:
        tokenizer = CTCTokenizer(vocabularies[""], **tokens, **switches)
        return tokenizer.for_language(language) if language else tokenizer
    if chosen not in vocabularies and language is None:
        raise CheckpointError(
            f"{path}: has the languages {', '.join(sorted(vocabularies))}, but tokenizer_config.json has "
            f"target_lang={chosen!r}, which is none of them; name the language"
        )
    return CTCTokenizer({}, vocabularies, **tokens, **switches).for_language(chosen)


def _vocabulary_of(data: Any) -> Any:
    """The ids in a tokenizer.json, or an empty vocabulary."""
    model, more = data.get("model"), data.get("added_tokens") or []
    found: Any = model.get("vocab") if isinstance(model, dict) else None
    tokens: list[Any] = more if isinstance(more, list) else [None]
    complete = all(isinstance(token, dict) and {"content", "id"} <= token.keys() for token in tokens)
    if not isinstance(found, dict) or not complete:
        return {}
    return {**found, **{str(token["content"]): token["id"] for token in tokens}}


_SPECIAL = ("pad", "unk", "bos", "eos")


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token
