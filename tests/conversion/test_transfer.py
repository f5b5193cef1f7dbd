import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import to_jax, to_torch
from diptych.conversion.slots import slots_of
from diptych.core.dtypes import FLOATS
from diptych.core.errors import CheckpointError, InputError
from tests.conversion.tiny import ARCHITECTURES, DTYPES, bits, config_of, digests, theirs

NARROW = [name for name in FLOATS if name != "float64"]


def first(model):
    """A weight that JAX holds transposed, with its path."""
    path = next(slot.path for slot in model._leaves() if slot.kind == "linear")
    return path, model._sources()[path].read()


@pytest.mark.parametrize(("architecture", "dtype"), DTYPES)
def test_there_and_back_is_bit_exact(architecture, dtype):
    with jax.enable_x64(dtype == "float64"):
        model = getattr(in_jax, architecture)(config_of(architecture), seed=3, dtype=dtype)
        twin = to_torch(model)
        back = to_jax(twin)
        assert type(twin) is getattr(in_torch, architecture)
        assert type(back) is type(model)
        assert digests(model) == digests(twin) == digests(back)
        assert str(twin.dtype) == f"torch.{dtype}"
        assert back.dtype == dtype
        assert twin.config == back.config == model.config


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=settings().max_examples // 5)
@given(seed=st.integers(0, 2**32 - 1), special=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=20))
def test_all_bits_pass_nan_payloads_and_subnormals_too(dtype, seed, special):
    model = in_torch.CLIPTextModel(config_of("CLIPTextModel"), dtype=dtype)
    weight = model.text_model.encoder.layers[0].mlp.fc1.weight
    raw = np.frombuffer(np.random.default_rng(seed).bytes(weight.nbytes), f"i{weight.itemsize}").copy()
    raw[: len(special)] = np.array(special, np.int64) << 8 * weight.itemsize - 16  # any sign, exponent and first bits
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.itemsize]
    weight.data.view(kind).copy_(torch.from_numpy(raw.reshape(weight.shape)))
    with jax.enable_x64(dtype == "float64"):
        twin = to_jax(model)
        kernel = np.asarray(twin.text_model.encoder.layers[0].mlp.fc1.kernel.get_value())
        back = to_torch(twin)
    np.testing.assert_array_equal(bits(kernel), raw.view(f"u{weight.itemsize}").reshape(weight.shape).T)
    assert torch.equal(back.text_model.encoder.layers[0].mlp.fc1.weight.view(kind), weight.view(kind))


@pytest.mark.parametrize("source", [in_jax, in_torch])
@pytest.mark.parametrize("transfer", [to_jax, to_torch])
def test_no_memory_is_shared(source, transfer):
    before = digests(source.BertModel(config_of("BertModel")))
    for source_changes in (True, False):
        model = source.BertModel(config_of("BertModel"))
        twin = transfer(model)
        changed, other = (model, twin) if source_changes else (twin, model)
        if isinstance(changed, torch.nn.Module):
            with torch.no_grad():
                for parameter in changed.parameters():
                    parameter.fill_(7)
            assert digests(changed) != before
            assert digests(other) == before
        else:  # JAX arrays do not change, but what they look at could
            arrays = [np.asarray(leaf.get_value()) for leaf in changed._leaves().values()]
            others = [tensor.read() for tensor in other._sources().values()]
            assert not any(np.shares_memory(one, two) for one in arrays for two in others)


@pytest.mark.parametrize("transfer", [to_jax, to_torch])
@pytest.mark.parametrize("training", [True, False])
def test_the_train_mode_is_carried(transfer, training):
    for backend in (in_jax, in_torch):
        assert transfer(backend.BertModel(config_of("BertModel")).train(training)).training is training
    assert transfer(theirs("BertModel").train(training)).training is training


def test_the_config_is_carried_with_what_the_user_changed():
    model = in_jax.BertModel(config_of("BertModel"))
    model.config = model.config.replace(output_hidden_states=True)
    assert to_torch(model).config.output_hidden_states is True


