import copy
import json
import pickle
import re

import numpy as np
import pytest

from diptych.core.config import HOUSEKEEPING, ModelConfig
from diptych.core.errors import ConfigError, InputError
from diptych.core.generation.options import GENERATION_FILE, GenerationConfig
from diptych.core.models.bart import BartConfig
from diptych.core.models.bert import BertConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config

# facebook/bart-large-cnn's
CNN = {
    "_num_labels": 3, "bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": True, "eos_token_id": 2,
    "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0, "max_length": 142, "min_length": 56,
    "no_repeat_ngram_size": 3, "num_beams": 4, "pad_token_id": 1, "transformers_version": "4.27.0.dev0",
}  # fmt: skip
EVERY = {
    "max_time": 0.5, "stop_strings": ["a", "b"],
    "max_length": 20, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "do_sample": True, "num_beams": 4,
    "num_return_sequences": 2, "early_stopping": "never", "length_penalty": -0.5, "bos_token_id": 0,
    "eos_token_id": [2, 3], "pad_token_id": 1, "decoder_start_token_id": 2, "forced_bos_token_id": 4,
    "forced_eos_token_id": [5], "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 0.2,
    "repetition_penalty": 1.1, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 3,
    "bad_words_ids": [[1], [2, 3]], "suppress_tokens": [7], "begin_suppress_tokens": [], "renormalize_logits": True,
    "sequence_bias": [[[1, 2], 0.5], [[3], -1.0]], "exponential_decay_length_penalty": [3, 1.05],
    "output_scores": True, "output_logits": False, "output_attentions": True, "output_hidden_states": False,
    "return_dict_in_generate": True, "use_cache": False, "cache_implementation": "static",
}  # fmt: skip
DEFAULTS = {
    "min_length": 0, "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "early_stopping": False,
    "length_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False, "output_scores": False,
    "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "return_dict_in_generate": False, "use_cache": True,
}  # fmt: skip


def test_nothing_is_set_at_first():
    assert GenerationConfig().to_dict() == {}
    assert GenerationConfig().max_length is None
    assert repr(GenerationConfig(num_beams=2, eos_token_id=[1])) == "GenerationConfig(num_beams=2, eos_token_id=(1,))"


def test_every_option_is_written_as_it_was_given(tmp_path):
    config = GenerationConfig(**EVERY)
    assert config.to_dict() == EVERY
    assert config == GenerationConfig.from_dict(EVERY) == GenerationConfig.from_json(config.to_json())
    config.save_pretrained(tmp_path / "new")
    assert GenerationConfig.from_pretrained(tmp_path / "new") == config
    assert [path.name for path in (tmp_path / "new").iterdir()] == [GENERATION_FILE]
    assert set(EVERY) == set(vars(config)) - {"carried"}


def test_lists_are_tuples_and_equal_configs_hash_alike():
    config = GenerationConfig(**EVERY)
    assert config.eos_token_id == (2, 3) and config.bad_words_ids == ((1,), (2, 3))
    assert config.sequence_bias == (((1, 2), 0.5), ((3,), -1.0)) and config.exponential_decay_length_penalty == (
        3,
        1.05,
    )
    assert config == GenerationConfig(**{**EVERY, "sequence_bias": {(1, 2): 0.5, (3,): -1.0}})
    assert hash(config) == hash(GenerationConfig(**EVERY)) and config != config.replace(top_k=1)
    for copied in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.replace()):
        assert copied == config and hash(copied) == hash(config)


def test_numbers_of_numpy_become_those_of_python():
    config = GenerationConfig(
        num_beams=np.int64(3), temperature=np.float32(0.5), do_sample=np.True_, eos_token_id=np.array([1, 2]),
        pad_token_id=np.array(4), bad_words_ids=[np.array([5], np.uint8)], sequence_bias={(np.int8(1),): np.float64(2)},
    )  # fmt: skip
    assert json.loads(config.to_json()) == {
        "bad_words_ids": [[5]], "do_sample": True, "eos_token_id": [1, 2], "num_beams": 3, "pad_token_id": 4,
        "sequence_bias": [[[1], 2.0]], "temperature": 0.5,
    }  # fmt: skip
    assert type(config.num_beams) is int and type(config.temperature) is float and config.do_sample is True


