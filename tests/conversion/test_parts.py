"""The parts of a composite: live models, the long names of the Flax classes' arguments, encoders without pooler."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych.backends.jax as in_jax
import diptych.backends.torch as in_torch
from diptych.conversion import convert, to_jax, to_torch
from diptych.core.errors import CheckpointError, InputError
from tests.conversion import checkpoints
from tests.conversion.tiny import digests

IDS = {"decoder_start_token_id": 1, "pad_token_id": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints of an encoder, with a pooler, and of a decoder."""
    root = tmp_path_factory.mktemp("files")
    for name in ("BertModel", "GPT2LMHeadModel"):
        checkpoints.write(root / name, name)
    return root


def composite(backend: Any, *parts: Any, **changes: Any) -> Any:
    return backend.EncoderDecoderModel.from_encoder_decoder_pretrained(*parts, **{**IDS, **changes})


def test_an_argument_has_three_names(files: Path, backend: Any) -> None:
    encoder, decoder = files / "BertModel", files / "GPT2LMHeadModel"
    wanted = digests(composite(backend, encoder, decoder))
    long = {
        "encoder_pretrained_model_name_or_path": encoder,
        "decoder_pretrained_model_name_or_path": decoder,
    }
    live = {
        "encoder_model": backend.BertModel.from_pretrained(encoder),
        "decoder_model": backend.GPT2LMHeadModel.from_pretrained(decoder),
    }
    for given in (long, live, {**live, "encoder_model": (in_torch if backend is in_jax else in_jax).load(encoder)}):
        assert digests(composite(backend, **given)) == wanted
    caller = "EncoderDecoderModel.from_encoder_decoder_pretrained"
    with pytest.raises(
        InputError, match=f"^{caller}: exactly one of encoder and encoder_pretrained_model_name_or_path"
    ):
        composite(backend, encoder, decoder, **live)
    with pytest.raises(InputError, match=r"exactly one of decoder and .* is needed, got none"):
        composite(backend, encoder)
    with pytest.raises(
        InputError, match=f"^{caller}: encoder_model is a PosixPath, but a model of diptych's is needed"
    ):
        composite(backend, encoder_model=encoder, decoder=decoder)


def test_a_live_model_stays_as_it_was_and_shares_nothing(files: Path, backend: Any) -> None:
    encoder = backend.BertModel.from_pretrained(files / "BertModel")
    before = digests(encoder)
    model = composite(backend, encoder_model=encoder, decoder=files / "GPT2LMHeadModel")
    if backend is in_torch:
        with torch.no_grad():
            model.encoder.embeddings.word_embeddings.weight.zero_()
    assert digests(encoder) == before
    assert encoder.config.is_decoder is False and model.config.decoder.add_cross_attention


def test_an_encoder_without_its_pooler(files: Path, tmp_path: Path, backend: Any) -> None:
    encoder, decoder = files / "BertModel", files / "GPT2LMHeadModel"
    whole = composite(backend, encoder, decoder)
    model = composite(backend, encoder, decoder, encoder_add_pooling_layer=False)
    assert model.encoder.pooler is None
    lacking = {path for path in digests(whole) if path.startswith("encoder.pooler")}
    assert len(lacking) == 2 and digests(model) == {p: d for p, d in digests(whole).items() if p not in lacking}
    assert any("pooler" in name for name in model.load_report.left_out)
    ids = np.array([[3, 4, 5, 6]])
    for one in (to_jax(model), to_torch(model)):  # a twin has no pooler either
        assert one.encoder.pooler is None and digests(one) == digests(model)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"2 tensors are missing: encoder\.pooler"):
        backend.EncoderDecoderModel.from_pretrained(tmp_path / "saved")
    again = backend.EncoderDecoderModel.from_pretrained(tmp_path / "saved", encoder_add_pooling_layer=False)
    assert digests(again) == digests(model)
    np.testing.assert_array_equal(
        np.asarray(again.generate(ids, max_new_tokens=3).sequences),
        np.asarray(model.generate(ids, max_new_tokens=3).sequences),
    )
    convert(tmp_path / "saved", tmp_path / "flax", format="flax-msgpack", allow_missing=("encoder.pooler",))
