"""Speech encoders: lengths, padding, SpecAugment, and what they refuse."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.wav2vec2 import modeling_wav2vec2
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

import diptych.backends.jax
import diptych.backends.torch
from diptych.backends.jax import layers as jax_layers
from diptych.backends.jax import ops as jax_ops
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import ops as torch_ops
from diptych.conversion import parity, to_jax
from diptych.core.errors import InputError
from diptych.core.semantics import spans
from diptych.core.semantics.positions import distance_buckets
from diptych.core.semantics.quantization import draw_negatives
from tests.assertions import assert_close
from tests.backends import BACKENDS, each_backend
from tests.parity import oracle
from tests.parity.tiny import CONFIGS, inputs, theirs, wide
from tests.parity.writers import array

OPS = {"jax": jax_ops, "torch": torch_ops}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
STILL = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout"), 0.0
)


@functools.cache
def model(backend: str, name: str, **fields: Any) -> Any:
    return getattr(BACKENDS[backend], name)(CONFIGS[name].replace(**fields), seed=1)


def recordings(name: str) -> dict[str, Any]:
    """Two recordings, the second one padded, without masked frames."""
    return {key: value for key, value in inputs(name).items() if key != "mask_time_indices"}


# Lengths and padding


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_lengths_are_those_that_the_model_returns(kernel: int) -> None:
    """At every number of samples, so at each boundary of the convolutions and of the adapter."""
    fields = {"add_adapter": True, "adapter_kernel_size": kernel, "num_adapter_layers": 2, "output_hidden_size": 9}
    ours = model("torch", "Wav2Vec2Model", **fields)
    config = ours.config
    for samples in range(config.least_samples, config.least_samples + 30):
        mask = np.ones((1, samples), int)
        output = ours(np.ones((1, samples), np.float32), attention_mask=mask)
        length = config.feature_lengths(samples)
        assert output.last_hidden_state.shape == (1, length, config.states_width)
        assert output.extract_features.shape[1] == config.feature_lengths(samples, adapter=False)
        assert ours.states_mask(mask, length).all() and ours.states_mask(None, length) is None


def test_the_mask_of_the_states_counts_what_the_samples_make() -> None:
    mask = np.array([[1] * 40, [1] * 28 + [0] * 12, [0] * 29 + [1] * 11])
    for backend in BACKENDS:
        found = array(model(backend, "Wav2Vec2Model").states_mask(mask, 6))
        assert found.sum(1).tolist() == [6, 4, 1]
        assert found.tolist() == [[True] * count + [False] * (6 - count) for count in (6, 4, 1)]


def outputs_alone_and_padded(**fields: Any) -> tuple[np.ndarray, np.ndarray]:
    ours, call = model("torch", "Wav2Vec2Model", **fields), recordings("Wav2Vec2Model")
    padded = array(ours(**call).last_hidden_state)[1]
    alone = array(ours(call["input_values"][1:, :28]).last_hidden_state)[0]
    return padded[: len(alone)], alone


def test_a_padded_row_equals_the_row_alone_with_layer_norm() -> None:
    padded, alone = outputs_alone_and_padded(**LAYER)
    assert_close(padded, alone, kind="float32")


@pytest.mark.parametrize("fields", [{}, {**LAYER, "add_adapter": True}], ids=["group norm", "adapter"])
def test_a_padded_row_differs_where_the_published_model_sees_the_padding(fields: dict[str, Any]) -> None:
    """Group norm counts the padding; an adapter's last window reaches into it."""
    padded, alone = outputs_alone_and_padded(**fields)
    assert np.abs(padded - alone).max() > 1e-3


ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 9}
SEE_PADDING = {
    "batch norm": ("HubertModel", {**LAYER, "conv_pos_batch_norm": True}),
    **{f"adapter {size}": ("Wav2Vec2Model", {**ADAPTER, "adapter_kernel_size": size}) for size in (2, 3, 4, 5)},
}