WRONG = [
    ({"max_length": -1}, "max_length=-1 must be from 0 to 2**30"),
    ({"max_new_tokens": 0}, "max_new_tokens=0 must be from 1 to 2**30"),
    ({"min_length": 2**31}, "min_length=2147483648 must be from 0 to 2**30"),
    ({"min_new_tokens": 1.0}, "min_new_tokens=1.0 must be int or null"),
    ({"do_sample": 1}, "do_sample=1 must be bool or null"),
    ({"num_beams": True}, "num_beams=True must be int or null"),
    ({"num_beams": 0}, "num_beams=0 must be from 1 to 2**30"),
    ({"num_return_sequences": 0}, "num_return_sequences=0 must be from 1 to 2**30"),
    ({"early_stopping": "always"}, "early_stopping='always' must be bool or one of never or null"),
    ({"early_stopping": 1}, "early_stopping=1 must be bool or one of never or null"),
    ({"length_penalty": float("inf")}, "length_penalty=inf must be finite float or null"),
    ({"length_penalty": 10**400}, f"length_penalty={10**400} must be finite float or null"),
    ({"eos_token_id": "2"}, "eos_token_id='2' must be int or tuple[int, ...] or null"),
    ({"pad_token_id": [1]}, "pad_token_id=(1,) must be int or null"),
    ({"temperature": 0}, "temperature=0 must be above 0; do_sample=False takes the best token each time"),
    ({"temperature": False}, "temperature=False must be finite float or null"),
    ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
    ({"top_k": -1}, "top_k=-1 must be from 0 to 2**30"),
    ({"top_p": 0.0}, "top_p=0.0 must be above 0, and 1 at most"),
    ({"typical_p": 1.5}, "typical_p=1.5 must be above 0, and 1 at most"),
    ({"min_p": -0.1}, "min_p=-0.1 must be from 0 to 1"),
    ({"min_p": float("nan")}, "min_p=nan must be finite float or null"),
    ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size=-2 must be from 0 to 2**30"),
    ({"encoder_no_repeat_ngram_size": -2}, "encoder_no_repeat_ngram_size=-2 must be from 0 to 2**30"),
    ({"bad_words_ids": [[1], []]}, "bad_words_ids=((1,), ()) must be of words with at least one id"),
    ({"bad_words_ids": [1]}, "bad_words_ids=(1,) must be tuple[tuple[int, ...], ...] or null"),
    ({"sequence_bias": {(): 1.0}}, "sequence_bias=(((), 1.0),) must be of words with at least one id"),
    ({"sequence_bias": {5: 1}}, "sequence_bias=((5, 1),) must be tuple[tuple[tuple[int, ...], float], ...] or null"),
    ({"suppress_tokens": [True]}, "suppress_tokens=(True,) must be tuple[int, ...] or null"),
    (
        {"exponential_decay_length_penalty": [-1, 2.0]},
        "exponential_decay_length_penalty=(-1, 2.0) must be a start from 0 to 2**30, and a factor",
    ),
    (
        {"exponential_decay_length_penalty": [1]},
        "exponential_decay_length_penalty=(1,) must be tuple[int, float] or null",
    ),
    ({"output_scores": "yes"}, "output_scores='yes' must be bool or null"),
    ({"cache_implementation": 1}, "cache_implementation=1 must be str or null"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_an_impossible_option_is_refused_wherever_it_comes_from(options, message):
    whole = re.escape(f"GenerationConfig: {message}") + "$"
    for call in (GenerationConfig, GenerationConfig().replace, GenerationConfig().resolve):
        with pytest.raises(InputError, match=f"^{whole}"):
            call(**options)
    with pytest.raises(InputError, match=f"^{whole}"):
        GenerationConfig.from_any(options)
    with pytest.raises(ConfigError, match=f"^here: {whole}"):
        GenerationConfig.from_dict(options, source="here")


def test_all_that_is_impossible_is_said_at_once():
    with pytest.raises(InputError, match=r"^GenerationConfig: num_beams=0 must be .*; top_p=2 must be .*at most$"):
        GenerationConfig(top_p=2, num_beams=0, top_k=3)


def test_an_unknown_option_is_named_with_the_nearest_one():
    message = r"^GenerationConfig has no option temperatures \(did you mean temperature\?\), zzz$"
    for call in (GenerationConfig, GenerationConfig().replace, GenerationConfig().resolve):
        with pytest.raises(TypeError, match=message):
            call(temperatures=0.7, num_beams=2, zzz=1)
    with pytest.raises(TypeError, match=message):
        GenerationConfig.from_any({"temperatures": 0.7, "zzz": 1})


def test_an_option_that_is_not_supported_is_refused_by_name_and_never_ignored():
    message = r"^GenerationConfig: penalty_alpha=0\.6 is not supported; top_h=0\.5 is not supported$"
    for call in (GenerationConfig, GenerationConfig().replace, GenerationConfig().resolve):
        with pytest.raises(InputError, match=message):
            call(penalty_alpha=0.6, top_h=0.5, num_beam_groups=1)


def test_an_option_that_is_not_supported_may_be_given_where_it_asks_for_nothing():
    config = GenerationConfig(num_beam_groups=1, diversity_penalty=0.0, guidance_scale=np.float64(1), top_h=None)
    assert config.resolve(epsilon_cutoff=0.0).num_beams == 1
    assert config.to_dict() == {"diversity_penalty": 0.0, "guidance_scale": 1.0, "num_beam_groups": 1, "top_h": None}


FILE = {"num_beams": 2, "penalty_alpha": 0.6, "watermarking_config": {"bias": [1]}, "num_beam_groups": 1,
        "_from_model_config": True, "transformers_version": "4.27.0", "trained_by": {"names": ["a"]}}  # fmt: skip


def test_what_a_file_has_besides_is_carried_along_and_refused_when_it_is_to_be_done():
    config = GenerationConfig.from_dict(FILE)
    assert config.to_dict() == FILE
    assert config.replace(num_beams=3).to_dict() == {**FILE, "num_beams": 3}
    message = (
        r"^GenerationConfig: penalty_alpha=0\.6 is not supported; watermarking_config=\{'bias': \[1\]\} is not "
        r"supported\. None leaves an option out$"
    )
    with pytest.raises(InputError, match=message):
        config.resolve()
    assert config.resolve(penalty_alpha=None, watermarking_config=None).num_beams == 2
    assert hash(config) != hash(config.replace(penalty_alpha=None))


def test_a_file_may_have_odd_ids_until_they_are_used():
    config = GenerationConfig.from_dict({"eos_token_id": -1, "pad_token_id": -2, "suppress_tokens": [3, -1]})
    assert config.to_dict() == {"eos_token_id": -1, "pad_token_id": -2, "suppress_tokens": [3, -1]}
    message = (
        r"^GenerationConfig: eos_token_id=-1 must not be negative; pad_token_id=-2 must not be negative; "
        r"suppress_tokens=\(3, -1\) must not be negative\. None leaves an option out$"
    )
    with pytest.raises(InputError, match=message):
        config.resolve()
    assert config.resolve(eos_token_id=None, pad_token_id=0, suppress_tokens=None).eos_token_id is None


@pytest.mark.parametrize("name", ["bad_words_ids", "sequence_bias"])
def test_words_of_negative_ids_are_refused(name):
    value = [[1, -5]] if name == "bad_words_ids" else [[[1, -5], 0.5]]
    with pytest.raises(InputError, match=rf"{name}=\(\(.*-5.*must not (be negative|have negative ids)\."):
        GenerationConfig(**{name: value}).resolve()


def test_settled_fills_in_what_transformers_takes_by_default():
    assert GenerationConfig().resolve().to_dict() == DEFAULTS
    resolved = GenerationConfig(**EVERY).resolve(num_beams=3, length_penalty=None, max_length=None)
    expected = {**EVERY, "num_beams": 3, "length_penalty": 1.0}
    del expected["max_length"]
    assert resolved.to_dict() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 must be num_beams=2 at most"),
        (
            {"num_return_sequences": 3},
            "num_return_sequences=3 needs do_sample=True or as many beams, or all texts are one",
        ),
        (
            {"forced_eos_token_id": [1, 2], "suppress_tokens": [2, 1, 0]},
            "forced_eos_token_id=(1, 2) is in suppress_tokens too, so that no token is left",
        ),
        (
            {"forced_bos_token_id": 1, "suppress_tokens": [1]},
            "forced_bos_token_id=1 is in suppress_tokens too, so that no token is left",
        ),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_each_other_are_refused(options, message):
    config = GenerationConfig(**options)
    with pytest.raises(InputError, match=f"^GenerationConfig: {re.escape(message)}. None leaves an option out$"):
        config.resolve()


def test_options_that_fit_each_other_are_settled():
    assert GenerationConfig(num_return_sequences=3, num_beams=3).resolve().num_return_sequences == 3
    assert GenerationConfig(num_return_sequences=3, do_sample=True).resolve().num_return_sequences == 3
    assert GenerationConfig(forced_eos_token_id=[1, 2], suppress_tokens=[2]).resolve().suppress_tokens == (2,)


def test_own_options_go_over_those_of_a_base():
    base = GenerationConfig.from_dict({"num_beams": 4, "top_k": 3, "penalty_alpha": 0.5, "top_h": None, "x": 1})
    own = GenerationConfig.from_dict({"num_beams": 2, "do_sample": False, "penalty_alpha": None, "top_h": 0.1})
    assert own.with_fallback(base).to_dict() == {
        "do_sample": False, "num_beams": 2, "penalty_alpha": 0.5, "top_h": 0.1, "top_k": 3, "x": 1,
    }  # fmt: skip
    assert GenerationConfig().with_fallback(base) == base


class Theirs:
    """What has `to_dict`, as a config of transformers has."""

    def __init__(self, **options):
        self.options = options

    def to_dict(self):
        return self.options


def test_options_are_coerced_from_whatever_carries_them():
    config = GenerationConfig(num_beams=2)
    assert GenerationConfig.from_any(config) is config
    assert GenerationConfig.from_any(None) == GenerationConfig()
    assert GenerationConfig.from_any({"num_beams": 2}) == config
    assert GenerationConfig.from_any(json.loads('{"num_beams": 2, "transformers_version": "5"}')).num_beams == 2
    live = Theirs(num_beams=2, top_k=None, max_time=None, watermarking_config=Theirs(bias=2.0), mine=3)
    assert GenerationConfig.from_any(live).to_dict() == {
        "mine": 3, "num_beams": 2, "watermarking_config": {"bias": 2.0},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"^a Theirs: GenerationConfig: num_beams=0 must be from 1 to 2\*\*30$"):
        GenerationConfig.from_any(Theirs(num_beams=0))
    message = r"^generation_config is a int, but a GenerationConfig or a mapping of options is needed$"
    with pytest.raises(InputError, match=message):
        GenerationConfig.from_any(4)


def test_an_assignment_says_how_to_change_an_option():
    config = GenerationConfig()
    message = (
        r"^GenerationConfig is frozen, so num_beams cannot be assigned; write "
        r"model\.generation_config = model\.generation_config\.replace\(num_beams=4\)$"
    )
    with pytest.raises(InputError, match=message):
        config.num_beams = 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"top_k": 3, "top_k": 4}', "has the same name twice: top_k"),
        ("{", r"not JSON \(Expecting"),
        ("[1]", "holds a JSON list, but a config is a JSON object"),
        ('{"num_beams": "four"}', "GenerationConfig: num_beams='four' must be int or null"),
        (b"\xff", "not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / GENERATION_FILE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {message}"):
        GenerationConfig.from_pretrained(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path / GENERATION_FILE))}: no such file$"):
        GenerationConfig.from_pretrained(tmp_path)


