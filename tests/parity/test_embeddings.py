"""Word embeddings: found, replaced and resized, alike in both backends."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from diptych.core.config import ModelConfig
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.image_config import ImageEncoderConfig
from diptych.core.registry import architectures, families
from diptych.core.sound_config import SoundEncoderConfig
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity.tiny import CONFIGS, RENAMED, inputs, writes

WITHOUT = tuple(name for name in CONFIGS if name not in families()[architectures()[name]].embeddings)
"""Classes that read no tokens."""
UNTIED = {"tie_word_embeddings": False}
SUBJECTS: dict[str, tuple[str, ModelConfig]] = {
    **{
        name: (name, config)
        for name, config in CONFIGS.items()
        if name not in WITHOUT and not name.endswith("EncoderDecoderModel")
    },
    "BertForPreTraining, untied": ("BertForPreTraining", CONFIGS["BertForPreTraining"].replace(**UNTIED)),
    "BertGenerationDecoder, tied": (
        "BertGenerationDecoder",
        CONFIGS["BertGenerationDecoder"].replace(tie_word_embeddings=True),
    ),
    "GPT2LMHeadModel, untied": ("GPT2LMHeadModel", CONFIGS["GPT2Model"].replace(**UNTIED)),
    "BartModel, untied": ("BartModel", CONFIGS["BartModel"].replace(**UNTIED)),
    "BartForConditionalGeneration, untied": (
        "BartForConditionalGeneration",
        CONFIGS["BartForConditionalGeneration"].replace(**UNTIED),
    ),
    "MBartForCausalLM, tied": ("MBartForCausalLM", CONFIGS["MBartForCausalLM"].replace(tie_word_embeddings=True)),
    "XLMRobertaForCausalLM": ("XLMRobertaForCausalLM", RENAMED["XLMRobertaForCausalLM"]),
    "CamembertForMaskedLM": ("CamembertForMaskedLM", RENAMED["CamembertForMaskedLM"]),
}
OUTPUTS = ("ForPreTraining", "LMHeadModel", "LM", "GenerationDecoder", "ForConditionalGeneration", "ForVisionText2Text")


def built(backend: str, subject: str, config: ModelConfig | None = None, **build: Any) -> Any:
    name, own = SUBJECTS.get(subject, (subject, CONFIGS.get(subject)))
    return getattr(BACKENDS[backend], name)(own if config is None else config, **build)


def values_of(model: Any) -> dict[str, np.ndarray]:
    return {path: np.array(source.read()) for path, source in model._sources().items()}


def words_of(config: Any) -> int:
    config = getattr(config, "text_config", config)
    return config.vocab_size + getattr(config, "additional_vocab_size", 0)


def with_words(config: Any, count: int) -> Any:
    if hasattr(config, "text_config"):
        return config.replace(text_config=config.text_config.replace(vocab_size=count))
    return config.with_vocabulary(count)


def table_of(module: Any) -> np.ndarray:
    """The rows of an embedding or output layer, in the published layout, with those of additional words."""
    if (additional := getattr(module, "additional_embedding", None)) is not None:
        return np.concatenate([_own_table(module), _own_table(additional)])
    return _own_table(module)


def _own_table(module: Any) -> np.ndarray:
    if isinstance(module, torch.nn.Module):
        return module.weight.detach().numpy()
    return np.asarray(module.embedding[...]) if hasattr(module, "embedding") else np.asarray(module.kernel[...]).T


def first_output(backend: str, model: Any, call: dict[str, Any]) -> np.ndarray:
    if backend == "torch":
        tensors = {name: torch.tensor(value) for name, value in call.items()}
        return model(**tensors)[0].detach().numpy()
    return np.asarray(jax.jit(lambda model, call: model(**call)[0])(model, call))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_larger_tables_keep_their_rows_and_have_those_of_a_new_model_behind(subject: str, tmp_path: Path) -> None:
    config = SUBJECTS[subject][1]
    grown = words_of(config) + 7
    models = {backend: built(backend, subject, seed=1) for backend in BACKENDS}
    old, new = values_of(models["torch"]), values_of(built("torch", subject, with_words(config, grown), seed=3))
    expected = {path: np.array(values) for path, values in new.items()}
    for path, values in old.items():
        expected[path][tuple(slice(size) for size in values.shape)] = values
    changed = [path for path in old if old[path].shape != new[path].shape]
    assert changed
    for backend, model in models.items():
        table = model.resize_token_embeddings(grown, seed=3)
        assert table is model.get_input_embeddings()
        assert table_of(table).shape[0] == grown == words_of(model.config)
        assert model.config == with_words(config, grown)
        found = values_of(model)
        assert found.keys() == expected.keys()
        for path, values in expected.items():
            assert np.array_equal(found[path], values), path
        structure(backend, model, built(backend, subject, model.config, seed=None))
    # the new rows are drawn, but for biases
    for path in changed:
        axis = int(np.argmax(np.array(new[path].shape) != old[path].shape))
        rows = np.moveaxis(expected[path], axis, 0)[old[path].shape[axis] :]
        assert rows.any() != path.endswith("bias"), path

    models["jax"].save_pretrained(tmp_path)
    loaded = type(models["torch"]).from_pretrained(tmp_path)
    assert loaded.config == models["jax"].config
    for path, values in values_of(loaded).items():
        assert np.array_equal(values, expected[path]), path


def structure(backend: str, model: Any, other: Any) -> None:
    """Nothing but values tells a resized model from one that was built in its size."""
    if backend == "jax":
        assert jax.tree.structure(model) == jax.tree.structure(other)
        return
    names = ("num_embeddings", "out_features", "padding_idx", "_config")
    modules = dict(other.named_modules())
    for path, module in model.named_modules():
        for name in names:
            assert getattr(module, name, None) == getattr(modules[path], name, None), (path, name)


@each_backend
@pytest.mark.parametrize("subject", SUBJECTS)
def test_smaller_tables_keep_their_first_rows(backend: str, subject: str) -> None:
    config = SUBJECTS[subject][1]
    model = built(backend, subject, seed=1)
    old, fewer = values_of(model), words_of(config) - 5
    model.resize_token_embeddings(fewer)
    new = built(backend, subject, with_words(config, fewer), seed=None)
    shapes = {slot.path: slot.shape for slot in new._leaves()}
    for path, values in values_of(model).items():
        assert np.array_equal(values, old[path][tuple(slice(size) for size in shapes[path])]), path
    structure(backend, model, new)


@each_backend
@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "BartForConditionalGeneration", "GPT2LMHeadModel", "CLIPTextModel"]
)
def test_what_was_known_means_the_same_afterwards(backend: str, name: str) -> None:
    model, call = built(backend, name), inputs(name)
    call.pop("encoder_hidden_states", None), call.pop("encoder_attention_mask", None)
    before = first_output(backend, model, call)
    model.resize_token_embeddings(40)
    after = first_output(backend, model, call)
    assert_close(after[..., : before.shape[-1]], before, kind="float32")
    (ids,) = (
        key for key in ("decoder_input_ids", "input_ids") if key in call and writes(name) == key.startswith("dec")
    )
    call[ids] = np.where(call[ids] == call[ids][0, 0], 39, call[ids])
    other = first_output(backend, model, call)
    assert np.isfinite(other).all() and not np.allclose(other, after)


@each_backend
@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "GPT2LMHeadModel", "EncoderDecoderModel"])
def test_texts_are_generated_with_the_new_tokens(backend: str, name: str) -> None:
    config = {"GPT2LMHeadModel": CONFIGS["GPT2Model"]}.get(name, CONFIGS[name])
    model = built(backend, name, config)
    part = model.decoder if name == "EncoderDecoderModel" else model
    part.resize_token_embeddings(40)
    if name == "EncoderDecoderModel":
        model.encoder.resize_token_embeddings(40)
    ids = np.array([[39, 9, 30, 2]])
    sequences = model.generate(
        input_ids=torch.tensor(ids) if backend == "torch" else ids,
        max_new_tokens=3,
        suppress_tokens=list(range(23)),
    ).sequences
    assert (np.asarray(sequences)[0, -3:] >= 23).all()


def test_a_padding_row_is_zero_where_it_comes_into_the_table() -> None:
    config = CONFIGS["BertModel"].replace(pad_token_id=25)
    for backend in BACKENDS:
        model = built(backend, "BertModel", config)
        assert model.get_input_embeddings().padding_idx is None
        table = table_of(model.resize_token_embeddings(30))
        assert not table[25].any() and table[23:25].any(axis=1).all() and table[26:].any(axis=1).all()
        assert model.get_input_embeddings().padding_idx == 25
        assert model.resize_token_embeddings(24).padding_idx is None


@each_backend
def test_steps_lead_where_one_leads(backend: str) -> None:
    once, twice = built(backend, "BertForMaskedLM"), built(backend, "BertForMaskedLM")
    once.resize_token_embeddings(31, seed=5)
    twice.resize_token_embeddings(27, seed=5)
    twice.resize_token_embeddings(31, seed=5)
    assert all(np.array_equal(values, values_of(once)[path]) for path, values in values_of(twice).items())
    other = built(backend, "BertForMaskedLM")
    assert not np.array_equal(
        table_of(other.resize_token_embeddings(31, seed=6))[23:], table_of(once.get_input_embeddings())[23:]
    )


@each_backend
def test_resizing_keeps_dtype_mode_and_what_is_frozen(backend: str) -> None:
    model = built(backend, "BertForMaskedLM", dtype="bfloat16").freeze("bert.embeddings").train()
    frozen = model.frozen_parameters
    model.resize_token_embeddings(31)
    assert model.frozen_parameters == frozen and "bert.embeddings.word_embeddings.weight" in frozen
    assert model.training
    assert {source.dtype.name for source in model._sources().values()} == {"bfloat16"}


@each_backend
@pytest.mark.parametrize("name", [*CONFIGS, *RENAMED])
def test_output_embeddings_are_tied_untied_or_none(backend: str, name: str) -> None:
    config = (CONFIGS | RENAMED)[name]
    model = getattr(BACKENDS[backend], name)(config, seed=None)
    found = model.get_output_embeddings()
    if name.endswith("EncoderDecoderModel"):
        reads = model.decoder.transformer.wte
        assert found is reads
        if name == "EncoderDecoderModel":
            reads = model.encoder.embeddings.word_embeddings
        assert model.get_input_embeddings() is reads
    elif name.endswith(OUTPUTS) and name != "Wav2Vec2ForPreTraining":
        assert (found is model.get_input_embeddings()) == config.tie_word_embeddings
    else:
        assert found is None


@each_backend
@pytest.mark.parametrize("name", WITHOUT)
def test_classes_that_read_no_tokens_say_so(backend: str, name: str) -> None:
    model = built(backend, name, seed=None)
    for method, arguments in (
        ("get_input_embeddings", ()),
        ("set_input_embeddings", (model,)),
        ("resize_token_embeddings", (9,)),
    ):
        with pytest.raises(InputError, match=rf"^{name}\.{method}: the model reads no tokens"):
            getattr(model, method)(*arguments)
    assert model.get_output_embeddings() is None


def test_every_class_says_where_its_embeddings_are() -> None:
    known = {name for family in families().values() for name in family.embeddings}
    silent = set(architectures()) - known
    configs = {name: families()[architectures()[name]].classes[name] for name in silent}
    reading = [name for name, config in configs.items() if hasattr(config, "vocab_size")]
    assert not [name for name in reading if not issubclass(configs[name], ImageEncoderConfig | SoundEncoderConfig)]
    writers = {"EncoderDecoderModel", "SpeechEncoderDecoderModel", "VisionEncoderDecoderModel"}
    assert not silent & {"CLIPModel", "CLIPTextModel", *writers}


@each_backend
def test_a_module_that_is_set_serves_input_and_tied_output(backend: str) -> None:
    model, other = built(backend, "BertForMaskedLM"), built(backend, "BertForMaskedLM", seed=9)
    table = other.get_input_embeddings()
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table is model.get_output_embeddings() is model.bert.get_input_embeddings()
    expected = built(backend, "BertForMaskedLM")
    path = "bert.embeddings.word_embeddings.weight"
    assert np.array_equal(values_of(model)[path], values_of(other)[path])
    call = {"input_ids": inputs("BertForMaskedLM")["input_ids"]}
    assert not np.allclose(first_output(backend, model, call), first_output(backend, expected, call))
    composite = built(backend, "EncoderDecoderModel", seed=None)
    table = built(backend, "BertModel", CONFIGS["EncoderDecoderModel"].encoder, seed=None).get_input_embeddings()
    composite.set_input_embeddings(table)
    assert composite.encoder.embeddings.word_embeddings is table


@each_backend
def test_a_wrapper_of_the_table_needs_only_a_call(backend: str) -> None:
    class Wrapper(nnx.Module if backend == "jax" else torch.nn.Module):
        def __init__(self, table: Any) -> None:
            super().__init__()
            self.table = table

        def __call__(self, ids: Any) -> Any:
            return self.table(ids)

    model = built(backend, "BertForMaskedLM", seed=None)
    wrapper = Wrapper(model.get_input_embeddings())
    model.set_input_embeddings(wrapper)
    assert model.get_input_embeddings() is wrapper is model.get_output_embeddings()


@each_backend
def test_modules_that_do_not_fit_are_refused(backend: str) -> None:
    model = built(backend, "BertForMaskedLM", seed=None)
    larger = built(
        backend, "BertForMaskedLM", CONFIGS["BertForMaskedLM"].replace(vocab_size=24), seed=None
    ).get_input_embeddings()
    with pytest.raises(
        InputError, match=r"BertForMaskedLM.set_input_embeddings: .* \(24, 12\), but \(23, 12\) is needed"
    ):
        model.set_input_embeddings(larger)
    with pytest.raises(InputError, match=r"BertForMaskedLM.set_input_embeddings: int is not an embedding layer"):
        model.set_input_embeddings(3)


@each_backend
def test_what_would_not_follow_is_refused(backend: str) -> None:
    composite = built(backend, "EncoderDecoderModel")
    methods = " or ".join(f"model.{part}.resize_token_embeddings" for part in ("encoder", "decoder"))
    with pytest.raises(InputError, match=rf"^EncoderDecoderModel.resize_token_embeddings: .*; call {methods}$"):
        composite.resize_token_embeddings(30)
    with pytest.raises(InputError, match=r"GPT2Model.resize_token_embeddings: the model is part of a GPT2LMHeadModel"):
        composite.decoder.transformer.resize_token_embeddings(30)
    for size in (0, -1, 2.5, True, None):
        with pytest.raises(InputError, match=r"BertModel.resize_token_embeddings: new_size=.*, but a whole number"):
            built(backend, "BertModel", seed=None).resize_token_embeddings(size)
    roberta = built(backend, "RobertaModel")
    with pytest.raises(ConfigError, match=r"pad_token_id=1 must be 0 or more and below vocab_size=1"):
        roberta.resize_token_embeddings(1)
    assert roberta.config == CONFIGS["RobertaModel"]
    with pytest.raises(CheckpointError, match="has no values"):
        built(backend, "BertModel", seed=None).resize_token_embeddings(30)


@each_backend
def test_a_composite_follows_its_parts(backend: str, tmp_path: Path) -> None:
    model = built(backend, "EncoderDecoderModel")
    model.config = model.config.replace(vocab_size=23)  # a copy of the decoder's, as files have it
    model.decoder.resize_token_embeddings(30)
    model.encoder.resize_token_embeddings(26)
    assert model.config.vocab_size == 30 == model.config.housekeeping["vocab_size"]
    assert (model.config.encoder.vocab_size, model.config.decoder.vocab_size) == (26, 30)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config == model.config
    structure(backend, loaded, model)
    assert all(np.array_equal(values, values_of(loaded)[path]) for path, values in values_of(model).items())
