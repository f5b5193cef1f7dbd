"""The shared semantics in both backends' arrays against PyTorch's and transformers' own functions, in float64."""

import array_api_compat.torch as torch_xp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.bart import modeling_bart
from transformers.models.clip.modeling_clip import image_text_contrastive_loss
from transformers.models.mbart import modeling_mbart

from diptych.core.semantics import labels as shifting
from diptych.core.semantics import losses, patches, positions, resize


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * 3


def in_each(function, *arrays):
    """The function's value by numpy's namespace, torch's and JAX's, which must agree; returns it."""
    ours = function(torch_xp, *map(torch.from_numpy, arrays)).numpy()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        theirs = np.asarray(function(jnp, *map(jnp.asarray, arrays)))
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    return ours


@pytest.mark.parametrize("labels", [[[3, -100, 0], [-100, 6, 1]], [[0, 1, 2], [3, 4, 5]], [[-100] * 3] * 2])
def test_cross_entropy_is_pytorchs(labels):
    logits, labels = drawn(2, 3, 7), np.array(labels)
    expected = F.cross_entropy(torch.from_numpy(logits).flatten(0, 1), torch.from_numpy(labels).flatten()).numpy()
    np.testing.assert_allclose(in_each(losses.cross_entropy, logits, labels), expected, rtol=1e-13)


def test_a_causal_models_loss_is_pytorchs_of_shifted_labels():
    logits, labels = drawn(2, 4, 7), np.array([[3, -100, 0, 6], [1, 5, -100, 2]])
    pair = torch.from_numpy(logits[:, :-1]).flatten(0, 1), torch.from_numpy(labels[:, 1:]).flatten()
    np.testing.assert_allclose(in_each(losses.causal, logits, labels), F.cross_entropy(*pair), rtol=1e-13)


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_decoder_inputs_are_those_of_transformers(dtype):
    labels = np.array([[5, 6, 2, 9], [5, 2, 9, -100], [2, -100, -100, -100]], dtype)
    tensor = torch.from_numpy(labels.astype("int64"))
    found = in_each(lambda xp, ids: shifting.shift_tokens_right(xp, ids, 1, 3), labels)
    np.testing.assert_array_equal(found, modeling_bart.shift_tokens_right(tensor.clone(), 1, 3))
    found = in_each(lambda xp, ids: shifting.wrap_tokens_right(xp, ids, 1), labels)
    np.testing.assert_array_equal(found, modeling_mbart.shift_tokens_right(tensor.clone(), 1))


def test_binary_cross_entropy_and_mean_squared_error_are_pytorchs():
    logits, labels = drawn(5, 3) * 20, np.random.default_rng(1).uniform(size=(5, 3))
    pair = torch.from_numpy(logits), torch.from_numpy(labels)
    expected = F.binary_cross_entropy_with_logits(*pair).numpy()
    np.testing.assert_allclose(in_each(losses.binary_cross_entropy, logits, labels), expected, rtol=1e-13)
    np.testing.assert_allclose(in_each(losses.mean_squared_error, logits, labels), F.mse_loss(*pair), rtol=1e-13)


def test_the_contrastive_loss_is_that_of_transformers():
    scores = drawn(4, 4)
    expected = image_text_contrastive_loss(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(in_each(losses.contrastive, scores, np.arange(4)), expected, rtol=1e-13)


def test_the_gradients_of_losses_agree():
    logits, labels = drawn(6, 7), np.array([3, -100, 0, 6, -100, 1])
    leaf = torch.from_numpy(logits).requires_grad_()
    F.cross_entropy(leaf, torch.from_numpy(labels)).backward()
    own = torch.from_numpy(logits).requires_grad_()
    losses.cross_entropy(torch_xp, own, torch.from_numpy(labels)).backward()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        in_jax = jax.grad(lambda x: losses.cross_entropy(jnp, x, jnp.asarray(labels)))(jnp.asarray(logits))
    np.testing.assert_allclose(own.grad, leaf.grad, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(in_jax, leaf.grad, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("eos", [2, 9])
def test_the_end_of_a_text_is_where_transformers_reads_it(eos):
    """A random model's last states all differ, so the pooled one shows its position."""
    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=10,
        max_position_embeddings=6, eos_token_id=eos, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = CLIPTextModel(config).eval()
    ids = torch.tensor([[0, 5, 9, 1, 1, 1], [0, 9, 4, 9, 1, 1], [9, 3, 3, 3, 3, 3], [0, 5, 5, 7, 2, 2]])
    with torch.no_grad():
        output = model(ids)
    same = (output.last_hidden_state == output.pooler_output[:, None]).all(-1)
    found = positions.end_of_text(torch_xp, ids, eos)
    assert same[torch.arange(4), found].all() and (same.sum(1) == 1).all()
    np.testing.assert_array_equal(positions.end_of_text(jnp, jnp.asarray(ids.numpy()), eos), found)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("source", [(1, 1), (2, 3), (7, 7), (16, 5)])
@pytest.mark.parametrize("target", [(1, 1), (3, 8), (7, 7), (24, 13)])
def test_matrices_are_pytorchs_interpolation(mode, source, target):
    image = drawn(1, 2, *source)
    expected = F.interpolate(torch.from_numpy(image), target, mode=mode, align_corners=False)[0].numpy()
    rows, columns = (getattr(resize, mode)(*sizes) for sizes in zip(source, target, strict=True))
    found = np.einsum("Yy,Xx,cyx->cYX", rows, columns, image[0])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_pixels_of_patches_are_joined_as_by_pytorchs_shuffle():
    sequence = drawn(2, 12, 3 * 5 * 5)
    expected = F.pixel_shuffle(patches.as_image(torch_xp, torch.from_numpy(sequence), (3, 4)), 5).numpy()
    np.testing.assert_array_equal(
        in_each(lambda xp, given: patches.join_pixels(xp, given, (3, 4), 5), sequence), expected
    )


def test_masked_reconstruction_is_transformers():
    """Its loss, as in ViTForMaskedImageModeling, on the mask as floats: it rounds the number of masked pixels else."""
    pixels, made = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=1)
    masked = np.random.default_rng(2).random((2, 2, 2)) < 0.6
    counted = torch.from_numpy(masked.astype(float)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    errors = F.l1_loss(torch.from_numpy(pixels), torch.from_numpy(made), reduction="none")
    expected = ((errors * counted).sum() / (counted.sum() + 1e-5) / 3).numpy()
    found = in_each(lambda xp, *given: losses.masked_reconstruction(xp, *given, (4, 4)), pixels, made, masked)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
