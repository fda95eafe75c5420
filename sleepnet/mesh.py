"""The mesh of devices, axes (data, fsdp, tensor), and what lives where on it while a model runs.

`data` and `fsdp` both split the batch; `fsdp` splits the parameters as well, `tensor` the heads and the widths of the MLPs. On a mesh of one
device, and outside `use`, everything here leaves arrays and functions as they are.
"""
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from sleepnet.config import MeshConfig
from sleepnet.errors import UsageError

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
# axes of what a model keeps between calls, by the field's name: by sequences and heads
STATE = {
    "layers": (BATCH, "tensor", None, None), "keys": (BATCH, None, "tensor", None), "values": (BATCH, None, "tensor", None),
    "valid": (BATCH, None), "tokens": (BATCH, None), "conv_tails": (BATCH, None, None), "length": (),
}
_TYPES = (AxisType.Auto,) * len(AXES)

Axis = str | tuple[str, ...] | None


def sizes(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """The three sizes, the one that is −1 filled.

    Raises:
      UsageError: they do not multiply to the number of devices.
    """
    given = [getattr(config, axis) for axis in AXES]
    known = int(np.prod([size for size in given if size != -1]))
    filled = [devices // known if size == -1 else size for size in given]
    if int(np.prod(filled)) != devices:
        said = " × ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, given))
        raise UsageError(f"{said} must multiply to the number of devices, {devices}; -1 for one of them fills it")
    return tuple(filled)


def make(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices of all processes, or over `devices`; raises as `sizes`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(sizes(config, len(devices)), AXES, devices=devices, axis_types=_TYPES)


def abstract(config: MeshConfig, devices: int) -> AbstractMesh:
    """The mesh over so many devices that need not be there; raises as `sizes`."""
    return AbstractMesh(sizes(config, devices), AXES, axis_types=_TYPES)


def use(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Within it, what is traced lives on `mesh`."""
    return jax.set_mesh(mesh) if mesh.size > 1 else contextlib.nullcontext()


def platform() -> str:
    """What is traced for: the devices of the mesh in use, which need not be there, else this process's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _current() -> AbstractMesh | None:
    """The mesh in use, where it cuts arrays: within `over_data` each device has its own."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or tuple(mesh.axis_names) != AXES or mesh.manual_axes else mesh


def ways(mesh: Mesh | AbstractMesh, axis: Axis) -> int:
    """Into how many parts an axis, or several at once, cut a dimension."""
    names = () if axis is None else (axis,) if isinstance(axis, str) else axis
    return int(np.prod([mesh.shape[name] for name in names], dtype=int))


def dividing(mesh: Mesh | AbstractMesh, shape: Sequence[int], axes: Sequence[Axis]) -> PartitionSpec:
    """`axes` as a spec for an array of `shape`, without those that do not divide their dimension."""
    return PartitionSpec(*(axis if size % ways(mesh, axis) == 0 and ways(mesh, axis) > 1 else None for size, axis in zip(shape, axes, strict=True)))


def constrain(x: jax.Array, *axes: Axis) -> jax.Array:
    """Keeps `x` cut along these axes, one a dimension, where they divide it; no axes at all: a whole copy everywhere."""
    mesh = _current()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, dividing(mesh, x.shape, axes) if axes else PartitionSpec())


def state_axes(path: Sequence[Any]) -> tuple[Axis, ...]:
    """Axes of the leaf of a `sleepnet.state.State` that stands at this key path of JAX."""
    return STATE[[key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)][-1]]


def constrain_state(state: Any) -> Any:
    """Keeps a `sleepnet.state.State` cut by sequences and heads, also where its rows were repeated."""
    if _current() is None:
        return state
    return jax.tree_util.tree_map_with_path(lambda path, leaf: constrain(leaf, *state_axes(path)), state)


def gathered(kernel: jax.Array, axes: Sequence[Axis], stored: Sequence[Axis]) -> jax.Array:
    """`constrain(kernel, *axes)` for a product, whose gradient goes back to where the parameter is `stored`.

    The gradient of a constraint is constrained alike: it would be summed, and held, whole on every device of `fsdp`.
    """
    return kernel if _current() is None else _gathered(kernel, tuple(axes), tuple(stored))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(kernel, axes, stored):
    return constrain(kernel, *axes)


_gathered.defvjp(lambda kernel, axes, stored: (_gathered(kernel, axes, stored), None), lambda axes, stored, _, g: (constrain(g, *stored),))


def splits_heads() -> bool:
    """Whether the mesh in use cuts the heads."""
    mesh = _current()
    return mesh is not None and mesh.shape["tensor"] > 1


def over_batch_and_heads(rule: Callable) -> Callable:
    """`rule(q, k, v, log_decay=, beta=, initial_state=)` on each device's own sequences and heads, without communication."""
    mesh = _current()
    if mesh is None:
        return rule

    def sharded(q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, *, log_decay, beta, initial_state):
        batch, _, heads, _ = q_BxTxHxK.shape  # of which v has a multiple
        rows, columns = dividing(mesh, (batch, heads), (BATCH, "tensor"))
        tokens, gates, state = (PartitionSpec(*axes) for axes in ((rows, None, columns, None), (rows, None, columns), (rows, columns, None, None)))
        local = lambda q, k, v, g, b, s: rule(q, k, v, log_decay=g, beta=b, initial_state=s)
        return jax.shard_map(
            local, in_specs=(tokens, tokens, tokens, gates, gates, state), out_specs=(tokens, state), check_vma=False
        )(q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, log_decay, beta, initial_state)

    return sharded


def over_data(share: Callable[[Any, Any, Any], Any], params: Any, batch: Any, count: Any) -> Any:
    """`share(params, batch, count)`, a pytree of float32 sums over the rows of the batch: each device's rows for itself, then all summed, once.

    Left to the compiler, a gradient is summed over `data` within every loop of its backward pass: for each window that sleeps. On a mesh that cuts
    parameters as well it is left to the compiler nevertheless.

    Args:
      share: of the rows that it is given; `count` tells it of the whole batch.
      params, count: whole on every device.
      batch: pytree of arrays, rows first.
    """
    mesh = _current()
    if mesh is None or mesh.shape["data"] < mesh.size:
        return share(params, batch, count)
    whole, rows = PartitionSpec(), PartitionSpec("data")
    total = lambda *given: jax.lax.psum(share(*given), "data")  # of one dtype, so one sum
    return jax.shard_map(total, in_specs=(whole, rows, whole), out_specs=whole, check_vma=False)(params, batch, count)
