"""The tokenizer of a checkpoint: its tokenizer.json, or else one built from the vocabulary files of older checkpoints.

Ids are those of the tokenizer classes of transformers. Everything runs in the tokenizers library, which is imported
when it is used.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import CONFIGS, locate
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.interfaces import Tokenizer
from diptych.text.ctc import load_ctc_tokenizer
from diptych.text.sentencepiece import SentencePieceModel
from diptych.text.tokenizer_settings import (
    CTC_CLASSES,
    TOKENIZER_FILE,
    MissingTokenizerError,
    TokenizerSettings,
    added_token,
    content_of,
)

PaddingSide = Literal["left", "right"]

_MBART_LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip
"""The languages of MBart, in the order of their ids."""
_MBART50_LANGUAGES = (
    *_MBART_LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip
"""Those of MBart-50."""


def load_tokenizer(
    name_or_path: str | os.PathLike[str], *, source_language: str | None = None, **options: Unpack[HubOptions]
) -> Tokenizer:
    """The tokenizer of a checkpoint, without padding and truncation.

    It is read from tokenizer.json. Without that file, it is built from vocab.txt (BERT), vocab.json and merges.txt
    (GPT-2, RoBERTa, BART, CLIP) or a model of sentencepiece (XLM-RoBERTa, CamemBERT, MBart, BertGeneration), with the
    settings of tokenizer_config.json, special_tokens_map.json and added_tokens.json. The tokenizer of a CTC model is a
    `CTCTokenizer`, from vocab.json or tokenizer.json.

    Args:
        name_or_path: the checkpoint's directory, or its name on the Hugging Face hub.
        source_language: the code of the language that an MBart encoder reads, such as "de_DE"; by default that of the
            files, or else en_XX. Of a CTC model with several vocabularies, such as MMS, the language that it writes.
        options: see `HubOptions`.

    Raises:
        MissingTokenizerError: files are missing, or the tokenizer's class is not known.
        CheckpointError: files are broken.
        InputError: the tokenizer does not know the language.
        ImportError: the tokenizers library is not installed.
    """
    directory = locate(name_or_path, only=CONFIGS, **options)
    settings = TokenizerSettings(directory)
    if settings.class_name in CTC_CLASSES:
        found = load_ctc_tokenizer(directory, settings.values, settings.added_ids(), source_language)
        if found is None:
            raise MissingTokenizerError(f"{directory / 'vocab.json'}: no such file, so ids cannot become text")
        return found
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            f"{directory}: its tokenizer needs tokenizers, which is not installed; pip install 'diptych[text]'"
        ) from None
    path = directory / TOKENIZER_FILE
    if path.is_file():
        with _refusing(f"{path}: is no tokenizer that tokenizers reads"):
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
    else:
        tokenizer = _build(settings)
    language = source_language or settings.values.get("src_lang")
    if settings.class_name in _LANGUAGE_FIRST and (language is not None or not path.is_file()):
        _frame_with_language(tokenizer, settings, language or "en_XX")
    elif source_language is not None:
        raise InputError(f"{directory}: source_language={source_language!r}, but its tokenizer has no languages")
    tokenizer.no_padding()
    tokenizer.no_truncation()  # the model refuses prompts that are too long
    return tokenizer


@contextmanager
def _refusing(problem: str) -> Iterator[None]:
    """Turns the errors of tokenizers, which have no class of their own, into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:  # a panic of its Rust code is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise CheckpointError(f"{problem} ({error})") from None
        raise


