"""Composites: made of two checkpoints, read from tied files, and what of them is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, parity
from diptych.core.checkpoint.tensors import digest
from diptych.core.errors import CheckpointError, ConfigError, InputError
from diptych.core.models.bert import BertConfig
from diptych.core.models.encoder_decoder import EncoderDecoderConfig
from diptych.core.models.gpt2 import GPT2Config
from tests.assertions import assert_close
from tests.conversion import checkpoints
from tests.conversion.tiny import digests, edit_config
from tests.parity.writers import array

# what a decoder lacks of the file of a model that stood alone
GROWN = {
    "BertForMaskedLM": ["crossattention"],
    "BertModel": ["cls", "crossattention"],
    "RobertaForMaskedLM": ["crossattention"],
    "RobertaModel": ["crossattention", "lm_head"],
    "GPT2Model": ["crossattention", "ln_cross_attn"],
    "BartForConditionalGeneration": [],
    "BartModel": [],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tiny checkpoints."""
    root = tmp_path_factory.mktemp("files")
    for name in (*GROWN, "EncoderDecoderModel"):
        checkpoints.write(root / name, name)
    return root


def made(backend, files, decoder, encoder="BertForMaskedLM", **changes):
    changes = {"decoder_start_token_id": 1, "pad_token_id": 0, **changes}
    return backend.EncoderDecoderModel.from_encoder_decoder_pretrained(files / encoder, files / decoder, **changes)


def called(model, **inputs):
    inputs = {"input_ids": np.array([[3, 4, 5, 6]]), "labels": np.array([[7, 8, 9]]), **inputs}
    return model(**inputs)


@pytest.mark.parametrize("decoder", GROWN)
def test_two_checkpoints_become_one_model(files, tmp_path, caplog, decoder):
    models = [made(backend, files, decoder) for backend in (in_jax, in_torch)]
    for model in models:
        grown = {part for path in model.fresh_parameters for part in path.split(".")}
        assert set(GROWN[decoder]) <= grown
        allowed = (*GROWN[decoder], "encoder.pooler", "enc_to_dec_proj")
        assert all(any(part in path for part in allowed) for path in model.fresh_parameters)
        assert "encoder.pooler.dense.weight" in model.fresh_parameters
        apart = model.config.encoder_width != model.config.decoder_width
        assert ("enc_to_dec_proj.weight" in model.fresh_parameters) == apart == (not decoder.startswith("Bert"))
        assert model.load_report.directory == f"{files / 'BertForMaskedLM'} and {files / decoder}"
        assert model.config.decoder_start_token_id == 1 and model.config.decoder.has_cross_attention
    assert models[0].fresh_parameters == models[1].fresh_parameters
    lines = [record.getMessage() for record in caplog.records if "drawn anew" in record.getMessage()]
    assert len(lines) == 2 and lines[0].endswith(f"drawn anew: {', '.join(models[0].fresh_parameters)}")
    assert digests(models[0]) == digests(models[1])

    # every tensor that the files have is where it belongs
    held = digests(models[1])
    encoder = load_file(files / "BertForMaskedLM" / "model.safetensors")
    for name, values in encoder.items():
        if name.startswith("bert."):
            assert held[f"encoder.{name.removeprefix('bert.')}"] == digest_of(values)
    left = set(held.values())
    prefixes = ("encoder.", "model.encoder.", "final_logits_bias", "pooler")
    decoder_file = load_file(files / decoder / "model.safetensors")
    assert all(
        digest_of(v) in left for name, v in decoder_file.items() if not name.startswith(prefixes) or "layer." in name
    )

    models[1].save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 2
    assert digests(in_jax.EncoderDecoderModel.from_pretrained(tmp_path / "saved")) == held
    theirs, info = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6]]), "decoder_input_ids": torch.tensor([[1, 7, 8]])}
    logits = theirs(**inputs, use_cache=False).logits.detach().numpy()
    for model in models:
        assert_close(array(called(model).logits), logits, kind="float32")


def digest_of(values):
    from diptych.core.checkpoint.tensors import from_array

    return digest(from_array(values))