@pytest.mark.parametrize("kind", SEE_PADDING)
def test_a_padded_row_equals_the_row_alone_if_padding_is_ignored(kind: str) -> None:
    """For a group norm, adapters of every kernel, and a batch norm of positions; at lengths with and without a rest."""
    name, fields = SEE_PADDING[kind]
    ours = diptych.backends.torch.__getattr__(name)(CONFIGS[name].replace(**fields), seed=1, dtype="float64")
    if kind == "batch norm":
        ours.encoder.pos_conv_embed.batch_norm.bias.data.fill_(0.7)  # fresh ones leave zeros as they are
    lengths = np.array([90, 89, 71, 60, 50])
    sound, mask = np.random.default_rng(0).normal(size=(5, 90)), (np.arange(90) < lengths[:, None]).astype(int)
    call = {"input_values": sound, "attention_mask": mask, "ignore_padding": True}
    found = {"torch": array(ours(**call).last_hidden_state)}
    if kind in ("batch norm", "adapter 3"):
        with jax.enable_x64(True):
            found["jax"] = np.asarray(jax.jit(lambda model: model(**call).last_hidden_state)(to_jax(ours)))
    for row, length in enumerate(lengths):
        alone = array(ours(sound[row : row + 1, :length]).last_hidden_state)[0]
        for backend, states in found.items():
            assert_close(states[row, : len(alone)], alone, name=f"{backend}, {length}")
    counted = array(ours(**{**call, "ignore_padding": False}).last_hidden_state)
    assert np.abs(counted - found["torch"])[1:].max() > 1e-3


@each_backend
@pytest.mark.parametrize("padding", [slice(30), slice(40, 50)], ids=["on the left", "a hole"])
def test_padding_that_is_ignored_must_come_last(backend: str, padding: slice) -> None:
    ours = BACKENDS[backend].Wav2Vec2Model(CONFIGS["Wav2Vec2Model"], seed=1)
    mask = np.ones((3, 90), int)
    mask[1, 60:], mask[2, padding] = 0, 0
    call = {"input_values": np.zeros((3, 90)), "attention_mask": mask}
    with pytest.raises(InputError, match="attention_mask has padding before samples in row 2; ignore_padding=True"):
        ours(**call, ignore_padding=True)
    ours(**call)  # the published models count samples, wherever they are


@pytest.mark.parametrize(("buckets", "farthest"), [(320, 800), (32, 128), (12, 9), (64, 1024)])
def test_distances_have_the_published_buckets(buckets: int, farthest: int) -> None:
    attention = WavLMAttention(12, 3, num_buckets=buckets, max_distance=farthest)
    expected = attention._relative_positions_bucket(torch.arange(1 - 3000, 3000))
    assert np.array_equal(distance_buckets(3000, buckets, farthest), expected.numpy())


@each_backend
@pytest.mark.parametrize("weighted", [False, True])
def test_a_classifier_reads_the_adapter_unless_it_weighs_the_layers(backend: str, weighted: bool) -> None:
    """transformers refuses the two together; ours take the mean over the states that there are."""
    fields = {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 9, "use_weighted_layer_sum": weighted}
    name, call = "Wav2Vec2ForSequenceClassification", recordings("Wav2Vec2ForSequenceClassification")
    ours = model(backend, name, **fields)
    outputs = ours.wav2vec2(**call, output_hidden_states=True)
    states, counts = array(outputs.last_hidden_state), (3, 2)
    if weighted:
        states, counts = np.mean([array(state) for state in outputs.hidden_states], axis=0), (6, 4)
    mean = np.stack([row[:count].mean(0) for row, count in zip(states, counts, strict=True)])
    weights = {path: source.read() for path, source in ours._sources().items()}
    projected = mean @ weights["projector.weight"].T + weights["projector.bias"]
    logits = projected @ weights["classifier.weight"].T + weights["classifier.bias"]
    assert_close(array(ours(**call).logits), logits, kind="float32")


# SpecAugment


def test_both_backends_draw_the_same_spans() -> None:
    seed, lengths = np.array([123456, -98765], np.int32), np.array([200, 37, 9], np.int32)
    options: dict[str, Any] = {"axis": "time", "rate": 0.3, "span": 10, "least": 2}
    found = array(spans.draw(torch_ops, torch.tensor(seed), 3, 200, torch.tensor(lengths), **options))
    drawn = jax.jit(lambda seed, lengths: spans.draw(jax_ops, seed, 3, 200, lengths, **options))
    assert np.array_equal(np.asarray(drawn(seed, lengths)), found)
    assert not found[1, 37:].any() and not found[2].any() and 10 < found[1].sum() <= 20
    assert 0.15 < found[0].mean() < 0.3  # spans overlap


