"""Normalisations, computed in float32."""
import jax
import jax.numpy as jnp
from flax import nnx


def rms_norm(x: jax.Array, scale: jax.Array | None = None, epsilon: float = 1e-6) -> jax.Array:
    """`scale · x / sqrt(mean(x²) + ε)` over the last axis; float32 inside, the dtype of `x` outside."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    if scale is not None:
        x32 = x32 * scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return x32.astype(x.dtype)


def l2_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """`x / sqrt(Σx² + ε)` over the last axis; float32 inside, the dtype of `x` outside."""
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.sum(jnp.square(x32), axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """`rms_norm` with a learned scale, initially 1."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...])
