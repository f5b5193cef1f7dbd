"""Texts of CTC models against the tokenizer of transformers: texts, times, languages."""

import json
import random

import pytest
import transformers

import diptych
from diptych.core.errors import CheckpointError, InputError
from diptych.core.interfaces import Tokenizer
from diptych.text.tokenizer_settings import MissingTokenizerError
from diptych.text.tokenizers import load_tokenizer

VOCABULARY = {token: id for id, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAN'.,", "TH"])}
FRENCH = {token: id for id, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "É", "|", "B"])}


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint; gives the tokenizer of transformers for it, and the directory."""

    def write(vocabulary=VOCABULARY, **settings):
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        theirs = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **settings)
        theirs.save_pretrained(tmp_path)
        return theirs, tmp_path

    return write


def spans(offsets, name):
    return [(one[name], int(one["start_offset"]), int(one["end_offset"])) for one in offsets]


SETTINGS = [
    {},
    {"do_lower_case": True},
    {"word_delimiter_token": "A", "replace_word_delimiter_char": "_"},
    {"pad_token": "N", "unk_token": "E"},
    {"clean_up_tokenization_spaces": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_texts_and_times_are_those_of_transformers(checkpoint, settings):
    theirs, directory = checkpoint(**settings)
    ours = load_tokenizer(directory)
    assert isinstance(ours, Tokenizer)
    draw = random.Random(3)
    for length in (0, 1, 2, 5, 40, 40, 200):
        ids = [id for _ in range(length) for id in [draw.choice([0, 0, 4, *range(15)])] * draw.randint(1, 3)]
        found = ours.decode_frames(ids)
        wanted = theirs.decode(ids, output_char_offsets=True, output_word_offsets=True)
        assert found.text == wanted.text == ours.decode_batch([ids], skip_special_tokens=False)[0]
        assert [(one.text, one.start, one.end) for one in found.characters] == spans(wanted.char_offsets, "char")
        assert [(one.text, one.start, one.end) for one in found.words] == spans(wanted.word_offsets, "word")


@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_ids_are_those_of_transformers(checkpoint, settings):
    theirs, directory = checkpoint(**settings)
    ours = load_tokenizer(directory)
    texts = ["TEA", "A TEN", " AN <unk> ANT ", "ETHAN", "a tea", "<pad>  N", "X Y", "E|T", "", "T  A"]
    assert [one.ids for one in ours.encode_batch(texts)] == theirs(texts, add_special_tokens=False)["input_ids"]
    assert ours.get_vocab_size() == theirs.vocab_size == 13
    assert ours.token_to_id("|") == 4 and ours.token_to_id("Q") is None


def test_special_tokens_are_left_out_after_runs_are_joined(checkpoint):
    _, directory = checkpoint()
    assert load_tokenizer(directory).decode_batch([[1, 5, 0, 5, 5, 3, 3, 2]]) == ["EE"]


def test_languages_of_a_nested_vocabulary(checkpoint):
    theirs, directory = checkpoint({"eng": VOCABULARY, "fra": FRENCH}, target_lang="eng")
    ours, ids = load_tokenizer(directory), [4, 0, 5, 6, 6, 4]
    assert ours.decode_frames(ids).text == theirs.decode(ids)
    theirs.set_target_lang("fra")
    assert ours.for_language("fra").decode_frames(ids).text == theirs.decode(ids) == "É BÉ"
    assert load_tokenizer(directory, source_language="fra").decode_batch([ids]) == ["É BÉ"]
    with pytest.raises(InputError, match="tokenizer: language='deu' is not known; known: eng, fra"):
        load_tokenizer(directory, source_language="deu")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "Wav2Vec2CTCTokenizer"}')
    with pytest.raises(
        CheckpointError, match=r"vocab\.json: has the languages eng, fra, but tokenizer_config.json has"
    ):
        load_tokenizer(directory)


def test_files_of_every_age(tmp_path):
    small = {token: id for token, id in VOCABULARY.items() if token not in ("<s>", "</s>")}
    (tmp_path / "vocab.json").write_text(json.dumps(small))
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    (tmp_path / "added_tokens.json").write_text('{"<s>": 13, "</s>": 14}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "E"}}')
    ids = [13, 5, 6, 4, 4, 7, 14, 1]
    assert load_tokenizer(tmp_path).decode_frames(ids).text == "<s>T A</s><unk>"
    vocabulary = {"model": {"type": "WordLevel", "vocab": small}, "added_tokens": [{"content": "</s>", "id": 14}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    (tmp_path / "vocab.json").unlink()
    (tmp_path / "added_tokens.json").unlink()
    assert load_tokenizer(tmp_path).decode_frames(ids).text == "<unk>T A</s><unk>"
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(MissingTokenizerError, match=r"vocab\.json: no such file, so ids cannot become text"):
        load_tokenizer(tmp_path)
    for text in ("{}", '{"a": "b"}', '{"eng": {"a": null}}'):
        (tmp_path / "vocab.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"vocab\.json: is no vocabulary of a CTC model"):
            load_tokenizer(tmp_path)


def test_characters_that_no_token_stands_for_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "|": 1, "A": 2}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Wav2Vec2CTCTokenizer"}')
    ours = load_tokenizer(tmp_path)
    assert ours.encode_batch(["A A"])[0].ids == [2, 1, 2]
    with pytest.raises(InputError, match="tokenizer: 'B', 'C' is not in the vocabulary of 'A BC'"):
        ours.encode_batch(["A BC"])
    (tmp_path / "vocab.json").write_text('{"A": 0}')
    with pytest.raises(CheckpointError, match="pad_token='<pad>', the blank of CTC, is not in the vocabulary"):
        _ = load_tokenizer(tmp_path).pad_token_id


def test_the_processor_is_that_of_transformers(checkpoint, tmp_path):
    theirs, directory = checkpoint({"eng": VOCABULARY, "fra": FRENCH}, target_lang="eng")
    features = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    both = transformers.Wav2Vec2Processor(features, theirs)
    both.save_pretrained(directory)
    ours = diptych.load_processor(directory)
    assert ours.sampling_rate == 16_000
    assert ours.model_input_names == ("input_values", "attention_mask", "labels")
    assert repr(ours).startswith(f"SpeechProcessor('{directory}', AudioProcessor(AudioProcessorConfig(")
    recordings, texts = [[0.1, 0.5, -0.2], [0.3, 0.1]], ["A TEA", "TEN"]
    wanted = both(recordings, sampling_rate=16_000, padding=True, return_tensors="np")
    labels = theirs(texts, padding=True)["input_ids"]
    found = ours(recordings, texts, return_tensors="np")
    assert found.labels.tolist() == labels
    for name in ("input_values", "attention_mask"):
        assert (found[name] == wanted[name]).all()
    assert set(ours(text=texts)) == {"input_ids", "attention_mask"}
    ids = [5, 5, 0, 4, 6, 3]
    assert ours.decode(ids) == both.decode(ids) and ours.batch_decode([ids]) == [both.decode(ids)]
    assert [one.text for one in ours.decode_frames(ids).words] == ["E", "T<unk>"]
    ours.save_pretrained(tmp_path / "saved")
    again = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "saved")
    assert again.decode(ids) == both.decode(ids)
    ours.set_language("fra")
    assert ours.decode([4]) == "É"
    ours.save_pretrained(tmp_path / "french")
    again = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "french")
    assert again.decode([4]) == diptych.load_processor(tmp_path / "french").decode([4]) == "É"
    with pytest.raises(InputError, match="processor: audio or text is needed, got neither"):
        ours()


def test_times_and_languages_need_a_ctc_model(checkpoint):
    _, directory = checkpoint()
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(directory)
    with pytest.raises(InputError, match="language='fra' is not known; known: none, since its vocabulary has no"):
        diptych.load_processor(directory).set_language("fra")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (directory / "vocab.json").unlink()
    (directory / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    ours = diptych.load_processor(directory)
    with pytest.raises(InputError, match="only the tokens of a CTC model are those of frames"):
        ours.decode_frames([5])
    with pytest.raises(InputError, match="language='fra', but its vocabulary has no languages"):
        ours.set_language("fra")