def test_the_compute_dtype_goes_with_a_copy_in_jax_only():
    model = in_jax.CLIPVisionModel(config_of("CLIPVisionModel"), compute_dtype="bfloat16")
    pixels = np.ones((1, 3, 36, 36), np.float32)
    copy, twin = to_jax(model), to_torch(model)
    assert copy.dtype == "float32"
    assert copy(pixels.astype(FLOATS["bfloat16"])).last_hidden_state.dtype == "bfloat16"
    assert twin(torch.from_numpy(pixels)).last_hidden_state.dtype == torch.float32


@pytest.mark.parametrize("pooler", [True, False])
def test_switches_of_the_constructor_are_found_again(pooler):
    model = in_jax.BertModel(config_of("BertModel"), add_pooling_layer=pooler)
    twin = to_torch(model)
    assert (twin.pooler is not None) is pooler
    assert digests(to_jax(twin)) == digests(model)
    assert (to_jax(theirs("BertModel", add_pooling_layer=pooler)).pooler is not None) is pooler


@pytest.mark.parametrize("dtype", NARROW)
def test_a_dtype_can_be_asked_for(dtype):
    model = in_torch.BertForMaskedLM(config_of("BertForMaskedLM"), dtype="float64")
    path, values = first(model)
    for twin in (to_jax(model, dtype=dtype), to_torch(model, dtype=getattr(torch, dtype))):
        assert {source.dtype.name for source in twin._sources().values()} == {dtype}
        np.testing.assert_array_equal(twin._sources()[path].read(), values.astype(FLOATS[dtype]))


def test_where_the_parameters_go_can_be_said():
    model = in_torch.CLIPTextModel(config_of("CLIPTextModel"))
    asked = {}

    def place(path, shape):
        asked[path] = shape
        return jax.devices()[0]

    twin = to_jax(model, sharding=place)
    assert asked == {slot.path: slot.shape_in("flax") for slot in twin._leaves()}
    assert to_torch(twin, device="meta").device.type == "meta"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_live_model_of_transformers_is_what_its_file_is(architecture, tmp_path):
    model = theirs(architecture).eval()
    model.save_pretrained(tmp_path)
    loaded = digests(getattr(in_torch, architecture).from_pretrained(tmp_path))
    assert digests(to_torch(model)) == digests(to_jax(model)) == loaded


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_of_transformers_come_once(tied):
    model = theirs("BertForMaskedLM")
    config = model.config
    config.tie_word_embeddings = tied
    model = transformers.BertForMaskedLM(config)
    twin = to_jax(model)
    assert ("cls.predictions.decoder.weight" in digests(twin)) is not tied
    assert digests(to_torch(model)) == digests(twin)
    dead = 0 if tied else config.vocab_size  # untied, transformers keeps a second bias, the same zeros
    assert twin.num_parameters() == sum(parameter.numel() for parameter in model.parameters()) - dead


def test_a_subclass_counts_as_what_it_derives_from():
    class Mine(in_torch.BertModel):
        pass

    class Theirs(transformers.BertModel):
        pass

    assert type(to_jax(Mine(config_of("BertModel")))) is in_jax.BertModel
    assert type(to_jax(Theirs(theirs("BertModel").config))) is in_jax.BertModel


@pytest.mark.parametrize("transfer", [to_jax, to_torch])
def test_an_unknown_class_is_refused_with_what_is_needed(transfer):
    linear, other = torch.nn.Linear(2, 3), types.SimpleNamespace(config=config_of("GPT2Model"))
    for wrong, message in (
        (linear, r"^torch\.nn\.modules\.linear\.Linear is not a known model class; .*types are known: .*bert, .*clip"),
        (other, "known classes of this model_type, in diptych and transformers: GPT2Model, GPT2LMHeadModel$"),
        ("bert", r"^builtins\.str is not a known model class; load the model first, with diptych\.load"),
        (in_torch.BertModel, "give a model of this class, not the class"),
        (linear.state_dict(), r"put them into a model of their class, with Model\(config\)\.load_state_dict"),
        (types.SimpleNamespace(_orig_mod=linear), r"it wraps a Linear: give its \._orig_mod$"),
        (torch.nn.DataParallel(linear), r"it wraps a Linear: give its \.module$"),
    ):
        with pytest.raises(InputError, match=message):
            transfer(wrong)
    sizes = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 8, "num_attention_heads": 2, "vocab_size": 9}
    opt = transformers.OPTModel(transformers.OPTConfig(num_hidden_layers=1, **sizes))
    with pytest.raises(InputError, match=r"^transformers\..*OPTModel is not a known model class"):
        transfer(opt)


