"""The weights that a new model starts from: the same bits in both backends, from the distribution of transformers."""

import jax
import numpy as np
import pytest
import transformers
from flax import nnx

import diptych.backends.jax
from diptych.core.checkpoint.tensors import TensorSource
from tests.backends import BACKENDS, each_backend
from tests.family import family_of
from tests.parity import oracle
from tests.parity.tiny import CONFIGS, RENAMED, made, theirs


def weights(backend: str, name: str, config: object, **build: object) -> dict[str, np.ndarray]:
    model = getattr(BACKENDS[backend], name)(config, **build)
    sources: dict[str, TensorSource] = model._sources()
    return {path: source.read() for path, source in sources.items()}


@pytest.mark.parametrize("name", [*CONFIGS, *RENAMED])
def test_a_seed_gives_the_same_bits_in_both_backends(name: str) -> None:
    ours = {backend: weights(backend, name, (CONFIGS | RENAMED)[name], seed=7) for backend in BACKENDS}
    assert ours["jax"].keys() == ours["torch"].keys()
    for path, values in ours["jax"].items():
        assert values.dtype == np.float32
        assert values.tobytes() == ours["torch"][path].tobytes(), path


@each_backend
def test_seeds_and_paths_are_independent(backend: str) -> None:
    first, again, other = (weights(backend, "BertModel", CONFIGS["BertModel"], seed=seed) for seed in (0, 0, 1))
    drawn = [path for path, values in first.items() if values.std() > 0]
    assert len(drawn) > 10
    for path in drawn:
        assert np.array_equal(first[path], again[path])
        assert not np.any((first[path] == other[path]) & (first[path] != 0)), path
    default = weights(backend, "BertModel", CONFIGS["BertModel"])
    assert all(np.array_equal(first[path], default[path]) for path in first)
    # two tensors of one shape differ, and a part that two classes share is the same in both
    queries = [first[f"encoder.layer.{layer}.attention.self.query.weight"] for layer in range(2)]
    assert not np.any(queries[0] == queries[1])
    assert not np.any(queries[0] == first["encoder.layer.0.attention.self.key.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrower_weights_are_the_rounded_float32_ones_in_both(dtype: str) -> None:
    wide = weights("torch", "CLIPModel", CONFIGS["CLIPModel"])
    for backend in BACKENDS:
        narrow = weights(backend, "CLIPModel", CONFIGS["CLIPModel"], dtype=dtype)
        for path, values in wide.items():
            assert narrow[path].dtype.name == dtype
            assert np.array_equal(narrow[path], values.astype(narrow[path].dtype)), (backend, path)


def test_float64_holds_the_float32_values() -> None:
    wide = weights("torch", "BertModel", CONFIGS["BertModel"], dtype="float64")
    with jax.enable_x64(True):
        ours = weights("jax", "BertModel", CONFIGS["BertModel"], dtype="float64")
    for path, values in weights("torch", "BertModel", CONFIGS["BertModel"]).items():
        assert wide[path].dtype == ours[path].dtype == np.float64
        assert np.array_equal(wide[path], values) and np.array_equal(ours[path], values)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_has_the_distribution_of_transformers(name: str) -> None:
    family = family_of(name)
    config = made(name, **{**family.tiny[name], **family.large(name)})
    model = getattr(transformers, name)(theirs(config))
    buffers = {path: values for path, values in model.named_buffers() if path in model.state_dict()}
    buffers = {path: values for path, values in buffers.items() if values.is_floating_point()}
    tensors = {**dict(model.named_parameters()), **buffers}
    expected = oracle.published(model, {path: values.detach().numpy() for path, values in tensors.items()})
    found = weights("torch", name, config)
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        assert_same_distribution(found[path], values, path)


def assert_same_distribution(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal constants, or samples of one distribution, normal or uniform; with zeros in the same rows."""
    assert found.shape == expected.shape, name
    if expected.size == 1 or expected.std() == 0.0:
        assert np.array_equal(found, expected), name
        return
    zero = zero_rows(expected)
    assert np.array_equal(zero_rows(found), zero), name
    found, expected = found[~zero], expected[~zero]
    # six standard errors of the difference of two sample deviations, or of two sample means
    assert abs(found.std() / expected.std() - 1) < 6 * found.size**-0.5, (name, found.std(), expected.std())
    assert abs(found.mean() - expected.mean()) < 6 * (2 / found.size) ** 0.5 * expected.std(), name
    # and the shape: a normal has 68.3% within one deviation of its mean, 0.27% beyond three; a uniform 57.7% and none
    flat = np.abs(expected - expected.mean()).max() < 1.9 * expected.std()
    found = found - expected.mean()
    for edge, share in ((1.0, 0.5774), (3.0, 1.0)) if flat else ((1.0, 0.6827), (3.0, 0.9973)):
        within = np.mean(np.abs(found) < edge * expected.std())
        assert abs(within - share) < 6 * (share * (1 - share) / found.size) ** 0.5 + 6 * 0.5 * found.size**-0.5, name


def zero_rows(values: np.ndarray) -> np.ndarray:
    """(rows, …), True in rows of zeros; single zeros may be drawn."""
    rows = np.all(values == 0.0, axis=tuple(range(1, values.ndim)), keepdims=True)
    return np.broadcast_to(rows, values.shape)


@pytest.mark.parametrize(
    ("factor", "shift", "spread"), [(1.2, 0.0, "normal"), (1.0, 0.3, "normal"), (1.0, 0.0, "flat")]
)
def test_another_distribution_is_seen(factor: float, shift: float, spread: str) -> None:
    random = np.random.default_rng(0)
    expected = random.standard_normal((96, 96))
    draw = {"normal": random.standard_normal, "flat": lambda shape: random.uniform(-(3**0.5), 3**0.5, shape)}[spread]
    with pytest.raises(AssertionError):
        assert_same_distribution(factor * draw((96, 96)) + shift, expected, "weight")
    assert_same_distribution(random.standard_normal((96, 96)), expected, "weight")


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_seed_a_model_has_shapes_only(name: str) -> None:
    ours, theirs = (getattr(backend, name)(CONFIGS[name], seed=None) for backend in BACKENDS.values())
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(ours))
    assert all(values.is_meta for values in theirs.state_dict().values())
    shapes = {path: tuple(values.shape) for path, values in theirs.state_dict().items()}
    assert {slot.path: slot.shape for slot in ours._leaves()} == shapes
    traced = nnx.eval_shape(lambda: diptych.backends.jax.__getattr__(name)(CONFIGS[name], seed=None))
    assert jax.tree.structure(traced) == jax.tree.structure(ours)
    assert jax.tree.leaves(traced) == jax.tree.leaves(ours)
    assert ours.num_parameters() == theirs.num_parameters() == sum(p.numel() for p in theirs.parameters())
