"""JAX models over a mesh of two devices give what they give on one; other meshes and placements are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import diptych.backends.jax as dp
from diptych.core.errors import InputError
from tests.assertions import assert_close
from tests.parity.tiny import CONFIGS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bert() -> Any:
    return dp.BertModel(CONFIGS["BertModel"], seed=4)


@pytest.fixture(scope="module")
def found(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of the program in `two_devices.py`."""
    directory = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(directory)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.parity.two_devices", str(directory)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("placement", ["replicated", "rows split", "columns split"])
def test_training_and_generation_are_those_of_one_device(found: dict[str, Any], placement: str) -> None:
    one, two = found["one device"], found[placement]
    for name in ("logits", "parameters"):
        expected = np.asarray(one[name], np.float64)
        assert_close(np.asarray(two[name], np.float32), expected, kind="float32", name=name)
    for name in two["shards"]:
        assert two[name] == one[name]
        assert len(one[name]) == 2 and len(one[name][0]) > 4


def test_generated_rows_stay_where_their_prompts_are(found: dict[str, Any]) -> None:
    assert found["replicated"]["shards"] == {"beams": [1, 1]}


def test_two_devices_hold_halves(found: dict[str, Any], bert: Any) -> None:
    halves = found["halves"]
    expected = np.asarray(jax.jit(lambda model, ids: model(ids))(bert, np.arange(12).reshape(2, 6)).pooler_output)
    assert halves["converted"]  # to the same bits
    assert halves["second"] == [1] and halves["shards"] == [[12, 6], [12, 6]]
    for name in ("sharded", "single"):
        assert_close(np.asarray(halves[name], np.float32), expected.astype(np.float64), kind="float32")


AUTOMATIC = jax.make_mesh((1, 1), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
FIRST = "embeddings.LayerNorm.weight"


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        ("cpu", f"sharding: {FIRST} would go to 'cpu', but a device, a Sharding such as NamedSharding(mesh, Partition"),
        (PartitionSpec(), f"sharding: {FIRST} would go to {PartitionSpec()!r}, but a device"),
        (AUTOMATIC, f"sharding: {FIRST} would go to Mesh("),
        (lambda path, shape: path, f"sharding: {FIRST} would go to '{FIRST}', but a device"),
        (NamedSharding(AUTOMATIC, PartitionSpec(None, None, "x")), f"sharding: {FIRST} of shape (12,) as stored: "),
    ],
)
def test_what_is_no_placement_is_refused(sharding: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        dp.BertModel(CONFIGS["BertModel"], sharding=sharding)
    assert str(caught.value).startswith(message)


def test_explicit_axes_are_refused(bert: Any) -> None:
    explicit = NamedSharding(jax.make_mesh((1, 1), ("x", "y")), PartitionSpec())
    call = "jax.make_mesh((1, 1), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)"
    ids, moved = jnp.array([[1, 2, 3]]), jax.device_put(bert, explicit)
    put = jax.device_put(ids, explicit)
    for caller, what, run in (
        ("sharding", FIRST, lambda: dp.BertModel(CONFIGS["BertModel"], sharding=explicit)),
        ("BertModel", "the model", lambda: moved(ids)),
        ("BertModel", "the model", lambda: jax.eval_shape(lambda model: model(ids), moved)),
        ("BertModel", "input_ids", lambda: bert(put)),
        ("BertModel", "input_ids", lambda: jax.eval_shape(lambda ids: bert(ids), put)),
    ):
        with pytest.raises(InputError) as caught:
            run()
        assert str(caught.value) == (
            f"{caller}: {what} is on a mesh with explicit axes, the default of jax.make_mesh, but the models need "
            f"automatic ones: {call}"
        )
