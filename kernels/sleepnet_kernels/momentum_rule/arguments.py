"""What the rule with momentum accepts."""
import jax
import jax.numpy as jnp

from sleepnet_kernels import rule_arguments
from sleepnet_kernels.argument_checks import WrongDtype, refuse_positive


def checked(
    op: str, q, k, v, log_decay, log_momentum, beta, applied, initial_state, segment_ids=None, *, one_token: bool = False
) -> tuple[jax.Array, ...]:
    """Returns the eight arguments as arrays, `applied` as ones and the initial state as zeros where missing; after them segment ids where given.

    Raises: as `rule_arguments.checked`.
    """
    q, k, v, log_decay, beta, state, *ids = rule_arguments.checked(op, q, k, v, log_decay, beta, None, segment_ids, one_token=one_token)
    gates = {"log_momentum": jnp.asarray(log_momentum), "applied": jnp.ones_like(beta) if applied is None else jnp.asarray(applied)}
    b, h, dk, dv = state.shape
    state = jnp.zeros((b, h, 2 * dk, dv), jnp.float32) if initial_state is None else jnp.asarray(initial_state)
    for name, array, shape in (*((name, x, beta.shape) for name, x in gates.items()), ("initial_state", state, (b, h, 2 * dk, dv))):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise WrongDtype(f"{op}: {name} must be floating point, given {array.dtype.name}")
        if array.shape != shape:
            raise ValueError(f"{op}: {name} must have shape {list(shape)}, given {list(array.shape)}")
    if not one_token:
        refuse_positive(op, "log_momentum", gates["log_momentum"])
    if state.dtype != jnp.float32:
        raise WrongDtype(f"{op}: initial_state must be float32, given {state.dtype.name}: fast weights are never rounded")
    return q, k, v, log_decay, gates["log_momentum"], beta, gates["applied"], state, *ids


def refuses_other_dtypes(q, k, v, *others) -> str | None:
    """Says why a chunked implementation can't run these dtypes; None where it can."""
    log_decay, _, beta, _, state, *_ = others
    return rule_arguments.refuses_other_dtypes(q, k, v, log_decay, beta, state)
