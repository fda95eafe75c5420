"""The oracle: the delta rule with a decay per key channel one token at a time, in float32."""
import jax
import jax.numpy as jnp


def kda_rule(q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, log_decay_BxTxHxK, beta_BxTxH, initial_state_BxHxKxV):
    """Decays each row of the state, erases along the key what it predicts, writes the value, then reads."""

    def token(state_BxHxKxV, at_t):
        q_BxGxK, k_BxGxK, v_BxHxV, log_decay_BxHxK, beta_BxH = at_t
        q_BxHxK, k_BxHxK = q_BxGxK[:, group_of_H], k_BxGxK[:, group_of_H]
        state_BxHxKxV = jnp.exp(log_decay_BxHxK)[..., None] * state_BxHxKxV
        predicted_BxHxV = jnp.sum(k_BxHxK[..., None] * state_BxHxKxV, axis=-2)
        write_BxHxV = beta_BxH[..., None] * (v_BxHxV - predicted_BxHxV)
        state_BxHxKxV = state_BxHxKxV + k_BxHxK[..., None] * write_BxHxV[..., None, :]
        return state_BxHxKxV, jnp.sum(q_BxHxK[..., None] * state_BxHxKxV, axis=-2)

    heads = v_BxTxHxV.shape[2]
    group_of_H = jnp.arange(heads) * q_BxTxGxK.shape[2] // heads
    given = (q_BxTxGxK, k_BxTxGxK, v_BxTxHxV, log_decay_BxTxHxK, beta_BxTxH)
    time_major = tuple(jnp.moveaxis(x, 1, 0).astype(jnp.float32) for x in given)
    final_state_BxHxKxV, output_TxBxHxV = jax.lax.scan(token, initial_state_BxHxKxV, time_major)
    return jnp.moveaxis(output_TxBxHxV, 0, 1).astype(v_BxTxHxV.dtype), final_state_BxHxKxV
