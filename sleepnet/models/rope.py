"""Rotary position embedding (Su et al., arXiv 2104.09864), halves convention."""
import jax
import jax.numpy as jnp


def rope(x_BxTxHxD: jax.Array, positions_T: jax.Array, theta: float, share: float = 1.0) -> jax.Array:
    """Turns channel pair (i, i + R/2) at position p by the angle p · theta^(−2i/R), R = share · D; channels from R on stay as they are.

    Args:
      x_BxTxHxD: queries or keys, D even.
      positions_T: int32 positions; only differences between queries and keys matter.
      theta: base of the wavelengths.
      share: of the channels that are turned, 0 … 1.
    """
    channels = x_BxTxHxD.shape[-1]
    if share < 1:
        turned = round(share * channels)
        return jnp.concatenate([rope(x_BxTxHxD[..., :turned], positions_T, theta), x_BxTxHxD[..., turned:]], axis=-1) if turned else x_BxTxHxD
    half = channels // 2
    inverse = jnp.float32(theta) ** (-jnp.arange(half, dtype=jnp.float32) / jnp.float32(half))
    angle_1xTx1xF = (positions_T.astype(jnp.float32)[:, None] * inverse[None, :])[None, :, None, :]
    cos, sin = jnp.cos(angle_1xTx1xF), jnp.sin(angle_1xTx1xF)
    first, second = jnp.split(x_BxTxHxD.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxTxHxD.dtype)
