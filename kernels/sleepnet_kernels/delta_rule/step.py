"""One token of the delta rule without decay, for decoding."""
import jax

from sleepnet_kernels import rule_arguments
from sleepnet_kernels.token_step import token_step


def delta_step(
    q: jax.Array, k: jax.Array, v: jax.Array, *, beta: jax.Array, initial_state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Does to one token what `delta_rule` does to T: T calls, each with the state of the one before, equal one call of it.

    For each batch entry and head, with S of shape [K, V] and S' the state that is returned:

        u = beta (v - S^T k)        S' = S + k u^T        o = S'^T q

    Args, returns, raises and precision: as `gated_delta_step`, without log_decay.
    """
    arguments = rule_arguments.undecayed("delta_step", q, k, v, beta, initial_state, one_token=True)
    return token_step(*arguments, delta=True)