@contextmanager
def refuse_panics(caller: str) -> Iterator[None]:
    """Turns the panic of a tokenizer that reads texts, as after a pattern that takes too long, into our error."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{caller}: the tokenizer cannot read the text ({error}); download it again") from None


def check_text(caller: str, text: Any) -> None:
    """Checks that a tokenizer can read a text.

    Raises:
        InputError: it is no string, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise InputError(f"{caller}: a text is needed, but {text!r} is of type {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{caller}: the text {text!r} is not valid Unicode ({error.reason})") from None


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer, as the files beside it name them.

    Attributes:
        bos, eos, pad: begins a text, ends it, and pads it; None if there is none.
        extra: those without such a role.
        padding_side: where texts are padded.
    """

    bos: str | None
    eos: str | None
    pad: str | None
    extra: tuple[str, ...]
    padding_side: PaddingSide


def load_special_tokens(directory: str | os.PathLike[str]) -> SpecialTokens:
    """The special tokens of a checkpoint directory; where its files are silent, those of the tokenizer's class.

    Raises:
        CheckpointError: files are broken.
        ConfigError: padding_side is neither left nor right.
    """
    settings = TokenizerSettings(Path(directory))
    defaults = _LLAMA if settings.class_name == "LlamaTokenizer" else _RECIPES.get(settings.class_name, ({},))[0]
    named = (settings.values.get(f"{role}_token", defaults.get(role)) for role in ("bos", "eos", "pad"))
    side = settings.values.get("padding_side", "left" if defaults is _LLAMA else "right")
    if side not in ("left", "right"):
        raise ConfigError(f"{Path(directory) / 'tokenizer_config.json'}: padding_side={side!r} must be left or right")
    bos, eos, pad = (None if token is None else content_of(token) for token in named)
    return SpecialTokens(bos, eos, pad, tuple(map(content_of, settings.extra())), side)


_STRIPPING_MASK = {"content": "<mask>", "lstrip": True}
"""A mask that swallows the space before it."""
# The special tokens of each class by default, in the order in which transformers adds those that a vocabulary lacks.
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
_MBART = {**_ROBERTA, "mask": _STRIPPING_MASK}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_GPT2 = {**dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"), "pad": None}
_CLIP = {"bos": "<|startoftext|>", **dict.fromkeys(("eos", "unk", "pad"), "<|endoftext|>")}
_BERT_GENERATION = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "<::::>", "pad": "<pad>"}


def _build(settings: TokenizerSettings) -> Any:
    """The tokenizer of vocabulary files, with all special and added tokens.

    Raises:
        MissingTokenizerError: the class is not known, or a file is missing.
        CheckpointError: a file is broken, or tokens get other ids than the files say.
    """
    if settings.class_name not in _RECIPES:
        raise MissingTokenizerError(
            f"{settings.directory / TOKENIZER_FILE}: no such file, and a tokenizer of the class "
            f"{settings.class_name or '(unknown)'} cannot be built from others (known: {', '.join(_RECIPES)}), so text "
            "cannot become ids; ids work without"
        )
    defaults, build, frame = _RECIPES[settings.class_name]
    found = {name: settings.token(name, default) for name, default in defaults.items()}
    tokens = {name: token for name, token in found.items() if token is not None}
    texts = {name: token.content for name, token in tokens.items()}
    with _refusing(f"{settings.directory}: its vocabulary cannot be read"):
        tokenizer, marked = build(settings, texts)
    added, extra = settings.added_tokens(), [added_token(token, special=True) for token in settings.extra()]
    tokenizer.add_tokens([*added.values(), *tokens.values(), *marked, *extra])
    moved = [f"{token.content} ({id})" for id, token in added.items() if tokenizer.token_to_id(token.content) != id]
    if moved:
        raise CheckpointError(
            f"{settings.directory}: the vocabulary gives added tokens other ids than the files say: "
            f"{', '.join(moved)}; the files belong to different checkpoints"
        )
    frame(tokenizer, settings, texts)
    return tokenizer


# Vocabularies: each gives a tokenizer that has only its model, and the tokens that its files mark.


def _word_piece(settings: TokenizerSettings, tokens: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """BERT's: words, split into the longest known parts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = models.WordPiece.read_file(str(settings.path("vocab.txt")))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.values.get("tokenize_chinese_chars", True),
        strip_accents=settings.values.get("strip_accents"),
        lowercase=settings.values.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer, []


