"""Files of RoBERTa, BertGeneration and BART as the hub has them: tensors twice, under old names, and with buffers."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import diptych.backends.torch as in_torch
from diptych.conversion import convert
from diptych.core.errors import CheckpointError
from tests.conversion import checkpoints
from tests.conversion.tiny import digests, edit_config, holds, inputs_of, theirs


def rewritten(directory, change):
    """The tensors of a checkpoint, changed on disk."""
    path = directory / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, metadata={"format": "pt"})
    return tensors


def old_roberta(tensors):
    """A masked language model of before transformers 4.31, which stored what is tied under each of its names."""
    return tensors | {
        "lm_head.decoder.bias": tensors["lm_head.bias"],
        "lm_head.decoder.weight": tensors["roberta.embeddings.word_embeddings.weight"],
        "roberta.embeddings.position_ids": np.arange(23)[None],
    }


def old_bart(tensors):
    """A model of the first BART files."""
    prefix = "model." if "model.shared.weight" in tensors else ""
    words = tensors[f"{prefix}shared.weight"]
    tensors |= {f"{prefix}{stack}.embed_tokens.weight": words for stack in ("encoder", "decoder")}
    tensors |= {f"{prefix}{stack}.version": np.full(1, 3.0, np.float32) for stack in ("encoder", "decoder")}
    return tensors | ({"lm_head.weight": words} if "final_logits_bias" in tensors else {})


def old_bert_generation(tensors):
    return tensors | {
        "lm_head.decoder.bias": tensors["lm_head.bias"],
        "lm_head.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "bert.embeddings.position_ids": np.arange(16)[None],
    }


OLD = {
    "RobertaForMaskedLM": old_roberta,
    "RobertaForCausalLM": old_roberta,
    "BertGenerationDecoder": old_bert_generation,
    "BartModel": old_bart,
    "BartForConditionalGeneration": old_bart,
    "BartForSequenceClassification": old_bart,
    "MBartModel": old_bart,
    "MBartForConditionalGeneration": old_bart,
}


@pytest.fixture
def aged(tmp_path):
    """Gives the directory of a tiny checkpoint as old versions stored it, and what they stored besides."""

    def age(name):
        directory = tmp_path / name
        checkpoints.write(directory, name)
        tensors = rewritten(directory, OLD[name])
        return directory, set(tensors) - set(checkpoints.shapes(name))

    return age


def as_saved(name, tmp_path, backend):
    """The digests of the same checkpoint as it is stored now."""
    checkpoints.write(tmp_path / "now", name)
    return digests(getattr(backend, name).from_pretrained(tmp_path / "now"))


@pytest.mark.parametrize("name", OLD)
def test_what_old_files_have_besides_is_ignored(name, backend, aged, tmp_path):
    directory, besides = aged(name)
    model = getattr(backend, name).from_pretrained(directory)
    assert digests(model) == as_saved(name, tmp_path, backend)
    assert set(model.load_report.ignored) == besides and model.load_report.left_out == ()


@pytest.mark.parametrize("name", OLD)
def test_old_files_become_what_transformers_writes_now(name, aged, tmp_path):
    directory, besides = aged(name)
    report = convert(directory, tmp_path / "flax", format="flax-msgpack")
    assert set(report.ignored) == besides
    convert(tmp_path / "flax", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor: array.shape for tensor, array in written.items()} == checkpoints.shapes(name)
    _, info = getattr(transformers, name).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info


@pytest.mark.parametrize("name", OLD)
def test_two_different_tensors_in_the_place_of_one(name, backend, aged):
    directory, besides = aged(name)
    copies = [tensor for tensor in besides if tensor.endswith(("weight", "bias"))]
    assert copies
    for copy in copies:
        kept = load_file(directory / "model.safetensors")
        rewritten(directory, lambda tensors, copy=copy: tensors | {copy: tensors[copy] + 1})
        with pytest.raises(CheckpointError, match=rf"\b{copy.replace('.', '[.]')}\b.*are one tensor in the model"):
            getattr(backend, name).from_pretrained(directory)
        rewritten(directory, lambda tensors, kept=kept: kept)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("RobertaForMaskedLM", "roberta."),
        ("BertGenerationDecoder", "bert."),
        ("BartForConditionalGeneration", "model."),
    ],
)
def test_a_file_without_the_base_models_prefix(name, prefix, backend, aged, tmp_path):
    directory, _ = aged(name)
    rewritten(directory, lambda tensors: {tensor.removeprefix(prefix): array for tensor, array in tensors.items()})
    model = getattr(backend, name).from_pretrained(directory)
    assert digests(model) == as_saved(name, tmp_path, backend)


@pytest.mark.parametrize("kept", ["encoder", "decoder"])
def test_words_that_stand_in_one_stack_alone(kept, backend, aged, tmp_path):
    """Without `shared`, as files have it that were saved without what is tied, one of its other names will do."""
    directory, _ = aged("BartForConditionalGeneration")
    dropped = {"model.shared.weight", "lm_head.weight", "model.encoder.embed_tokens.weight"}
    dropped |= {"model.decoder.embed_tokens.weight"}
    dropped -= {f"model.{kept}.embed_tokens.weight"}
    rewritten(directory, lambda tensors: {name: tensors[name] for name in tensors if name not in dropped})
    model = backend.BartForConditionalGeneration.from_pretrained(directory)
    assert digests(model) == as_saved("BartForConditionalGeneration", tmp_path, backend)


@pytest.mark.parametrize(
    ("wanted", "source", "missing"),
    [
        ("RobertaModel", "RobertaForMaskedLM", {"pooler.dense.weight", "pooler.dense.bias"}),
        ("RobertaForCausalLM", "RobertaForMaskedLM", set()),
        ("RobertaForMaskedLM", "RobertaForCausalLM", set()),
        ("BertGenerationDecoder", "BertGenerationEncoder", {"lm_head.bias"}),
        ("BertGenerationEncoder", "BertGenerationDecoder", set()),
        ("BartModel", "BartForConditionalGeneration", set()),
        ("BartForConditionalGeneration", "BartModel", set()),
        ("BartForCausalLM", "BartModel", set()),
        ("BartForCausalLM", "BartForConditionalGeneration", set()),
        ("BartForConditionalGeneration", "BartForSequenceClassification", set()),
        ("MBartForCausalLM", "MBartForConditionalGeneration", set()),
    ],
)
def test_a_file_may_belong_to_another_class_of_the_family(wanted, source, missing, backend, tmp_path):
    checkpoints.write(tmp_path / "file", source)
    model = getattr(backend, wanted).from_pretrained(
        tmp_path / "file", allow_fresh={name.rpartition(".")[0] for name in missing}
    )
    assert set(model.load_report.fresh) == missing
    # transformers, told to load the same class, finds the same values
    model.save_pretrained(tmp_path / "ours")
    their_model, info = getattr(transformers, wanted).from_pretrained(tmp_path / "file", output_loading_info=True)
    words = {"lm_head.weight", "model.decoder.embed_tokens.weight"}  # which it doesn't find under the name of `shared`
    unread = missing | (words if wanted.endswith("BartForCausalLM") else set())
    assert set(info["missing_keys"]) - {"lm_head.decoder.bias"} == unread  # it is tied to lm_head.bias
    state = {name: tensor.numpy() for name, tensor in their_model.state_dict().items()}
    if wanted.endswith("BartForCausalLM"):
        file = load_file(tmp_path / "file" / "model.safetensors")
        state["model.decoder.embed_tokens.weight"] = next(file[name] for name in file if name.endswith("shared.weight"))
        unread = set()
    for name, array in load_file(tmp_path / "ours" / "model.safetensors").items():
        assert name in unread or np.array_equal(state[name], array), name


def test_bart_without_a_bias_of_the_words_has_zeros(backend, tmp_path):
    checkpoints.write(tmp_path / "file", "BartModel")
    model = backend.BartForConditionalGeneration.from_pretrained(tmp_path / "file")
    assert model.load_report.fresh == ()
    model.save_pretrained(tmp_path / "ours")
    assert not load_file(tmp_path / "ours" / "model.safetensors")["final_logits_bias"].any()


@pytest.fixture
def untied(tmp_path):
    """Models of transformers whose output layer is their own, with a bias of its own."""

    def save(name):
        model = theirs(name)
        model.config.tie_word_embeddings = False
        model = type(model)(model.config).eval()
        with torch.no_grad():
            for values in model.state_dict().values():
                values.copy_(torch.randn_like(values) * 0.1)
        model.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return save


@pytest.mark.parametrize(
    ("name", "dead"),
    [("RobertaForMaskedLM", {"lm_head.bias"}), ("BertGenerationDecoder", {"lm_head.bias"})],
)
def test_an_output_layer_of_its_own(name, dead, backend, untied, tmp_path):
    their_model, directory = untied(name)
    model = getattr(backend, name).from_pretrained(directory)
    assert set(model.load_report.ignored) == dead  # which transformers saves and never reads
    assert "lm_head.decoder.weight" in digests(model)
    model.save_pretrained(tmp_path / "ours")
    again, info = type(their_model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert set(info["missing_keys"]) == dead and not info["unexpected_keys"]
    inputs = inputs_of(their_model)
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, their_model(**inputs).logits)
    # before version 5 the bias had the other name, and files had it under that
    old = {"lm_head.decoder.bias": "lm_head.bias"}
    rewritten(
        directory,
        lambda tensors: {old.get(tensor, tensor): array for tensor, array in tensors.items() if tensor not in dead},
    )
    assert digests(getattr(backend, name).from_pretrained(directory)) == digests(model)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MBartForConditionalGeneration", "BartForCausalLM"])
def test_barts_words_of_their_own(name, backend, untied, tmp_path):
    """Untied, each stack and the output layer have words of their own; those that were shared nothing reads."""
    their_model, directory = untied(name)
    dead = set() if name == "BartForCausalLM" else {"model.shared.weight"}
    model = getattr(backend, name).from_pretrained(directory)
    assert model.load_report.left_out == () and set(model.load_report.ignored) == dead
    model.save_pretrained(tmp_path / "ours")
    ours, file = (set(load_file(each / "model.safetensors")) for each in (tmp_path / "ours", directory))
    assert ours == file - dead
    again, info = type(their_model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert set(info["missing_keys"]) == dead and not info["unexpected_keys"]
    inputs = inputs_of(their_model)
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, their_model(**inputs).logits)


@pytest.mark.parametrize("name", sorted({*checkpoints.NAMES} - {name for name in checkpoints.NAMES if "CLIP" in name}))
def test_config_json_says_what_was_published(name, tmp_path):
    checkpoints.write(tmp_path / "file", name)
    in_torch.load(tmp_path / "file").save_pretrained(tmp_path / "again")
    wanted, written = (json.loads((tmp_path / part / "config.json").read_text()) for part in ("file", "again"))
    # what saving says anew
    told = ("torch_dtype", "transformers_version")
    assert holds(written, {field: value for field, value in wanted.items() if field not in told})
    shutil.copy(tmp_path / "again" / "config.json", tmp_path / "file")
    edit_config(tmp_path / "file", architectures=None)
    assert type(getattr(transformers, name).from_pretrained(tmp_path / "file")).__name__ == name


@pytest.mark.parametrize("family", ["Bart", "MBart"])
def test_a_whole_model_is_converted_for_its_decoder(family, tmp_path):
    """The words are stored as `shared`, which the decoder alone calls otherwise; nothing of the whole is lost."""
    checkpoints.write(tmp_path / "file", f"{family}ForConditionalGeneration")
    report = convert(tmp_path / "file", tmp_path / "out", architecture=f"{family}ForCausalLM")
    assert report.missing == ()
    file, out = (load_file(tmp_path / part / "model.safetensors") for part in ("file", "out"))
    words = "model.decoder.embed_tokens.weight"
    assert set(out) - {words} == set(file) - {"model.shared.weight"}
    assert np.array_equal(out[words], file["model.shared.weight"])
    _, info = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    whole = in_torch.BartForConditionalGeneration if family == "Bart" else in_torch.MBartForConditionalGeneration
    assert digests(whole.from_pretrained(tmp_path / "out")) == digests(whole.from_pretrained(tmp_path / "file"))
