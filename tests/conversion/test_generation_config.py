"""A model's options for `generate`: found where transformers finds them, kept, handed over and saved."""

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import diptych
import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import to_jax, to_torch
from diptych.core.config import FrozenMap
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.generation.options import GENERATION_FILE, GenerationConfig
from tests.conversion import checkpoints
from tests.conversion.tiny import config_of, edit_config, theirs

# facebook/bart-large-cnn's
CNN = {
    "early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0,
    "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4, "decoder_start_token_id": 2,
    "task_specific_params": {"summarization": {"num_beams": 9}},
}  # fmt: skip
# what transformers 4 wrote into parts of composites, whether anybody had set it or not
WRITTEN_OUT = {
    "max_length": 20, "min_length": 0, "do_sample": False, "early_stopping": False, "num_beams": 1, "top_k": 50,
    "temperature": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0, "bad_words_ids": None, "output_scores": False,
    "encoder_no_repeat_ngram_size": 0, "return_dict_in_generate": False, "remove_invalid_values": False,
}  # fmt: skip
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "bart-large-cnn": ("BartForConditionalGeneration", CNN),
    "bart of fairseq": ("BartForConditionalGeneration", {"force_bos_token_to_be_generated": True, "num_beams": 2}),
    "gpt2": ("GPT2LMHeadModel", {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}),
    "gpt2 of transformers 4": ("GPT2LMHeadModel", WRITTEN_OUT),
    "composite": ("EncoderDecoderModel", {"num_beams": 3, "max_length": 40, "decoder_start_token_id": 1}),
}


def written(directory: Path, architecture: str, **fields: Any) -> Path:
    checkpoints.write(directory, architecture)
    edit_config(directory, **fields)
    return directory


def agrees(ours: GenerationConfig, other: Any) -> bool:
    """Whether two say the same, but for where it comes from and for what is False by default."""
    unsaid = ("transformers_version", "_from_model_config")
    one, two = ours.to_dict(), other.to_dict()
    two = {name: value for name, value in two.items() if value is not None and name not in unsaid}
    for name in ("output_attentions", "output_hidden_states"):
        assert not one.pop(name, False) and not two.pop(name, False)
    return {name: value for name, value in one.items() if name not in unsaid} == two


@pytest.mark.parametrize("beside", [False, True], ids=["config.json", "generation_config.json"])
@pytest.mark.parametrize("name", FILES)
def test_options_are_found_where_transformers_finds_them(name, beside, backend, tmp_path):
    architecture, fields = FILES[name]
    written(tmp_path, architecture, **fields)
    if beside:
        said = {"num_beams": 5, "eos_token_id": [3, 4], "penalty_alpha": 0.6, "transformers_version": "4.27.0"}
        (tmp_path / GENERATION_FILE).write_text(json.dumps(said))
    model = getattr(backend, architecture).from_pretrained(tmp_path)
    oracle = getattr(transformers, architecture).from_pretrained(tmp_path)
    assert agrees(model.generation_config, oracle.generation_config)
    assert (model.generation_config.num_beams == 5) is beside


@pytest.mark.parametrize("whole", [{}, {"num_beams": 1, "eos_token_id": 9}, WRITTEN_OUT])
def test_a_decoders_options_count_where_the_whole_says_nothing(whole, tmp_path):
    directory = written(tmp_path, "EncoderDecoderModel", **whole)
    config = json.loads((directory / "config.json").read_text())
    config["decoder"] |= {"num_beams": 4, "max_length": 30, "bos_token_id": 5, "eos_token_id": 6, "do_sample": True}
    config["decoder"] |= {"decoder_start_token_id": 7, "num_beam_groups": 2}
    for name in ("decoder_start_token_id", "bos_token_id"):
        config.pop(name, None)
    (directory / "config.json").write_text(json.dumps(config))
    ours = in_torch.EncoderDecoderModel.from_pretrained(directory).generation_config
    assert agrees(ours, transformers.EncoderDecoderModel.from_pretrained(directory).generation_config)
    assert (ours.bos_token_id, ours.decoder_start_token_id) == (5, 7)
    assert (ours.num_beams, ours.eos_token_id) == (
        whole.get("num_beams", 4),
        whole.get("eos_token_id", ours.eos_token_id),
    )


