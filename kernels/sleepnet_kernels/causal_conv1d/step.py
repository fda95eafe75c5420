"""One token of the causal convolution, for decoding."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.causal_conv1d.arguments import checked


def causal_conv1d_step(x: jax.Array, weight: jax.Array, *, initial_state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Does to one token what `causal_conv1d` does to T: T calls, each with the state of the one before, equal one call of it.

        y = sum_i weight[i] * (initial_state, x)[i]        i = 0 .. W - 1

    Args:
      x: [B, C], floating point.
      weight: [W, C]; the last tap weighs x. Products and sums are in float32.
      initial_state: [B, W - 1, C] in x's dtype, the last inputs before x; zeros where None.

    Returns:
      y [B, C] in x's dtype, and the state after the token [B, W - 1, C].

    Raises:
      ValueError: a shape does not fit.
      TypeError: an argument is not floating point, or initial_state is not in x's dtype.

    Source: the short convolution of Gu, Dao, "Mamba", arXiv:2312.00752, section 3.4.
    """
    x_BxC, weight_WxC, state_BxPxC = checked("causal_conv1d_step", x, weight, initial_state, one_token=True)
    window_BxWxC = jnp.concatenate([state_BxPxC, x_BxC[:, None]], axis=1)
    y_BxC = jnp.sum(window_BxWxC.astype(jnp.float32) * weight_WxC.astype(jnp.float32)[None], axis=1)
    return y_BxC.astype(x_BxC.dtype), window_BxWxC[:, 1:]
