"""Vocabulary files without a tokenizer.json become the ids that the tokenizers of transformers give."""

import io
import json
import sys

import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

from diptych.core.errors import CheckpointError, InputError
from diptych.text import load_tokenizer
from diptych.text.tokenizer_settings import MissingTokenizerError

CORPUS = [
    "The cat sleeps on the warm windowsill, and the kitten naps in the sun.",
    "Interest rates rose again this quarter: 12 percent.",
    "Le chat dort près de la fenêtre; l'été, il rêve.",
    "A small model learns a small language from a few words.",
] * 5
TEXTS = [
    "the cat sleeps",
    "  The  CAT's   fenêtre rêve… naïve!\tsun\n",
    "don't I've 12345 quarters",
    "猫 sleeps 🙂 on",
    "a <mask> [MASK] cat </s> end",
    "",
]
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the cat ##s sleep a ##n na ##p ##e f fenetre fenêtre The C ##A ##T do ' t 猫 ! ,"
)


def write_word_piece(directory):
    (directory / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")


def write_byte_pairs(directory, first):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(directory))


def write_clip(directory):
    """Letters, letters that end a word, and three merges of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a")]
    tokens = [*alphabet, *(f"{char}</w>" for char in alphabet), *("".join(merge) for merge in merges)]
    vocabulary = {token: id for id, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


@pytest.fixture(scope="module")
def pieces():
    """Kind of model -> the bytes of a sentencepiece file."""

    def train(kind, **options):
        written = io.BytesIO()
        options = {"vocab_size": 90, "model_type": kind, "hard_vocab_limit": False, "num_threads": 1, **options}
        options |= {"minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=written, **options)
        return written.getvalue()

    padded = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    return {kind: train(kind) for kind in ("unigram", "bpe", "char")} | {"padded": train("bpe", **padded)}


ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WRITERS = {
    "BertTokenizer": write_word_piece,
    "GPT2Tokenizer": lambda directory: write_byte_pairs(directory, ["<|endoftext|>"]),
    "RobertaTokenizer": lambda directory: write_byte_pairs(directory, ROBERTA),
    "BartTokenizer": lambda directory: write_byte_pairs(directory, ROBERTA),
    "CLIPTokenizer": write_clip,
}
SENTENCEPIECE = {
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", "unigram"),
    "CamembertTokenizer": ("sentencepiece.bpe.model", "unigram"),
    "MBartTokenizer": ("sentencepiece.bpe.model", "unigram"),
    "MBart50Tokenizer": ("sentencepiece.bpe.model", "unigram"),
    "BertGenerationTokenizer": ("spiece.model", "padded"),
}


@pytest.fixture
def write(tmp_path, pieces):
    """Writes the vocabulary of a class, and settings; gives the directory."""

    def write(class_name, **settings):
        if class_name in WRITERS:
            WRITERS[class_name](tmp_path)
        else:
            name, kind = SENTENCEPIECE[class_name]
            (tmp_path / name).write_bytes(pieces[kind])
        settings = {"tokenizer_class": class_name, **settings}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


def oracle(class_name, directory):
    return getattr(transformers, class_name).from_pretrained(directory)


def assert_equal(class_name, directory, texts=TEXTS):
    ours, theirs = load_tokenizer(str(directory)), oracle(class_name, directory)
    assert ours.get_vocab_size() == len(theirs)
    for text in texts:
        expected = theirs(text).input_ids
        (found,) = ours.encode_batch([text])
        assert list(found.ids) == expected, text
        assert set(found.attention_mask) <= {1}
        assert ours.decode_batch([found.ids])[0].split() == theirs.decode(expected, skip_special_tokens=True).split()
    (pair,), expected = ours.encode_batch([("the cat", "a sun")]), theirs("the cat", "a sun")
    assert list(pair.ids) == expected.input_ids
    assert "token_type_ids" not in expected or list(pair.type_ids) == expected.token_type_ids


def ids(tokenizer, text="the cat"):
    return list(tokenizer.encode_batch([text])[0].ids)


@pytest.mark.parametrize("class_name", [*WRITERS, *SENTENCEPIECE])
def test_ids_are_those_of_transformers(write, class_name):
    # transformers 5.23 leaves out MBart's normalization, which changes the ellipsis
    assert_equal(
        class_name, write(class_name), [t.replace("…", " ") if class_name == "MBartTokenizer" else t for t in TEXTS]
    )


def test_mbart_normalizes_as_its_model_says(write):
    words = [ids(load_tokenizer(write(name)), TEXTS[1]) for name in ("XLMRobertaTokenizer", "MBartTokenizer")]
    assert words[0][1:-1] == words[1][:-2]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "padded"])
def test_a_model_of_sentencepiece_gives_its_own_ids(write, pieces, kind):
    """Those of the library itself, for which BertGeneration's tokenizer is a name."""
    directory = write("BertGenerationTokenizer")
    (directory / "spiece.model").write_bytes(pieces[kind])
    ours, library = load_tokenizer(directory), sentencepiece.SentencePieceProcessor(model_proto=pieces[kind])
    for text in (*CORPUS[:4], *TEXTS[:4], "wwarmm ssun kitten's"):
        assert ids(ours, text) == library.encode(text), text