def test_every_option_of_transformers_is_known_and_has_its_default():
    options = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    GenerationConfig(**dict.fromkeys(options - {"transformers_version"}))
    defaults = transformers.GenerationConfig._get_default_generation_params()
    limit = defaults.pop("max_length")
    assert limit == 20
    resolved = GenerationConfig(**defaults).resolve().to_dict()
    assert {
        name: resolved[name] for name in GenerationConfig().resolve().to_dict()
    } == GenerationConfig().resolve().to_dict()
    assert GenerationConfig().resolve().max_length is None


def test_without_options_of_its_own_a_model_has_those_of_its_config_whatever_becomes_of_it(backend):
    model = backend.GPT2LMHeadModel(config_of("GPT2LMHeadModel"))
    assert model.generation_config == GenerationConfig.of_model(model.config)
    model.config = model.config.replace(decoder_start_token_id=2, num_beams=3)
    assert model.generation_config.decoder_start_token_id == 2 and model.generation_config.num_beams == 3
    model.generation_config = model.generation_config.replace(num_beams=4)
    model.config = model.config.replace(decoder_start_token_id=5)
    assert model.generation_config.decoder_start_token_id == 2 and model.generation_config.num_beams == 4
    model.generation_config = None
    assert model.generation_config.decoder_start_token_id == 5 and model.generation_config.num_beams == 3


def test_whatever_carries_options_can_be_set(backend):
    model = backend.GPT2LMHeadModel(config_of("GPT2LMHeadModel"))
    for options in (
        {"num_beams": 2, "eos_token_id": [1]},
        transformers.GenerationConfig(num_beams=2, eos_token_id=[1]),
    ):
        model.generation_config = options
        assert model.generation_config.replace(carried=FrozenMap()) == GenerationConfig(num_beams=2, eos_token_id=(1,))
    with pytest.raises(InputError, match=r"^GenerationConfig: num_beams=0 must be from 1 to 2\*\*30$"):
        model.generation_config = {"num_beams": 0}
    with pytest.raises(InputError, match="num_beams cannot be assigned"):
        model.generation_config.num_beams = 3
    assert model.generation_config.num_beams == 2


def test_options_survive_what_is_done_with_models(backend):
    model = backend.GPT2LMHeadModel(config_of("GPT2LMHeadModel"))
    model.generation_config = options = GenerationConfig(num_beams=3, carried=FrozenMap({"x": [1]}))
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), to_jax(model), to_torch(model)]
    if backend is in_jax:
        others += [jax.tree.map(lambda leaf: leaf, model), nnx.merge(*nnx.split(model)), nnx.clone(model)]
    assert all(other.generation_config == options for other in others)
    others[0].generation_config = None
    assert model.generation_config == options


def test_options_part_no_compiled_programs():
    models = [in_jax.GPT2LMHeadModel(config_of("GPT2LMHeadModel")) for _ in range(3)]
    models[1].generation_config = {"num_beams": 3}
    models[2].generation_config = {"top_k": 7}
    run = jax.jit(lambda model, ids: model(ids).logits)
    for model in models:
        run(model, np.array([[1, 2]]))
    assert run._cache_size() == 1
    assert jax.tree.structure(models[0]) == jax.tree.structure(models[1])
    assert jax.tree.map(lambda one, two: one, models[1], models[2]).generation_config.num_beams == 3


def test_a_live_model_of_transformers_hands_its_options_over():
    model = theirs("BartForConditionalGeneration")
    twin = to_jax(model)
    assert agrees(twin.generation_config, model.generation_config)
    twin.config = twin.config.replace(decoder_start_token_id=3)  # they were no more than what the config states
    assert twin.generation_config.decoder_start_token_id == 3
    model.generation_config.num_beams = 6
    model.generation_config.penalty_alpha = 0.5
    for twin in (to_jax(model), to_torch(model)):
        assert agrees(twin.generation_config, model.generation_config)
        assert twin.generation_config.num_beams == 6 and twin.generation_config.carried["penalty_alpha"] == 0.5
    assert agrees(
        to_torch(theirs("BertModel")).generation_config, transformers.GenerationConfig(pad_token_id=0, use_cache=True)
    )


