"""What the small files beside a vocabulary say: tokenizer_config.json, special_tokens_map.json, added_tokens.json."""

from pathlib import Path
from typing import Any

from diptych.core.errors import CheckpointError
from diptych.core.json_text import parse_config, read_text
from diptych.text.sentencepiece import SentencePieceModel, read_model

TOKENIZER_FILE = "tokenizer.json"

CTC_CLASSES = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
"""Classes of the tokenizers of CTC models; the second is the name in the first files."""
_CTC_TYPES = ("wav2vec2", "hubert", "wavlm")
"""model_types of CTC models."""

_CLASS_OF_TYPE = {
    "bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer", "bart": "BartTokenizer",
    "clip": "CLIPTokenizer", "clip_text_model": "CLIPTokenizer", "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer", "mbart": "MBartTokenizer", "bert-generation": "BertGenerationTokenizer",
    "trocr": "XLMRobertaTokenizer",
}  # fmt: skip
"""model_type -> the class of its tokenizer."""

_TOKENS = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "word_delimiter"))
_SWITCHES = (
    "add_bos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_lower_case", "strip_accents",
    "tokenize_chinese_chars",
)  # fmt: skip
"""Fields that are a special token, and those that are true, false or null."""
_IDS = 2**31
"""Ids are below this."""


class MissingTokenizerError(CheckpointError):
    """A checkpoint has no files from which a tokenizer can be made."""


class TokenizerSettings:
    """What the small files beside a vocabulary say.

    Attributes:
        directory: that of the files.
        values: the fields of tokenizer_config.json, under those of special_tokens_map.json in older checkpoints.
        class_name: the name of the tokenizer's class in transformers, without "Fast"; from config.json if
            tokenizer_config.json has none.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.values = self._read("tokenizer_config.json")
        if "added_tokens_decoder" not in self.values:
            self.values |= self._read("special_tokens_map.json")
        self._check()
        self.class_name = self._class_name()

    def _read(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        return parse_config(read_text(path), str(path)) if path.is_file() else {}

    def _check(self) -> None:
        """Checks the types of the fields that are read.

        Raises:
            CheckpointError: fields hold something else; all are listed.
        """
        tokens = {name: value for name, value in self.values.items() if name in _TOKENS and value is not None}
        wrong = {name: value for name, value in tokens.items() if not _is_token(value)}
        for name in ("extra_special_tokens", "additional_special_tokens"):
            value: Any = self.values.get(name) or []
            listed = list(value.values()) if isinstance(value, dict) else value
            if not isinstance(listed, list) or not all(map(_is_token, listed)):
                wrong[name] = value
        decoder: Any = self.values.get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict) or not all(_is_id(key) and _is_token(value) for key, value in decoder.items()):
            wrong["added_tokens_decoder"] = decoder
        for name in ("tokenizer_class", "src_lang", "target_lang", "replace_word_delimiter_char"):
            if not isinstance(self.values.get(name), str | None):
                wrong[name] = self.values[name]
        for name in _SWITCHES:
            if not isinstance(self.values.get(name), bool | None):
                wrong[name] = self.values[name]
        if wrong:
            listed = ", ".join(f"{name}={str(value)[:80]}" for name, value in wrong.items())
            raise CheckpointError(
                f"{self.directory / 'tokenizer_config.json'}: {listed} (or special_tokens_map.json) is of another type "
                "than a tokenizer has there; download the file again"
            )

    def _class_name(self) -> str:
        config = self._read("config.json")
        parts: list[Any] = [config, config.get("encoder"), config.get("decoder")]
        types = [part["model_type"] for part in parts if isinstance(part, dict) and "model_type" in part]
        types = [name for name in types if isinstance(name, str)]
        if config.get("model_type") in types and types[0] in _CTC_TYPES and "tokenizer_class" not in self.values:
            return CTC_CLASSES[0]
        by_type = next((_CLASS_OF_TYPE[name] for name in types if name in _CLASS_OF_TYPE), "")
        named = self.values.get("tokenizer_class") or config.get("tokenizer_class") or by_type
        return str(named).removesuffix("Fast")

    def path(self, name: str) -> Path:
        """The path of a file that is needed."""
        path = self.directory / name
        if not path.is_file():
            raise MissingTokenizerError(
                f"{self.directory / TOKENIZER_FILE}: no such file, nor the {name} of a {self.class_name}, so text "
                "cannot become ids; ids work without"
            )
        return path

    def model(self) -> SentencePieceModel:
        """The model of sentencepiece, under any of its names."""
        found = sorted(self.directory.glob("*.model"))
        return read_model(found[0] if len(found) == 1 else self.path("sentencepiece.bpe.model"))

    def token(self, name: str, default: Any) -> Any:
        """The special token that serves as "mask", "eos" …, as an AddedToken; None if there is none."""
        value = self.values.get(f"{name}_token", default)
        return None if value is None else added_token(value, special=True)

    def added_tokens(self) -> dict[int, Any]:
        """The tokens that were added to the vocabulary, by id."""
        decoder = self.values.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            return {int(id): added_token(token) for id, token in decoder.items()}
        special = {
            content_of(value) for name, value in self.values.items() if name.endswith("_token") and _is_token(value)
        }
        special |= {content_of(value) for value in self.extra()}
        found = {id: name for name, id in self._read_added_tokens().items()}
        return {
            id: added_token(name, special=name in special, normalized=name not in special)
            for id, name in sorted(found.items())
        }

    def added_ids(self) -> dict[str, int]:
        """The ids of the tokens that were added to the vocabulary."""
        decoder = self.values.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            return {content_of(token): int(id) for id, token in decoder.items()}
        return self._read_added_tokens()

    def _read_added_tokens(self) -> dict[str, int]:
        found = self._read("added_tokens.json")
        if not all(_is_id(id) for id in found.values()):
            raise CheckpointError(f"{self.directory / 'added_tokens.json'}: must have an id for each token")
        return found

    def extra(self) -> list[Any]:
        """Special tokens without a name of their own."""
        found = self.values.get("extra_special_tokens") or self.values.get("additional_special_tokens") or []
        return list(found.values() if isinstance(found, dict) else found)


def _is_token(value: Any) -> bool:
    return isinstance(content_of(value), str)


def _is_id(value: Any) -> bool:
    """Whether a number or, as the key of an object, its text is an id."""
    if isinstance(value, str):
        return value.isascii() and value.isdecimal() and len(value) < 10
    return type(value) is int and 0 <= value < _IDS


def content_of(token: Any) -> Any:
    """The text of a token of the files, a string or an object."""
    return token.get("content") if isinstance(token, dict) else token


def added_token(token: Any, **flags: bool) -> Any:
    """A token of the files, a string or an object with flags, as an AddedToken."""
    import tokenizers

    if isinstance(token, dict):
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        flags |= {name: bool(token[name]) for name in names if name in token}
    return tokenizers.AddedToken(content_of(token), **flags)
