"""Draws and judges the same prompts on one device and on eight simulated ones, and prints what `rewards_test.py` looks at."""
import json
import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from flax import nnx

from sleepnet import build, mesh as meshes, sharding
from sleepnet.config import MeshConfig, RunConfig, from_dict
from sleepnet.train.step import REFERENCES, draw, learning_of, prepared

CONFIG = from_dict(RunConfig, {
    "task": {"name": "gsm", "arguments": {"ops": 0, "length": (8, 28), "places": 4, "things": 4, "limit": 10, "window": 28, "answer_alone": True, "chain_of_thought": True}},
    "method": {"name": "exprl", "arguments": {"group": 3, "tried": 0, "reward": "sound"}}, "start": "runs/base",
    "model": {"pattern": "AG", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "window_positions": False}, "train": {"batch_size": 8, "steps": 4},
})  # fmt: skip


def main() -> None:
    """Prints, for one device and for eight, what was said and what it is worth."""
    task, found = build.task_of(CONFIG), {}
    learning = learning_of(CONFIG, task)
    params = nnx.to_pure_dict(nnx.split(build.model_of(CONFIG, task), nnx.Param)[1])
    whole = task.batch(0, "train", 0, 8)
    whole = {key: whole[key] for key in ("tokens", "targets", "loss_mask", "answer")}
    for devices in (1, 8):
        mesh = meshes.make(MeshConfig(devices, 1, 1), jax.devices()[:devices])
        with meshes.use(mesh):
            batch = sharding.place(mesh, whole, 8, sharding.rows(mesh, 8))
            make = lambda params: learning.begin(params, 8)
            state = jax.jit(make, out_shardings=sharding.shardings(jax.eval_shape(make, params), mesh))(params)
            step = jax.jit(lambda state, anchor, batch: prepared(learning, state, {REFERENCES: {"anchor": anchor}}, batch, jax.numpy.asarray(draw(0, "", 0)), 1)[0])
            ready = step(state, params, batch)
        found[devices] = {key: np.asarray(ready[key], np.float64).tolist() for key in ("said", "rewards", "advantages")} | {"devices": len(ready["said"].sharding.device_set)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
