"""Normalisations, computed in float32."""
import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet.config import ModelConfig


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


def first_scale(width: int, config: ModelConfig) -> nnx.Param:
    """A norm's learned scale, by which it multiplies with 1 at first."""
    return nnx.Param((jnp.zeros if config.norm_offset else jnp.ones)((width,), jnp.float32))


def factor(scale: nnx.Param, config: ModelConfig) -> jax.Array:
    """What a norm multiplies by, [D] float32."""
    return scale[...] + 1.0 if config.norm_offset else scale[...]


class RMSNorm(nnx.Module):
    """`rms_norm` with a learned scale and the model's ε."""

    def __init__(self, width: int, config: ModelConfig):
        self.scale = first_scale(width, config)
        self.config = config

    @property
    def factor(self) -> jax.Array:
        """What it multiplies by, [D] float32."""
        return factor(self.scale, self.config)

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.factor, self.config.norm_epsilon)