def test_spans_are_as_many_and_as_long_as_the_config_says() -> None:
    """Over many seeds: their number is rounded both ways, they begin anywhere, and a row holds as many as fit."""
    counts, begins = set[int](), set[int]()
    options: dict[str, Any] = {"axis": "time", "rate": 0.12, "span": 1, "least": 0}
    for seed in range(60):
        words = torch.tensor([seed, 7], dtype=torch.int32)
        (row,) = array(spans.draw(torch_ops, words, 1, 20, None, **options))
        counts.add(int(row.sum()))
        begins |= set(np.nonzero(row)[0].tolist())
        (many,) = array(spans.draw(torch_ops, words, 1, 20, None, **{**options, "least": 9, "span": 5}))
        assert 8 <= many.sum() <= 20  # at most 4 spans, of distinct beginnings
        edges = np.flatnonzero(np.diff(np.pad(many.astype(int), 1)))
        assert all(end - start >= 5 for start, end in zip(edges[::2], edges[1::2], strict=True))
    assert counts == {2, 3} and begins == set(range(20))


@each_backend
def test_train_mode_masks_frames_and_features_and_eval_mode_none(backend: str) -> None:
    fields = {**STILL, "apply_spec_augment": True, "mask_time_length": 2, "mask_feature_length": 3}
    fields |= {"mask_time_prob": 0.5, "mask_feature_prob": 0.4}
    ours, call = model(backend, "Wav2Vec2ForCTC", **fields), recordings("Wav2Vec2ForCTC")
    kept = model(backend, "Wav2Vec2ForCTC", **{**fields, "apply_spec_augment": False})
    plain = array(ours(**call).logits)
    assert np.array_equal(array(kept(**call).logits), plain)
    for one in (ours, kept):
        one.train()
    if backend == "torch":
        torch.manual_seed(3)
        masked, again, still = ours(**call).logits, ours(**call).logits, kept(**call).logits
    else:
        run = jax.jit(lambda model, key: model(**call, rngs=key).logits)
        masked, again = run(ours, jax.random.key(0)), run(ours, jax.random.key(1))
        still = kept(**call).logits
        with pytest.raises(InputError, match=r"mask_time_prob=0\.5 in train mode needs a key"):
            ours(**call)
    for one in (ours, kept):
        one.eval()
    assert_close(array(still), plain, kind="float32")
    assert np.abs(array(masked) - plain).max() > 1e-3 and np.abs(array(masked) - array(again)).max() > 1e-3