# What configs of models state


def test_a_config_of_old_states_its_options():
    stated = {name: value for name, value in CNN.items() if name not in ("_num_labels", "transformers_version")}
    assert GenerationConfig.of_model(BartConfig.from_dict(CNN)).to_dict() == stated
    assert GenerationConfig.of_model(GPT2Config()).to_dict() == {"bos_token_id": 50256, "eos_token_id": 50256}
    assert GenerationConfig.of_model(ModelConfig()).to_dict() == {}


def test_only_what_is_said_for_all_tasks_counts():
    config = GPT2Config.from_dict({"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}})
    assert GenerationConfig.of_model(config) == GenerationConfig.of_model(GPT2Config())


def test_options_that_are_not_supported_are_stated_too():
    config = GPT2Config.from_dict({"num_beam_groups": 2, "diversity_penalty": 0.0, "output_attentions": True})
    found = GenerationConfig.of_model(config)
    assert found.carried == {"num_beam_groups": 2, "diversity_penalty": 0.0} and found.output_attentions
    with pytest.raises(InputError, match=r"^GenerationConfig: num_beam_groups=2 is not supported"):
        found.resolve()


def test_a_bos_token_that_old_files_force_is_forced():
    config = BartConfig.from_dict({"force_bos_token_to_be_generated": True, "bos_token_id": 7})
    assert GenerationConfig.of_model(config).forced_bos_token_id == 7
    config = BartConfig.from_dict({"force_bos_token_to_be_generated": False})
    assert GenerationConfig.of_model(config).forced_bos_token_id is None


def test_a_composite_states_its_own_options_and_then_those_of_its_decoder():
    decoder = BertConfig(is_decoder=True, add_cross_attention=True, bos_token_id=5, eos_token_id=6)
    decoder = decoder.replace(num_beams=4, max_length=30, top_k=7)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(eos_token_id=9), decoder, num_beams=1)
    assert GenerationConfig.of_model(config.replace(decoder_start_token_id=2, eos_token_id=8)).to_dict() == {
        "bos_token_id": 5, "decoder_start_token_id": 2, "eos_token_id": 8, "max_length": 30, "num_beams": 1,
        "pad_token_id": 0, "top_k": 7,
    }  # fmt: skip


def test_an_impossible_option_of_a_config_is_named():
    with pytest.raises(ConfigError, match=r"^GPT2Config: GenerationConfig: num_beams=0 must be from 1 to 2\*\*30$"):
        GenerationConfig.of_model(GPT2Config.from_dict({"num_beams": 0}))


def test_every_option_that_configs_keep_is_known_here():
    kept = [name for name, reason in HOUSEKEEPING.items() if reason.startswith("an option of text generation")]
    assert len(kept) > 40
    assert GenerationConfig(**dict.fromkeys(kept)).num_beams is None  # an unknown one would be a TypeError
