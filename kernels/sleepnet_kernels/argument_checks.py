"""What can be wrong with an argument of any op beside its shape."""
import math

import jax
import numpy as np


class WrongDtype(TypeError, ValueError):
    """An argument's dtype is refused: a TypeError, and with everything else that ops refuse a ValueError."""


def refuse_positive(op: str, name: str, logarithm: jax.Array) -> None:
    """Raises ValueError where the logarithm of a decay is positive or NaN; one that is traced or held by other processes can't be looked at."""
    if isinstance(logarithm, jax.core.Tracer) or not logarithm.is_fully_addressable:
        return
    largest = np.max(np.asarray(logarithm, np.float32), initial=-np.inf)
    if not largest <= 0:
        raise ValueError(f"{op}: {name} must be at most 0, given {largest:g}: the logarithm of what is left, not of what is lost")


def refuse_cut_time(op: str, name: str, array_BxTxX: jax.Array) -> None:
    """Raises ValueError where the axis T is cut over devices: seen on arrays that are there, and on traced ones where shardings are explicit."""
    tokens = array_BxTxX.shape[1]
    if isinstance(array_BxTxX, jax.core.Tracer):
        # by its spec: within a shard_map, where axes are manual, a sharding has no shape of a part
        mesh, axes = jax.typeof(array_BxTxX).sharding.mesh, (*jax.typeof(array_BxTxX).sharding.spec, None, None)[1]
        axes = (axes,) if isinstance(axes, str) else axes or ()
        at_once = tokens // math.prod(mesh.shape[axis] for axis in axes)
    else:
        at_once = array_BxTxX.sharding.shard_shape(array_BxTxX.shape)[1]
    if at_once != tokens:
        raise ValueError(f"{op}: {name} must have all {tokens} tokens of a row on one device, given {at_once} a device: shard batch and heads alone")
