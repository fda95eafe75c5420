"""Runs on four simulated devices and prints what `mesh_test.py` looks at; a process of its own, since JAX counts its devices once.

    python tests/multidevice/cases.py FOLDER
"""
import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import jax

import numpy as np
from flax import nnx

from sleepnet import build, checkpoint, decode, mesh as meshes, sharding, state as states
from sleepnet.config import MeshConfig, RunConfig, from_dict
from sleepnet.train import loop

CONFIG = from_dict(RunConfig, {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 6, "name_tokens": (1, 1), "min_nodes": 2}},
    "model": {"pattern": "AG", "width": 16, "heads": 2, "head_dim": 8, "mlp_width": 32, "sleep": {"passes": 2}},
    "optim": {"warmup": 2},
    "train": {"steps": 8, "batch_size": 16, "log_every": 1, "save_every": 4, "eval_every": 0, "keep": 9},
    "eval": {"batch_size": 16},
})
MESHES = {"1": (1, 1, 1), "data": (4, 1, 1), "fsdp": (2, 2, 1), "cut": (1, 2, 2)}


def train(name: str, folder: Path) -> dict:
    """Trains on the first devices of a mesh's size; the losses, the validation accuracy and the final parameters."""
    data, fsdp, tensor = MESHES[name]
    settings = dataclasses.replace(CONFIG.train, accumulate=2 if name == "data" else 1)
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(data, fsdp, tensor), train=settings)
    make = meshes.make
    loop.meshes.make = lambda mesh: make(mesh, jax.devices()[: data * fsdp * tensor])
    try:
        loop.train(config, folder, quiet=True)
    finally:
        loop.meshes.make = make
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    params = nnx.to_pure_dict(nnx.split(checkpoint.load_model(folder).model, nnx.Param)[1])
    return {
        "loss": [row["loss"] for row in rows if row["split"] == "train"],
        "norm": [row["gradient_norm"] for row in rows if row["split"] == "train"],
        "params": {name: np.asarray(leaf).ravel().tolist() for name, leaf in sharding._named(params)},
    }


def moved(folder: Path) -> dict:
    """Stopped after four steps on one mesh and gone on with on others."""
    found = {}
    for name, start, end in (("4 → 1", "cut", "1"), ("fsdp → tensor", "fsdp", "cut")):
        shutil.copytree(folder / start, folder / name)
        (folder / name / "result.json").unlink()
        shutil.rmtree(folder / name / "checkpoints" / "8")
        found[name] = train(end, folder / name)
    return found


def places() -> dict:
    """Where parameters, moments, batches and fast weights live on (1, 2, 2)."""
    task = build.task_of(CONFIG)
    mesh = meshes.make(MeshConfig(1, 2, 2))
    graph, params = nnx.split(build.model_of(CONFIG, task), nnx.Param)
    learning = loop.learning_of(dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=8)), task)
    begin = lambda params: learning.begin(params, 16)
    pure = nnx.to_pure_dict(params)
    state = jax.jit(begin, out_shardings=sharding.shardings(jax.eval_shape(begin, pure), mesh))(pure)
    keys = ("tokens", "targets", "loss_mask", "answer")
    whole = task.batch(0, "train", 0, 16)
    batch = sharding.place(mesh, {key: whole[key] for key in keys}, 16, sharding.rows(mesh, 16))
    with meshes.use(mesh):
        wake = jax.jit(lambda params, tokens: nnx.merge(graph, params).wake(tokens, nnx.merge(graph, params).init_state(16))[1])
        memory = wake(state.params, batch["tokens"][:, : task.window])
        step = loop.make_step(learning)
        text = step.lower(state, {}, batch, None, 2).compile().as_text()
        after, _ = step(state, {}, batch, None, 2)
    spec = lambda array: [list(axis) if isinstance(axis, tuple) else axis for axis in array.sharding.spec]
    named = dict(sharding._named(after))
    return {
        "parameter": spec(named["params.blocks.1.mixer.q.kernel"]),
        "shards": sorted({shard.data.shape for shard in named["params.blocks.1.mixer.q.kernel"].addressable_shards}),
        "optimizer": {name: spec(leaf) for name, leaf in named.items() if name.startswith("opt_state") and name.endswith("blocks.1.mixer.q.kernel")},
        "batch": spec(batch["tokens"]),
        "fast_weights": spec(memory.window.fast_weights.layers[0]),
        "same_batch": all(bool((np.asarray(batch[key]) == whole[key]).all()) for key in keys),
        "collectives": sorted({word for word in ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute") if f" {word}(" in text}),
    }


def sums_over_data() -> dict:
    """Where a step whose windows of 8 tokens sleep one after the other, in a loop, sums over four devices: within loops, and anywhere."""
    config = dataclasses.replace(CONFIG, task=dataclasses.replace(CONFIG.task, arguments={**CONFIG.task.arguments, "window": 8}))
    task, mesh = build.task_of(config), meshes.make(MeshConfig(4, 1, 1))
    assert task.predicts.count(False) > 1
    graph, params = nnx.split(build.model_of(config, task), nnx.Param)
    learning = loop.learning_of(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=8)), task)
    whole = task.batch(0, "train", 0, 16)
    batch = sharding.place(mesh, {key: whole[key] for key in ("tokens", "targets", "loss_mask", "answer")}, 16, sharding.rows(mesh, 16))
    with meshes.use(mesh):
        step = loop.make_step(learning)
        text = step.lower(learning.begin(nnx.to_pure_dict(params), 16), {}, batch, None, 2).compile().as_text()
    bodies, place, found = set(re.findall(r"body=%?([\w.\-]+)", text)), "", {"loops": len(re.findall(r" while\(", text)), "within": 0, "all": 0}
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*{$", line)
        place = head[1] if head else place
        if " all-reduce(" in line or " reduce-scatter(" in line:
            found["all"] += 1
            found["within"] += place in bodies
    return found


def said() -> dict:
    """What eight rows say, each prompt forked four times, on one device, on two and on a mesh that cuts heads; and how their fast weights are cut."""
    task = build.task_of(CONFIG)
    graph, params = nnx.split(build.model_of(CONFIG, task), nnx.Param)
    prompt, keys = task.batch(0, "train", 0, 2)["tokens"][:, : task.window], jax.random.split(jax.random.key(1), 8)

    def write(params, prompt, keys):
        state = decode.read(graph, params, nnx.merge(graph, params).init_state(2), prompt, at=0, passes=2)[1]
        first = prompt[:, :1].repeat(4, axis=0)[:, 0]
        told = decode.write(graph, params, states.fork(state, 4), first, keys, at=0, steps=6, law=decode.Law(), stop=(1,))
        return told.tokens, told.logps, told.state.fast_weights.layers[0]

    found = {}
    for name, (data, fsdp, tensor) in {"1": (1, 1, 1), "data": (2, 1, 1), "cut": (1, 2, 2)}.items():
        mesh = meshes.make(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
        with meshes.use(mesh):
            tokens, logps, layer = jax.jit(write)(jax.device_put(params, sharding.shardings(params, mesh)), prompt, keys)
        shards = sorted({shard.data.shape for shard in layer.addressable_shards})
        found[name] = {"tokens": np.asarray(tokens).tolist(), "logps": np.asarray(logps).tolist(), "shards": shards}
    return found


def main(folder: Path) -> None:
    """Everything, as one JSON object on the last line; a run that moved finds what the mesh it moved to has compiled."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    found = {"runs": {name: train(name, folder / name) for name in MESHES}}
    found["moved"] = moved(folder)
    found["places"] = places()
    found["sums"] = sums_over_data()
    found["said"] = said()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
