"""The oracle: the gated delta rule with momentum one token at a time, in float32."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.segments import restarts


def momentum_rule(
    q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, log_decay_BxTxH, log_momentum_BxTxH, beta_BxTxH, applied_BxTxH, initial_state_BxHx2KxV, segment_ids_BxT=None
):
    """Decays the state, adds what it gets wrong to the decayed momentum, applies the momentum, then reads."""

    def token(carry, at_t):
        state_BxHxKxV, momentum_BxHxKxV = carry
        q_BxGxK, k_BxGxK, v_BxHxV, log_decay_BxH, log_momentum_BxH, beta_BxH, applied_BxH, *restart_B = at_t
        if restart_B:
            state_BxHxKxV, momentum_BxHxKxV = (jnp.where(restart_B[0][:, None, None, None], 0.0, x) for x in carry)
        q_BxHxK, k_BxHxK = q_BxGxK[:, group_of_H], k_BxGxK[:, group_of_H]
        state_BxHxKxV = jnp.exp(log_decay_BxH)[..., None, None] * state_BxHxKxV
        predicted_BxHxV = jnp.sum(k_BxHxK[..., None] * state_BxHxKxV, axis=-2)
        write_BxHxV = beta_BxH[..., None] * (v_BxHxV - predicted_BxHxV)
        momentum_BxHxKxV = jnp.exp(log_momentum_BxH)[..., None, None] * momentum_BxHxKxV + k_BxHxK[..., None] * write_BxHxV[..., None, :]
        state_BxHxKxV = state_BxHxKxV + applied_BxH[..., None, None] * momentum_BxHxKxV
        return (state_BxHxKxV, momentum_BxHxKxV), jnp.sum(q_BxHxK[..., None] * state_BxHxKxV, axis=-2)

    heads = v_BxTxHxV.shape[2]
    group_of_H = jnp.arange(heads) * q_BxTxGxK.shape[2] // heads
    given = (q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, log_decay_BxTxH, log_momentum_BxTxH, beta_BxTxH, applied_BxTxH)
    time_major = [jnp.moveaxis(x, 1, 0).astype(jnp.float32) for x in given]
    if segment_ids_BxT is not None:
        time_major.append(restarts(segment_ids_BxT).T)
    final, output_TxBxHxV = jax.lax.scan(token, tuple(jnp.split(initial_state_BxHx2KxV, 2, axis=2)), tuple(time_major))
    return jnp.moveaxis(output_TxBxHxV, 0, 1).astype(v_BxTxHxV.dtype), jnp.concatenate(final, axis=2)
