"""Where parameters, optimiser state and batches live on a mesh: rules by name, first match wins.

Examples:
  python -m sleepnet.sharding --config=experiments/depo_paper.py --devices=64 --config.mesh.fsdp=8 --config.mesh.tensor=2
  python -m sleepnet.sharding --config=experiments/pod/hybrid_1b.py --devices=64

Prints every parameter with its shape, its spec and its bytes per device, without needing the devices.
"""
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from ml_collections import config_flags
from rich.console import Console
from rich.table import Table

from sleepnet import adapters, build, cli, mesh as meshes
from sleepnet.config import RunConfig, parse
from sleepnet.errors import UsageError
from sleepnet.mesh import BATCH, Axis

# end of a parameter's name → the axis that cuts each of its dimensions
RULES: tuple[tuple[str, tuple[Axis, ...]], ...] = (
    (r"mixer\.(q|k|v|gate|decay|beta|momentum)\.kernel", ("fsdp", "tensor")),
    (r"mixer\.(decay_in|dynamic_conv\.reduce)\.kernel", ("fsdp", None)),
    (r"mixer\.dynamic_conv\.taps\.kernel", ("fsdp", "tensor")),
    (r"mixer\.(q|k|v|dynamic_conv\.taps)\.bias", ("tensor",)),
    (r"mixer\.out\.kernel", ("tensor", "fsdp")),
    (r"mlp\.(gate|up)\.kernel", ("fsdp", "tensor")),
    (r"mlp\.down\.kernel", ("tensor", "fsdp")),
    (r"experts\.low_in", (None, "fsdp", None)),
    (r"experts\.low_out", (None, None, "fsdp")),
    (r"experts\.gate", (None, "fsdp")),
    (r"embedding|positions|block_tokens", (None, "fsdp")),
    (r"head\.kernel", ("fsdp", None)),
    # small: whole on every device
    (r"mixer\.(conv|decay_rate|decay_bias|out_scale|q_scale|k_scale)", ()),
    (r"\w*norm\.scale|loop_gain", ()),
    (r"experts\.(gate_bias|born)", ()),
    (r"sparse\.\w+", ()),
)


def axes_of(name: str, shape: tuple[int, ...]) -> tuple[Axis, ...] | None:
    """The axes that the first matching rule names for a parameter, what adapts it, or the optimiser's copy of either; None where no rule matches.

    Of low-rank factors A is cut as the matrix along its first axis, B along its second; single entries are whole everywhere.
    """
    name, part = adapters.base_name(name)
    if part == adapters.ENTRIES:
        return (None,) * len(shape)
    if part:
        axes = axes_of(name, shape)
        return axes if axes is None else (axes[0], None) if part == adapters.LOW_RANK[0] else (None, axes[1])
    for pattern, axes in RULES:
        if re.search(rf"(^|\.)({pattern})$", name):
            return axes if len(axes) == len(shape) else (None,) * len(shape) if not axes else None
    return None if shape else ()


def spec_of(name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The spec of a parameter: its rule's axes, without those that do not divide; whole where no rule matches."""
    axes = axes_of(name, shape)
    return PartitionSpec() if axes is None else meshes.dividing(mesh, shape, axes)


def uncut(params: Any, mesh: Mesh | AbstractMesh) -> list[str]:
    """One line for each parameter that no rule knows, or that an axis of its rule does not divide, with its size."""
    lines = []
    for name, leaf in _named(params):
        axes, size = axes_of(name, leaf.shape), f"{name} {leaf.shape}, {int(np.prod(leaf.shape)):,} values"
        if axes is None:
            lines.append(f"{size}: no sharding rule, whole on every device")
        for length, axis in zip(leaf.shape, axes or ()):
            if length % meshes.ways(mesh, axis):
                lines.append(f"{size}: mesh.{axis}={meshes.ways(mesh, axis)} does not divide {length}, not cut there")
    return lines


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A sharding for every leaf of a pytree of arrays or of their shapes, by its path."""
    found = [NamedSharding(mesh, spec_of(name, leaf.shape, mesh)) for name, leaf in _named(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, ascending."""
    indices = NamedSharding(mesh, PartitionSpec(BATCH)).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices.values()]))


