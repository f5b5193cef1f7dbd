"""Files of published classes that diptych does not have: what their family owns is read, the rest is left out."""

import pytest
import transformers
from safetensors.numpy import load_file

import diptych.backends.torch as in_torch
from diptych.conversion import convert
from diptych.core.errors import CheckpointError
from tests.conversion.tiny import digests, rewrite, stored


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    """BeitForSemanticSegmentation, as transformers saves it; its encoder has no pooler."""
    config = transformers.BeitConfig(
        image_size=12, patch_size=3, num_channels=2, hidden_size=15, num_attention_heads=3, intermediate_size=14,
        num_hidden_layers=4, use_relative_position_bias=True, out_indices=[1, 2, 3, 4], auxiliary_channels=6,
        num_labels=5, use_mean_pooling=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("segmentation")
    transformers.BeitForSemanticSegmentation(config).save_pretrained(path)
    return path


def test_the_encoder_is_read_and_the_heads_are_left_out(segmentation, backend):
    model = backend.BeitModel.from_pretrained(segmentation)
    names = set(load_file(segmentation / "model.safetensors"))
    heads = {name for name in names if not name.startswith("beit.")}
    assert len(heads) > 50 and any(name.endswith("num_batches_tracked") for name in heads)
    assert set(model.load_report.left_out) == heads and model.load_report.ignored == model.fresh_parameters == ()
    assert {f"beit.{path}" for path in digests(model)} == names - heads
    file = stored(segmentation)
    assert all(file[f"beit.{path}"] == digest for path, digest in digests(model).items())


def test_what_is_in_no_class_is_refused_all_the_same(segmentation, tmp_path):
    (tmp_path / "config.json").write_bytes((segmentation / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((segmentation / "model.safetensors").read_bytes())
    rewrite(tmp_path, lambda tensors: tensors | {"decoder_head.bias": tensors["decode_head.classifier.bias"]})
    with pytest.raises(CheckpointError, match=r"1 tensor belongs to no class of the family: decoder_head\.bias \("):
        in_torch.BeitModel.from_pretrained(tmp_path)


def test_a_conversion_lists_what_it_leaves_out(segmentation, tmp_path):
    report = convert(segmentation, tmp_path / "out", architecture="BeitModel", progress=False)
    names = set(load_file(segmentation / "model.safetensors"))
    assert set(report.left_out) == {name for name in names if not name.startswith("beit.")}
    assert report.other_classes == report.ignored == report.missing == ()
    assert f"{len(report.left_out)} of unsupported classes, left out: " in str(report)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {tensor.name for tensor in report.tensors}
    assert digests(in_torch.BeitModel.from_pretrained(tmp_path / "out")) == digests(
        in_torch.BeitModel.from_pretrained(segmentation)
    )


@pytest.mark.parametrize("name", ["Wav2Vec2", "WavLM"])
@pytest.mark.parametrize("head", ["ForXVector", "ForAudioFrameClassification"])
def test_the_encoder_of_a_speaker_model_is_read(name, head, tmp_path):
    config = getattr(transformers, f"{name}Config")(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=14, conv_dim=[5, 7],
        conv_kernel=[4, 3], conv_stride=[3, 2], num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        tdnn_dim=[6, 8], tdnn_kernel=[3, 1], tdnn_dilation=[1, 1], xvector_output_dim=9, num_labels=5,
        use_weighted_layer_sum=True, **({"num_buckets": 8, "max_bucket_distance": 9} if name == "WavLM" else {}),
    )  # fmt: skip
    getattr(transformers, name + head)(config).save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    model = getattr(in_torch, f"{name}Model").from_pretrained(tmp_path)
    prefix = f"{name.lower()}."
    heads = {path for path in names if not path.startswith(prefix)}
    assert len(heads) >= 3 and set(model.load_report.left_out) == heads and model.fresh_parameters == ()
