"""The oracle: the delta rule without decay one token at a time, in float32."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.segments import restarts


def delta_rule(q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, log_decay_BxTxH, beta_BxTxH, initial_state_BxHxKxV, segment_ids_BxT=None):
    """Erases along the key what it predicts, writes the value, then reads; log_decay is zeros and not looked at."""
    del log_decay_BxTxH

    def token(state_BxHxKxV, at_t):
        q_BxGxK, k_BxGxK, v_BxHxV, beta_BxH, *restart_B = at_t
        if restart_B:
            state_BxHxKxV = jnp.where(restart_B[0][:, None, None, None], 0.0, state_BxHxKxV)
        q_BxHxK, k_BxHxK = q_BxGxK[:, group_of_H], k_BxGxK[:, group_of_H]
        predicted_BxHxV = jnp.sum(k_BxHxK[..., None] * state_BxHxKxV, axis=-2)
        write_BxHxV = beta_BxH[..., None] * (v_BxHxV - predicted_BxHxV)
        state_BxHxKxV = state_BxHxKxV + k_BxHxK[..., None] * write_BxHxV[..., None, :]
        return state_BxHxKxV, jnp.sum(q_BxHxK[..., None] * state_BxHxKxV, axis=-2)

    heads = v_BxTxHxV.shape[2]
    group_of_H = jnp.arange(heads) * q_BxTxGxK.shape[2] // heads
    time_major = [jnp.moveaxis(x, 1, 0).astype(jnp.float32) for x in (q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, beta_BxTxH)]
    if segment_ids_BxT is not None:
        time_major.append(restarts(segment_ids_BxT).T)
    final_state_BxHxKxV, output_TxBxHxV = jax.lax.scan(token, initial_state_BxHxKxV, tuple(time_major))
    return jnp.moveaxis(output_TxBxHxV, 0, 1).astype(v_BxTxHxV.dtype), final_state_BxHxKxV
