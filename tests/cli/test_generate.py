"""The command writes what models write: alike in both backends, from texts and ids, as tokens come and at the end."""

import io
import json
import re
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from diptych import text
from diptych.backends import torch as in_torch
from diptych.core.errors import InputError
from diptych.text import generate_text
from tests.assertions import assert_close

WORDS = ["[PAD]", "[START]", "[END]", "[UNK]", *(f"w{number}" for number in range(20))]
PAD, START, END, UNKNOWN = range(4)
BACKENDS = ("jax", "torch")
SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 14}


def word_level(template=None):
    """A word for each id, and special tokens around a text where a template says so."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:4])
    if template:
        special = [("[START]", START), ("[END]", END)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directories by name; weights are so large that each token depends on those before it."""
    folder = tmp_path_factory.mktemp("writers")
    sizes = {"vocab_size": len(WORDS), "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 50}
    config = in_torch.GPT2Config(**sizes, initializer_range=1.0, bos_token_id=START, eos_token_id=END)
    in_torch.GPT2LMHeadModel(config, seed=3).save_pretrained(folder / "gpt2")
    # what a file may say, and a batch has no use for
    tokenizer = word_level()
    tokenizer.enable_padding(length=7)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "gpt2" / text.TOKENIZER_FILE))

    sizes = {"vocab_size": len(WORDS), "d_model": 12, "max_position_embeddings": 30, "init_std": 0.7}
    heads = {"encoder_layers": 1, "encoder_attention_heads": 2, "decoder_layers": 2, "decoder_attention_heads": 3}
    widths = {"encoder_ffn_dim": 14, "decoder_ffn_dim": 16}
    special = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, "decoder_start_token_id": END}
    bart = in_torch.BartForConditionalGeneration(in_torch.BartConfig(**sizes, **heads, **widths, **special), seed=3)
    bart.generation_config = bart.generation_config.replace(max_length=9, num_beams=3, forced_bos_token_id=START)
    bart.save_pretrained(folder / "bart")
    word_level("[START] $A [END]").save(str(folder / "bart" / text.TOKENIZER_FILE))

    in_torch.GPT2LMHeadModel(config.replace(eos_token_id=None), seed=3).save_pretrained(folder / "silent")
    in_torch.BertModel(in_torch.BertConfig(vocab_size=9, **SMALL)).save_pretrained(folder / "bert")
    return folder


@pytest.fixture
def gpt2(checkpoints):
    return checkpoints / "gpt2"


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


def ids_of(words):
    return ",".join(str(WORDS.index(word)) for word in words.split())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_goes_on(run, gpt2, backend):
    model = in_torch.GPT2LMHeadModel.from_pretrained(gpt2)
    expected = model.generate([[5, 6, 7]], max_new_tokens=6).sequences[0, 3:].tolist()
    assert len(set(expected)) > 3
    command = ("generate", gpt2, "--backend", backend, "--max-new-tokens", 6)
    code, out, err = run(*command, "--text", "w1 w2 w3")
    assert (code, out, err) == (0, " ".join(WORDS[id] for id in expected) + "\n", "")
    assert run(*command, "--ids", "5,6,7") == (code, out, err)
    assert run(*command, "--ids", " 5 6, 7") == (code, out, err)
    _, echoed, _ = run(*command, "--text", "w1 w2 w3", "--echo")
    assert echoed == f"w1 w2 w3 {out}"
    _, out, _ = run(*command, "--ids", "5,6,7", "--json")
    words = " ".join(WORDS[id] for id in expected)
    assert rows_of(out) == [{"prompt": 1, "ids": expected, "text": words, "score": None}]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_what_each_is_alone(run, gpt2, backend):
    command = ("generate", gpt2, "--backend", backend, "--max-new-tokens", 5, "--json")
    prompts = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9")
    alone = [rows_of(run(*command, "--text", prompt)[1])[0] for prompt in prompts]
    alone = [{**row, "prompt": number} for number, row in enumerate(alone, 1)]
    _, out, err = run(*command, *(word for prompt in prompts for word in ("--text", prompt)), "--batch-size", 2)
    assert rows_of(out) == alone
    assert err == ""
    assert rows_of(run(*command, *(word for prompt in prompts for word in ("--ids", ids_of(prompt))))[1]) == alone
    _, out, _ = run(*command, *(word for prompt in prompts for word in ("--text", prompt)), "--echo")
    assert [row["text"] for row in rows_of(out)] == [
        f"{prompt} {row['text']}" for prompt, row in zip(prompts, alone, strict=True)
    ]


