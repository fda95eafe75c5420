"""One token of the gated delta rule, for decoding."""
import jax

from sleepnet_kernels import rule_arguments
from sleepnet_kernels.token_step import token_step


def gated_delta_step(
    q: jax.Array, k: jax.Array, v: jax.Array, *, log_decay: jax.Array, beta: jax.Array, initial_state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Does to one token what `gated_delta_rule` does to T: T calls, each with the state of the one before, equal one call of it.

    For each batch entry and head, with S of shape [K, V] and S' the state that is returned:

        u = beta (v - exp(log_decay) S^T k)        S' = exp(log_decay) S + k u^T        o = S'^T q

    Everything is computed in float32, whatever the dtypes of q, k and v. Differentiable, but made for decoding: no residual is named.

    Args:
      q: query [B, G, K].
      k: key [B, G, K].
      v: value [B, H, V]; H a multiple of G, as in `gated_delta_rule`.
      log_decay: [B, H], at most 0, in nats; -inf is a hard reset.
      beta: write strength [B, H].
      initial_state: the state before the token, [B, H, K, V] in float32; zeros where None.

    Returns:
      The output [B, H, V] in v's dtype and the state after the token, [B, H, K, V] in float32.

    Raises:
      ValueError: a shape does not fit.
      TypeError: an argument is not floating point, or initial_state is not float32.

    Source: Yang, Kautz, Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv:2412.06464, eq. 10.
    """
    arguments = rule_arguments.checked("gated_delta_step", q, k, v, log_decay, beta, initial_state, one_token=True)
    return token_step(*arguments, delta=True)
