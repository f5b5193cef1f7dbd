"""What models give on one device and over a mesh of two, as JSON; a program for `test_jax_meshes.py`.

Usage: python -m tests.parity.two_devices DIRECTORY, with a BERT model's directory and two devices.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import diptych.backends.jax as dp
from diptych.conversion import convert, diff

CONFIG = dp.GPT2Config(vocab_size=24, n_positions=16, n_embd=12, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
IDS = np.arange(3, 11, dtype=np.int32).reshape(2, 4)
GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 2},
    "sampling": {"do_sample": True, "top_k": 9, "top_p": 0.9},
}
MESH = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
WHOLE = NamedSharding(MESH, PartitionSpec())
FIRST_AXIS = NamedSharding(MESH, PartitionSpec("x"))


def last_axis(path: str, shape: tuple[int, ...]) -> NamedSharding:
    return NamedSharding(MESH, PartitionSpec(*[None] * (len(shape) - 1), "x"))


@jax.jit
def trained(model: Any, ids: Any) -> tuple[Any, Any]:
    """The logits, with dropout, and the model after one step of gradient descent."""

    def loss_of(model: Any) -> Any:
        output = model(ids, labels=ids, rngs=jax.random.key(0))
        return output.loss, output.logits

    gradients, logits = jax.grad(loss_of, has_aux=True)(model)
    return logits, jax.tree.map(lambda values, gradient: values - gradient, model, gradients)


def results(sharding: Any, ids: Any, *generation: str) -> dict[str, Any]:
    """What a model gives whose parameters are placed so; every program takes a second to compile."""
    logits, model = trained(dp.GPT2LMHeadModel(CONFIG, sharding=sharding).train(), ids)
    found: dict[str, Any] = {"logits": logits, "parameters": np.concatenate([*map(np.ravel, jax.tree.leaves(model))])}
    for name in generation:
        found[name] = model.eval().generate(ids, max_new_tokens=4, **GENERATION[name]).sequences
    shards = {name: [len(shard.data) for shard in found[name].addressable_shards] for name in generation}
    return {name: np.asarray(values).tolist() for name, values in found.items()} | {"shards": shards}


def halves(directory: str) -> dict[str, Any]:
    """A loaded model with half of its queries on each device, and one on the second device."""
    whole_but_queries = dp.BertModel.from_pretrained(
        directory,
        sharding=lambda path, shape: last_axis(path, shape) if path.endswith("query.weight") else WHOLE,
    )
    second = dp.BertModel.from_pretrained(directory, sharding=jax.devices()[1])
    query = whole_but_queries.encoder.layer[0].attention.self.query.kernel[...]
    ids = np.arange(12).reshape(2, 6)
    run = jax.jit(lambda model, ids: model(ids).pooler_output)
    return {
        "shards": sorted(shard.data.shape for shard in query.addressable_shards),
        "second": sorted({device.id for leaf in jax.tree.leaves(second) for device in leaf.devices()}),
        "sharded": run(whole_but_queries, ids).tolist(),
        "single": run(second, ids).tolist(),
        "converted": diff(directory, convert(whole_but_queries, f"{directory}/../converted").destination).equal,
    }


if __name__ == "__main__":
    rows = jax.device_put(IDS, FIRST_AXIS)
    found = {
        "one device": results(None, IDS, *GENERATION),
        "replicated": results(WHOLE, rows, "beams"),
        "rows split": results(FIRST_AXIS, rows, "sampling"),
        "columns split": results(last_axis, rows, "greedy"),
        "halves": halves(sys.argv[1]),
    }
    print(json.dumps(found))
