"""Every option of generation is a flag of the command."""

import dataclasses
import re
import types
import typing

from diptych import text
from diptych.cli import generation_flags
from diptych.core.generation.options import GenerationConfig


def flags():
    return {name: kind for rows in generation_flags.FLAGS.values() for name, (kind, _) in rows.items()}


def test_every_option_of_generation_has_a_flag_or_a_reason():
    names = {field.name for field in dataclasses.fields(GenerationConfig)} - {"carried"}
    assert not flags().keys() & generation_flags.NO_FLAGS.keys()
    assert flags().keys() | generation_flags.NO_FLAGS.keys() == names
    kinds = {
        int: "whole",
        float: "real",
        bool: "switch",
        bool | typing.Literal["never"]: "early",
        int | tuple[int, ...]: "ids",
        tuple[int, ...]: "ids",
        str | tuple[str, ...]: "texts",
    }
    hints = typing.get_type_hints(GenerationConfig)
    for name, kind in flags().items():
        choices = [choice for choice in typing.get_args(hints[name]) if choice is not types.NoneType]
        hint = choices[0] if len(choices) == 1 else typing.Union[tuple(choices)]  # noqa: UP007
        assert kinds.get(hint, "json") == kind, name


GIVEN = {
    "max_new_tokens": (3,),
    "min_new_tokens": (2,),
    "max_length": (30,),
    "min_length": (4,),
    "do_sample": (True,),
    "temperature": (0.5,),
    "top_k": (7,),
    "top_p": (0.9,),
    "min_p": (0.1,),
    "typical_p": (0.8,),
    "num_return_sequences": (2,),
    "num_beams": (3,),
    "length_penalty": (0.5,),
    "early_stopping": (True, "true"),
    "repetition_penalty": (1.25,),
    "no_repeat_ngram_size": (2,),
    "encoder_no_repeat_ngram_size": (3,),
    "bad_words_ids": ([[5, 6], [7]], "[[5, 6], [7]]"),
    "suppress_tokens": ((5, 6), "5,6"),
    "begin_suppress_tokens": ((7,), "7"),
    "sequence_bias": ([[[5, 6], -1.5]], "[[[5, 6], -1.5]]"),
    "exponential_decay_length_penalty": ([2, 1.5], "[2, 1.5]"),
    "renormalize_logits": (False,),
    "stop_strings": (("w7", "w8"), "w7", "--stop-strings", "w8"),
    "max_time": (2.5,),
    "bos_token_id": (1,),
    "eos_token_id": ((2, 20), "2 20"),
    "pad_token_id": (4,),
    "decoder_start_token_id": (1,),
    "forced_bos_token_id": (5,),
    "forced_eos_token_id": ((2,), "2"),
}


def test_every_flag_arrives(run, tmp_path, monkeypatch):
    assert GIVEN.keys() == flags().keys()
    words = []
    for name, (value, *spelled) in GIVEN.items():
        flag = name.replace("_", "-")
        words += [f"--no-{flag}"] if value is False else [f"--{flag}"]
        words += spelled or ([] if isinstance(value, bool) else [value])
    seen = {}
    monkeypatch.setattr(text, "generate_text", lambda *_, **options: seen.update(options) or [])
    assert run("generate", tmp_path, "--ids", "5", "--seed", 9, "--compile", "--ignore", "a.*", *words)[0] == 0
    assert {name: seen[name] for name in GIVEN} == {name: value for name, (value, *_) in GIVEN.items()}
    assert (seen["seed"], seen["compile"], seen["ignore"], seen["echo"]) == (9, True, ("a.*",), False)
    GenerationConfig(**{name: seen[name] for name in GIVEN})  # their types are right
    seen.clear()
    assert run("generate", tmp_path, "--ids", "5", "--early-stopping", "never")[0] == 0
    assert {name: seen[name] for name in flags() if name in seen} == {"early_stopping": "never"}


def test_help_shows_every_flag_in_its_panel(run):
    code, out, _ = run("generate", "--help")
    assert code == 0
    panels = re.split(r"^╭─ ", out, flags=re.MULTILINE)
    for panel, rows in generation_flags.FLAGS.items():
        (shown,) = (found for found in panels if found.startswith(f"{panel} ─"))
        for name in rows:
            assert f"--{name.replace('_', '-')}"[:24] in shown
    assert not any(f"--{name.replace('_', '-')}" in out for name in generation_flags.NO_FLAGS)