def test_options_are_saved_so_that_transformers_reads_them(backend, tmp_path):
    model = backend.BartForConditionalGeneration(config_of("BartForConditionalGeneration"))
    options = {name: value for name, value in CNN.items() if name != "task_specific_params"}
    options |= {"bad_words_ids": [[3], [4, 5]], "sequence_bias": {(1, 2): -0.5}, "eos_token_id": (2, 3)}
    model.generation_config = options
    model.save_pretrained(tmp_path)
    read = transformers.BartForConditionalGeneration.from_pretrained(tmp_path)
    assert agrees(model.generation_config, read.generation_config)
    assert backend.load(tmp_path).generation_config == model.generation_config
    with torch.no_grad():
        read.generate(torch.tensor([[5, 6, 7]]), max_length=6, min_length=0)


def test_a_file_of_another_model_does_not_stay(backend, tmp_path):
    model = backend.GPT2LMHeadModel(config_of("GPT2LMHeadModel"))
    model.generation_config = {"num_beams": 3}
    model.save_pretrained(tmp_path)
    model.generation_config = {"num_beams": 4}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / GENERATION_FILE).read_text()) == {"num_beams": 4}
    backend.GPT2LMHeadModel(model.config).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_directory_in_the_files_place_is_refused_before_anything_is_written(backend, tmp_path):
    model = backend.GPT2LMHeadModel(config_of("GPT2LMHeadModel"))
    (tmp_path / GENERATION_FILE).mkdir()
    message = f"^{re.escape(str(tmp_path / GENERATION_FILE))}: is a directory, but the config is to be saved there$"
    with pytest.raises(CheckpointError, match=message):
        model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [GENERATION_FILE]


def test_a_broken_file_is_one_error_that_names_it(backend, tmp_path):
    directory = written(tmp_path, "GPT2LMHeadModel")
    for text, message in [
        ("{", "not JSON"),
        ('{"top_p": 3}', "GenerationConfig: top_p=3 must be above 0, and 1 at most"),
    ]:
        (directory / GENERATION_FILE).write_text(text)
        with pytest.raises(ConfigError, match=f"^{re.escape(str(directory / GENERATION_FILE))}: {message}"):
            backend.GPT2LMHeadModel.from_pretrained(directory)


def test_a_change_at_loading_goes_before_the_file(backend, tmp_path):
    directory = written(tmp_path, "GPT2LMHeadModel")
    (directory / GENERATION_FILE).write_text(json.dumps({"num_beams": 3, "eos_token_id": 4, "top_k": 9}))
    model = backend.GPT2LMHeadModel.from_pretrained(directory, num_beams=2, eos_token_id=None, attn_pdrop=0.2)
    assert model.generation_config == GenerationConfig(num_beams=2, top_k=9)
    with pytest.raises(InputError, match=r"^GenerationConfig: num_beam_groups=2 is not supported$"):
        backend.GPT2LMHeadModel.from_pretrained(directory, num_beam_groups=2)


def test_a_new_composite_has_what_its_config_states(backend, tmp_path):
    for part, options in (("encoder", {"num_beams": 7}), ("decoder", {"num_beams": 4, "eos_token_id": 6})):
        written(tmp_path / part, "BertForMaskedLM", **options)
        (tmp_path / part / GENERATION_FILE).write_text(json.dumps({"num_beams": 9}))
    model = backend.EncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder", decoder_start_token_id=2
    )
    assert model.generation_config == GenerationConfig.of_model(model.config)
    found = model.generation_config
    assert (found.num_beams, found.eos_token_id, found.decoder_start_token_id) == (4, 6, 2)


def test_the_name_is_found_everywhere():
    assert diptych.GenerationConfig is in_jax.GenerationConfig is in_torch.GenerationConfig is GenerationConfig
    assert all("GenerationConfig" in dir(module) for module in (diptych, in_jax, in_torch))


def test_a_checkpoint_that_names_no_end_of_a_text(backend, tmp_path):
    """The class's default, 50256, lies outside of its vocabulary."""
    config = {"model_type": "gpt2", "vocab_size": 13, "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = backend.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert model.generate([[3, 4]], max_new_tokens=3, min_new_tokens=2).sequences.shape == (1, 5)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] is None
