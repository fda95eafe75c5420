"""One token of the gated hebbian rule, for decoding."""
import jax

from sleepnet_kernels import rule_arguments
from sleepnet_kernels.token_step import token_step


def gated_hebbian_step(
    q: jax.Array, k: jax.Array, v: jax.Array, *, log_decay: jax.Array, beta: jax.Array, initial_state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Does to one token what `gated_hebbian_rule` does to T: T calls, each with the state of the one before, equal one call of it.

    For each batch entry and head, with S of shape [K, V] and S' the state that is returned:

        S' = exp(log_decay) S + beta k v^T        o = S'^T q

    Everything is computed in float32, whatever the dtypes of q, k and v. Differentiable, but made for decoding: no residual is named.

    Args:
      q: query [B, G, K].
      k: key [B, G, K].
      v: value [B, H, V]; H a multiple of G, as in `gated_hebbian_rule`.
      log_decay: [B, H], at most 0, in nats; -inf is a hard reset.
      beta: write strength [B, H].
      initial_state: the state before the token, [B, H, K, V] in float32; zeros where None.

    Returns:
      The output [B, H, V] in v's dtype and the state after the token, [B, H, K, V] in float32.

    Raises:
      ValueError: a shape does not fit.
      TypeError: an argument is not floating point, or initial_state is not float32.

    Source: Dao, Gu, "Transformers are SSMs", arXiv:2405.21060, section 6 (state space dual, scalar decay).
    """
    arguments = rule_arguments.checked("gated_hebbian_step", q, k, v, log_decay, beta, initial_state, one_token=True)
    return token_step(*arguments, delta=False)
