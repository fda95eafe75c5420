"""Rotary position embedding (Su et al., arXiv 2104.09864), halves convention."""
import jax
import jax.numpy as jnp


def rope(x_BxTxHxD: jax.Array, positions_T: jax.Array, theta: float) -> jax.Array:
    """Turns channel pair (i, i + D/2) at position p by the angle p · theta^(−2i/D).

    Args:
      x_BxTxHxD: queries or keys, D even.
      positions_T: int32 positions; only differences between queries and keys matter.
      theta: base of the wavelengths.
    """
    half = x_BxTxHxD.shape[-1] // 2
    inverse = jnp.float32(theta) ** (-jnp.arange(half, dtype=jnp.float32) / jnp.float32(half))
    angle_1xTx1xF = (positions_T.astype(jnp.float32)[:, None] * inverse[None, :])[None, :, None, :]
    cos, sin = jnp.cos(angle_1xTx1xF), jnp.sin(angle_1xTx1xF)
    first, second = jnp.split(x_BxTxHxD.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxTxHxD.dtype)