@pytest.mark.parametrize("transfer", [to_jax, to_torch])
def test_a_model_without_values_is_refused(transfer):
    for backend in (in_jax, in_torch):
        with pytest.raises(CheckpointError, match=r"BertModel: \S+ has no values .*seed=None"):
            transfer(backend.BertModel(config_of("BertModel"), seed=None))
    with torch.device("meta"):
        empty = theirs("BertModel")
    with pytest.raises(CheckpointError, match=r"the BertModel of transformers: embeddings.* has no values .*meta"):
        transfer(empty)


@pytest.mark.parametrize("transfer", [to_jax, to_torch])
def test_several_dtypes_are_refused_unless_one_is_asked_for(transfer):
    model = theirs("BertModel")
    model.pooler.to(torch.bfloat16)
    message = (
        "the BertModel of transformers has parameters of several dtypes (53 of float32, 2 of bfloat16); say dtype="
    )
    with pytest.raises(InputError, match=re.escape(message)):
        transfer(model)
    assert str(transfer(model, dtype="float16").dtype).removeprefix("torch.") == "float16"


def test_float64_needs_64_bit_mode_in_jax():
    model = in_torch.BertModel(config_of("BertModel"), dtype="float64")
    with pytest.raises(InputError, match=r"dtype='float64' needs 64-bit mode.*jax\.enable_x64"):
        to_jax(model)
    assert to_jax(model, dtype="float32").dtype == "float32"


@pytest.mark.parametrize("transfer", [to_jax, to_torch])
def test_what_no_model_can_hold_is_refused(transfer):
    with pytest.raises(InputError, match="dtype='int8' is not supported; supported: float64"):
        transfer(in_torch.BertModel(config_of("BertModel")), dtype="int8")
    model = theirs("BertModel")
    model.adapter = torch.nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"of transformers does not fit BertModel: .*adapter\.weight"):
        transfer(model)
    model = theirs("BertModel")
    model.config.hidden_act = "gelu_10"
    with pytest.raises(ValueError, match=r"config of the BertModel of transformers: BertConfig: hidden_act='gelu_10'"):
        transfer(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_backends_have_the_same_slots(architecture):
    config = config_of(architecture)
    jax_slots, torch_slots = (
        set(getattr(backend, architecture)(config, seed=None)._leaves()) for backend in (in_jax, in_torch)
    )
    assert jax_slots == torch_slots == set(slots_of(architecture, config))


def test_importing_conversion_loads_no_framework_and_names_are_the_functions():
    code = (
        "import sys, diptych.conversion.convert\n"
        "from diptych.conversion import convert, inspect_checkpoint, to_jax, to_torch\n"
        "assert callable(convert), convert\n"
        "print([name for name in ('jax', 'flax', 'torch', 'transformers') if name in sys.modules])\n"
        "try: diptych.conversion.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "module 'diptych.conversion' has no attribute 'nothing'"]


@pytest.mark.parametrize(("absent", "transfer"), [("jax", "to_jax"), ("torch", "to_torch")])
def test_an_absent_framework_names_its_extra(absent, transfer):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {absent!r}: raise ModuleNotFoundError(name)\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {absent!r} else real(name, *rest)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"from diptych.conversion import {transfer}\n"
        f"try: {transfer}(None)\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith(f"pip install 'diptych[{absent}]'")