def _byte_level_bpe(settings: TokenizerSettings, tokens: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """GPT-2's: bytes, merged pair by pair."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(*_vocabulary_and_merges(settings)))
    prefix = bool(settings.values.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, []


_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word; part of its published tokenizer."""


def _clip_bpe(settings: TokenizerSettings, tokens: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """CLIP's: lower-cased words, of which each ends with a mark."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary, merges = _vocabulary_and_merges(settings)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=tokens["unk"]))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    return tokenizer, []


def _vocabulary_and_merges(settings: TokenizerSettings) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import models

    return models.BPE.read_file(str(settings.path("vocab.json")), str(settings.path("merges.txt")))


def _fairseq(*, dropped: int, first: tuple[str, ...] = (), languages: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The vocabularies of models that fairseq trained: its own special tokens before and after the pieces.

    Args:
        dropped: the number of pieces of the file that are left out, since they stand among the first.
        first: the first tokens; by default <s>, <pad>, </s> and <unk>, as the settings call them.
        languages: the codes after the pieces.
    """

    def build(settings: TokenizerSettings, tokens: Mapping[str, str]) -> tuple[Any, list[Any]]:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        model = settings.model()
        if model.is_bpe:
            raise CheckpointError(f"{settings.directory}: a {settings.class_name} needs a unigram model, not BPE")
        start = first or ("{bos}", "{pad}", "{eos}", "{unk}")
        vocabulary = [(text.format(**tokens), -100.0 if text == "<unk>NOTUSED" else 0.0) for text in start]
        vocabulary += [(piece.text, piece.score) for piece in model.pieces[dropped:]]
        vocabulary += [(text, 0.0) for text in (*languages, tokens["mask"])]
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
        # also for MBart, as sentencepiece and the published tokenizer.json do; transformers 5.23 leaves it out there
        charsmap = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
        tokenizer.normalizer = normalizers.Sequence([*charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
        scheme = "always" if settings.values.get("add_prefix_space", True) else "never"
        spaces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
        split = [] if languages == _MBART50_LANGUAGES else [pre_tokenizers.WhitespaceSplit()]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, spaces])
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
        marked = [text for text in start if text.endswith("NOTUSED")]
        return tokenizer, [
            *_unsplit_pieces(model),
            *(added_token(text, special=True) for text in (*marked, *languages)),
        ]

    return build


def _plain_sentencepiece(settings: TokenizerSettings, tokens: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """BertGeneration's: the pieces of the file as they are."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    model = settings.model()
    if model.is_bpe:
        vocabulary = {piece.text: id for id, piece in enumerate(model.pieces)}
        unknown = model.pieces[model.unknown_id].text
        options = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": model.byte_fallback}
        tokenizer = Tokenizer(models.BPE(vocabulary, model.merges, **options))
    else:
        scores = [(piece.text, piece.score) for piece in model.pieces]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=model.unknown_id, byte_fallback=model.byte_fallback))
    charsmap = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    spaces = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence([*charsmap, *spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer, _unsplit_pieces(model)


def _unsplit_pieces(model: SentencePieceModel) -> list[Any]:
    """The pieces that are never split: control symbols, which are special, and those that a user defined."""
    found = (piece for piece in model.pieces if piece.is_control or piece.is_user_defined)
    return [added_token(piece.text, special=piece.is_control, normalized=False) for piece in found]


# Frames: the special tokens around a text.


def _template(
    tokenizer: Any, before: Iterable[str], between: Iterable[str], after: Iterable[str], second: int = 0
) -> None:
    """Puts special tokens around a text, and around and between two, the second of which has a token type."""
    from tokenizers import processors

    before, between, after = tuple(before), tuple(between), tuple(after)
    last = [f"{token}:{second}" for token in ("$B", *after)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *between, *last],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *between, *after}],
    )


def _frame_bert(tokenizer: Any, settings: TokenizerSettings, tokens: Mapping[str, str]) -> None:
    _template(tokenizer, [tokens["cls"]], [tokens["sep"]], [tokens["sep"]], second=1)


def _frame_roberta(tokenizer: Any, settings: TokenizerSettings, tokens: Mapping[str, str]) -> None:
    _template(tokenizer, [tokens["cls"]], [tokens["sep"]] * 2, [tokens["sep"]])


def _frame_sentence(tokenizer: Any, settings: TokenizerSettings, tokens: Mapping[str, str]) -> None:
    _template(tokenizer, [tokens["bos"]], [tokens["eos"]] * 2, [tokens["eos"]])


def _frame_gpt2(tokenizer: Any, settings: TokenizerSettings, tokens: Mapping[str, str]) -> None:
    if settings.values.get("add_bos_token"):
        _template(tokenizer, [tokens["bos"]], [tokens["bos"]], [])


def _no_frame(tokenizer: Any, settings: TokenizerSettings, tokens: Mapping[str, str]) -> None:
    """MBart's is set for each language, and BertGeneration has none."""


def _frame_with_language(tokenizer: Any, settings: TokenizerSettings, language: str) -> None:
    """MBart's frame: the language comes last, and in MBart-50 first.

    Raises:
        InputError: the vocabulary has no such language.
    """
    if tokenizer.token_to_id(language) is None or language not in _MBART50_LANGUAGES:
        raise InputError(f"{settings.directory}: source_language={language!r} is not known; write it as in en_XX")
    end = settings.token("eos", "</s>").content
    before, after = ([language], [end]) if _LANGUAGE_FIRST[settings.class_name] else ([], [end, language])
    _template(tokenizer, before, [], after)


_LANGUAGE_FIRST = {"MBartTokenizer": False, "MBart50Tokenizer": True}
"""Class with languages -> whether the language stands before the text."""
_CAMEMBERT_FIRST = ("<s>NOTUSED", "{pad}", "</s>NOTUSED", "{unk}", "<unk>NOTUSED")

_RECIPES: Mapping[str, tuple[Mapping[str, Any], Callable[..., Any], Callable[..., None]]] = {
    "BertTokenizer": (_BERT, _word_piece, _frame_bert),
    "GPT2Tokenizer": (_GPT2, _byte_level_bpe, _frame_gpt2),
    "RobertaTokenizer": (_ROBERTA, _byte_level_bpe, _frame_roberta),
    "BartTokenizer": (_ROBERTA, _byte_level_bpe, _frame_roberta),
    "CLIPTokenizer": (_CLIP, _clip_bpe, _frame_sentence),
    "XLMRobertaTokenizer": (_ROBERTA, _fairseq(dropped=3), _frame_sentence),
    "CamembertTokenizer": (_MBART, _fairseq(dropped=1, first=_CAMEMBERT_FIRST), _frame_sentence),
    "MBartTokenizer": (_MBART, _fairseq(dropped=3, languages=_MBART_LANGUAGES), _no_frame),
    "MBart50Tokenizer": (_MBART, _fairseq(dropped=3, languages=_MBART50_LANGUAGES), _no_frame),
    "BertGenerationTokenizer": (_BERT_GENERATION, _plain_sentencepiece, _no_frame),
}
"""Name of a class -> its special tokens, what reads its vocabulary, and what puts special tokens around a text."""
