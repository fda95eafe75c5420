"""The oracle: the causal convolution one token at a time, in float32, with the last inputs in a buffer."""
import jax
import jax.numpy as jnp


def causal_conv1d(x_BxTxC, weight_WxC, initial_state_BxPxC):
    """Slides a buffer of the last W inputs over the sequence (P = W - 1 of them come from before it)."""

    def token(last_BxPxC, x_BxC):
        window_BxWxC = jnp.concatenate([last_BxPxC, x_BxC[:, None]], axis=1)
        y_BxC = jnp.sum(window_BxWxC.astype(jnp.float32) * weight_WxC.astype(jnp.float32)[None], axis=1)
        return window_BxWxC[:, 1:], y_BxC.astype(x_BxC.dtype)

    final_state_BxPxC, y_TxBxC = jax.lax.scan(token, initial_state_BxPxC, jnp.moveaxis(x_BxTxC, 1, 0))
    return jnp.moveaxis(y_TxBxC, 0, 1), final_state_BxPxC
