"""The oracle: the causal convolution one token at a time, in float32, with the last inputs in a buffer."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.segments import restarts


def causal_conv1d(x_BxTxC, weight_WxC, initial_state_BxPxC, segment_ids_BxT=None):
    """Slides a buffer of the last W inputs over the sequence (P = W - 1 of them come from before it)."""

    def token(last_BxPxC, at_t):
        x_BxC, *restart_B = at_t
        if restart_B:
            last_BxPxC = jnp.where(restart_B[0][:, None, None], jnp.zeros_like(last_BxPxC), last_BxPxC)
        window_BxWxC = jnp.concatenate([last_BxPxC, x_BxC[:, None]], axis=1)
        y_BxC = jnp.sum(window_BxWxC.astype(jnp.float32) * weight_WxC.astype(jnp.float32)[None], axis=1)
        return window_BxWxC[:, 1:], y_BxC.astype(x_BxC.dtype)

    time_major = [jnp.moveaxis(x_BxTxC, 1, 0), *(() if segment_ids_BxT is None else (restarts(segment_ids_BxT).T,))]
    final_state_BxPxC, y_TxBxC = jax.lax.scan(token, initial_state_BxPxC, tuple(time_major))
    return jnp.moveaxis(y_TxBxC, 0, 1), final_state_BxPxC
