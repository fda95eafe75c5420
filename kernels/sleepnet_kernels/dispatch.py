"""Choosing an implementation: `None` may choose, a named one runs or raises with the reason."""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from sleepnet_kernels import platform_bound


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
      run: the function, with the op's positional arguments and state.
      refuses: called with the same arguments; returns why it can't run them, or None where it can.
      platform: the only platform it can be lowered for; any where None.
      refuses_device: called with a device of that platform; returns why it can't run there, or None where it can.
      chosen: whether None chooses it on that platform.
    """

    run: Callable
    refuses: Callable[..., str | None] = lambda *arguments: None
    platform: str | None = None
    refuses_device: Callable[[Any], str | None] = lambda device: None
    chosen: bool = True


def choose(op: str, known: Mapping[str, Implementation], name: str | None, default: str, *arguments) -> Callable:
    """Returns the function to call for `name`.

    None chooses what is made for the platform lowered for, elsewhere `default`. The mesh in use says which platform that is;
    without one the choice is left to lowering, so that a machine without an accelerator can lower for one. So it is with a named one: what
    is made for another platform than is lowered for, or can't run on the device there, raises when it is lowered, which without `jax.jit` is at once.

    Raises:
      ValueError: `name` is not in `known`, or it can't run these arguments: the message has shapes, dtypes and reason, and when it is lowered, the platform.
    """
    if name is not None and name not in known:
        raise ValueError(f"{op}: unknown implementation {name!r}; known: {', '.join(sorted(known))}")
    chosen = known[default if name is None else name]
    given = ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in arguments if a is not None)
    what = f"{op}: implementation {name or default!r} can't run {given}"
    if (reason := chosen.refuses(*arguments)) is not None:
        raise ValueError(f"{what}: {reason}")
    if name is not None:
        return chosen.run if chosen.platform is None else _bound(chosen, what)
    target = _mesh_device()
    made_for = {i.platform: i.run for i in known.values() if i.platform is not None and i.chosen and i.refuses(*arguments) is None}
    if target is not None or not made_for:
        return made_for.get(target and target.platform, chosen.run)
    return _by_platform(tuple(made_for.items()), chosen.run)


def _bound(chosen: Implementation, what: str) -> Callable:
    where = platform_bound.Bound(chosen.platform, what, chosen.refuses_device)
    return lambda first, *operands: chosen.run(platform_bound.bind(first, where), *operands)


@functools.cache
def _by_platform(made_for: tuple[tuple[str, Callable], ...], default: Callable) -> Callable:
    """Returns a jitted choice; one object a set of choices, so that call sites of one shape share a trace."""
    return jax.jit(lambda *operands: jax.lax.platform_dependent(*operands, **dict(made_for), default=default))


def device_kind() -> str:
    """Returns the kind of device that is traced for: that of the mesh in use, else of this process's first device."""
    target = _mesh_device()
    return jax.devices()[0].device_kind if target is None else target.device_kind


def _mesh_device():
    """Returns what the mesh in use says of its devices (device_kind, platform); None without a mesh."""
    return jax.sharding.get_abstract_mesh().abstract_device
