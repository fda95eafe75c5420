"""The causal convolution as W shifted multiply-adds over the whole sequence, in plain XLA."""
import jax.numpy as jnp


def causal_conv1d(x_BxTxC, weight_WxC, initial_state_BxPxC):
    """The public op's mathematics, with one slice of the padded sequence per tap."""
    t, width = x_BxTxC.shape[1], weight_WxC.shape[0]
    extended_BxXxC = jnp.concatenate([initial_state_BxPxC, x_BxTxC], axis=1)
    weight_WxC = weight_WxC.astype(jnp.float32)
    y_BxTxC = sum(extended_BxXxC[:, i : i + t].astype(jnp.float32) * weight_WxC[i][None, None] for i in range(width))
    return y_BxTxC.astype(x_BxTxC.dtype), extended_BxXxC[:, t:]