def test_given_masks_are_those_that_transformers_would_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and features, in a CTC model in train mode, without dropout; in JAX as in PyTorch."""
    config = CONFIGS["Wav2Vec2ForCTC"].replace(
        **STILL, apply_spec_augment=True, mask_time_length=2, mask_feature_prob=0.3
    )
    random = np.random.default_rng(0)
    times, features = random.random((2, 6)) < 0.4, random.random((2, 12)) < 0.3
    reference = oracle.built("Wav2Vec2ForCTC", theirs(config)).train()
    drawn = {6: times, 12: features}
    monkeypatch.setattr(modeling_wav2vec2, "_compute_mask_indices", lambda shape, **_: drawn[shape[1]])
    call = wide(recordings("Wav2Vec2ForCTC"))
    with torch.no_grad():
        expected = reference(**{name: torch.tensor(value) for name, value in call.items()}).logits.numpy()
    weights = oracle.published(reference, {path: value.detach() for path, value in reference.named_parameters()})
    ours = diptych.backends.torch.Wav2Vec2ForCTC(config, seed=None, dtype="float64")
    ours.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()}, assign=True)
    given = {**call, "mask_time_indices": times, "mask_feature_indices": features.astype(int)}
    assert_close(array(ours(**given).logits), expected, name="torch")
    with jax.enable_x64(True):
        assert_close(np.asarray(to_jax(ours)(**given).logits), expected, name="jax")


@each_backend
def test_too_few_frames_for_a_span_are_refused(backend: str) -> None:
    ours = model(backend, "Wav2Vec2Model", apply_spec_augment=True, mask_time_length=7).train()
    key = {"rngs": jax.random.key(0)} if backend == "jax" else {}
    try:
        with pytest.raises(InputError, match=r"there are 6 places on the time axis, .*mask_time_length=7"):
            ours(**recordings("Wav2Vec2Model"), **key)
    finally:
        ours.eval()


# Parity checks


@pytest.mark.parametrize(
    "name", ["Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining", "HubertModel", "WavLMForSequenceClassification"]
)
def test_a_checkpoint_is_compared_with_transformers(name: str, tmp_path: Path) -> None:
    """Every module, those that return channels first there too, and losses that it rounds to float32."""
    adapter = {"add_adapter": True, "output_hidden_size": 9} if name == "Wav2Vec2ForCTC" else {}
    diptych.backends.torch.__getattr__(name)(CONFIGS[name].replace(**adapter), seed=1).save_pretrained(tmp_path)
    report = parity(tmp_path, against="transformers", backend="torch")
    assert report.passed and report.matched == 1.0, str(report)


# Freezing


@each_backend
@pytest.mark.parametrize("name", ["Wav2Vec2Model", "HubertForCTC", "WavLMForSequenceClassification"])
def test_the_convolutions_over_samples_can_be_frozen(backend: str, name: str) -> None:
    ours = getattr(BACKENDS[backend], name)(CONFIGS[name], seed=None)
    ours.freeze_feature_encoder()
    frozen = ours.frozen_parameters
    assert frozen and all("feature_extractor.conv_layers" in path for path in frozen)


# Bad input

SAMPLES = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)
NAN, INFINITE = SAMPLES.copy(), SAMPLES.copy()
NAN[1, 3], INFINITE[0, 39] = math.nan, -math.inf
MASK = np.ones((2, 40), int)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "input_values is needed, got None"),
    "integers": ({"input_values": np.ones((2, 40), np.int16)}, "input_values has dtype int16, but floats are needed"),
    "one recording": ({"input_values": SAMPLES[0]}, r"input_values has shape \(40,\), but \(batch, samples\)"),
    "stereo": ({"input_values": SAMPLES[:, :, None]}, r"input_values has shape \(2, 40, 1\), but \(batch, samples\)"),
    "no rows": ({"input_values": SAMPLES[:0]}, r"input_values has shape \(0, 40\), but at least one row"),
    "short": ({"input_values": SAMPLES[:, :9]}, "input_values has 9 samples, but at least 10 are needed for a state"),
    "NaN": ({"input_values": NAN}, "input_values holds NaN or infinite samples"),
    "infinite": ({"input_values": INFINITE}, "input_values holds NaN or infinite samples"),
    "mask over frames": (
        {"input_values": SAMPLES, "attention_mask": np.ones((2, 6))},
        r"attention_mask has shape \(2, 6\), but \(2, 40\) is needed, as many as there are samples",
    ),
    "row without a frame": (
        {"input_values": SAMPLES, "attention_mask": np.stack([MASK[0], np.arange(40) < 9])},
        "attention_mask leaves 9 samples of row 1, which make no frame",
    ),
    "other values": (
        {"input_values": SAMPLES, "attention_mask": 2 * MASK},
        "attention_mask must hold 1 for what is attended to and 0 for the rest",
    ),
    "frames": (
        {"input_values": SAMPLES, "mask_time_indices": np.ones((2, 7))},
        r"mask_time_indices has shape \(2, 7\), but \(2, 6\) is needed, a number for each frame",
    ),
    "features": (
        {"input_values": SAMPLES, "mask_feature_indices": np.ones((2, 7))},
        r"mask_feature_indices has shape \(2, 7\), but \(2, 12\) is needed, a number for each feature",
    ),
}


@each_backend
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_recording_is_refused(backend: str, case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(InputError, match=f"^Wav2Vec2Model: {message}"):
        model(backend, "Wav2Vec2Model")(**call)


@each_backend
def test_masks_that_do_not_fit_the_model_are_refused(backend: str) -> None:
    ours = model(backend, "Wav2Vec2Model", mask_time_prob=0.0)
    with pytest.raises(InputError, match="mask_time_indices is given, but the model has no masked_spec_embed"):
        ours(SAMPLES, mask_time_indices=np.ones((2, 6)))
    with pytest.raises(InputError, match="attention_mask covers 6 samples, which make 0 frames, but there are 6"):
        ours.states_mask(np.ones((2, 6)), 6)


LABELS: dict[str, tuple[Any, str]] = {
    "rows": (np.ones((3, 2), int), r"labels has shape \(3, 2\), but \(2, 2\) is needed"),
    "rank": (np.ones(2, int), r"labels has shape \(2,\), but \(batch, labels\) is needed"),
    "floats": (np.ones((2, 2)), "labels has dtype float64, but ids must be integers"),
    "none": (np.zeros((2, 0), int), r"labels has shape \(2, 0\), but \(2, 1\) is needed"),
    "outside": (np.array([[1, 23], [1, 2]]), "labels holds 23, but the output allows 0 to 22"),
    "negative": (np.array([[1, -1], [1, 2]]), "labels holds -1, but the output allows 0 to 22"),
    "long": (np.array([[1, 2, 3, 4], [5, 5, 5, -100]]), "labels has 3 in row 1, which need 5 frames .* the row has 4"),
}


@each_backend
@pytest.mark.parametrize("case", LABELS)
def test_labels_that_no_frames_can_tell_are_refused(backend: str, case: str) -> None:
    labels, message = LABELS[case]
    with pytest.raises(InputError, match=f"^Wav2Vec2ForCTC: {message}"):
        model(backend, "Wav2Vec2ForCTC")(**recordings("Wav2Vec2ForCTC"), labels=labels)


@each_backend
def test_what_a_config_allows_for_ctc(backend: str) -> None:
    labels = LABELS["long"][0]
    allowed = model(backend, "Wav2Vec2ForCTC", ctc_zero_infinity=True)
    assert np.isfinite(array(allowed(**recordings("Wav2Vec2ForCTC"), labels=labels).loss))
    for pad in (None, 99):
        ours = model(backend, "Wav2Vec2ForCTC", pad_token_id=pad)
        with pytest.raises(InputError, match=f"pad_token_id={pad} and vocab_size=23"):
            ours(**recordings("Wav2Vec2ForCTC"), labels=labels)


def test_under_jit_labels_that_no_frames_can_tell_cost_infinity() -> None:
    ours, call = model("jax", "Wav2Vec2ForCTC"), recordings("Wav2Vec2ForCTC")
    loss = jax.jit(lambda model, call, labels: model(**call, labels=labels).loss)
    assert math.isinf(float(loss(ours, jax.tree.map(jnp.asarray, call), LABELS["long"][0])))


def test_transformers_agrees_on_the_lengths_of_kernel_three() -> None:
    config = CONFIGS["Wav2Vec2Model"].replace(add_adapter=True, num_adapter_layers=2)
    reference = transformers.Wav2Vec2Model(theirs(config))
    samples = torch.arange(config.least_samples, 200)
    assert torch.equal(reference._get_feat_extract_output_lengths(samples), config.feature_lengths(samples))


# Pretraining


@each_backend
def test_what_pretraining_needs(backend: str) -> None:
    name = "Wav2Vec2ForPreTraining"
    ours, call = model(backend, name), inputs(name)
    negatives = np.zeros((2, 6, 3), int)
    unmasked = {key: value for key, value in call.items() if key != "mask_time_indices"}
    with pytest.raises(InputError, match="sampled_negative_indices are given, but mask_time_indices"):
        ours(**unmasked, sampled_negative_indices=negatives)
    with pytest.raises(InputError, match="holds 12, but the frames of all rows allows 0 to 11"):
        ours(**call, sampled_negative_indices=negatives + 12)
    with pytest.raises(InputError, match=r"sampled_negative_indices has shape \(2, 5, 3\), but \(2, 6, 3\) is needed"):
        ours(**call, sampled_negative_indices=negatives[:, :5])
    with pytest.raises(InputError, match=r"gumbel_noise has shape \(2, 6, 2, 5\), but \(2, 6, 2, 6\) is needed"):
        ours(**call, gumbel_noise=np.zeros((2, 6, 2, 5)))
    adapted = model(backend, name, add_adapter=True)
    with pytest.raises(InputError, match="the config has add_adapter=True, whose states are not one per frame"):
        adapted(**call)


def test_given_noise_chooses_the_code_vectors_as_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train mode without dropout: outputs, losses and gradients of both backends."""
    name = "Wav2Vec2ForPreTraining"
    config = CONFIGS[name].replace(**STILL, feat_quantizer_dropout=0.0)
    random = np.random.default_rng(0)
    noise, negatives = random.gumbel(size=(2, 6, 2, 6)), random.integers(0, 12, (2, 6, 3))

    def with_noise(logits: torch.Tensor, tau: float, hard: bool) -> torch.Tensor:
        soft = ((logits + torch.tensor(noise).reshape(logits.shape)) / tau).softmax(-1)
        # without brackets, rounding decides whether the codes of two frames are equal
        return torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]) + (soft - soft.detach())

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", with_noise)
    reference = oracle.built(name, theirs(config)).train()
    call = {**wide(inputs(name)), "sampled_negative_indices": negatives}
    expected = reference(**{key: torch.tensor(value) for key, value in call.items()})
    expected.loss.backward()
    gradients = oracle.gradients(reference)
    weights = oracle.published(reference, {path: value.detach() for path, value in reference.named_parameters()})
    ours = diptych.backends.torch.Wav2Vec2ForPreTraining(config, seed=None, dtype="float64")
    ours.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()}, assign=True)
    ours.train().requires_grad_(True)
    found = ours(**call, gumbel_noise=noise)
    found.loss.backward()
    fields = ("loss", "contrastive_loss", "diversity_loss", "codevector_perplexity", "projected_quantized_states")
    for field in fields:
        assert_close(array(found[field]), array(expected[field]), name=field)
    largest = max(np.abs(value).max() for value in gradients.values())
    for path, parameter in ours.named_parameters():
        gradient = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        assert_close(gradient, gradients[path], largest=largest, name=path)
    with jax.enable_x64(True):
        twin = to_jax(ours)
        run = jax.jit(lambda model, key: model(**call, gumbel_noise=noise, rngs=key))
        output = run(twin, jax.random.key(0))
        for field in fields:
            assert_close(np.asarray(output[field]), array(expected[field]), name=f"jax's {field}")