def place(mesh: Mesh, batch: Mapping[str, np.ndarray], batch_size: int, held: np.ndarray) -> dict[str, jax.Array]:
    """A global batch from the rows `held` by this process."""
    def array(value):
        sharding = NamedSharding(mesh, PartitionSpec(BATCH, *(None,) * (value.ndim - 1)))
        local = lambda index: value[np.searchsorted(held, np.arange(batch_size)[index[0]])]
        return jax.make_array_from_callback((batch_size, *value.shape[1:]), sharding, local)

    return {key: array(value) for key, value in batch.items()}


def check(config: RunConfig, mesh: Mesh | AbstractMesh) -> None:
    """Sees that the run fits on the mesh.

    Raises:
      UsageError: a batch or heads that are not divided evenly.
    """
    parts = meshes.ways(mesh, BATCH)
    if config.train.batch_size % parts:
        raise UsageError(f"train.batch_size={config.train.batch_size} must be a multiple of mesh.data × mesh.fsdp = {parts}")
    if config.train.batch_size % (parts * config.train.accumulate):
        raise UsageError(
            f"train.batch_size={config.train.batch_size} must be a multiple of train.accumulate={config.train.accumulate} times mesh.data × mesh.fsdp = {parts}"
        )
    model = config.model
    attention = {"heads": model.heads, "kv_heads": model.entry_shape[0]} if "A" in model.pattern else {}
    fast = {"key_heads": model.key_shape[0], "value_heads": model.value_shape[0]} if "G" in model.pattern else {}
    for key, heads in {"heads": model.heads, **attention, **fast}.items():
        if heads % mesh.shape["tensor"]:
            raise UsageError(f"model.{key}={heads} must be a multiple of mesh.tensor={mesh.shape['tensor']}")


def table(params: Any, mesh: Mesh | AbstractMesh) -> list[tuple[str, tuple[int, ...], PartitionSpec, int]]:
    """(name, shape, spec, bytes per device) of every parameter."""
    lines = []
    for name, leaf in _named(params):
        spec = spec_of(name, leaf.shape, mesh)
        parts = int(np.prod([meshes.ways(mesh, axis) for axis in spec], dtype=int))
        lines.append((name, leaf.shape, spec, int(np.prod(leaf.shape)) * leaf.dtype.itemsize // parts))
    return lines


# The command line

FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "config file of a run", lock_config=True, flag_values=FLAGS)
flags.DEFINE_integer("devices", 0, "number of devices of the mesh; 0: those of this machine", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Prints the table of the run that the flags name."""
    del argv
    if FLAGS["config"].value is None:
        raise UsageError("--config is missing: python -m sleepnet.sharding --config=FILE [--devices=64 --config.mesh.fsdp=8]")
    if FLAGS.devices < 0:
        raise UsageError(f"--devices={FLAGS.devices} must be at least 1, or 0 for those of this machine")
    config = parse(FLAGS.config)
    mesh = meshes.abstract(config.mesh, FLAGS.devices or len(jax.devices()))
    check(config, mesh)
    _, params = nnx.split(nnx.eval_shape(lambda: build.model_of(config, build.task_of(config))), nnx.Param)
    show = Table(title=", ".join(f"{axis} = {mesh.shape[axis]}" for axis in meshes.AXES), caption="parameters alone, float32; the optimiser's copies are cut alike")
    for column, justify in (("parameter", "left"), ("shape", "left"), ("spec", "left"), ("bytes per device", "right")):
        show.add_column(column, justify=justify, no_wrap=True)
    lines = table(nnx.to_pure_dict(params), mesh)
    for name, shape, spec, size in lines:
        show.add_row(name, str(shape), str(spec).replace("PartitionSpec", "P"), f"{size:,}")
    show.add_section()
    show.add_row("all", "", "", f"{sum(line[3] for line in lines):,}")
    for line in uncut(nnx.to_pure_dict(params), mesh):
        print(line)
    Console(width=None if sys.stdout.isatty() else 120).print(show)


if __name__ == "__main__":
    cli.run(main, FLAGS)
