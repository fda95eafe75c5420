"""One token of the rule with a decay per key channel, for decoding."""
import jax
import jax.numpy as jnp

from sleepnet_kernels import rule_arguments


def kda_step(
    q: jax.Array, k: jax.Array, v: jax.Array, *, log_decay: jax.Array, beta: jax.Array, initial_state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Does to one token what `kda_rule` does to T: T calls, each with the state of the one before, equal one call of it.

    For each batch entry and head, with S of shape [K, V], a = exp(log_decay) of shape [K], and S' the state that is returned:

        u = beta (v - S^T (a k))        S' = diag(a) S + k u^T        o = S'^T q = S^T (a q) + (q . k) u

    Everything is computed in float32, whatever the dtypes of q, k and v. Differentiable, but made for decoding: no residual is named.

    Args:
      q: query [B, G, K].
      k: key [B, G, K].
      v: value [B, H, V]; H a multiple of G, as in `kda_rule`.
      log_decay: [B, H, K], at most 0, in nats; with -inf nothing is left of the channel.
      beta: write strength [B, H].
      initial_state: the state before the token, [B, H, K, V] in float32; zeros where None.

    Returns:
      The output [B, H, V] in v's dtype and the state after the token, [B, H, K, V] in float32.

    Raises:
      ValueError: a shape does not fit.
      TypeError: an argument is not floating point, or initial_state is not float32.

    Source: Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", arXiv:2510.26692, section 3.
    """
    *arguments, state = rule_arguments.checked("kda_step", q, k, v, log_decay, beta, initial_state, one_token=True, per_channel=True)
    q, k = rule_arguments.shared_heads(*arguments[:3])
    q, k, value, log_decay, beta = (x.astype(jnp.float32) for x in (q, k, *arguments[2:]))
    kept = jnp.exp(log_decay)
    # The state is read once, for key and query together.
    read = jnp.einsum("bhik,bhkv->bhiv", jnp.stack([kept * k, kept * q], axis=2), state, precision=jax.lax.Precision.HIGHEST)
    write = beta[..., None] * (value - read[:, :, 0])
    output = read[:, :, 1] + jnp.sum(q * k, axis=-1, keepdims=True) * write
    return output.astype(arguments[2].dtype), kept[..., None] * state + k[..., None] * write[..., None, :]