@pytest.mark.parametrize("options", [(), ("--num-beams", 2)])
def test_texts_end_where_they_end(run, gpt2, options):
    """The third token that comes is made the end; beams give their scores too."""
    command = ("generate", gpt2, "--backend", "torch", "--max-new-tokens", 8, *options)
    free = rows_of(run(*command, "--ids", "5,6,7", "--json")[1])[0]["ids"]
    ends = [f"{free[2]} 20", "21"]
    ended = (*command, *(word for end in ends for word in ("--eos-token-id", end)))
    _, out, _ = run(*ended, "--ids", "5,6,7", "--ids", "4", "--json")
    first, second = rows_of(out)
    for row in (first, second):
        found = [id for id in row["ids"] if id in (free[2], 20, 21)]
        assert found in ([], row["ids"][-1:])
        assert (row["score"] is not None) is bool(options)
    if not options:
        assert first["ids"] == free[: free.index(free[2]) + 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_an_encoder_reads_becomes_a_text(run, checkpoints, backend):
    model = in_torch.BartForConditionalGeneration.from_pretrained(checkpoints / "bart")
    expected = model.generate([[START, 5, 6, END], [START, 7, END, PAD]], attention_mask=[[1] * 4, [1, 1, 1, 0]])
    command = ("generate", checkpoints / "bart", "--backend", backend)
    code, out, err = run(*command, "--text", "w1 w2", "--text", "w3", "--json")
    rows = rows_of(out)
    assert (code, err, len(rows)) == (0, "", 2)
    scores = np.array([row["score"] for row in rows], np.float32)
    assert_close(scores, expected.sequences_scores.numpy(), kind="float32", name="scores")
    for row, ids in zip(rows, expected.sequences.tolist(), strict=True):
        assert [END, *row["ids"]] == ids[: len(row["ids"]) + 1]
        assert set(ids[len(row["ids"]) + 1 :]) <= {PAD}
        assert row["ids"][0] == START
        assert row["text"] == " ".join(WORDS[id] for id in row["ids"] if id > UNKNOWN)
    assert run(*command, "--text", "w1 w2")[1] == f"{rows[0]['text']}\n"
    echoed = rows_of(run(*command, "--text", "w1 w2", "--echo", "--json")[1])[0]
    assert (echoed["ids"], echoed["text"]) == ([END, *rows[0]["ids"]], rows[0]["text"])


def test_what_is_drawn_hangs_on_the_seed_alone(run, gpt2):
    def drawn(backend, seed):
        options = ("--do-sample", "--temperature", 1.5, "--top-k", 9, "--num-return-sequences", 3, "--seed", seed)
        code, out, _ = run("generate", gpt2, "--backend", backend, "--text", "w1", "--text", "w2 w3", *options)
        assert code == 0
        return out.splitlines()

    first = drawn("torch", 5)
    assert len(first) == 6
    assert len(set(first)) > 4
    assert drawn("jax", 5) == drawn("torch", 5) == first
    assert drawn("torch", 6) != first


def test_stdin_is_a_text(run, gpt2, monkeypatch):
    command = ("generate", gpt2, "--backend", "torch")
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1\nw2 w3\n"))
    assert run(*command, "--text", "-") == run(*command, "--text", "w1 w2 w3")
    monkeypatch.setattr(sys, "stdin", io.StringIO("w4"))
    assert run(*command, "--text", "w1", "--text", "-") == run(*command, "--text", "w1", "--text", "w4")


def test_prompts_come_from_files_line_by_line(run, gpt2, tmp_path, monkeypatch):
    command = ("generate", gpt2, "--backend", "torch", "--max-new-tokens", 3)
    (tmp_path / "prompts").write_text("w1 w2\nw3\n")
    assert run(*command, "--text", f"@{tmp_path / 'prompts'}") == run(*command, "--text", "w1 w2 w3")
    texts = ("--text", "w5", "--text", f"@{tmp_path / 'prompts'}", "--text", "-", "--lines")
    monkeypatch.setattr(sys, "stdin", io.StringIO("w4"))
    flags = [word for text in ("w5", "w1 w2", "w3", "w4") for word in ("--text", text)]
    expected = run(*command, *flags, "--json")
    assert run(*command, *texts, "--json") == expected
    # in batches, and into a file
    for options in (("--batch-size", 3), ("--batch-size", 1)):
        monkeypatch.setattr(sys, "stdin", io.StringIO("w4"))
        assert run(*command, *texts, "--json", *options, "--output", tmp_path / "out") == (0, "", "")
        assert (tmp_path / "out").read_text() == expected[1]
    assert run(*command, "--text", "w1", "--output", tmp_path / "out")[0] == 0
    assert (tmp_path / "out").read_text() == run(*command, "--text", "w1")[1]
    assert run(*command, "--text", "@@w1")[1] == run(*command, "--text", "unknown")[1]


def test_blank_lines_are_skipped_with_a_note(run, gpt2, tmp_path):
    command = ("generate", gpt2, "--backend", "torch", "--max-new-tokens", 3)
    path = tmp_path / "prompts"
    path.write_text("w1 w2\n\nw3\n \n")
    _, expected, _ = run(*command, "--text", "w1 w2", "--text", "w3")
    note = f"diptych: {path}: blank lines are skipped: 2, 4\n"
    assert run(*command, "--text", f"@{path}", "--lines") == (0, expected, note)


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_every_prompt_is_checked_before_a_text_is_written(run, checkpoints, tmp_path, name):
    path = tmp_path / "out"
    path.write_text("from an earlier run")
    command = ("generate", checkpoints / name, "--backend", "torch", "--batch-size", 1, "--max-new-tokens", 3)
    long = ",".join(["5"] * 60)
    for ids, message in (("24", "input_ids holds 24, but vocab_size allows 0 to 23"), (long, "60")):
        for options in ((), ("--output", path)):
            code, out, err = run(*command, "--ids", "5", "--ids", ids, *options)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert message in err
    assert path.read_text() == "from an earlier run"


def test_batches_draw_their_own_tokens(gpt2):
    options = {"backend": "torch", "max_new_tokens": 6, "do_sample": True, "temperature": 3.0, "batch_size": 2}
    first, second = (text.ids for text in generate_text(gpt2, [[5], [5], [5], [5]], **options)[::2])
    assert first != second


def test_the_command_chooses_the_device(run, gpt2):
    command = ("generate", gpt2, "--ids", "5,6,7", "--max-new-tokens", 4)
    expected = run(*command, "--backend", "torch")
    assert expected[0] == 0
    assert run(*command, "--backend", "torch", "--device", "cpu") == expected
    assert run(*command, "--backend", "jax", "--device", "cpu:0") == expected
    assert run(*command, "--backend", "jax", "--sharding", "split") == expected


def test_a_config_may_be_changed(run, tmp_path):
    """RoBERTa and its like decode if their config says so."""
    config = in_torch.BertConfig(vocab_size=9, **SMALL, initializer_range=1.0)
    in_torch.BertLMHeadModel(config, seed=1).save_pretrained(tmp_path)
    command = ("generate", tmp_path, "--backend", "torch", "--ids", "3,4", "--max-new-tokens", 3)
    code, _, err = run(*command)
    assert (code, err) == (
        2,
        "diptych: BertLMHeadModel.generate: the model is not a decoder; its config needs is_decoder=True\n",
    )
    model = in_torch.BertLMHeadModel.from_pretrained(tmp_path, is_decoder=True, hidden_act="relu")
    expected = model.generate([[3, 4]], max_new_tokens=3).sequences[0, 2:].tolist()
    code, out, _ = run(*command, "--set", "is_decoder=true", "--set", "hidden_act=relu")
    assert (code, out) == (0, " ".join(map(str, expected)) + "\n")


def test_languages_go_to_tokenizer_and_options(gpt2, monkeypatch):
    """MBart's ways, with another tokenizer in place of its own."""
    seen = {}
    tokenizer = text.load_tokenizer(gpt2)
    monkeypatch.setattr(text.generation, "load_tokenizer", lambda directory, **given: seen.update(given) or tokenizer)
    options = {"backend": "torch", "max_new_tokens": 2}
    (found,) = generate_text(gpt2, ["w1"], source_language="de_DE", target_language="w7", **options)
    assert (found.ids[0], seen) == (WORDS.index("w7"), {"source_language": "de_DE"})
    with pytest.raises(InputError, match="target_language='xx' is no token of the tokenizer, but a code"):
        generate_text(gpt2, [[5]], target_language="xx", **options)
    with pytest.raises(InputError, match=r"^generate: at least one prompt is needed"):
        generate_text(gpt2, [], **options)
    for prompts in ("w1", [1, 2], np.zeros(2), gpt2, None, {"ids": [1]}):
        with pytest.raises(
            InputError, match=r"^generate: prompts \(.*\) must be a list, also of one: of texts, or of lists"
        ):
            generate_text(gpt2, prompts, **options)
    with pytest.raises(InputError, match=r"a prompt must be a text or a list of whole numbers .*float"):
        generate_text(gpt2, [[1.5, 2.0]], **options)


def test_the_environment_chooses_the_backend(gpt2, monkeypatch):
    monkeypatch.setenv("DIPTYCH_BACKEND", "jax")
    seen = []
    finder = types.SimpleNamespace(import_module=lambda name: seen.append(name) or in_torch)
    monkeypatch.setattr(text.writing, "importlib", finder)
    generate_text(gpt2, [[5]], max_new_tokens=1)
    generate_text(gpt2, [[5]], max_new_tokens=1, backend="torch")
    monkeypatch.delenv("DIPTYCH_BACKEND")
    monkeypatch.setattr("diptych.core.backends.installed_backends", lambda: ("jax", "torch"))
    generate_text(gpt2, [[5]], max_new_tokens=1)
    assert seen == ["diptych.backends.jax", "diptych.backends.torch", "diptych.backends.jax"]


SAMPLED = {"max_new_tokens": 8, "do_sample": True, "seed": 2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("prompt", "echo"), [("w1 w2", False), ([5, 6], True)])
def test_one_text_is_shown_as_it_comes(gpt2, backend, prompt, echo):
    """Whatever is written one after the other is in the end what is written at once."""
    pieces = []
    (shown,) = generate_text(gpt2, [prompt], backend=backend, **SAMPLED, echo=echo, show=pieces.append)
    assert generate_text(gpt2, [prompt], backend=backend, **SAMPLED, echo=echo) == [shown]
    assert "".join(pieces) == f"{shown.text}\n"
    assert len(pieces) > 8


@pytest.mark.parametrize(
    ("prompts", "options"),
    [(["w1", "w2"], SAMPLED), (["w1"], SAMPLED | {"num_return_sequences": 2}), (["w1"], {"num_beams": 2})],
)
def test_several_texts_and_beams_are_shown_at_the_end(gpt2, prompts, options):
    pieces = []
    texts = generate_text(gpt2, prompts, backend="torch", **options, show=pieces.append)
    assert pieces == [f"{one.text}\n" for one in texts]
    assert len(pieces) == max(len(prompts), options.get("num_return_sequences", 1))


def test_a_character_of_several_tokens_is_shown_once_it_is_there():
    tokenizer = tokenizers.Tokenizer(models.BPE({char: id for id, char in enumerate(sorted(bytes_of()))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ids = tokenizer.encode("aé€b").ids
    assert len(ids) == 7
    pieces = []
    shown = text.writing._Printer(lambda ids: tokenizer.decode(list(ids)), pieces.append, echo=False)
    shown.put(np.array([[1, 2]]))
    for id in ids:
        shown.put(np.array([id]))
    shown.end()
    assert [piece for piece in pieces if piece] == ["a", "é", "€", "b"]
    # one that never is there is left for the end
    shown.put(np.array(ids[1:2]))
    assert (shown.text, shown.decode(shown.ids)) == ("aé€b", "aé€b�")


def bytes_of():
    return pre_tokenizers.ByteLevel.alphabet()


def test_without_a_tokenizer_ids_are_printed(run, checkpoints):
    command = ("generate", checkpoints / "silent", "--backend", "torch", "--ids", "5,6", "--max-new-tokens", 4)
    expected = in_torch.load(checkpoints / "silent").generate([[5, 6]], max_new_tokens=4).sequences[0].tolist()
    assert run(*command) == (0, " ".join(map(str, expected[2:])) + "\n", "")
    assert run(*command, "--echo")[1] == " ".join(map(str, expected)) + "\n"
    assert rows_of(run(*command, "--json")[1]) == [{"prompt": 1, "ids": expected[2:], "text": None, "score": None}]
    # of one length, so that there is nothing to pad
    assert run(*command, "--ids", "7 8")[1].splitlines()[0] == " ".join(map(str, expected[2:]))


def test_ids_need_no_library_of_tokenizers(run, gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    command = ("generate", gpt2, "--backend", "torch", "--max-new-tokens", 4)
    code, out, _ = run(*command, "--ids", "5")
    assert code == 0
    assert re.fullmatch(r"\d+( \d+){3}\n", out)
    code, out, err = run(*command, "--text", "w1")
    assert (code, out) == (2, "")
    assert "its tokenizer needs tokenizers, which is not installed; pip install 'diptych[text]'" in err


BAD = [
    ("gpt2", (), "generate: one of --text and --ids is needed, and not both"),
    ("gpt2", ("--text", "w1", "--ids", "5"), "generate: one of --text and --ids is needed, and not both"),
    ("gpt2", ("--text", "-", "--text", "-"), "generate: stdin can be read once, so --text - can be given once"),
    ("gpt2", ("--text", "w1", "--text", "", "--text", " "), "generate: prompt 2, 3 has no tokens"),
    ("gpt2", ("--ids", ","), "generate: prompt 1 has no tokens"),
    ("gpt2", ("--text", "w1\udcff"), "generate: the text 'w1\\udcff' is not valid Unicode (surrogates not allowed)"),
    ("gpt2", ("--ids", "5;6"), "--ids '5;6': whole numbers are needed, between commas or spaces"),
    ("gpt2", ("--ids", "24"), "input_ids holds 24, but vocab_size allows 0 to 23"),
    ("gpt2", ("--ids", str(2**70)), "input_ids must hold numbers, but numpy reads it as object"),
    ("gpt2", ("--ids", "5", "--eos-token-id", "x"), "--eos-token-id 'x': whole numbers are needed"),
    ("gpt2", ("--ids", "5", "--eos-token-id", "99"), "eos_token_id=99, but vocab_size allows 0 to 23"),
    ("gpt2", ("--ids", "5", "--bad-words-ids", "[[5"), "--bad-words-ids '[[5': is no JSON (Expecting"),
    ("gpt2", ("--ids", "5", "--bad-words-ids", "7"), "GenerationConfig: bad_words_ids=7 must be tuple"),
    ("gpt2", ("--ids", "5", "--early-stopping", "no"), "--early-stopping 'no': is none of true, false, never"),
    ("gpt2", ("--ids", "5", "--temperature", 0), "GenerationConfig: temperature=0.0 must be above 0; do_sample=False"),
    ("gpt2", ("--ids", "5", "--num-return-sequences", 2), "num_return_sequences=2 needs do_sample=True"),
    ("gpt2", ("--ids", "5", "--max-new-tokens", 99), "max_length=100 means reading 99 tokens, but the decoder has"),
    ("gpt2", ("--ids", "5", "--backend", "mxnet"), "generate: backend='mxnet' is not known; known: jax, torch"),
    ("gpt2", ("--ids", "5", "--dtype", "int8"), "dtype='int8' is not supported"),
    ("gpt2", ("--ids", "5", "--batch-size", 0), "generate: batch_size=0 must be 1 or more"),
    ("gpt2", ("--ids", "5", "--device", "abacus"), "device='abacus' is none that PyTorch finds here ("),
    ("gpt2", ("--ids", "5", "--device", "cuda:99"), "device='cuda:99' is none that PyTorch finds here ("),
    ("gpt2", ("--ids", "5", "--sharding", "split"), "sharding='split' needs backend='jax'; PyTorch takes"),
    ("gpt2", ("--ids", "5", "--sharding", "odd"), "sharding='odd' is not known; known: replicated, split"),
    ("gpt2", ("--ids", "5", "--sharding", "split", "--device", "cpu"), "exclude each other; give one of them"),
    ("gpt2", ("--ids", "5", "--set", "mystery=1"), "GPT2Config has no field mystery"),
    ("gpt2", ("--ids", "5", "--set", "is_decoder"), "--set 'is_decoder': NAME=VALUE is needed, with a field of the"),
    ("gpt2", ("--ids", "5", "--set", "device_map=auto"), "--set has no keyword device_map; it has device= in PyTorch"),
    ("gpt2", ("--ids", "5", "--set", "dtype=float32"), "is needed, with a field of the config; --dtype sets it"),
    ("gpt2", ("--text", "@nowhere.txt"), "--text @nowhere.txt: No such file or directory"),
    ("gpt2", ("--text", "w1", "--lines"), "generate: --lines needs a file or stdin, as --text @FILE or --text -"),
    ("gpt2", ("--ids", "5", "--lines"), "generate: --lines needs a file or stdin, as --text @FILE or --text -"),
    ("gpt2", ("--text", "@/dev/null", "--lines"), "--lines: /dev/null has no line that is not blank"),
    ("gpt2", ("--ids", "5", "--output", "/proc/out/file"), "--output /proc/out/file: there is no directory /proc/out"),
    ("gpt2", ("--ids", "5", "--output", "/"), "--output /: is a directory; give the name of a file"),
    ("gpt2", ("--ids", "5", "--output", "/proc/file"), "--output /proc/file: "),
    (
        "silent",
        ("--text", "w1"),
        "silent/tokenizer.json: no such file, nor the vocab.json of a GPT2Tokenizer, so text cannot become ids",
    ),
    ("silent", ("--ids", "5", "--ids", "6,7"), "generate: prompts of several lengths are padded; pad_token_id or eos"),
    ("bert", ("--ids", "5"), "bert: BertModel writes no texts; a class with a language model's head is needed"),
    ("nowhere", ("--ids", "5"), "nowhere: no such directory, and no id of a model"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(run, checkpoints, name, options, message):
    code, out, err = run("generate", checkpoints / name, "--backend", "torch", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("diptych: ")
    assert message in err


@pytest.mark.parametrize(("kind", "prefix"), [("--text", "@"), ("--image", ""), ("--audio", "")])
def test_no_input_is_replaced(run, gpt2, tmp_path, kind, prefix):
    given, linked = tmp_path / "given.png", tmp_path / "linked.png"
    given.write_text("w1")
    linked.symlink_to(given)
    code, out, err = run("generate", gpt2, kind, f"{prefix}{given}", "--output", linked)
    assert (code, out) == (2, "")
    assert err == f"diptych: --output {linked}: is the input {given}, and would replace it; give another file\n"
    assert given.read_text() == "w1"


def test_stdin_that_is_no_text(run, gpt2, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"w1 \xff"), encoding="utf-8"))
    code, out, err = run("generate", gpt2, "--backend", "torch", "--text", "-")
    assert (code, out) == (2, "")
    assert err.startswith("diptych: generate: stdin is no text ('utf-8' codec can't decode byte 0xff")


def test_a_broken_tokenizer_is_one_line_on_stderr(run, tmp_path, gpt2):
    for file in gpt2.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / text.TOKENIZER_FILE).write_text("{}")
    code, out, err = run("generate", tmp_path, "--backend", "torch", "--text", "w1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{text.TOKENIZER_FILE}: is no tokenizer that tokenizers reads (" in err


INTERRUPTED = """
import signal, sys
from diptych.cli import main

class Waiting:
    def read(self):
        print("waiting", flush=True)
        return sys.__stdin__.read()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.stdin = Waiting()
main(sys.argv[1:])
"""


def test_an_interrupt_ends_it_with_one_line(gpt2):
    command = [sys.executable, "-c", INTERRUPTED, "generate", str(gpt2), "--backend", "torch", "--text", "-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"diptych: interrupted\n")
    assert process.returncode == 130
