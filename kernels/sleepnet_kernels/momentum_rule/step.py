"""One token of the gated delta rule with momentum, for decoding."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.momentum_rule.arguments import checked
from sleepnet_kernels.rule_arguments import shared_heads


def momentum_step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    log_decay: jax.Array,
    log_momentum: jax.Array,
    beta: jax.Array,
    applied: jax.Array | None = None,
    initial_state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Does to one token what `momentum_rule` does to T: T calls, each with the state of the one before, equal one call of it.

    Equation, args, returns and raises: as `momentum_rule`, without the axis T. Everything is computed in float32.
    """
    given = checked("momentum_step", q, k, v, log_decay, log_momentum, beta, applied, initial_state, one_token=True)
    q, k, value, log_decay, log_momentum, beta, applied, state = (x.astype(jnp.float32) for x in (*shared_heads(*given[:3]), *given[2:]))
    fast, momentum = jnp.split(state, 2, axis=2)
    fast = jnp.exp(log_decay)[..., None, None] * fast
    write = beta[..., None] * (value - jnp.einsum("bhk,bhkv->bhv", k, fast, precision=jax.lax.Precision.HIGHEST))
    momentum = jnp.exp(log_momentum)[..., None, None] * momentum + k[..., None] * write[..., None, :]
    fast = fast + applied[..., None, None] * momentum
    output = jnp.einsum("bhk,bhkv->bhv", q, fast, precision=jax.lax.Precision.HIGHEST)
    return output.astype(given[2].dtype), jnp.concatenate([fast, momentum], axis=2)