def test_configs_change_on_the_way(files, backend):
    model = made(
        backend, files, "GPT2Model", encoder_hidden_dropout_prob=0.0, decoder_attn_pdrop=0.25, output_hidden_states=True
    )
    assert model.config.encoder.hidden_dropout_prob == 0.0 and model.config.decoder.attn_pdrop == 0.25
    output = called(model)
    assert len(output.encoder_hidden_states) == 4 and len(output.decoder_hidden_states) == 3
    for changes, message in (
        ({"encoder_colour": 1}, "encoder_colour: BertConfig has no field colour"),
        ({"decoder_colour": 1}, "decoder_colour: GPT2Config has no field colour"),
        ({"colour": 1}, "EncoderDecoderConfig has no field colour"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(backend, files, "GPT2Model", **changes)


def test_an_encoder_that_was_a_decoder_sees_all_its_tokens(files, tmp_path, backend):
    shutil.copytree(files / "BertModel", tmp_path / "decoder")
    edit_config(tmp_path / "decoder", is_decoder=True)
    paths = (tmp_path / "decoder", files / "GPT2Model")
    model = backend.EncoderDecoderModel.from_encoder_decoder_pretrained(*paths)
    assert model.config.encoder.is_decoder is False


def test_what_cannot_be_a_part_is_refused(files, tmp_path, backend):
    with pytest.raises(ConfigError, match=r"EncoderDecoderModel.config\.json: 'encoder-decoder' cannot be the decoder"):
        made(backend, files, "EncoderDecoderModel")
    with pytest.raises(
        ConfigError, match="'gpt2' cannot be the text encoder of a composite; model_types that can: bert, "
    ):
        made(backend, files, "BertModel", encoder="GPT2Model")
    half = tmp_path / "half"
    shutil.copytree(files / "GPT2Model", half)
    save_file(
        {name: v.astype(np.float16) for name, v in load_file(half / "model.safetensors").items()},
        half / "model.safetensors",
    )
    paths = (files / "BertModel", half)
    with pytest.raises(CheckpointError, match=r"BertModel holds float32, .*half holds float16; say dtype=…"):
        backend.EncoderDecoderModel.from_encoder_decoder_pretrained(*paths)
    model = backend.EncoderDecoderModel.from_encoder_decoder_pretrained(*paths, dtype="bfloat16")
    assert str(model.dtype).endswith("bfloat16")
    tensors = load_file(half / "model.safetensors")
    del tensors["h.0.attn.c_attn.weight"]
    save_file(tensors, half / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"half does not fit GPT2LMHeadModel: 1 tensor is missing: transformer\.h"
    ):
        backend.EncoderDecoderModel.from_encoder_decoder_pretrained(*paths, dtype="float32")


def tied_file(directory, model_type):
    """A composite as transformers 4.57 saved it where the encoder shared the decoder's parameters; and it, whole."""
    sizes = {"vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 29, "max_position_embeddings": 19, "pad_token_id": 1}
    part = transformers.AutoConfig.for_model(model_type, **sizes)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        part, transformers.AutoConfig.for_model(model_type, **sizes, is_decoder=True, add_cross_attention=True)
    )
    config.pad_token_id, config.decoder_start_token_id = 1, 2
    whole = transformers.EncoderDecoderModel(config).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0.0, 0.3, generator=random)
        decoder = getattr(whole.decoder, model_type).state_dict()
        for name, parameter in whole.encoder.named_parameters():
            if name in decoder:
                parameter.copy_(decoder[name])
    whole.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    kept = {name: values for name, values in tensors.items() if not name.startswith("encoder.") or "pooler" in name}
    assert len(kept) < len(tensors)
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    edit_config(directory, tie_encoder_decoder=True)
    return whole


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_tied_file_gives_the_encoder_what_the_decoder_has(tmp_path, model_type):
    whole = tied_file(tmp_path / "tied", model_type)
    expected = {name: digest_of(values.numpy()) for name, values in whole.state_dict().items()}
    for backend in (in_jax, in_torch):
        model = backend.EncoderDecoderModel.from_pretrained(tmp_path / "tied")
        found = digests(model)
        assert all(found[name] == expected[name] for name in found)
        assert model.fresh_parameters == () and model.config.tie_encoder_decoder is False
        model.save_pretrained(tmp_path / "saved")
        assert load_file(tmp_path / "saved" / "model.safetensors").keys() == found.keys()
        assert not json.loads((tmp_path / "saved" / "config.json").read_text())["tie_encoder_decoder"]
    # the encoder is the decoder's twin, but no part of it
    model.encoder.embeddings.word_embeddings.weight.data.zero_()
    assert model.decoder.get_submodule(model_type).embeddings.word_embeddings.weight.any()
    convert(tmp_path / "tied", tmp_path / "flax", format="flax-msgpack")
    assert digests(in_jax.EncoderDecoderModel.from_pretrained(tmp_path / "flax")) == found
    edit_config(tmp_path / "tied", tie_encoder_decoder=False)
    with pytest.raises(CheckpointError, match=r"tensors are missing: encoder\..*allow_fresh=\('encoder\.embeddings', "):
        in_torch.EncoderDecoderModel.from_pretrained(tmp_path / "tied")


def test_a_tied_model_is_no_new_model(backend):
    config = EncoderDecoderConfig(tie_encoder_decoder=True)
    with pytest.raises(ConfigError, match="tie_encoder_decoder=True says how a file is read; a model is built without"):
        backend.EncoderDecoderModel(config, seed=None)


def test_what_the_encoder_gave_serves_another_call(files, backend):
    model = made(backend, files, "GPT2Model")
    mask = np.array([[1, 1, 1, 0]])
    whole = called(model, attention_mask=mask, output_hidden_states=True)
    read = model.encode(np.array([[3, 4, 5, 6]]), mask, output_hidden_states=True)
    states = read.last_hidden_state
    for given in (read, read.to_tuple(), (states,), states):
        again = called(model, input_ids=None, encoder_outputs=given, attention_mask=mask)
        assert np.array_equal(array(again.logits), array(whole.logits))
        assert np.array_equal(array(again.encoder_last_hidden_state), array(states))
    cache = model.init_cache(1, 8)
    ids = np.array([[1, 7, 8]])
    first = model.decode(ids[:, :2], read, mask, past_key_values=cache)
    second = model.decode(ids[:, 2:], None, mask, past_key_values=first.past_key_values)
    logits = np.concatenate([array(first.logits), array(second.logits)], axis=1)
    assert_close(logits, array(whole.logits), kind="float32")
    last = model(decoder_input_ids=ids[:, 2:], attention_mask=mask, past_key_values=first.past_key_values)
    assert_close(array(last.logits), logits[:, 2:], kind="float32")
    assert isinstance(model.encode(np.array([[3]]), return_dict=False), tuple)
    assert isinstance(model.decode(ids, read, return_dict=False), tuple)


def test_a_call_says_what_it_lacks(files, backend):
    model = made(backend, files, "GPT2Model", decoder_start_token_id=None)
    for inputs, message in (
        ({}, r"made from labels with pad_token_id and decoder_start_token_id, but .* decoder_start_token_id=None"),
        ({"labels": None}, "exactly one of decoder_input_ids and decoder_inputs_embeds is needed, got none"),
        ({"labels": np.array([[99]])}, "labels holds 99, but vocab_size allows 0 to 58"),
        ({"labels": np.array([7, 8])}, r"labels has shape \(2,\), but \(batch, tokens\) is needed"),
        (
            {"input_ids": None, "encoder_outputs": np.zeros((1, 3, 7)), "decoder_input_ids": np.array([[1]])},
            r"encoder_outputs has shape \(1, 3, 7\), but \(1, 3, 20\) is needed",
        ),
    ):
        with pytest.raises(InputError, match=f"^EncoderDecoderModel: .*{message}"):
            called(ready(model, inputs), **inputs)
    with pytest.raises(InputError, match="exactly one of input_ids and inputs_embeds is needed, got none"):
        called(ready(model, inputs), input_ids=None)


def ready(model, inputs):
    """The model, whose config says how to start unless that is what the test is about."""
    if inputs:
        model.config = model.config.replace(decoder_start_token_id=1)
    return model


@pytest.mark.parametrize("start_is_pad", [True, False])
def test_labels_mask_pads_even_if_the_text_starts_with_one(files, tmp_path, start_is_pad):
    """transformers' mask then hides the first token from itself, whose query sees no key at all."""
    model = made(in_torch, files, "GPT2Model", decoder_start_token_id=0 if start_is_pad else 1)
    model.save_pretrained(tmp_path)
    theirs = transformers.EncoderDecoderModel.from_pretrained(tmp_path).double().eval()
    labels = torch.tensor([[7, 8, 9, -100]])
    with pytest.warns(FutureWarning, match=r"v4\.12\.0"):
        expected = theirs(input_ids=torch.tensor([[3, 4]]), labels=labels, use_cache=False)
    found = model.double()(input_ids=[[3, 4]], labels=labels)
    for name in ("logits", "loss"):
        assert_close(array(found[name]), array(expected[name]), name=name)


def test_parity_compares_composites_with_transformers(files):
    assert parity(files / "EncoderDecoderModel", progress=False).passed
    report = parity(files / "EncoderDecoderModel", against="transformers", progress=False)
    assert report.passed and any(point.name.startswith("enc_to_dec_proj") for point in report.points)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"decoder": BertConfig()}, "decoder: is_decoder=False, add_cross_attention=False, but it must attend"),
        ({"decoder": GPT2Config()}, "decoder: is_decoder=False, add_cross_attention=False, but it must attend"),
        ({"encoder": GPT2Config()}, "encoder: 'gpt2' cannot be the text encoder of a composite"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder=False, but every composite is one"),
        (
            {"decoder": GPT2Config(add_cross_attention=True, cross_attention_hidden_size=7)},
            "decoder.cross_attention_hidden_size=7, but the encoder's states have width 768",
        ),
        (
            {"decoder": GPT2Config(add_cross_attention=True, n_embd=96, cross_attention_hidden_size=768)},
            "decoder.cross_attention_hidden_size=768 means no projection, but GPT2Config attends to .* 96",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts, message):
    with pytest.raises(ConfigError, match=f"^EncoderDecoderConfig: {message}"):
        EncoderDecoderConfig(**parts)


def test_the_parts_of_a_file_must_be_configs():
    for data, message in (
        ({}, "encoder must be the JSON object of a config, not None; decoder must be"),
        (
            {"encoder": 1, "decoder": {"model_type": "t5"}},
            "decoder: model_type='t5' is not known; known: bart, be",
        ),
    ):
        with pytest.raises(ConfigError, match=f"^here: .*{message}"):
            EncoderDecoderConfig.from_dict(data, source="here")


def test_without_parts_a_config_is_that_of_two_bert_base():
    config = EncoderDecoderConfig()
    assert config == EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), BertConfig())
    assert (config.encoder_width, config.decoder_width, config.vocab_size) == (768, 768, 30_522)
    assert EncoderDecoderConfig.from_json(config.to_json()) == config


