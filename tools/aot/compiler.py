"""What aot_tpu.py runs in a process of its own: the step that sleepnet.train compiles, a sleep and a token awake, for chips that are not here."""
import dataclasses
import pathlib
import time
from typing import Any

import jax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aot.hlo import read, shortage
from sleepnet import adapters, build, costs, data, mesh as meshes, sharding
from sleepnet.config import RunConfig
from sleepnet.files import write_text
from sleepnet.mesh import BATCH
from sleepnet.models import flops
from sleepnet.train.step import draw, learning_of, make_step


def devices_of(topology: str) -> list[jax.Device]:
    """The chips of a slice such as `v5p:4x4x4`."""
    alone = {"chips_per_host_bounds": (1, 1, 1)} if set(topology.partition(":")[2]) <= set("1x") else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **alone).devices


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings)


def _rows(shapes: Any, mesh: Mesh) -> Any:
    """A batch as `sharding.place` cuts it."""
    cut = lambda leaf: NamedSharding(mesh, PartitionSpec(BATCH, *(None,) * (len(leaf.shape) - 1)))
    return _placed(shapes, jax.tree.map(cut, shapes))


def _state(shapes: Any, mesh: Mesh) -> Any:
    """What a model keeps between calls, cut by sequences and heads."""

    cut = lambda path, leaf: NamedSharding(mesh, meshes.dividing(mesh, leaf.shape, meshes.state_axes(path)))
    return _placed(shapes, jax.tree_util.tree_map_with_path(cut, shapes))


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function with the shapes and shardings of its arguments.

    Attributes:
      flops: of the model over the whole batch, counted from the configuration, see `sleepnet.models.flops`.
    """

    function: Any
    arguments: tuple[Any, ...]
    flops: int


def program(config: RunConfig, mesh: Mesh, phase: str) -> Program:
    """The function that a run of `config` calls in a phase; call it, and what it returns, within `meshes.use(mesh)`."""
    task = build.task_of(config)
    model = nnx.eval_shape(lambda: build.model_of(config, task))
    graph, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    rows, passes = config.train.batch_size, max(config.train.random_passes or (config.model.sleep.passes,))
    if phase == "train":
        learning = learning_of(config, task)
        trainable, frozen = jax.eval_shape(lambda params: adapters.split(config.adapters, params, config.seed), params)
        state = jax.eval_shape(lambda params: learning.begin(params, rows), trainable)
        one = data.BatchSource(task, seed=config.seed, batch_size=1, steps=1, more=lambda batch: learning.method.draw(task, config, batch))[0]
        batch = {key: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype) for key, value in one.items()}
        words = draw(config.seed, config.phase, 0) if learning.method.prepares else None
        arguments = (*(_placed(tree, sharding.shardings(tree, mesh)) for tree in (state, frozen)), _rows(batch, mesh), words, passes)
        return Program(make_step(learning), arguments, costs.of_step(config)[passes])
    params = _placed(params, sharding.shardings(params, mesh))
    state = _state(jax.eval_shape(lambda: model.init_state(rows)), mesh)
    if phase == "sleep":
        sleep = jax.jit(lambda params, state: nnx.merge(graph, params).sleep(state, passes), donate_argnums=1)
        return Program(sleep, (params, state), rows * flops.sleep_flops(model.config, passes))
    token = _rows(jax.ShapeDtypeStruct((rows, 1), "int32"), mesh)
    wake = jax.jit(lambda params, token, state: nnx.merge(graph, params).wake(token, state), donate_argnums=2)
    return Program(wake, (params, token, state), rows * flops.wake_token_flops(model.config))


def measure(config: RunConfig, topology: str, phase: str, hlo: str = "") -> dict[str, Any]:
    """Compiles a phase for the slice and returns what the compiler says of it, in bytes, FLOPs and seconds, each for one chip.

    A program that does not fit comes back as `failed`, with the compiler's words and its largest buffers.

    Args:
      config, topology, phase: what to compile, for what, and train, sleep or wake.
      hlo: where to write the compiled program's text; empty: nowhere.
    """
    devices = devices_of(topology)
    mesh = meshes.make(config.mesh, devices)
    sharding.check(config, mesh)
    with jax.set_mesh(mesh):  # also on one chip, where the kernels ask the mesh for what they are lowered
        made = program(config, mesh, phase)
        start = time.perf_counter()
        lowered = made.function.trace(*made.arguments).lower(lowering_platforms=("tpu",))
        traced = time.perf_counter()
        about = {"chips": len(devices), "mesh": dict(mesh.shape), "flops_model": made.flops / len(devices), "trace_s": traced - start}
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return about | {"failed": shortage(str(error)), "compile_s": time.perf_counter() - traced}
    seconds, text = time.perf_counter() - traced, compiled.as_text()
    if hlo:
        write_text(pathlib.Path(hlo), text)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    held = {name: getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "alias", "temp", "generated_code")}
    peak = held["argument"] + held["output"] - held["alias"] + held["temp"] + held["generated_code"]
    places = [tuple(device.coords) for device in mesh.devices.flat]
    return about | {
        "compile_s": seconds, "peak_bytes": peak, "memory": held, "flops_compiler": cost.get("flops", 0.0), "bytes_compiler": cost.get("bytes accessed", 0.0),
        **read(text, places),
    }
