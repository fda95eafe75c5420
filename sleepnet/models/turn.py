"""Keys that age: the keys of S turn behind every window, or every pass, so that what one writes is not written over by the next (ours; the paper has nothing like it)."""
import jax.numpy as jnp

from sleepnet.state import FastWeights


def turned(fast_weights: FastWeights, key_dim: int, layers: tuple[int, ...]) -> FastWeights:
    """S ← R S, one age later: what was written with key k is read with R k, and a ages later with Rᵃ k.

    R turns each of the K/2 pairs of key channels by an angle of its own, π (i + ½) / (K/2) for pair i: a key that is spread over the pairs is
    orthogonal to itself at all ages below K, so a delta rule that writes with the same key in each window overwrites nothing. R is
    orthogonal: norms stay, and nothing is learnt.

    Args:
      fast_weights: layers [B, H, K, V] float32; of a rule with momentum [B, H, 2 K, V], which turns as its S does.
      key_dim: K, even.
      layers: whose keys turn.
    """
    half = key_dim // 2
    angle = jnp.pi * (jnp.arange(half, dtype=jnp.float32) + 0.5) / half
    cos, sin = jnp.cos(angle)[None, None, None, :, None], jnp.sin(angle)[None, None, None, :, None]

    def turn(layer):
        pairs = layer.reshape(*layer.shape[:2], -1, 2, half, layer.shape[-1])
        a, b = pairs[..., 0, :, :], pairs[..., 1, :, :]
        return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-3).reshape(layer.shape)

    return FastWeights(tuple(turn(layer) if i in layers else layer for i, layer in enumerate(fast_weights.layers)))
