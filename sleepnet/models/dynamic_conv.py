"""A short convolution whose taps each token makes for itself (Jet-Nemotron; Gu et al., arXiv 2508.15884)."""
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.linear import Linear


class DynamicConv(nnx.Module):
    """`w_t = W₂ silu(W₁ x_t)`, plus a bias with `conv_bias`, a tap for each channel and place; `y_t = Σ_i w_t[i] · v_{t − (W − 1) + i}`, i = 0 … W − 1."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.reduce = Linear(config.width, config.taps_rank, rngs=rngs, axes=(None, None))
        self.taps = Linear(config.taps_rank, config.conv_channels * config.conv_width, rngs=rngs, scale=config.conv_width**-0.5, bias=config.conv_bias)
        self.width = config.conv_width

    def __call__(self, x_BxTxD: jax.Array, v_BxTxC: jax.Array, tail_BxPxC: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Returns y [B, T, C] in v's dtype and the last P = W − 1 values, those of the tail included; no tail: zeros."""
        batch, tokens, channels = v_BxTxC.shape
        taps = rearrange(self.taps(jax.nn.silu(self.reduce(x_BxTxD))), "b t (c w) -> b t c w", w=self.width).astype(jnp.float32)
        tail = jnp.zeros((batch, self.width - 1, channels), v_BxTxC.dtype) if tail_BxPxC is None else tail_BxPxC
        extended = jnp.concatenate([tail, v_BxTxC], axis=1)
        y = sum(taps[..., i] * extended[:, i:i + tokens].astype(jnp.float32) for i in range(self.width))
        return y.astype(v_BxTxC.dtype), extended[:, tokens:]
