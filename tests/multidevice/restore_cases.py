"""Saves and restores on eight simulated devices and prints what `restore_test.py` looks at.

    python tests/multidevice/restore_cases.py FOLDER
"""
import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from flax import nnx

from sleepnet import build, checkpoint, mesh as meshes, optim, origin, sharding
from sleepnet.config import MeshConfig, RunConfig, from_dict
from sleepnet.train.step import learning_of

CONFIG = from_dict(RunConfig, {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 6, "name_tokens": (1, 1), "min_nodes": 2}},
    "model": {"pattern": "AG", "width": 16, "heads": 4, "head_dim": 8, "mlp_width": 32},
    "train": {"batch_size": 16},
})
MESHES = {"8": (2, 2, 2), "1": (1, 1, 1), "4": (2, 2, 1), "fsdp": (1, 4, 1), "tensor": (1, 1, 4)}
CHAINS = (("8", "1", "4"), ("fsdp", "tensor", "fsdp"))


def mesh_of(name: str) -> jax.sharding.Mesh:
    """The mesh over the first devices."""
    return meshes.make(MeshConfig(*MESHES[name]), jax.devices()[:int(np.prod(MESHES[name]))])


def values() -> tuple[dict, object]:
    """Numbers for every array of a state, by name, and the state's abstract tree."""
    task = build.task_of(CONFIG)
    learning = learning_of(CONFIG, task)
    params = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: build.model_of(CONFIG, task)), nnx.Param)[1])
    abstract = jax.eval_shape(lambda params: learning.begin(params, CONFIG.train.batch_size), params)
    generator = np.random.default_rng(0)
    return {name: (100 * generator.normal(size=leaf.shape)).astype(leaf.dtype) for name, leaf in origin.named(abstract).items()}, abstract


def placed(abstract: object, mesh: jax.sharding.Mesh, numbers: dict | None = None) -> object:
    """A state on a mesh, of these numbers or of zeros."""
    where = origin.named(sharding.shardings(abstract, mesh))
    leaf = lambda name, shape: jax.device_put(np.zeros(shape.shape, shape.dtype) if numbers is None else numbers[name], where[name])
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaf(name, shape) for name, shape in origin.named(abstract).items()])


def walk(chain: tuple[str, ...], folder: Path) -> dict:
    """Saved on the first mesh, restored onto each next and saved again there."""
    numbers, abstract = values()
    task, state, found = build.task_of(CONFIG), None, {}
    for step, name in enumerate(chain):
        checkpoints = checkpoint.Checkpoints(folder, origin.card(CONFIG, task, mesh_of(name)))
        target = placed(abstract, mesh_of(name), None if step else numbers)
        state = checkpoints.restore(step, target)[0] if step else target
        checkpoints.save(step + 1, state, {"next_index": step + 1})
        checkpoints.close()
        got = origin.named(state)
        found[str(step)] = {
            "differ": [key for key, value in numbers.items() if not np.array_equal(np.asarray(got[key]), value)],
            "elsewhere": [key for key, leaf in origin.named(target).items() if got[key].sharding != leaf.sharding],
            "devices": len(got["params.head.kernel"].sharding.device_set),
            "shards": sorted({shard.data.shape for shard in got["params.blocks.1.mixer.q.kernel"].addressable_shards}),
        }
    return found


if __name__ == "__main__":
    print(json.dumps({" → ".join(chain): walk(chain, Path(sys.argv[1]) / chain[0]) for chain in CHAINS}))