SETTINGS = [
    ("BertTokenizer", {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}),
    ("BertTokenizer", {"cls_token": "[MASK]", "tokenizer_class": "BertTokenizerFast"}),
    ("GPT2Tokenizer", {"add_prefix_space": True, "add_bos_token": True, "pad_token": "<extra>"}),
    (
        "RobertaTokenizer",
        {"add_prefix_space": True, "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True}},
    ),
    (
        "RobertaTokenizer",
        {"added_tokens_decoder": {"340": {"content": "kitten", "lstrip": True}, "4": {"content": "<mask>"}}},
    ),
    ("XLMRobertaTokenizer", {"add_prefix_space": False, "additional_special_tokens": ["<a>", "<b>"]}),
    ("MBartTokenizer", {"src_lang": "ro_RO"}),
    ("MBart50Tokenizer", {"src_lang": "fr_XX"}),
]


@pytest.mark.parametrize(("class_name", "settings"), SETTINGS)
def test_settings_change_ids_as_in_transformers(write, class_name, settings):
    texts = ["the cat", "A <mask> [MASK] kitten <a> Fenêtre 猫"]
    assert_equal(class_name, write(class_name, **settings), texts)


def test_older_files_are_read(write):
    """Two files in place of one, and the class named by the model alone."""
    directory = write("BertTokenizer")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (directory / "config.json").write_text('{"encoder": {"model_type": "bert"}, "model_type": "encoder-decoder"}')
    (directory / "special_tokens_map.json").write_text('{"sep_token": "[END]", "cls_token": {"content": "[CLS]"}}')
    (directory / "added_tokens.json").write_text(
        json.dumps({"[END]": len(WORDS.split()) + 1, "kitten": len(WORDS.split())})
    )
    assert_equal("BertTokenizer", directory, ["The cat kitten [END]"])


def test_the_caller_chooses_the_language(write):
    directory = write("MBartTokenizer", src_lang="ro_RO")
    romanian, german = ids(load_tokenizer(directory)), ids(load_tokenizer(directory, source_language="de_DE"))
    assert romanian[:-1] == german[:-1]
    theirs = oracle("MBartTokenizer", directory)
    assert [romanian[-1], german[-1]] == theirs.convert_tokens_to_ids(["ro_RO", "de_DE"])
    load_tokenizer(directory).save(str(directory / "tokenizer.json"))
    assert ids(load_tokenizer(directory)) == romanian
    assert ids(load_tokenizer(directory, source_language="de_DE")) == german


def damaged(name, content):
    return lambda directory: (directory / name).write_bytes(content)


BAD = [
    ("BertTokenizer", lambda directory: (directory / "vocab.txt").unlink(), "nor the vocab.txt of a BertTokenizer, so"),
    ("GPT2Tokenizer", lambda directory: (directory / "merges.txt").unlink(), "nor the merges.txt of a GPT2Tokenizer"),
    (
        "MBartTokenizer",
        lambda directory: (directory / "sentencepiece.bpe.model").unlink(),
        "nor the sentencepiece.bpe.model of a MBartTokenizer",
    ),
    (
        "BertTokenizer",
        damaged("tokenizer_config.json", b'{"tokenizer_class": "AlbertTokenizer"}'),
        "a tokenizer of the class AlbertTokenizer cannot be built from others (known: BertTokenizer, GPT2Tokenizer",
    ),
    ("BertTokenizer", damaged("tokenizer_config.json", b"{}"), "of the class (unknown) cannot be built"),
    ("GPT2Tokenizer", damaged("vocab.json", b"[]"), "its vocabulary cannot be read ("),
    ("BertTokenizer", damaged("added_tokens.json", b'{"kitten": 5}'), "other ids than the files say: kitten (5)"),
    ("BertTokenizer", damaged("tokenizer.json", b"{}"), "tokenizer.json: is no tokenizer that tokenizers reads ("),
    ("XLMRobertaTokenizer", damaged("sentencepiece.bpe.model", b""), "is no model of sentencepiece (it has 0 pieces)"),
    (
        "XLMRobertaTokenizer",
        damaged("sentencepiece.bpe.model", b"\x0a\x70abc"),
        "is no model of sentencepiece (it ends",
    ),
    ("XLMRobertaTokenizer", damaged("sentencepiece.bpe.model", b"\x0b\x00"), "sentencepiece (wire type 3)"),
    ("XLMRobertaTokenizer", damaged("sentencepiece.bpe.model", b"\x08\x05"), "(a number where a message is needed)"),
    (
        "XLMRobertaTokenizer",
        damaged("sentencepiece.bpe.model", b"\x0a\x02\x08\x01"),
        "a piece has fields of other types",
    ),
]


@pytest.mark.parametrize(("class_name", "damage", "message"), BAD)
def test_what_is_missing_or_broken_is_named(write, class_name, damage, message):
    directory = write(class_name)
    damage(directory)
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(directory)
    assert message in str(error.value)
    assert str(directory) in str(error.value)
    assert isinstance(error.value, MissingTokenizerError) is ("become ids; ids work without" in str(error.value))


def test_a_model_of_another_kind_is_refused(write, pieces):
    directory = write("XLMRobertaTokenizer")
    for kind, message in (("bpe", "needs a unigram model, not BPE"), ("char", "is a model of words or characters")):
        (directory / "sentencepiece.bpe.model").write_bytes(pieces[kind])
        with pytest.raises(CheckpointError, match=message):
            load_tokenizer(directory)


@pytest.mark.parametrize(
    ("class_name", "message"),
    [
        ("MBartTokenizer", "='xx_YY' is not known; write it as in en_XX"),
        ("BertTokenizer", "its tokenizer has no languages"),
    ],
)
def test_a_language_that_is_not_there(write, class_name, message):
    with pytest.raises(InputError, match=message):
        load_tokenizer(write(class_name), source_language="xx_YY")


def test_the_library_is_named(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs tokenizers, which is not installed; pip install 'diptych\[text\]'"):
        load_tokenizer(write("BertTokenizer"))
