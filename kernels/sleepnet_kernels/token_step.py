"""One token of either fast-weight rule, for decoding."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.rule_arguments import shared_heads


def token_step(q_BxGxK, k_BxGxK, v_BxHxV, log_decay_BxH, beta_BxH, state_BxHxKxV, *, delta: bool):
    """Returns the output [B, H, V] in v's dtype and the next state in float32, from checked arguments.

    The state is read once for key and query together, and once more to write it: o = exp(log_decay) S^T q + (q . k) u needs
    no second look at what was written.
    """
    q_BxHxK, k_BxHxK = shared_heads(q_BxGxK, k_BxGxK, v_BxHxV)
    q, k, value, log_decay, beta, state = (x.astype(jnp.float32) for x in (q_BxHxK, k_BxHxK, v_BxHxV, log_decay_BxH, beta_BxH, state_BxHxKxV))
    since_BxHx1 = jnp.exp(log_decay)[..., None]
    read_BxHx2xV = since_BxHx1[..., None] * jnp.einsum("bhik,bhkv->bhiv", jnp.stack([k, q], axis=2), state, precision=jax.lax.Precision.HIGHEST)
    write = beta[..., None] * (value - read_BxHx2xV[:, :, 0] if delta else value)
    output = read_BxHx2xV[:, :, 1] + jnp.sum(q * k, axis=-1, keepdims=True) * write
    return output.astype(v_BxHxV.dtype), since_BxHx1[..., None] * state + k[..., None] * write[..., None, :]