@each_backend
def test_a_code_that_is_chosen_twice_is_the_same(backend: str) -> None:
    """Negatives that equal a frame's own code don't count, so that a choice must not be rounded."""
    soft = np.random.default_rng(0).random((400, 3), np.float32)
    hard = np.eye(3, dtype=np.float32)[soft.argmax(-1)]
    asarray = {"jax": jnp.asarray, "torch": torch.tensor}[backend]
    np.testing.assert_array_equal(array(OPS[backend].straight_through(asarray(hard), asarray(soft))), hard)


@each_backend
def test_noise_is_drawn_in_train_mode(backend: str) -> None:
    """Both kinds of code vectors are chosen, and a low temperature changes nothing in the choice of the largest."""
    layer = {"jax": jax_layers, "torch": torch_layers}[backend].GumbelNoise()
    logits = OPS[backend].xp.zeros((4000, 2))
    if backend == "jax":
        layer.deterministic = False
        with pytest.raises(InputError, match="in train mode needs a key"):
            layer(logits, None)
    key = (jax.random.key(0),) if backend == "jax" else ()
    noise = array(layer(logits, None, *key))
    assert abs(noise.mean() - 0.5772) < 0.1 and abs(noise.var() - math.pi**2 / 6) < 0.2
    assert abs((noise[:, 0] > noise[:, 1]).mean() - 0.5) < 0.05
    assert layer(logits, logits + 1, *key) is not None and float(array(layer(logits, logits + 1, *key)).min()) == 1.0


def test_negatives_are_other_masked_frames_of_the_row() -> None:
    masked = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 1, 0]], bool)
    found = draw_negatives(masked, 50, np.random.default_rng(0))
    assert set(found[0, 0]) == {2, 3} and set(found[0, 2]) == {0, 3} and set(found[0, 3]) == {0, 2}
    assert set(found[1, 1]) == {5 + 3} and set(found[1, 3]) == {5 + 1}
    assert found[0, 1].max() == 0 and set(found[1, 0]) == {5}