def test_a_fault_is_found_in_the_part_that_has_it(files):
    model, twin = (in_torch.EncoderDecoderModel.from_pretrained(files / "EncoderDecoderModel") for _ in range(2))
    twin.decoder.transformer.h[1].ln_cross_attn.eps = 0.1
    report = parity(model, twin, gradients=False, progress=False)
    assert not report.passed and report.first_divergence.name == "decoder.transformer.h.1.ln_cross_attn"
    twin = in_torch.EncoderDecoderModel.from_pretrained(files / "EncoderDecoderModel")
    twin.enc_to_dec_proj.bias.data[0] += 1e-3
    assert parity(model, twin, gradients=False, progress=False).first_divergence.name == "enc_to_dec_proj"


def test_a_decoder_without_what_it_attends_to_is_refused(files, backend):
    model, ids = made(backend, files, "GPT2Model"), np.array([[1, 7]])
    for given in (None, (), (None,), model.encode(np.array([[3]])).replace(last_hidden_state=None)):
        with pytest.raises(
            InputError,
            match=r"^EncoderDecoderModel: encoder_outputs, to which the decoder attends, is needed, got None",
        ):
            model.decode(ids, given)
        if given is not None:
            with pytest.raises(
                InputError, match=r"^EncoderDecoderModel: encoder_outputs, to which the decoder attends, is"
            ):
                model(decoder_input_ids=ids, encoder_outputs=given)
    states = np.zeros((1, 3, 20))
    found = model(decoder_input_ids=ids, encoder_outputs=states.tolist()).encoder_last_hidden_state
    assert isinstance(found, torch.Tensor if backend is in_torch else jax.Array)
    bart = backend.BartModel.from_pretrained(files / "BartModel")
    with pytest.raises(InputError, match=r"^BartModel: encoder_outputs\.last_hidden_state is needed, got None"):
        bart(decoder_input_ids=ids, encoder_outputs=())


def test_keywords_of_other_loaders_are_refused(files, backend):
    for name in ("torch_dtype", "attn_implementation"):
        with pytest.raises(TypeError, match=f"GPT2Model.from_pretrained has no keyword {name}"):
            backend.GPT2Model.from_pretrained(files / "GPT2Model", **{name: "float16"})
    for name in ("torch_dtype", "encoder_dtype", "decoder_torch_dtype"):
        with pytest.raises(TypeError, match=r"has no keyword (torch_)?dtype; it has dtype="):
            made(backend, files, "GPT2Model", **{name: "float16"})
    with pytest.raises(
        CheckpointError, match="of type NoneType is given, but the path of a checkpoint's directory, or a name"
    ):
        backend.GPT2Model.from_pretrained(None)
    with pytest.raises(ConfigError, match="the decoder is a dict, but a config of diptych's is needed"):
        EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), {})
